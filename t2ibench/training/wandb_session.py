"""Weights & Biases sessions that never stop, delay or repeat a training.

Modes: ``online``, ``offline`` (folders that ``wandb sync`` uploads later), ``disabled``, and
``auto``: online where this machine has a key, else offline.
"""

from __future__ import annotations

import netrc
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from t2ibench.core.errors import ConfigError
from t2ibench.core.files import home_folder

MODES = ("auto", "online", "offline", "disabled")

INIT_SECONDS = 20
"""Timeout of an online start; about twice that passes before it gives up."""

FINISH_SECONDS = 120
"""Timeout of the uploads at the end of an online session; the rest stays on disk."""

DISABLED = "WANDB_DISABLED"
"""Environment variable by which users turn W&B off in every program."""

DEFAULT_SERVER = "https://api.wandb.ai"


def mode_of(settings: Mapping[str, Any]) -> str:
    """W&B's mode with ``auto`` resolved; never online without a key, none with WANDB_DISABLED.

    Raises:
        ConfigError: ``logger.wandb.mode`` is none of the four.
    """
    mode = settings["mode"]
    if os.environ.get(DISABLED, "").lower() in ("1", "true", "yes", "on"):
        return "disabled"
    if mode not in MODES:
        raise ConfigError(f"logger.wandb.mode={mode} is unknown; choose {', '.join(MODES)}.")
    if mode == "auto":
        return "online" if has_key() else "offline"
    if mode == "online" and not has_key():
        warn("no key is on this machine (run `wandb login`, or set WANDB_API_KEY)")
        return "offline"
    return mode


def has_key() -> bool:
    """True where W&B's environment variables or ~/.netrc hold a key for its server."""
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    host = urlsplit(os.environ.get("WANDB_BASE_URL") or DEFAULT_SERVER).hostname or ""
    try:
        file = Path(os.environ.get("NETRC") or home_folder() / ".netrc").expanduser()
        return host in netrc.netrc(str(file)).hosts
    except (OSError, RuntimeError, netrc.NetrcParseError):
        return False


@contextmanager
def open_session(
    settings: Mapping[str, Any],
    mode: str,
    folder: Path,
    *,
    identity: str,
    name: str,
    group: str | None,
    job_type: str,
    tags: Sequence[str] = (),
    config: Mapping[str, Any] | None = None,
) -> Iterator[Any]:
    """Opens a W&B run with a chosen id, so that a later session continues it.

    All that a later ``wandb sync`` needs is in ``folder``, including images of tables, which W&B
    would keep in the home folder of the machine that logged them.

    Args:
        settings: ``logger.wandb``; its project is used.
        mode: result of ``mode_of``; an online start that fails becomes an offline one, with a
            warning.
        folder: folder whose ``wandb/`` takes W&B's own files.
        identity: id of the W&B run.
        name: displayed name.
        group: name of the study, or None.
        job_type: ``train`` or ``compare``.
        tags: searchable words.
        config: resolved configuration of the run, or None.

    Yields:
        The ``wandb.Run``.
    """
    import wandb

    def started(how: str) -> Any:
        return wandb.init(
            project=settings["project"],
            group=group,
            job_type=job_type,
            tags=list(tags),
            name=name,
            id=identity,
            mode=how,  # type: ignore[arg-type]
            resume="allow" if how == "online" else None,
            dir=str(folder),
            config=None if config is None else dict(config),
            settings=wandb.Settings(
                silent=True,
                console="off",
                init_timeout=INIT_SECONDS,
                finish_timeout=FINISH_SECONDS,
            ),
        )

    with data_inside(folder / "wandb"):
        try:
            session = started(mode)
        except wandb.errors.Error as error:
            if mode != "online":
                raise
            warn(str(error).splitlines()[0].rstrip(".") if str(error) else type(error).__name__)
            wandb.teardown()  # the failed start holds the id until W&B's process ends
            session = started("offline")
        try:
            with session:
                yield session
        finally:
            wandb.teardown()  # W&B's process writes its file after `finish` has returned


@contextmanager
def data_inside(folder: Path) -> Iterator[None]:
    """Directs W&B's staging of artifacts to ``folder``, unless the user has set WANDB_DATA_DIR."""
    name = "WANDB_DATA_DIR"
    if name in os.environ:
        yield
        return
    os.environ[name] = str(folder.absolute())
    try:
        yield
    finally:
        del os.environ[name]


def is_online(session: Any) -> bool:
    """True where rows of this session reach the server as they are logged."""
    return not session.offline and not session.disabled


def warn(reason: str) -> None:
    """Warns in one line that W&B is kept offline."""
    sys.stderr.write(
        f"t2ibench: W&B is kept offline, {reason}; upload later with `wandb sync "
        "RUN/wandb/offline-run-*`.\n"
    )

"""A run: a folder whose name carries the hash of what changes its result.

The same configuration finds the same folder: finished is skipped, interrupted is resumed,
failed is retried. Everything in it is written atomically, and reports read nothing else.

    config.yaml     the resolved configuration
    manifest.json   git, packages, data, hardware
    status.json     state, owner, first line of an error
    metrics.csv     learning curves over images seen
    checkpoints/    last.ckpt (to resume), model.safetensors (to sample: EMA weights)
    samples/        one folder a sample set
    scores.json     what the evaluator said
"""

from __future__ import annotations

import logging
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import yaml

from t2ibench import __version__
from t2ibench.core.errors import ContentError, RunError
from t2ibench.core.files import (
    atomic_path,
    read_json_object,
    read_text,
    read_yaml_object,
    write_json,
)
from t2ibench.core.hashing import hash_json
from t2ibench.core.launch import process_rank
from t2ibench.runs.lock import Owner, OwnerLock
from t2ibench.runs.status import ANEW, State, read_status

log = logging.getLogger(__name__)

PACKAGES = ("torch", "pytorch-lightning", "transformers", "open_clip_torch", "hydra-core", "numpy")


@dataclass(frozen=True)
class Run:
    """One run's folder.

    Attributes:
        path: the folder.
        identity: the full hash of the identifying configuration.
    """

    path: Path
    identity: str

    @staticmethod
    def of(
        root: str | Path, label: str, identifying: Mapping[str, Any], config: Mapping[str, Any]
    ) -> Run:
        """Finds or makes the run of a configuration.

        Args:
            root: folder of all runs.
            label: readable part of the name of a new one.
            identifying: JSON-ready; only what changes the result.
            config: the whole resolved configuration, kept in ``config.yaml``.
        """
        run = Run.named(root, label, identifying)
        if process_rank() != 0:
            return run
        path = run.path / "status.json"
        try:
            if is_run(run.path) and run.status()["identity"] != run.identity:
                raise ContentError(f"{path} has the identity of another run.")
        except ContentError as error:
            log.warning("%s The run's state is found anew from its checkpoint.", error)
            path.unlink(missing_ok=True)
        if not path.exists():
            run.set_status("created")
        write_config(run.path / "config.yaml", config)
        return run

    @staticmethod
    def named(root: str | Path, label: str, identifying: Mapping[str, Any]) -> Run:
        """The run of a configuration, whether or not its folder is there.

        A folder of that hash is the run's, whatever its label says; one whose status cannot be
        read is believed by its name.
        """
        identity = hash_json(identifying, length=16)
        kept = Path(root) / f"{label}-{identity[:8]}"
        for status in sorted(Path(root).glob(f"*-{identity[:8]}/status.json")):
            try:
                if read_status(status)["identity"] == identity:
                    kept = status.parent
            except ContentError:
                continue
        return Run(kept, identity)

    @staticmethod
    def at(path: str | Path) -> Run:
        """Opens an existing run folder.

        Raises:
            RunError: there is no run at ``path``.
            ContentError: its status.json holds no status.
        """
        path = Path(path)
        if not (path / "status.json").exists():
            if is_run(path):
                raise RunError(f"{path / 'status.json'} is missing; {ANEW}.")
            raise RunError(
                f"{path} is not a run folder (it has no status.json); give the folder that "
                "`t2ibench train` printed."
            )
        return Run(path, read_status(path / "status.json")["identity"])

    @property
    def checkpoint(self) -> Path:
        """Path of the checkpoint that training resumes from."""
        return self.path / "checkpoints" / "last.ckpt"

    @property
    def weights(self) -> Path:
        """Path of the weights that sampling loads."""
        return self.path / "checkpoints" / "model.safetensors"

    @property
    def scores(self) -> Path:
        """Path of ``scores.json``."""
        return self.path / "scores.json"

    def status(self) -> dict[str, Any]:
        """The content of status.json."""
        return read_status(self.path / "status.json")

    def config(self) -> dict[str, Any]:
        """The content of config.yaml."""
        return read_config(self.path / "config.yaml")

    def manifest(self) -> dict[str, Any]:
        """The content of manifest.json; empty before training has begun."""
        path = self.path / "manifest.json"
        return read_json_object(path, remedy=ANEW) if path.exists() else {}

    def fingerprint(self, part: str) -> str | None:
        """Content of a part at the time of training; None where the manifest does not say."""
        found: Any = self.manifest()
        for name in ("parts", part, "fingerprint"):
            found = found.get(name) if isinstance(found, Mapping) else None
        return found if isinstance(found, str) else None

    @property
    def state(self) -> State:
        """Created, running, interrupted, trained (not yet scored), finished or failed."""
        return self.status()["state"]

    @property
    def trained(self) -> bool:
        """True where the weights are final, also if scoring them failed or was interrupted."""
        return "clock" in self.status()

    def set_status(self, state: State, **extra: Any) -> None:
        """Writes status.json, if this is the first rank; earlier failures are carried over."""
        if process_rank() != 0:
            return
        path = self.path / "status.json"
        failures = self.status().get("failures") if path.exists() else None
        facts = {"state": state, "identity": self.identity, "pid": os.getpid(), "time": time.time()}
        write_json(path, facts | ({} if failures is None else {"failures": failures}) | extra)

    def write_manifest(self, **extra: Any) -> None:
        """Writes manifest.json: code, packages, hardware, and what the caller adds.

        Of several ranks the first does, as with everything in a run.
        """
        if process_rank() != 0:
            return
        write_json(self.path / "manifest.json", environment() | extra)

    @contextmanager
    def locked(self, wait: Callable[[Owner], None] | None = None) -> Iterator[None]:
        """Holds the run for this process; the lock goes with the process if it dies.

        Of the processes of one distributed job the first holds it for all.

        Args:
            wait: called with each owner that is waited for; None: nobody is waited for.

        Raises:
            RunBusyError: another process holds it, and ``wait`` is None.
        """
        if process_rank() != 0:
            yield
            return
        lock = self.lock
        if wait is None:
            lock.acquire()
        else:
            lock.wait(wait)
        try:
            yield
        finally:
            lock.release()

    @property
    def lock(self) -> OwnerLock:
        """Lock that names who works on the run."""
        return OwnerLock(self.path / ".lock")


def is_run(path: str | Path) -> bool:
    """True for the folder of a run, also for one without its status, which ``Run.at`` refuses."""
    return any((Path(path) / name).exists() for name in ("status.json", "config.yaml"))


def environment() -> dict[str, Any]:
    """Code version, package versions and hardware, for manifests."""
    return {
        "t2ibench": __version__,
        "git": git_commit(),
        "python": sys.version.split()[0],
        "packages": {name: package_version(name) for name in PACKAGES},
        "platform": platform.platform(),
        "cpu": processor_name(),
        "cpu_count": os.cpu_count(),
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def package_version(name: str) -> str | None:
    """The installed version, or None where the package is not installed."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def git_commit() -> str | None:
    """The commit of the checkout that this code runs from; None where no repository tracks it.

    An installed package can lie within somebody's repository (a virtual environment in a project),
    whose commit says nothing of this code.
    """
    here = Path(__file__).resolve()

    def answer(*words: str) -> str | None:
        try:
            found = subprocess.run(
                ["git", "-C", str(here.parent), *words],
                capture_output=True,
                text=True,
                check=False,
            )
        except OSError:  # no git on this machine, or not executable
            return None
        return found.stdout.strip() if found.returncode == 0 else None

    tracked = answer("ls-files", "--error-unmatch", "--", here.name) is not None
    return answer("rev-parse", "HEAD") if tracked else None


def processor_name() -> str:
    """The processor as the system names it."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def write_config(path: Path, config: Mapping[str, Any]) -> None:
    """Writes a run's resolved configuration, with YAML's mark of the end as its last line."""
    text = yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True, explicit_end=True)
    with atomic_path(path) as aside:
        aside.write_text(text, encoding="utf-8")


def read_config(path: Path) -> dict[str, Any]:
    """Reads a run's configuration.

    Raises:
        ContentError: it is not there, not YAML, no mapping, or cut short: the beginning of a
            mapping is a mapping as well, so that its end is marked.
    """
    found = read_yaml_object(path, ANEW)
    if read_text(path, ANEW).splitlines()[-1].strip() != "...":
        raise ContentError(f"{path} is cut short (its last line is not `...`); {ANEW}.")
    return found

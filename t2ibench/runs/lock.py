"""Lock of a run: a file that names its owner, on any file system, and no owner for ever.

Locks of the operating system go with their process, but not across the machines of a cluster.
Here the lock is a file, made by a hard link (which exactly one of several processes gets; where
there are no links, by creating it), and touched by its owner every few seconds. An owner that is
gone is succeeded:

    at once        a process of this machine that is no more, or an earlier start of the same
                   SLURM job (a requeued one)
    after minutes  one whose heartbeat has stopped, by the file system's clock

Who was only stopped for these minutes (a suspended laptop, SIGSTOP, a slow disk) finds another's
name or none in its place when it goes on, and may no longer write below the folder of its lock.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import socket
import threading
import time
import uuid
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from t2ibench.core.errors import RunBusyError, RunLostError
from t2ibench.core.files import UNSUPPORTED, guarded, make_folder_of, raise_named

log = logging.getLogger(__name__)

HEARTBEAT_SECONDS = 20.0
STALE_SECONDS = 120.0


@dataclass(frozen=True)
class Owner:
    """A process that holds a lock.

    Attributes:
        token: unlike any other owner's.
        host: the name of its machine.
        space: within which its number means it: a start of the machine, a container.
        pid: its number there.
        started: when the process started, in the machine's ticks; 0 where it is unknown.
        job: its SLURM job, or None.
        restart: how often that job had been requeued.
    """

    token: str
    host: str
    space: str
    pid: int
    started: int
    job: str | None
    restart: int

    @staticmethod
    def this() -> Owner:
        """The present process, with a new token."""
        return Owner(
            uuid.uuid4().hex,
            socket.gethostname(),
            space_of_processes(),
            os.getpid(),
            started(os.getpid()),
            os.environ.get("SLURM_JOB_ID"),
            int(os.environ.get("SLURM_RESTART_COUNT", "0")),
        )

    def gone(self) -> bool:
        """True where the process is known to have ended; False where this machine cannot know."""
        here = Owner.this()
        if self.job is not None and self.job == here.job and self.restart < here.restart:
            return True
        if self.space != here.space:
            return False
        now = started(self.pid)
        return now == 0 if self.started == 0 else now != self.started

    def __str__(self) -> str:
        job = "" if self.job is None else f", job {self.job}"
        return f"{self.host} (pid {self.pid}{job})"


class OwnerLock:
    """The lock of one folder; free once it is released or its owner is gone.

    Args:
        path: of the lock's file.
        stale_seconds: how long a heartbeat of another machine may fail to come.
    """

    def __init__(self, path: Path, stale_seconds: float = STALE_SECONDS) -> None:
        self.path = path
        self.stale_seconds = stale_seconds
        self.owner: Owner | None = None
        self._ended = threading.Event()
        self._guard = ExitStack()

    def acquire(self) -> None:
        """Takes the lock now; its folder is made where there is none.

        Raises:
            RunBusyError: another process holds it.
            RunError: the folder cannot be written.
        """
        me = Owner.this()
        aside = self.path.with_name(f"{self.path.name}.{me.token}")
        try:
            make_folder_of(self.path)
            aside.write_text(json.dumps(asdict(me)), encoding="utf-8")
            self._take(aside, me)
        except OSError as error:
            raise_named(error, self.path)
        finally:
            with suppress(OSError):
                aside.unlink(missing_ok=True)
        self.owner = me
        self._ended = threading.Event()
        self._guard.enter_context(guarded(self.path.parent, self.check))
        threading.Thread(target=self._beat, args=(me, self._ended), daemon=True).start()

    def check(self) -> None:
        """Checks that the lock is still this process's; below its folder every write asks first.

        Raises:
            RunLostError: another took it over, or took it, ended, and left none.
        """
        if self.owner is None or self._held_by(self.owner):
            return
        holder = self.holder()
        by = f"{holder} took it over" if holder is not None else "its lock was taken away"
        raise RunLostError(
            f"{self.path.parent.name}: this process was stopped for some minutes and {by}; nothing "
            "more is written by this one, and the same command shows or goes on with what is there."
        )

    def _take(self, aside: Path, me: Owner) -> None:
        """Makes ``aside`` the lock's file. A link whose reply is lost is there all the same."""
        while not _linked(aside, self.path) and not self._held_by(me):
            holder = self.holder()
            if self.path.exists() and not self._succeeded(holder, aside, me):
                raise RunBusyError(
                    f"{self.path.parent.name} is being worked on by {holder or 'someone'}; wait "
                    "for it or stop it."
                )
            if self._held_by(me):
                return

    def wait(self, notify: Callable[[Owner], None], poll_seconds: float = 0.5) -> None:
        """Takes the lock as soon as it is free; ``notify`` is called with each owner waited for."""
        waited_for = None
        while True:
            try:
                return self.acquire()
            except RunBusyError:
                holder = self.holder()
                if holder is not None and holder.token != waited_for:
                    notify(holder)
                    waited_for = holder.token
            time.sleep(poll_seconds)

    def release(self) -> None:
        """Gives the lock back, if it is still this process's."""
        self._ended.set()
        self._guard.close()
        if self.owner is not None and self._held_by(self.owner):
            self.path.unlink(missing_ok=True)
        self.owner = None

    def holder(self) -> Owner | None:
        """Owner of the lock, dead or alive; None if there is none or the file does not name one."""
        try:
            return Owner(**json.loads(self.path.read_text(encoding="utf-8")))
        except (FileNotFoundError, ValueError, TypeError):
            return None

    def held(self) -> bool:
        """True where a living process holds the lock."""
        return self.path.exists() and not self._orphaned(self.holder())

    def _orphaned(self, holder: Owner | None) -> bool:
        return (holder is not None and holder.gone()) or self._age(self.path) > self.stale_seconds

    def _succeeded(self, holder: Owner | None, aside: Path, me: Owner) -> bool:
        """Takes the place of an owner that is gone; False if it is not.

        Who takes the lock named after that owner replaces it, and only while it is still the
        owner's. If its taker dies in turn, it is succeeded in the same way.
        """
        if not self._orphaned(holder):
            return False
        after = "nobody" if holder is None else holder.token[:8]
        claim = OwnerLock(
            self.path.with_name(f"{self.path.name}.after-{after}"), self.stale_seconds
        )
        try:
            claim._take(aside, me)
        except RunBusyError:
            time.sleep(0.01)
            return True
        try:
            if self.holder() == holder:
                fresh = self.path.with_name(f"{self.path.name}.{uuid.uuid4().hex}")
                shutil.copyfile(aside, fresh)
                os.replace(fresh, self.path)
        finally:
            if claim._held_by(me):
                claim.path.unlink(missing_ok=True)
        return True

    def _held_by(self, owner: Owner) -> bool:
        return self.holder() == owner

    def _age(self, path: Path) -> float:
        """Seconds since a file was touched, by the clock of its file system.

        Where this user may write no file beside it, by this machine's clock.
        """
        probe = self.path.with_name(f"{self.path.name}.{uuid.uuid4().hex}")
        try:
            probe.touch()
            return probe.stat().st_mtime - path.stat().st_mtime
        except FileNotFoundError:
            return 0.0
        except OSError:
            return time.time() - path.stat().st_mtime if path.exists() else 0.0
        finally:
            with suppress(OSError):
                probe.unlink(missing_ok=True)

    def _beat(self, me: Owner, ended: threading.Event) -> None:
        told = False
        while not ended.wait(HEARTBEAT_SECONDS):
            with suppress(OSError):  # of a moment: the next beat may come through
                holder = self.holder()
                if holder == me:
                    os.utime(self.path)
                elif holder is not None and not told and not ended.is_set():
                    # The next write of this process finds out, and ends its work.
                    log.warning("%s was taken over by %s.", self.path.parent.name, holder)
                    told = True


def _linked(source: Path, target: Path) -> bool:
    """Links ``target`` to ``source``; False if ``target`` was there already.

    Where the file system has no hard links, ``target`` is created and filled. For a moment it then
    names nobody, which its readers take for a living owner.
    """
    try:
        os.link(source, target)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in UNSUPPORTED:
            raise
        return _created(target, source.read_bytes())
    return True


def _created(target: Path, content: bytes) -> bool:
    """Creates a file; False if it was there already."""
    try:
        descriptor = os.open(target, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
    except FileExistsError:
        return False
    with open(descriptor, "wb") as file:
        file.write(content)
    return True


def space_of_processes() -> str:
    """Tells starts of machines and containers apart, as far as the system does."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return socket.gethostname()


def started(pid: int) -> int:
    """Start of a process of this machine, in ticks; 0 if there is none.

    A number that was given to another process since has another start. Where the system has no
    /proc, a living process starts at 1.
    """
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        if Path("/proc/self/stat").exists():
            return 0
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return 0
        except PermissionError:
            pass
        return 1
    fields = stat.rpartition(")")[2].split()
    return 0 if fields[0] == "Z" else int(fields[19])  # Z: ended, its parent has not noticed

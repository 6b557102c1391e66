"""A real SLURM cluster of two nodes on one machine, for tests: `python tests/slurm/cluster.py up`.

munge, MariaDB with slurmdbd (without accounting a job that dies is waited for for ever),
slurmctld and two slurmd as plain processes from Debian's packages; no systemd, no cgroups. All
state lies in one folder, T2IBENCH_SLURM or /tmp/t2ibench-slurm-tests. `down` stops all of it.

Two partitions: `main`, and `scavenge`, whose jobs make room for it: their signal comes at once
(preempt_send_user_signal), then after GRACE seconds they are ended and queued again.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

STATE = Path(os.environ.get("T2IBENCH_SLURM", "/tmp/t2ibench-slurm-tests"))
CONF = STATE / "etc" / "slurm.conf"
NODES = ("n1", "n2")
GRACE = 20
ADDRESS = "127.0.0.1"
PACKAGES = {
    "munged": "munge",
    "slurmctld": "slurmctld",
    "slurmd": "slurmd",
    "sbatch": "slurm-client",
    "slurmdbd": "slurmdbd",
    "mariadbd": "mariadb-server-core",
    "mariadb": "mariadb-client-core",
}

SLURM_CONF = """
ClusterName=t2ibench
SlurmctldHost={host}({address})
SlurmctldPort={port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={state}/run/munge.sock
CredType=cred/munge
StateSaveLocation={state}/ctld
SlurmdSpoolDir={state}/spool/%n
SlurmctldPidFile={state}/run/slurmctld.pid
SlurmdPidFile={state}/run/slurmd-%n.pid
SlurmctldLogFile={state}/log/slurmctld.log
SlurmdLogFile={state}/log/slurmd-%n.log
TaskProlog={state}/etc/task_prolog
MailProg=/bin/true
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
JobAcctGatherType=jobacct_gather/linux
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
DefMemPerCPU={memory_per_cpu}
SlurmdParameters=config_overrides
DebugFlags=NO_CONF_HASH
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SlurmctldParameters=preempt_send_user_signal
JobRequeue=1
ReturnToService=1
KillWait=10
MinJobAge=3600
SchedulerParameters=batch_sched_delay=1,sched_interval=5,bf_interval=5
SlurmctldTimeout=60
SlurmdTimeout=30
InactiveLimit=0
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost={host}
AccountingStoragePort={database_port}
AccountingStoragePass={state}/run/munge.sock
{nodes}
PartitionName=main Nodes={names} Default=YES MaxTime=INFINITE DefaultTime=10 PriorityTier=10 PreemptMode=OFF
PartitionName=scavenge Nodes={names} MaxTime=INFINITE DefaultTime=10 PriorityTier=1 PreemptMode=REQUEUE GraceTime={grace}
"""  # noqa: E501

SLURMDBD_CONF = """
AuthType=auth/munge
AuthInfo=socket={state}/run/munge.sock
DbdHost={host}
DbdAddr={address}
DbdPort={database_port}
SlurmUser=root
StorageType=accounting_storage/mysql
StorageHost=localhost
StorageUser=root
StorageLoc=slurm_acct
LogFile={state}/log/slurmdbd.log
PidFile={state}/run/slurmdbd.pid
"""


def environment() -> dict[str, str]:
    """For SLURM's commands."""
    return os.environ | {"SLURM_CONF": str(CONF)}


def is_up() -> bool:
    """Whether every node can be given work and the accounts are kept."""
    if not CONF.exists() or shutil.which("sinfo") is None:
        return False
    states = asked("sinfo", "--noheader", "--Node", "--format=%N %t")
    usable = {line.split()[0] for line in states.splitlines() if line.split()[1] in ("idle", "mix")}
    return usable == set(NODES) and "t2ibench" in asked("sacctmgr", "-nP", "list", "cluster")


def up() -> None:
    """Starts it, unless it is up.

    Raises:
        SystemExit: with one sentence, where it cannot be started.
    """
    if is_up():
        return
    if os.geteuid() != 0:
        raise SystemExit("the test cluster must be started by root, for munge and slurmd.")
    down()
    install()
    for name in ("etc", "log", "run", "ctld", "spool", "mysql", "munge"):
        (STATE / name).mkdir(parents=True, exist_ok=True)
    os.chmod(STATE, 0o755)
    os.chmod(STATE / "munge", 0o700)
    os.chmod(STATE / "run", 0o755)
    write_configuration()
    start_munge()
    start_database()
    start("slurmdbd", "slurmdbd", environment={"MYSQL_UNIX_PORT": f"{STATE}/run/mysql.sock"})
    wait_for("slurmdbd", lambda: open_port(database_port()))
    start("slurmctld", "slurmctld", "-c", "-f", str(CONF))
    wait_for("slurmctld", lambda: "UP" in asked("scontrol", "ping"))
    for node in NODES:
        (STATE / "spool" / node).mkdir(exist_ok=True)
        start(f"slurmd-{node}", "slurmd", "-f", str(CONF), "-N", node)
    wait_for("the nodes", is_up)


def down() -> None:
    """Stops every daemon and job, and removes the folder."""
    for path in Path("/proc").glob("[0-9]*"):
        if belongs(path):
            os.kill(int(path.name), signal.SIGKILL)
    shutil.rmtree(STATE, ignore_errors=True)


def belongs(process: Path) -> bool:
    """Whether a process is a daemon of this cluster or part of a job on it."""
    try:
        environ = (process / "environ").read_bytes().split(b"\0")
        name = (process / "comm").read_text().strip()
    except OSError:
        return False
    job = any(variable.startswith(b"SLURM_JOB_ID=") for variable in environ)
    return f"SLURM_CONF={CONF}".encode() in environ and (job or name in (*PACKAGES, "slurmstepd"))


def install() -> None:
    """Missing packages, without letting them start services."""
    missing = [package for command, package in PACKAGES.items() if shutil.which(command) is None]
    if not missing:
        return
    if shutil.which("apt-get") is None:
        raise SystemExit(f"the test cluster needs {', '.join(missing)}; apt-get is not here.")
    policy = Path("/usr/sbin/policy-rc.d")
    made = not policy.exists()
    if made:
        policy.write_text("#!/bin/sh\nexit 101\n")
        policy.chmod(0o755)
    quiet = {"env": os.environ | {"DEBIAN_FRONTEND": "noninteractive"}, "capture_output": True}
    try:
        subprocess.run(["apt-get", "update"], check=True, **quiet)
        command = ["apt-get", "install", "-y", "--no-install-recommends", *missing]
        subprocess.run(command, check=True, **quiet)
    except subprocess.CalledProcessError as error:
        told = error.stderr.decode(errors="replace")[-1000:]
        raise SystemExit(f"apt-get could not install {', '.join(missing)}: {told}") from None
    finally:
        if made:
            policy.unlink()


def write_configuration() -> None:
    """The files of slurmctld, slurmd and slurmdbd."""
    cpus = max(os.cpu_count() or 2, 2)
    whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**20
    memory = int(whole * 0.75 / len(NODES))
    host = socket.gethostname().split(".")[0]
    port = free_block(3 + len(NODES))
    facts = {
        "host": host,
        "address": ADDRESS,
        "state": STATE,
        "port": port,
        "database_port": port + 1,
        "memory_per_cpu": memory // cpus,
        "grace": GRACE,
        "names": ",".join(NODES),
        "nodes": "\n".join(
            f"NodeName={node} NodeHostname={host} "
            f"NodeAddr={ADDRESS} Port={port + 2 + i} CPUs={cpus} RealMemory={memory} State=UNKNOWN"
            for i, node in enumerate(NODES)
        ),
    }
    CONF.write_text(SLURM_CONF.format(**facts))
    database = CONF.parent / "slurmdbd.conf"
    database.write_text(SLURMDBD_CONF.format(**facts))
    database.chmod(0o600)
    # Names of nodes that are no machines do not resolve.
    prolog = CONF.parent / "task_prolog"
    exports = (f"MASTER_ADDR={ADDRESS}", "GLOO_SOCKET_IFNAME=lo")
    prolog.write_text("#!/bin/sh\n" + "".join(f'echo "export {line}"\n' for line in exports))
    prolog.chmod(0o755)


def start_munge() -> None:
    """The daemon by which the others know each other."""
    key, sock = STATE / "munge" / "key", STATE / "run" / "munge.sock"
    key.write_bytes(os.urandom(1024))
    key.chmod(0o600)
    start(
        "munged", "munged", f"--key-file={key}", f"--socket={sock}",
        f"--pid-file={STATE}/run/munged.pid", f"--log-file={STATE}/munge/munged.log",
        f"--seed-file={STATE}/munge/seed",
    )  # fmt: skip
    wait_for("munged", sock.exists)


def start_database() -> None:
    """MariaDB on a socket of its own, for the accounts."""
    sock = STATE / "run" / "mysql.sock"
    subprocess.run(
        ["mariadb-install-db", "--no-defaults", "--user=root", f"--datadir={STATE}/mysql",
         "--force", "--skip-test-db", "--auth-root-authentication-method=socket",
         "--auth-root-socket-user=root", "--innodb-log-file-size=8M"],
        check=True, capture_output=True,
    )  # fmt: skip
    log = open(STATE / "log" / "mariadb.log", "ab")  # noqa: SIM115 (the daemon keeps it)
    subprocess.Popen(
        ["mariadbd", "--no-defaults", "--user=root", f"--datadir={STATE}/mysql",
         f"--socket={sock}", f"--pid-file={STATE}/run/mariadbd.pid", "--skip-networking",
         "--innodb-buffer-pool-size=64M", "--innodb-log-file-size=8M",
         "--innodb-lock-wait-timeout=900", "--innodb-flush-log-at-trx-commit=0"],
        env=environment(), stdin=subprocess.DEVNULL, stdout=log, stderr=log,
        start_new_session=True,
    )  # fmt: skip
    ready = ["mariadb", "--no-defaults", "-S", str(sock), "-e", "select 1"]
    wait_for("MariaDB", lambda: subprocess.run(ready, capture_output=True).returncode == 0)


def start(name: str, *command: str, environment: dict[str, str] | None = None) -> None:
    """Runs a command that leaves a daemon behind.

    Raises:
        SystemExit: it says no.
    """
    log = STATE / "log" / f"{name}.err"
    with open(log, "ab") as file:
        code = subprocess.run(
            command,
            env=os.environ | {"SLURM_CONF": str(CONF)} | (environment or {}),
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            start_new_session=True,
        ).returncode
    if code != 0:
        raise SystemExit(f"{name} did not start: {log.read_text()[-2000:]}")


def asked(*command: str) -> str:
    """What a command of SLURM answers, or nothing."""
    try:
        answer = subprocess.run(
            command, env=environment(), capture_output=True, text=True, timeout=20
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return answer.stdout


def wait_for(name: str, ready: object, seconds: float = 60) -> None:
    """Until ``ready()``.

    Raises:
        SystemExit: it takes too long; the logs' ends are told.
    """
    end = time.monotonic() + seconds
    while not ready():  # type: ignore[operator]
        if time.monotonic() > end:
            logs = "\n".join(
                f"{path.name}: {path.read_text(errors='replace')[-1000:]}"
                for path in sorted((STATE / "log").glob("*"))
            )
            raise SystemExit(f"the test cluster waited {seconds:g} s for {name}.\n{logs}")
        time.sleep(0.2)


def database_port() -> int:
    """Of slurmdbd, as configured."""
    line = next(x for x in CONF.read_text().splitlines() if "AccountingStoragePort" in x)
    return int(line.split("=")[1])


def open_port(port: int) -> bool:
    """Whether somebody listens there."""
    with socket.socket() as probe:
        return probe.connect_ex((ADDRESS, port)) == 0


def free_block(count: int) -> int:
    """The first of ``count`` ports that nobody listens on."""
    for first in range(27800, 29000, 20):
        if not any(open_port(first + i) for i in range(count)):
            return first
    raise SystemExit("no free ports between 27800 and 29000 for the test cluster.")


if __name__ == "__main__":
    {"up": up, "down": down}[sys.argv[1]]()
    if sys.argv[1] == "up":
        sys.stdout.write(f"export SLURM_CONF={CONF}\n")

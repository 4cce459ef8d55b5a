"""A real SLURM cluster on this machine: two nodes with two fake GPUs each, accounting, preemption.

    python tests/slurm/cluster.py up FOLDER      # and `down FOLDER`

All that it writes lies in the folder, save /etc/slurm: jobs lose `SLURM_CONF`, so the configuration must be where SLURM
looks for it. Daemons run in the foreground of a process each, and are taken down by their process ids.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil

ETC = Path("/etc/slurm")
NODES = ("n1", "n2")
_NULL = os.makedev(1, 3)
"""The device that a fake GPU is: that of /dev/null."""
PACKAGES = ("munge", "mariadb-server", "slurmdbd", "slurmctld", "slurmd", "slurm-client")
"""Debian's names of what must be installed."""

SLURM_CONF = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ctld_port}
SlurmUser=root
AuthType=auth/munge
# A requeued job waits until its old credential has expired, two minutes by default.
AuthInfo=socket={folder}/munge.socket,cred_expire=6
StateSaveLocation={folder}/ctld
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
# There are no cgroups to count on: memory is watched, and a job that exceeds its own is killed.
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=1
JobAcctGatherParams=OverMemoryKill
MpiDefault=none
SlurmdParameters=config_overrides
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
GresTypes=gpu
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=1,sched_min_interval=200000,bf_interval=2,batch_sched_delay=0
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
JobRequeue=1
SlurmctldTimeout=10
SlurmdTimeout=12
ReturnToService=2
KillWait=5
CompleteWait=0
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort={dbd_port}
AccountingStoragePass={folder}/munge.socket
AccountingStorageTRES=gres/gpu
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={n1_port} CPUs=2 RealMemory=4500 Gres=gpu:test:2
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={n2_port} CPUs=2 RealMemory=4500 Gres=gpu:test:2
PartitionName=low Nodes=n1,n2 Default=YES PriorityTier=1 PreemptMode=REQUEUE GraceTime=0 MaxTime=240
PartitionName=high Nodes=n1,n2 PriorityTier=10 PreemptMode=OFF MaxTime=60
"""

GRES_CONF = "".join(f"NodeName={node} Name=gpu Type=test File={{folder}}/gpu[0-1]\n" for node in NODES)

SLURMDBD_CONF = """\
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
DbdHost=localhost
DbdPort={dbd_port}
SlurmUser=root
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StoragePort={sql_port}
StorageUser=slurm
StoragePass={password}
StorageLoc=slurm_acct
PidFile={folder}/slurmdbd.pid
"""

ACCOUNTING_SQL = """\
CREATE DATABASE slurm_acct;
CREATE USER slurm@127.0.0.1 IDENTIFIED BY '{password}';
GRANT ALL ON slurm_acct.* TO slurm@127.0.0.1;
"""


def missing() -> str | None:
    """Why there can be no cluster here; None if there can."""
    if os.geteuid() != 0:
        return "a SLURM cluster needs root"
    daemons = ("munged", "mariadbd", "mariadb-install-db", "slurmdbd", "slurmctld", "slurmd", "sbatch", "sacctmgr")
    absent = [name for name in daemons if shutil.which(name, path=_path()) is None]
    return f"{', '.join(absent)} not found: apt-get install {' '.join(PACKAGES)}" if absent else None


class Cluster:
    """The daemons of one cluster, known by the process ids that its folder holds."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.resolve()

    def up(self) -> None:
        """Bring up what is not; returns when both nodes are idle. Raises RuntimeError, with the logs, if that fails."""
        if not self.alive("mariadbd"):
            self.folder.mkdir(parents=True, exist_ok=True)
            self._write_settings()
            self._start_munge()
            self._start_database()
            self._start("slurmdbd", "slurmdbd", "-D")
            self._until(lambda: _run("sacctmgr", "-n", "list", "cluster").returncode == 0, "slurmdbd to answer")
            _run("sacctmgr", "-i", "add", "cluster", "test")
        for name in ("slurmctld", *NODES):
            self.start(name)
        self._until(lambda: self.states() == dict.fromkeys(NODES, "idle"), "the nodes to be idle")

    def down(self) -> None:
        """Cancel all jobs, end all daemons, and delete what they wrote."""
        if self.alive("slurmctld"):
            self.cancel_all()
        for name in reversed(self._pids()):
            self.stop(name)
        for name in ("slurm.conf", "gres.conf", "slurmdbd.conf"):
            (ETC / name).unlink(missing_ok=True)
        shutil.rmtree(self.folder, ignore_errors=True)

    def cancel_all(self) -> None:
        """Cancel every job, and wait until they are gone."""
        _run("scancel", "--user=root")
        self._until(lambda: _run("squeue", "-h").stdout.strip() == "", "jobs to end")

    def start(self, name: str) -> None:
        """Start slurmctld, or a node's slurmd by the node's name, if it does not run."""
        if not self.alive(name):
            self._start(name, *(["slurmctld", "-D"] if name == "slurmctld" else ["slurmd", "-D", "-N", name]))

    def stop(self, name: str, hard: bool = False) -> None:
        """End a daemon (`slurmctld`, a node's name, ...) and wait until it is gone; `hard`: as a crash would."""
        process = self._process(name)
        if process is None:
            return
        process.kill() if hard else process.terminate()
        with contextlib.suppress(psutil.TimeoutExpired):
            process.wait(10)
            return
        process.kill()

    def crash_node(self, node: str) -> None:
        """Kill a node as a power failure does: its slurmd, and all that runs on it."""
        spool = f"{self.folder}/spool-{node}"
        steps = [p for p in psutil.process_iter(["name", "cmdline"]) if p.info["name"] == "slurmstepd"]
        mine = [step for step in steps if _node_of(step) == node or spool in " ".join(step.info["cmdline"] or ())]
        victims = [child for step in mine for child in step.children(recursive=True)]
        self.stop(node, hard=True)
        for process in (*mine, *victims):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()

    def alive(self, name: str) -> bool:
        """Whether a daemon runs."""
        return self._process(name) is not None

    def states(self) -> dict[str, str]:
        """State of every node, as sinfo words it."""
        return dict(line.split() for line in _run("sinfo", "-hN", "-p", "low", "-o", "%N %T").stdout.splitlines())

    def _write_settings(self) -> None:
        names = ("ctld_port", "dbd_port", "sql_port", "n1_port", "n2_port")
        values = dict(zip(names, _free_ports(len(names)), strict=True))
        values |= {"host": socket.gethostname(), "folder": str(self.folder), "password": secrets.token_hex(8)}
        ETC.mkdir(exist_ok=True)
        texts = {"slurm.conf": SLURM_CONF, "gres.conf": GRES_CONF, "slurmdbd.conf": SLURMDBD_CONF}
        for name, text in texts.items():
            (ETC / name).touch(mode=0o600 if name == "slurmdbd.conf" else 0o644)
            (ETC / name).write_text(text.format(**values))
        (self.folder / "init.sql").write_text(ACCOUNTING_SQL.format(**values))
        self._sql_port = values["sql_port"]
        for gpu in ("gpu0", "gpu1"):
            (self.folder / gpu).unlink(missing_ok=True)
            os.mknod(self.folder / gpu, 0o600 | stat.S_IFCHR, _NULL)  # SLURM binds a GPU only if it is a device

    def _start_munge(self) -> None:
        key = self.folder / "munge.key"
        key.write_bytes(secrets.token_bytes(1024))
        key.chmod(0o600)
        places = [f"--{name}={self.folder}/munge.{end}" for name, end in (
            ("socket", "socket"), ("pid-file", "pid"), ("log-file", "log"), ("seed-file", "seed"), ("key-file", "key"),
        )]  # fmt: skip
        self._start("munged", "munged", "--foreground", "--force", *places)
        self._until((self.folder / "munge.socket").exists, "munge's socket")

    def _start_database(self) -> None:
        here = ["--no-defaults", f"--datadir={self.folder}/sql", "--user=root", "--skip-name-resolve"]
        install = _run("mariadb-install-db", *here, "--skip-test-db", "--auth-root-authentication-method=normal")
        if install.returncode:
            raise RuntimeError(f"mariadb-install-db: {install.stdout}{install.stderr}")
        quick = ["--innodb-flush-log-at-trx-commit=0", "--innodb-buffer-pool-size=64M"]
        net = [f"--socket={self.folder}/sql.sock", "--bind-address=127.0.0.1", f"--port={self._sql_port}"]
        first = [f"--init-file={self.folder}/init.sql", f"--pid-file={self.folder}/mariadb.pid"]
        self._start("mariadbd", "mariadbd", *here, *net, *quick, *first)
        self._until(lambda: _listens(self._sql_port), "MariaDB to listen")

    def _start(self, name: str, *command: str) -> None:
        log = (self.folder / f"{name}.log").open("a")
        environment = {**os.environ, "PATH": _path()}
        environment = {key: value for key, value in environment.items() if not key.startswith("SLURM_")}
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, env=environment
        )
        born = psutil.Process(process.pid).create_time()
        (self.folder / "pids.json").write_text(json.dumps(self._pids() | {name: [process.pid, born]}))

    def _pids(self) -> dict[str, list[float]]:
        file = self.folder / "pids.json"
        found: dict[str, list[float]] = json.loads(file.read_text()) if file.exists() else {}
        return found

    def _process(self, name: str) -> psutil.Process | None:
        pid, born = self._pids().get(name, (0, 0.0))
        with contextlib.suppress(psutil.NoSuchProcess):
            process = psutil.Process(int(pid))
            if pid and process.create_time() == born and process.status() != psutil.STATUS_ZOMBIE:
                return process
        return None

    def _until(self, happened: Callable[[], bool], what: str, seconds: float = 90) -> None:
        deadline = time.monotonic() + seconds
        while not happened():
            if time.monotonic() > deadline:
                logs = [f"--- {log.name}\n{log.read_text()[-1500:]}" for log in sorted(self.folder.glob("*.log"))]
                raise RuntimeError(f"waited {seconds:.0f} s in vain for {what}\n" + "\n".join(logs))
            time.sleep(0.1)


def _node_of(step: psutil.Process) -> str | None:
    with contextlib.suppress(psutil.Error):
        children = step.children()
        return children[0].environ().get("SLURMD_NODENAME") if children else None
    return None


def _run(*command: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PATH": _path()}
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=environment)


def _path() -> str:
    return f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(count)]
        for free in sockets:
            free.bind(("127.0.0.1", 0))
        return [int(free.getsockname()[1]) for free in sockets]


def _listens(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


def main(order: str, folder: str) -> None:
    cluster = Cluster(Path(folder))
    start = time.monotonic()
    if order == "up":
        reason = missing()
        if reason:
            raise SystemExit(reason)
        cluster.up()
        print(f"up in {time.monotonic() - start:.1f} s: {cluster.states()}")
    else:
        cluster.down()


if __name__ == "__main__":
    main(*sys.argv[1:])

"""A real Slurm of this one node with one GPU that is none, for tests: started, asked and stopped by them.

It schedules memory and GPUs without enforcing them. Needs root and Debian's slurmctld, slurmd, slurm-client and munge.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

FOLDER = Path("/etc/slurm")  # the submitting plugin looks nowhere else
OURS = "# one node, made by winnow's tests\n"
COMMANDS = ("slurmctld", "slurmd", "sbatch", "munged")

SLURM_CONF = """\
ClusterName=winnow
SlurmctldHost={host}
SlurmctldPort=16817
SlurmdPort=16818
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SlurmdParameters=config_overrides
SchedulerParameters=sched_interval=1,bf_interval=1
GresTypes=gpu
MinJobAge=7200
KillWait=2
ReturnToService=2
NodeName={host} CPUs=16 RealMemory=200000 Gres=gpu:1 State=UNKNOWN
PartitionName=main Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""
GRES_CONF = """\
AutoDetect=off
NodeName={host} Name=gpu Count=1 File=/dev/null
"""


def why_not() -> str | None:
    """What keeps a Slurm from being started here."""
    missing = [name for name in COMMANDS if shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin") is None]
    if missing:
        return f"no {', '.join(missing)} here: apt-get install slurmctld slurmd slurm-client munge"
    if os.getuid() != 0:
        return "only root can start a Slurm"
    conf = FOLDER / "slurm.conf"
    if conf.exists() and not conf.read_text().startswith(OURS):
        return f"{conf} is another Slurm's"
    return None


@contextlib.contextmanager
def started(folder: Path) -> Iterator[None]:
    """The daemons, with their state in ``folder``; stopped in the end, and their configuration removed."""
    _stop()  # of a test that was killed
    host = socket.gethostname().split(".")[0]
    for name in ("state", "spool"):
        (folder / name).mkdir(parents=True)
    folder.chmod(0o755)
    FOLDER.mkdir(exist_ok=True)
    for name, text in {"slurm.conf": SLURM_CONF, "gres.conf": GRES_CONF}.items():
        (FOLDER / name).write_text(OURS + text.format(host=host, folder=folder))
    key = folder / "munge.key"
    key.write_bytes(os.urandom(1024))
    key.chmod(0o600)
    paths = {name: str(folder / f"munge.{name}") for name in ("socket", "pid-file", "log-file", "seed-file")}
    try:
        _call("munged", "--force", "--key-file", str(key), *(f"--{name}={path}" for name, path in paths.items()))
        _call("slurmctld", "-i")
        _call("slurmd")
        deadline = time.monotonic() + 30
        while "idle" not in _call("sinfo", "-h", "-o", "%T", check=False):
            if time.monotonic() > deadline:
                raise RuntimeError(f"no Slurm in 30 s:\n{(folder / 'slurmctld.log').read_text()[-2000:]}")
            time.sleep(0.1)
        yield
    finally:
        _stop()


@dataclass(frozen=True)
class Job:
    """What Slurm tells of a job: of which rule, what it was granted, when it ran (seconds), how it ended."""

    number: int
    rule: str
    state: str
    gpus: int
    memory: str
    minutes: float
    start: float
    end: float


def jobs() -> list[Job]:
    """All jobs since the start, in the order of their submission."""
    found = []
    for text in _call("scontrol", "--oneliner", "show", "job", check=False).splitlines():
        told = dict(field.split("=", 1) for field in text.split() if "=" in field)
        if "JobId" not in told:
            continue
        gpus = re.search(r"gpu:?(\d+)", told.get("TresPerJob", ""))
        comment = told["Comment"].removeprefix("rule_").replace("_wildcards_", " ")
        found.append(
            Job(
                number=int(told["JobId"]),
                rule=comment,
                state=told["JobState"],
                gpus=int(gpus[1]) if gpus else 0,
                memory=told["MinMemoryNode"],
                minutes=_minutes(told["TimeLimit"]),
                start=_seconds(told["StartTime"]),
                end=_seconds(told["EndTime"]),
            )
        )
    return sorted(found, key=lambda job: job.number)


def running(rule: str) -> Job | None:
    return next((job for job in jobs() if job.rule.split()[0] == rule and job.state == "RUNNING"), None)


def cancel(job: Job) -> None:
    _call("scancel", str(job.number))


def cancel_all() -> None:
    """Returns once none runs."""
    _call("scancel", "--user=root")
    wait_for_none()


def wait_for_none() -> None:
    while any(job.state in ("PENDING", "RUNNING", "COMPLETING") for job in jobs()):
        time.sleep(0.1)


def kill(job: Job) -> None:
    """kill -9 of all processes of a job, as the kernel does when memory is short."""
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if f"SLURM_JOB_ID={job.number}\0".encode() in (process / "environ").read_bytes():
                os.kill(int(process.name), signal.SIGKILL)


def _seconds(time_told: str) -> float:
    return float("nan") if time_told == "Unknown" else datetime.fromisoformat(time_told).timestamp()


def _minutes(limit: str) -> float:
    """Of Slurm's [days-]hours:minutes:seconds."""
    days, _, rest = limit.rpartition("-")
    hours, minutes, seconds = map(int, rest.split(":"))
    return (int(days or 0) * 24 + hours) * 60 + minutes + seconds / 60


def _call(name: str, *arguments: str, check: bool = True) -> str:
    path = shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin")
    done = subprocess.run([str(path), *arguments], capture_output=True, text=True, timeout=60)
    if check and done.returncode:
        raise RuntimeError(f"{name} {' '.join(arguments)}: {done.stderr}{done.stdout}")
    return done.stdout


def _stop() -> None:
    """End the daemons that our configuration names, and their jobs."""
    conf = FOLDER / "slurm.conf"
    if not conf.exists() or not conf.read_text().startswith(OURS):
        return
    if "idle" in (state := _call("sinfo", "-h", "-o", "%T", check=False)) or "mix" in state or "alloc" in state:
        cancel_all()
    found = re.findall(r"=(\S+\.pid)$|socket=(\S+)\.socket$", conf.read_text(), re.M)
    for path in [Path(pid or f"{munge}.pid-file") for pid, munge in found]:
        with contextlib.suppress(OSError, ValueError):
            number = int(path.read_text())
            if Path(f"/proc/{number}/comm").read_text().strip() in COMMANDS:
                os.kill(number, signal.SIGKILL)
    for name in ("slurm.conf", "gres.conf"):
        (FOLDER / name).unlink(missing_ok=True)

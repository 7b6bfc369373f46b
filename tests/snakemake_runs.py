"""Snakemake as the tests start it, and what it says of its jobs."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

SNAKEMAKE = [sys.executable, "-m", "snakemake"]
# no GPU, so that a machine with one computes the same; one thread, since more of them round otherwise
MACHINE = ["--cores", "1", "--resources", "gpu=0"]
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
TARGETS = ("all", "molecules", "descriptors", "taxoclass")


class DryRuns:
    """Snakemake's command line without its start: one process has it imported and forks for each call."""

    SERVER = """
import json, os, sys
import numpy, pandas, pyarrow.parquet, pydantic, pulp, scipy.sparse, snakemake.cli, smart_open, threadpoolctl, yaml
import snakemake.report
snakemake.cli.get_argument_parser()
for line in sys.stdin:
    folder, output, arguments = json.loads(line)
    pid = os.fork()
    if not pid:
        os.chdir(folder)
        for stream in (1, 2):
            os.dup2(os.open(f"{output}.{stream}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), stream)
        sys.argv = ["snakemake", *arguments]
        snakemake.cli.main(arguments)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
"""

    def __init__(self, scratch: Path, environment: Mapping[str, str] = ENVIRONMENT) -> None:
        self.output = scratch / "said"
        self.process = subprocess.Popen(
            [sys.executable, "-c", self.SERVER],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment,
        )  # fmt: skip

    def __call__(self, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write(json.dumps([str(folder), str(self.output), [*arguments, "--dry-run"]]) + "\n")
        self.process.stdin.flush()
        code = int(self.process.stdout.readline())
        said = [Path(f"{self.output}.{stream}").read_text() for stream in (1, 2)]
        return subprocess.CompletedProcess(arguments, code, *said)

    def close(self) -> None:
        assert self.process.stdin
        self.process.stdin.close()
        self.process.wait()


# ---- what was said


def succeeded(done: subprocess.CompletedProcess[str]) -> str:
    """What a run said that did not fail."""
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    return said


def refusal(done: subprocess.CompletedProcess[str]) -> str:
    """The one line with which a run ends before it begins."""
    [line] = [line for line in done.stderr.splitlines() if not re.match(r"Using (workflow specific )?profile", line)]
    assert done.returncode == 1 and "Traceback" not in done.stdout + done.stderr
    return line


def ended(said: str) -> list[str]:
    """Rules of the jobs that ended, in order."""
    return re.findall(r"Finished jobid: \d+ \(Rule: (\w+)\)", said)


def jobs(said: str) -> dict[str, str]:
    """Of a run or a dry run its jobs in order, with what is said of each.

    A job is called by its rule and the values of its wildcards: "self_train 2". Targets are none.
    """
    found = {}
    for text in re.split(r"^(?=(?:local)?rule \w+:)", said, flags=re.M)[1:]:
        rule = text.partition(":")[0].split()[1]
        wildcards = re.search(r"^    wildcards: (.*)$", text, re.M)
        values = re.findall(r"=([^,]*)", wildcards[1]) if wildcards else []
        if rule not in TARGETS:
            found[" ".join([rule, *values])] = text
    return found


def commands(said: str) -> dict[str, list[str]]:
    """Of a dry run with --printshellcmds: the command line of each job, without the log's redirection."""
    shells = {job: re.search(r"^Shell command: (.*)$", text, re.M) for job, text in jobs(said).items()}
    return {job: shlex.split(shell[1])[:-3] for job, shell in shells.items() if shell}

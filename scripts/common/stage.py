"""Opens a stage: command line, settings, threads, log lines, provenance. Every script in scripts/ reads alike."""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import json
import os
import platform
import resource
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn, get_args

from pydantic import ValidationError
from threadpoolctl import threadpool_limits

from common import files
from common.cards import Lease
from common.config import explain, runtime_of, with_runtime
from common.errors import UserError, one_line
from common.memory import lacks_memory
from common.progress import say
from common.settings import Settings

# whose versions provenance tells
LIBRARIES = (
    *("cupy-cuda12x", "cupy-cuda13x", "numba", "numpy", "rdkit", "scikit-learn", "scipy", "pyarrow", "igraph"),
    *("leidenalg", "pydantic", "snakemake", "torch", "transformers"),
)


@dataclass
class Stage:
    """What a script gets: its settings, its files, its share of the machine."""

    name: str
    settings: Any
    runtime: Any
    paths: argparse.Namespace
    threads: int
    gpu: int | None
    started: float
    gpu_memory: int | None = None  # bytes granted
    device: str = "cpu"
    lease: Lease | None = None
    peak_device: Callable[[], int] = lambda: 0
    scratches: list[Path] = field(default_factory=list)

    @property
    def parameters(self) -> dict[str, Any]:
        """The settings that the result depends on, to be recorded."""
        return self.settings.relevant(self.settings.model_dump())

    def blas(self) -> threadpool_limits:
        """Context in which the BLAS may use the stage's threads: only for exact sums, whose bits it does not change."""
        return threadpool_limits(limits=self.threads)

    def log(self, *parts: str) -> None:
        """One line: ``pass2  | 41,127 rows x 215 columns | exact, pairwise | ...``"""
        say(self.name, *parts)

    def warn(self, message: str) -> None:
        self.log(f"warning: {message}")

    def record(self, path: str, content: dict[str, Any], known: dict[str, Any] | None = None) -> None:
        """Write the stage's JSON, the last of its products, with the checksums of the others; see ``files``."""
        outputs = [each for flag, each in vars(self.paths).items() if flag.startswith("out_") and each is not None]
        made = [each for each in outputs if each != path and os.path.exists(each)]
        files.write_record(path, content, made, known)

    def scratch(self, beside: str | Path) -> Path:
        """An undeclared folder for what a stage may pick up again after an interruption."""
        folder = Path(beside).parent / ".state" / self.name
        with files.writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
        self.scratches.append(folder)
        return folder

    def forget(self) -> None:
        """Remove the scratch folders: the work is done."""
        for folder in self.scratches:
            shutil.rmtree(folder, ignore_errors=True)
            with contextlib.suppress(OSError):
                folder.parent.rmdir()


class Parser(argparse.ArgumentParser):
    """Says in one line what is wrong with the command line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog.removesuffix('.py')}: {' '.join(message.split())}; see --help\n")


def run_stage(
    name: str,
    model: type[Settings],
    inputs: dict[str, str],
    outputs: dict[str, str],
    work: Callable[[Stage], None],
    optional: tuple[str, ...] = (),
    values: dict[str, str] | None = None,
    several: tuple[str, ...] = (),
) -> None:
    """Parse the command line, do the work, report; a user's mistake is one line and exit code 2.

    ``inputs`` and ``outputs`` name the file flags and say what each file is; those in ``optional`` may be left out.
    ``values`` are flags that are no files: what the script is told beside its settings. The file flags in ``several``
    take any number of files.
    """
    accepted, runtime = with_runtime(model), runtime_of(model)
    parser = _parser(
        name, sys.modules[work.__module__].__doc__, accepted, inputs | outputs, values or {}, optional, several
    )
    arguments = parser.parse_args()
    started = time.perf_counter()
    try:
        given = _given(accepted, arguments)
        try:
            everything = accepted.model_validate(given, strict=False)
        except ValidationError as error:
            raise UserError(explain(error, accepted, prefix="--")) from None
        stage = Stage(
            name=name,
            settings=model.model_validate(everything.model_dump(include=set(model.model_fields), exclude_unset=True)),
            runtime=runtime.model_validate(everything.model_dump(include=set(runtime.model_fields))),
            paths=arguments,
            threads=min(arguments.threads, os.cpu_count() or 1),
            gpu=arguments.gpu,
            started=started,
            gpu_memory=arguments.gpu_memory and 10**9 * arguments.gpu_memory,
        )
        files.check_inputs(_paths(arguments, inputs), arguments.records)
        with threadpool_limits(limits=1):
            work(stage)
        stage.forget()
        _report(stage)
    except UserError as error:
        print(f"{name}: {error}", file=sys.stderr, flush=True)
        raise SystemExit(2) from None
    except Exception as error:
        if not lacks_memory(error):
            raise
        print(f"{name}: {_out_of_memory(error, runtime)}", file=sys.stderr, flush=True)
        raise SystemExit(2) from None


def _out_of_memory(error: Exception, runtime: type[Settings]) -> str:
    planned = "max_host_memory_gb" in runtime.model_fields
    return (
        f"out of memory ({one_line(error)}); state kept, give the job more (mem_mb of its rule)"
        f"{', or lower max_host_memory_gb,' if planned else ''} and run the same command again"
    )


def _parser(
    name: str,
    description: str | None,
    accepted: type[Settings],
    paths: dict[str, str],
    values: dict[str, str],
    optional: tuple[str, ...],
    several: tuple[str, ...],
) -> argparse.ArgumentParser:
    parser = Parser(prog=f"{name}.py", description=description, allow_abbrev=False)
    data = parser.add_argument_group("files")
    for flag, text in (paths | values).items():
        metavar = "PATH" if flag in paths else "VALUE"
        number = "+" if flag in several else None
        data.add_argument(f"--{flag}", required=flag not in optional, nargs=number, metavar=metavar, help=text)
    data.add_argument(
        "--records",
        nargs="+",
        default=[],
        metavar="PATH",
        help="JSON products with the checksums of other inputs",
    )
    data.add_argument("--provenance", metavar="PATH", help="where to record versions, seconds and peak memory")
    data.add_argument("--code", default="", metavar="DIGEST", help="digest of the source, kept in provenance and state")
    machine = parser.add_argument_group("machine")
    machine.add_argument("--threads", type=_count(1), default=1, metavar="N", help="threads to use (default 1)")
    machine.add_argument("--gpu", type=_count(0), metavar="N", help="GPUs granted")
    machine.add_argument("--gpu-memory", type=_count(1), metavar="GB", help="memory granted on the GPU")
    keys = parser.add_argument_group("settings (names and defaults of the config)")
    keys.add_argument("--settings", type=_section, default={}, metavar="JSON", help="several settings at once")
    for key, info in accepted.model_fields.items():
        listed = "list" in str(info.annotation)
        default = "" if info.is_required() else f" (default {json.dumps(info.default)})"
        choices = [choice for choice in get_args(info.annotation) if isinstance(choice, str)]
        keys.add_argument(
            f"--{key}",
            nargs="*" if listed else None,
            metavar="{" + ",".join(choices) + "}" if choices else "VALUE",
            default=argparse.SUPPRESS,
            help=f"{info.description}{default}".replace("%", "%%"),
        )
    return parser


def _paths(arguments: argparse.Namespace, inputs: dict[str, str]) -> list[str]:
    """The input files that were given."""
    given = [getattr(arguments, flag.replace("-", "_")) for flag in inputs]
    return [path for each in given if each is not None for path in ([each] if isinstance(each, str) else each)]


def _count(least: int) -> Callable[[str], int]:
    def count(text: str) -> int:
        if not text.isdecimal() or int(text) < least:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least {least}")
        return int(text)

    return count


def _section(text: str) -> dict[str, Any]:
    try:
        content = json.loads(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"not JSON ({error})") from None
    if not isinstance(content, dict):
        raise argparse.ArgumentTypeError(f"it should be a JSON object of keys and values, not {text}")
    return content


def _given(accepted: type[Settings], arguments: argparse.Namespace) -> dict[str, Any]:
    """The settings on the command line: flags win over --settings; null, none and empty stand for 'not set'."""
    given = dict(arguments.settings)
    for key, info in accepted.model_fields.items():
        if key in arguments:
            value = getattr(arguments, key)
            nullable = type(None) in get_args(info.annotation)
            if nullable and value in ("null", "none", "", ["null"], ["none"], [""]):
                given[key] = None
            else:
                given[key] = value if str in (info.annotation, *get_args(info.annotation)) else _number(value)
    return given


def _number(value: Any) -> Any:
    """Text of a flag as the number it spells, so that int and float stay apart as in YAML."""
    if isinstance(value, str):
        for kind in (int, float):
            try:
                return kind(value)
            except ValueError:
                continue
    return value


def _report(stage: Stage) -> None:
    seconds = time.perf_counter() - stage.started
    peak = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # the largest resident memory so far
    stage.log(f"{seconds:.1f} s", f"{peak / 1e6:,.0f} MB", f"{stage.device} x {stage.threads}")
    if stage.paths.provenance:
        files.write_json(
            stage.paths.provenance,
            {
                "stage": stage.name,
                "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
                "code": stage.paths.code,
                "parameters": stage.parameters,
                "runtime": stage.runtime.model_dump(),
                "threads": stage.threads,
                "device": stage.device,
                "peak_device_bytes": stage.peak_device(),
                "seconds": round(seconds, 3),
                "cpu_seconds": round(time.process_time(), 3),
                "peak_memory_bytes": peak,
                "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
                "python": platform.python_version(),
                "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
                "versions": {name: _version(name) for name in LIBRARIES},
            },
        )


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None

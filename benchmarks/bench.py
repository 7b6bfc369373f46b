"""make bench: measures winnow against its peers, in one run on one machine.

Every row runs in a process of its own and is written at once: a row that fails loses no other, and the same command
goes on where it was interrupted. A row measured with the same settings and the same source is not measured again,
unless --only names it.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import written
from measure import POOLS, ROOT, busy, cores, machine, source

SCHEMA_VERSION = 1
ORDER = (
    "ranking",
    "gram",
    "decode",
    "spearman_complete",
    "spearman_patterns",
    "spearman_random_missing",
    "vif",
    "nonlinear",
    "correlated_selection",
    "passes_real",
    "passes_large",
    "scaling",
    "embedding",
    "zero_shot",
    "text_scale",
)


def main() -> None:
    arguments = parse()
    if arguments.rows:
        print("\n".join(ORDER))
        return
    folder = arguments.out / "rows"
    folder.mkdir(parents=True, exist_ok=True)
    settings = {
        "schema_version": SCHEMA_VERSION,
        "scale": arguments.scale,
        "threads": arguments.threads,
        "molecules": arguments.molecules is not None,
        "source": source(),
    }
    start = machine()
    for name in arguments.only or ORDER:
        path = folder / f"{name}.json"
        if not arguments.only and is_done(path, settings):
            print(f"{name}: measured before with this source and these settings", flush=True)
            continue
        print(f"{name} ...", end=" ", flush=True)
        measured = measure(name, arguments, settings | {"machine": start})
        written.write_json(path, measured)
        print(measured.get("error", f"{measured['seconds']:.0f} s"), flush=True)
    read = {name: json.loads(path.read_text()) for name in ORDER if (path := folder / f"{name}.json").exists()}
    found = {name: row for name, row in read.items() if row.get("schema_version") == SCHEMA_VERSION}
    text = written.table(found, settings | {"machine": start})
    print(f"\n{text}")
    tables = arguments.tables or arguments.out
    (tables / "bench.txt").write_text(f"{text}\n")
    written.write_json(tables / "bench.json", {"machine": start, "settings": settings, "rows": found})
    written.plot(found, tables / "bench.png")
    print(f"\n{tables}/bench.txt, bench.json, bench.png")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench.py", description=__doc__.split("\n\n")[0])
    environment = os.environ.get("MOLECULES")
    parser.add_argument("--only", nargs="+", choices=ORDER, metavar="ROW", help="measure these rows, again if need be")
    parser.add_argument("--rows", action="store_true", help="list the rows and stop")
    parser.add_argument("--scale", type=float, default=1.0, help="factor of the number of rows (default 1)")
    parser.add_argument("--threads", type=int, default=cores(), help="of every side (default: all cores)")
    parser.add_argument(
        "--molecules",
        type=Path,
        default=Path(environment) if environment else None,
        help="folder with hiv_rdkit/*.parquet (default: $MOLECULES; without it, the demo's molecules repeated)",
    )
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "bench", help="default results/bench")
    parser.add_argument("--tables", type=Path, help="for the table, JSON and plot (default: --out)")
    parser.add_argument("--patience", type=float, default=120.0, help="seconds after which no round is added (120)")
    arguments = parser.parse_args()
    if arguments.molecules is not None and not any(arguments.molecules.glob("hiv_rdkit/*.parquet")):
        parser.error(f"--molecules {arguments.molecules}: has no hiv_rdkit/*.parquet")
    if arguments.scale <= 0 or arguments.threads < 1:
        parser.error("--scale must be positive, --threads at least 1")
    arguments.out = arguments.out.resolve()
    if arguments.molecules is not None:
        arguments.molecules = arguments.molecules.resolve()
    return arguments


def is_done(path: Path, settings: dict[str, Any]) -> bool:
    if not path.exists():
        return False
    before = json.loads(path.read_text())
    return "error" not in before and all(before.get(key) == value for key, value in settings.items())


def measure(name: str, arguments: argparse.Namespace, settings: dict[str, Any]) -> dict[str, Any]:
    """The row's result, or its error; with the settings, the date and the seconds that it took."""
    threads = str(arguments.threads)
    environment = os.environ | dict.fromkeys(POOLS, threads)
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT / "scripts"), *filter(None, [os.environ.get("PYTHONPATH")])])
    started, before = time.perf_counter(), busy()
    with tempfile.TemporaryDirectory(dir=arguments.out, prefix=f"{name}-") as scratch:
        answer, log = Path(scratch) / "answer.json", Path(scratch) / "log"
        told = {
            "scale": arguments.scale,
            "threads": arguments.threads,
            "molecules": None if arguments.molecules is None else str(arguments.molecules),
            "scratch": scratch,
            "patience": arguments.patience,
        }
        command = [
            sys.executable,
            str(Path(__file__).with_name("worker.py")),
            "row",
            name,
            json.dumps(told),
            str(answer),
        ]
        with open(log, "w") as output:
            code = subprocess.run(command, stdout=output, stderr=subprocess.STDOUT, env=environment).returncode
        result = json.loads(answer.read_text()) if code == 0 else {"error": reason(code, log.read_text())}
    taken, after = time.perf_counter() - started, busy()
    others = (after[0] - before[0]) - (after[1] - before[1])
    finished = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    share = max(others, 0.0) / (taken * settings["machine"]["cores"])
    return {
        **settings,
        **result,
        "seconds": round(taken, 1),
        "finished": finished,
        "taken_by_others": round(share, 3),
    }


def reason(code: int, log: str) -> str:
    """Why a row failed, in one line."""
    if code < 0:
        return f"killed by signal {-code} (9: most often for lack of memory)"
    return (log.strip().splitlines() or ["no word"])[-1][:500]


if __name__ == "__main__":
    main()

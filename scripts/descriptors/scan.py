"""Pass 1's one read of all columns: statistics, reasons and rank codes, in pieces that can be picked up again."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import xxhash
from tqdm import tqdm

from common import files
from common.descriptors_settings import Pass1, Runtime
from common.errors import UserError
from descriptors.ranks import code_type, doubled_midranks
from descriptors.sampling import content_keys, mix
from descriptors.table import CodeWriter, Table
from descriptors.variance import Column, describe, removal_reasons

BYTES_A_VALUE = 8
BYTES_A_VALUE_IN_WORK = 88  # of one column being sorted, ranked and described
FLAGS = ("constant", "degenerate")  # told by the reasons
STATISTICS = (*(each.name for each in dataclasses.fields(Column) if each.name not in FLAGS), "missing_ratio")


class Result(NamedTuple):
    """Of one column: what is written and remembered."""

    column: Column
    reasons: list[str]
    codes: np.ndarray | None
    pattern: str
    content: np.ndarray


@dataclass
class Scan:
    """Reads the columns in groups that fit the memory and ranks them in parallel.

    table : the source.
    settings, runtime : of pass 1, and of the machine; ``runtime.shards`` is the number of pieces.
    folder : where the codes grow, and where finished pieces are remembered.
    fingerprint : state of another one is not picked up.
    threads : columns ranked at the same time.
    """

    table: Table
    settings: Pass1
    runtime: Runtime
    folder: Path
    fingerprint: str
    threads: int
    log: Callable[[str], None]
    columns: list[Column] = field(default_factory=list)
    reasons: list[list[str]] = field(default_factory=list)
    patterns: list[str] = field(default_factory=list)
    kept: int = 0

    def __post_init__(self) -> None:
        self.type = code_type(self.table.rows)
        self.content = np.zeros(self.table.rows, np.uint64)
        self.codes_path = self.folder / "codes.npy"

    @property
    def input_fingerprint(self) -> str:
        """Digest of all values, whatever the order of the rows and their split into files."""
        return f"{int(mix(self.content).sum(dtype=np.uint64)):016x}"

    def run(self) -> None:
        names = self.table.descriptors
        self._restore()
        writer = CodeWriter(self.codes_path, self.table.rows, self.type)
        threads, width = self._plan()
        piece = -(-len(names) // min(self.runtime.shards, len(names)))
        with (
            ThreadPoolExecutor(threads) as pool,
            tqdm(total=len(names), initial=len(self.columns), desc="pass1", unit="column", disable=None) as bar,
        ):
            while len(self.columns) < len(names):
                at = len(self.columns)
                stop = min(at + width, (at // piece + 1) * piece, len(names))
                values = self.table.columns(list(names[at:stop]), self.runtime.batch_rows)
                for result in pool.map(self._examine, values, names[at:stop]):
                    self._take(writer, result)
                    bar.update()
                if stop % piece == 0 and stop < len(names):
                    writer.flush()
                    self._save()
        writer.close(self.kept)

    def _plan(self) -> tuple[int, int]:
        """Threads, and columns read at once, that fit the memory budget."""
        rows = self.table.rows
        spare = self.runtime.budget - rows * 8
        least = rows * (BYTES_A_VALUE + BYTES_A_VALUE_IN_WORK)
        if spare < least:
            enough = self.runtime.gigabytes_for(least + rows * 8)
            raise UserError(
                f"{rows:,} rows need descriptors.max_host_memory_gb >= {enough:g} to sort one column; "
                f"it is {self.runtime.max_host_memory_gb:g}"
            )
        threads = max(min(self.threads, (spare // 2) // (rows * BYTES_A_VALUE_IN_WORK)), 1)
        # pool.map starts them all: a finished column waits as codes and hashes until its turn to be written
        waiting = BYTES_A_VALUE + self.type.itemsize + 8
        width = (spare - threads * rows * BYTES_A_VALUE_IN_WORK) // (rows * waiting)
        return int(threads), int(max(width, 1))

    def _examine(self, values: np.ndarray, name: str) -> Result:
        settings = self.settings
        codes, ordered = doubled_midranks(values, self.type)
        column = describe(ordered, len(values), settings.range_mode, (settings.trim_lower, settings.trim_upper))
        reasons = removal_reasons(
            column,
            settings.range_mode,
            settings.variance_threshold,
            settings.max_missing_ratio,
            settings.min_effective_n,
        )
        pattern = xxhash.xxh3_128_hexdigest(np.packbits(codes == 0).data)
        return Result(column, reasons, None if reasons else codes, pattern, content_keys(values[None], [name]))

    def _take(self, writer: CodeWriter, result: Result) -> None:
        self.columns.append(result.column)
        self.reasons.append(result.reasons)
        self.patterns.append(result.pattern)
        self.content += result.content
        if result.codes is not None:
            writer.write(self.kept, result.codes)
            self.kept += 1

    def _save(self) -> None:
        state = {
            "fingerprint": self.fingerprint,
            "columns": [dataclasses.asdict(column) for column in self.columns],
            "reasons": self.reasons,
            "patterns": self.patterns,
        }
        files.write_npz(self.folder / "progress.npz", state=np.array(json.dumps(state)), content=self.content)

    def _restore(self) -> None:
        progress = self.folder / "progress.npz"
        if progress.exists() and self.codes_path.exists():
            try:
                saved = files.read_npz(progress)
                state = json.loads(str(saved["state"]))
            except (UserError, KeyError, ValueError):
                state = {}
            if state.get("fingerprint") == self.fingerprint:
                self.columns = [Column(**column) for column in state["columns"]]
                self.reasons, self.patterns, self.content = state["reasons"], state["patterns"], saved["content"]
                self.kept = sum(not reasons for reasons in self.reasons)
                self.log(f"resumed after {len(self.columns)} columns")
                return
        progress.unlink(missing_ok=True)
        self.codes_path.unlink(missing_ok=True)

    def commonest_reason(self) -> str:
        first = [reasons[0].split(" ")[0] for reasons in self.reasons]
        return f"most often like this: {self.reasons[first.index(max(first, key=first.count))][0]}"

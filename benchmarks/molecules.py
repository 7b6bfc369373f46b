"""Real descriptors: the folder given with --molecules, or the demo's molecules repeated."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

N_METADATA = 6
HIV_ROWS, HIV_COLUMNS = 41_127, 217
DEMO = Path(__file__).resolve().parent.parent / "resources" / "esol"


def files(folder: Path | None, scratch: Path) -> tuple[str, str]:
    """A glob of Parquet files of 41,127 molecules x 217 descriptors, and what they are."""
    if folder is not None:
        return str(folder / "hiv_rdkit" / "*.parquet"), "hiv_rdkit"
    scratch.mkdir(parents=True, exist_ok=True)
    once = pa.concat_tables([pq.read_table(path) for path in sorted(DEMO.glob("*.parquet"))])
    once = once.select(once.column_names[: N_METADATA + HIV_COLUMNS])
    tiled = pa.concat_tables([once] * -(-HIV_ROWS // len(once))).slice(0, HIV_ROWS)
    pq.write_table(tiled, scratch / "tiled.parquet", row_group_size=5000)
    return str(scratch / "*.parquet"), f"OTHER DATA: the demo's {len(once):,} molecules repeated (no --molecules given)"


def frame(folder: Path | None, scratch: Path, n_rows: int) -> tuple[pd.DataFrame, str]:
    """The first rows of those files as a DataFrame of descriptors, infinities missing, and what they are."""
    pattern, origin = files(folder, scratch)
    paths = sorted(Path(pattern).parent.glob("*.parquet"))
    if not paths:
        raise FileNotFoundError(f"{pattern} matches no file; correct --molecules")
    read = pa.concat_tables([pq.read_table(path) for path in paths]).slice(0, n_rows)
    values = read.select(read.column_names[N_METADATA:]).to_pandas().astype(np.float64)
    return values.replace([np.inf, -np.inf], np.nan), origin

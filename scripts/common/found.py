"""The input files that a pattern of the config means."""

from __future__ import annotations

import glob
import os

from common.errors import UserError


def find_files(pattern: str, key: str = "descriptors.parquet_glob") -> list[str]:
    """Sorted files that match; raises UserError where there is none, which names the setting ``key``."""
    found = sorted(path for path in glob.glob(pattern, recursive=True) if os.path.isfile(path))
    if not found:
        raise UserError(f"config: {key} = {pattern!r} matches no file; correct the pattern")
    return found

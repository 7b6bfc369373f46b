"""The settings of the way in: from SMILES to a table of descriptors."""

from __future__ import annotations

import glob
import os
from typing import Literal

from pydantic import Field, model_validator

from common.settings import Positive, Settings

ROW = "row number"


class ReadMolecules(Settings):
    """Reading."""

    molecules_glob: str = Field(
        min_length=1,
        description="CSV (*.csv), tab-separated text (any other name), plain or gzip, or Parquet, as a glob pattern",
    )
    smiles_column: str = Field("smiles", min_length=1, description="column that holds the SMILES")
    id_column: str | None = Field(None, min_length=1, description="column that names the molecules; null = row number")
    column_names: list[str] | None = Field(
        None,
        min_length=1,
        description="the columns of text files without a header line, as [cid, smiles] for PubChem's CID-SMILES.gz; "
        "null = the first line names them",
    )

    @model_validator(mode="after")
    def _columns_differ(self) -> ReadMolecules:
        if self.smiles_column in (self.id_column or "id", ROW) or self.id_column == ROW:
            raise ValueError(f"smiles_column and id_column must differ, and neither be {ROW!r}; rename one")
        return self


class CalculateMolecules(Settings):
    """Calculation."""

    descriptor_sets: list[Literal["rdkit", "mordred"]] = Field(
        ["rdkit"], min_length=1, description="what is calculated; mordred = its two-dimensional ones"
    )
    timeout_seconds: Positive = Field(60.0, description="time for one molecule, after which it has no descriptors")


class MoleculesRuntime(Settings):
    """How a run uses the machine; none of these changes a value."""

    molecule_shards: int = Field(1, ge=1, le=9999, description="jobs that the calculation is cut into, a file each")


class Molecules(ReadMolecules, CalculateMolecules, MoleculesRuntime):
    """From SMILES to descriptors."""


def table_glob(results: str, shards: int) -> str:
    """The tables that are made, for ``descriptors.parquet_glob``."""
    return glob.escape(os.path.normpath(f"{results}/molecules")) + f"/descriptors_*_of_{shards}.parquet"


def metadata(smiles_column: str, id_column: str | None) -> list[str]:
    """Names of the columns before the descriptors: those of the input, or ``id`` for the number of the row."""
    return [id_column or "id", smiles_column]

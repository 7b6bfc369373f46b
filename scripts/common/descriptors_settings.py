"""The settings of descriptor selection: one typed model a pass, and the machine's."""

from __future__ import annotations

import math
from typing import Any, Literal

from pydantic import Field, model_validator

from common.settings import OnDevice, Percent, Seeded, Settings, Share, Threshold, without

INTERPRETER_GB = 0.35


class EnoughRows(Settings):
    min_effective_n: int = Field(
        100, ge=2, description="keep a column if it has at least this many valid values; no edge on fewer common rows"
    )


class MissingCells(Settings):
    missing: Literal["pairwise", "global_ranks", "mean"] = Field(
        "pairwise",
        description="missing cells in pass 2, and in Pearson of pass 3: common rows re-ranked pair by pair, "
        "ranks within each column, or the column mean",
    )


class Clustering(Seeded):
    clustering: Literal["leiden", "leader", "components"] = Field(
        "leiden", description="how columns joined by edges become clusters"
    )
    leiden_resolution: float = Field(1.0, gt=0, description="times the threshold = the resolution of the CPM quality")
    n_consensus: int = Field(10, ge=1, description="Leiden repeats that have to agree")
    topk: int = Field(40, ge=1, description="edges kept a column, only above topk_above columns")
    topk_above: int = Field(32_768, ge=1, description="column count above which the graph is thinned to topk edges")

    @classmethod
    def relevant(cls, settings: dict[str, Any]) -> dict[str, Any]:
        """Without what the chosen clustering does not read."""
        of_leiden = ("leiden_resolution", "n_consensus", "topk", "topk_above")
        return settings if settings["clustering"] == "leiden" else without(settings, of_leiden)


class Pass0(Seeded):
    """Sampling."""

    parquet_glob: str = Field(min_length=1, description="the Parquet files, as a glob pattern")
    n_metadata: int = Field(6, ge=0, description="leading columns that are metadata")
    metadata_columns: list[str] | None = Field(None, description="metadata by name; wins over n_metadata")
    exclude_columns: list[str] = Field([], description="further columns to leave out, for example targets")
    sample_per_file: int | float | None = Field(
        None, gt=0, description="rows kept of each file: a count, or a share below 1; null = all"
    )
    sample_rows: int | None = Field(None, ge=1, description="rows kept of all files together; null = all")

    @model_validator(mode="after")
    def _one_kind_of_sample(self) -> Pass0:
        if self.sample_per_file is not None and self.sample_rows is not None:
            raise ValueError("sample_per_file and sample_rows exclude each other; set one of them to null")
        if isinstance(self.sample_per_file, float) and self.sample_per_file >= 1:
            raise ValueError(
                f"sample_per_file = {self.sample_per_file!r} must be a whole number of rows or a share below 1"
            )
        return self

    @classmethod
    def relevant(cls, settings: dict[str, Any]) -> dict[str, Any]:
        """Without the seed where nothing is sampled, and without what names of columns win over."""
        seed = () if is_sampled(settings) else ("random_seed",)
        return without(settings, seed if settings["metadata_columns"] is None else (*seed, "n_metadata"))


class Pass1(EnoughRows):
    """Variance filter."""

    variance_threshold: float = Field(0.002, ge=0, description="keep if the normalised variance is at least this")
    range_mode: Literal["minmax", "trimmed", "iqr", "raw"] = Field(
        "trimmed", description="range that normalises the variance; raw = plain variance"
    )
    trim_lower: Percent = Field(2.5, description="lower percentile of the trimmed range")
    trim_upper: Percent = Field(97.5, description="upper percentile of the trimmed range")
    max_missing_ratio: Share = Field(0.5, description="keep a column if at most this share is missing")

    @model_validator(mode="after")
    def _range_is_not_empty(self) -> Pass1:
        if self.trim_lower >= self.trim_upper:
            raise ValueError(f"trim_lower = {self.trim_lower!r} must be below trim_upper = {self.trim_upper!r}")
        return self

    @model_validator(mode="after")
    def _threshold_can_be_reached(self) -> Pass1:
        if self.range_mode != "raw" and self.variance_threshold > 0.25:
            raise ValueError(
                f"variance_threshold = {self.variance_threshold!r} must be at most 0.25, the largest normalised "
                "variance there is, unless range_mode = 'raw'"
            )
        return self

    @classmethod
    def relevant(cls, settings: dict[str, Any]) -> dict[str, Any]:
        """Without the percentiles where the range is another one; the plain variance is told beside the trimmed one."""
        trimmed = settings["range_mode"] in ("trimmed", "raw")
        return settings if trimmed else without(settings, ("trim_lower", "trim_upper"))


class Pass2(Clustering, MissingCells, EnoughRows):
    """Spearman redundancy."""

    spearman_threshold: Threshold = Field(
        0.95, description="edge if the absolute Spearman coefficient is at least this"
    )
    prescreen: Literal["none", "countsketch"] = Field(
        "none", description="countsketch: candidate pairs by sketch, then decided exactly (above 10,000 columns)"
    )
    m: int = Field(8192, ge=16, description="width of the sketch; only with prescreen = countsketch")
    r: int = Field(5, ge=1, description="repeats of the sketch; only with prescreen = countsketch")

    @model_validator(mode="after")
    def _sketch_knows_its_rows(self) -> Pass2:
        if self.prescreen == "countsketch" and self.missing != "pairwise":
            raise ValueError(f"prescreen = 'countsketch' works with missing = 'pairwise' only, not {self.missing!r}")
        return self

    @classmethod
    def relevant(cls, settings: dict[str, Any]) -> dict[str, Any]:
        """Without what the chosen clustering and prescreen do not read."""
        if settings["prescreen"] == "countsketch":
            return super().relevant(settings)
        seeded = settings["clustering"] == "leiden"
        return without(super().relevant(settings), ("m", "r") if seeded else ("m", "r", "random_seed"))


class Pass3(MissingCells, EnoughRows):
    """Variance inflation."""

    vif_threshold: float = Field(10.0, gt=1, description="remove columns while the largest VIF is at least this")
    vif_on: Literal["spearman", "pearson"] = Field("spearman", description="correlation that the VIF is computed from")
    ties: Literal["quality", "column_order"] = Field(
        "quality", description="which of exactly dependent columns goes: the worst, or the first in the file"
    )


class Pass4(Clustering, EnoughRows):
    """Nonlinear redundancy."""

    nonlinear_threshold: Threshold = Field(0.7, description="edge if the fused similarity is at least this")
    w_hsic: float = Field(0.3, ge=0, description="weight of the normalised HSIC; weights are scaled to sum 1")
    w_rdc: float = Field(0.7, ge=0, description="weight of the RDC")
    hsic_D: int = Field(16, ge=2, multiple_of=2, le=128, description="features a column for HSIC, in cosine-sine pairs")
    rdc_d: int = Field(12, ge=1, le=32, description="features a column for RDC")
    rdc_seeds: int = Field(2, ge=1, description="draws averaged; only with features = random")
    features: Literal["orthonormal", "random"] = Field(
        "orthonormal", description="quadrature frequencies and Legendre polynomials, or random draws"
    )
    pass4_rows: int | None = Field(None, ge=2, description="row cap of pass 4 (hashed subset); null = all rows")

    @model_validator(mode="after")
    def _some_weight(self) -> Pass4:
        if self.w_hsic + self.w_rdc == 0:
            raise ValueError("w_hsic and w_rdc are both 0; one of them must be positive")
        return self

    @model_validator(mode="after")
    def _rows_are_enough(self) -> Pass4:
        if self.pass4_rows is not None and self.pass4_rows < self.min_effective_n:
            raise ValueError(
                f"pass4_rows = {self.pass4_rows!r} must be at least min_effective_n = {self.min_effective_n!r}, "
                "or no pair of columns has enough rows"
            )
        return self

    @classmethod
    def relevant(cls, settings: dict[str, Any]) -> dict[str, Any]:
        """Without what the chosen clustering and features do not read, and numbers of features without weight."""
        unread = [] if settings["features"] == "random" and settings["w_rdc"] > 0 else ["rdc_seeds"]
        unread += [key for key, weight in (("hsic_D", "w_hsic"), ("rdc_d", "w_rdc")) if settings[weight] == 0]
        return without(super().relevant(settings), unread)


class Selected(Settings):
    """The table with the selected descriptors only."""

    selected_table: bool = Field(
        False, description="make selected.parquet with every run; without it, on demand: snakemake selected"
    )

    @classmethod
    def relevant(cls, settings: dict[str, Any]) -> dict[str, Any]:
        """Nothing: whether the table is made does not change it."""
        return {}


class Utility(Seeded):
    """How well a measured property is predicted before and after."""

    utility_target: str | None = Field(
        None, min_length=1, description="column that holds the property, not among the descriptors; null = leave out"
    )
    utility_file: str | None = Field(
        None, min_length=1, description="CSV or Parquet file that holds it, if not the input itself"
    )
    utility_key: str | None = Field(
        None, min_length=1, description="column of both, the input and utility_file, that tells the molecules apart"
    )
    utility_task: Literal["auto", "regression", "classification"] = Field(
        "auto", description="auto = classification of text, true or false and at most 10 different integers"
    )
    utility_folds: int = Field(5, ge=2, description="folds of the cross-validation")
    utility_repeats: int = Field(2, ge=1, description="times that all is divided into folds")
    utility_random_sets: int = Field(3, ge=1, description="random sets of as many descriptors to compare with")
    utility_rows: int = Field(20_000, ge=20, description="rows with a value that are used at most, a hashed subset")

    @model_validator(mode="after")
    def _file_and_key(self) -> Utility:
        if (self.utility_file is None) != (self.utility_key is None):
            raise ValueError("utility_file and utility_key belong together; set both or neither")
        if self.utility_file is not None and self.utility_target is None:
            raise ValueError(
                "utility_file is set without utility_target; name the column of it that is to be predicted"
            )
        return self


class Runtime(OnDevice):
    """How a run uses the machine; none of these changes a byte of the results."""

    batch_rows: int = Field(10_000, ge=1, description="rows read at once; fewer take less memory")
    shards: int = Field(1, ge=1, description="jobs that passes 1, 2 and 4 are cut into each; results are the same")
    max_host_memory_gb: float = Field(4.0, ge=0.4, description="host memory that one pass may plan with")
    max_gpu_memory_gb: float = Field(
        40.0, gt=0, description="device memory that one pass may take, if mem_gb grants it"
    )

    @property
    def budget(self) -> int:
        """Host memory that the numerics may plan with, in bytes; the interpreter's own share is taken off."""
        return int(max(self.max_host_memory_gb - INTERPRETER_GB, 0.05) * 1e9)

    @staticmethod
    def gigabytes_for(n_bytes: int) -> float:
        """The smallest max_host_memory_gb, in tenths, whose ``budget`` is at least ``n_bytes``."""
        return math.ceil(10 * (n_bytes / 1e9 + INTERPRETER_GB)) / 10


class Descriptors(Pass0, Pass1, Pass2, Pass3, Pass4, Selected, Utility, Runtime):
    """Descriptor selection, passes 0 to 4."""


def is_sampled(descriptors: dict[str, Any]) -> bool:
    """Whether pass 0 takes a sample."""
    return descriptors["sample_per_file"] is not None or descriptors["sample_rows"] is not None

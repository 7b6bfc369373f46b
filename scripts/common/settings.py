"""What all settings share: strictness, the seed, limits that several have."""

from __future__ import annotations

from collections.abc import Collection
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Percent = Annotated[float, Field(ge=0, le=100)]
Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
Threshold = Annotated[float, Field(gt=0, le=1)]


class Settings(BaseModel):
    """Base of all settings: unknown keys and silent conversions are refused."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)

    @classmethod
    def relevant(cls, settings: dict[str, Any]) -> dict[str, Any]:
        """Those of the settings that the result depends on, given the others."""
        return settings


def without(settings: dict[str, Any], unread: Collection[str]) -> dict[str, Any]:
    """The settings but those of these names, for ``relevant``."""
    return {key: value for key, value in settings.items() if key not in unread}


class OnDevice(Settings):
    device: Literal["auto", "cpu", "cuda"] = Field(
        "auto", description="auto = the GPU that was granted, if there is one; cuda = that or an error"
    )


class Seeded(Settings):
    random_seed: int = Field(
        42, ge=0, lt=2**63, description="one root seed; every generator is keyed by it, the stage and the repeat"
    )

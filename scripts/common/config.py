"""The settings of every stage: one typed model a pass, the single source of names, defaults and limits.

JSON schema, command-line flags, the table in config/README.md and the messages about bad values all come from here.
"""

from __future__ import annotations

import difflib
import math
import os
from typing import Annotated, Any, get_args

from pydantic import AfterValidator, BaseModel, Field, ValidationError, create_model, model_validator

from common.descriptors_settings import Descriptors, Pass0, Pass1, Pass2, Pass3, Pass4, Runtime, Selected, Utility
from common.errors import UserError, shown
from common.molecules_settings import (
    CalculateMolecules,
    Molecules,
    MoleculesRuntime,
    ReadMolecules,
    metadata,
    table_glob,
)
from common.settings import Settings
from common.taxoclass_settings import (
    CheckCorpus,
    CoreClasses,
    Evaluate,
    Predict,
    SelfTrain,
    Similarity,
    Taxoclass,
    TaxoclassRuntime,
    TrainClassifier,
)

STAGES: dict[str, tuple[str, type[Settings]]] = {
    "read_molecules": ("molecules", ReadMolecules),
    "molecules_shard": ("molecules", CalculateMolecules),
    "pass0": ("descriptors", Pass0),
    "pass1": ("descriptors", Pass1),
    "pass2": ("descriptors", Pass2),
    "pass3": ("descriptors", Pass3),
    "pass4": ("descriptors", Pass4),
    "selected": ("descriptors", Selected),
    "utility": ("descriptors", Utility),
    "check_corpus": ("taxoclass", CheckCorpus),
    "similarity": ("taxoclass", Similarity),
    "core_classes": ("taxoclass", CoreClasses),
    "train_classifier": ("taxoclass", TrainClassifier),
    "self_train": ("taxoclass", SelfTrain),
    "predict": ("taxoclass", Predict),
    "evaluate": ("taxoclass", Evaluate),
}
RUNTIMES: dict[str, type[Settings]] = {
    "molecules": MoleculesRuntime,
    "descriptors": Runtime,
    "taxoclass": TaxoclassRuntime,
}


class Config(Settings):
    """winnow."""

    # as Snakemake wants paths: without ./ before, / after, or // in it
    results: Annotated[str, Field(min_length=1), AfterValidator(os.path.normpath)] = Field(
        "results", description="output folder"
    )
    molecules: Molecules | None = Field(None, description="from SMILES to the table of descriptors")
    descriptors: Descriptors | None = Field(None, description="descriptor selection, passes 0 to 4")
    taxoclass: Taxoclass | None = Field(None, description="hierarchical text classification from class names")

    @model_validator(mode="before")
    @classmethod
    def _molecules_are_what_is_selected_from(cls, raw: Any) -> Any:
        """A selection that names no files takes those that the molecules become."""
        molecules, descriptors = (
            raw.get(name) if isinstance(raw, dict) else None for name in ("molecules", "descriptors")
        )
        if not isinstance(molecules, dict) or not isinstance(descriptors, dict) or "parquet_glob" in descriptors:
            return raw
        made: dict[str, Any] = {
            "parquet_glob": table_glob(raw.get("results", "results"), molecules.get("molecule_shards", 1))
        }
        if not {"n_metadata", "metadata_columns"} & descriptors.keys():
            made["metadata_columns"] = metadata(molecules.get("smiles_column", "smiles"), molecules.get("id_column"))
        return raw | {"descriptors": descriptors | made}

    @model_validator(mode="after")
    def _something_to_do(self) -> Config:
        if self.molecules is None and self.descriptors is None and self.taxoclass is None:
            raise ValueError("there is nothing to do; add a section molecules, descriptors or taxoclass")
        return self


def load(raw: dict[str, Any]) -> dict[str, Any]:
    """The whole configuration, validated, with every default filled in.

    Raises
    ------
    UserError : one line that names the key, its value, what is allowed and, for an unknown key, the closest known one.
    """
    try:
        return Config.model_validate(raw).model_dump()
    except ValidationError as error:
        raise UserError(f"config: {explain(error, Config)}") from None


def stage_settings(config: dict[str, Any], stage: str) -> dict[str, Any]:
    """The part of a loaded configuration that one stage's results depend on."""
    section, model = STAGES[stage]
    read = model.relevant(config[section])
    return {key: read[key] for key in model.model_fields if key in read}


def explain(error: ValidationError, model: type[BaseModel], prefix: str = "") -> str:
    """The first finding of a validation on one line, unknown keys before bad values."""
    first = ("extra_forbidden", "value_error")  # what we say ourselves is clearer than which member of a union fits not
    findings = sorted(error.errors(include_url=False), key=lambda finding: [finding["type"] != each for each in first])
    keys = [_key(finding["loc"], model) for finding in findings]
    others = len(set(keys)) - 1
    # a value that fits no member of a union has one finding a member
    same = [finding["msg"] for finding, key in zip(findings, keys, strict=True) if key == keys[0]]
    allowed = " or ".join(dict.fromkeys(message.removeprefix("Input should be ") for message in same))
    finding = findings[0]
    if len(set(same)) > 1 and finding["type"] != "value_error":
        finding = finding | {"msg": f"Input should be {allowed}"}
    return _message(finding, prefix + keys[0] if keys[0] else "", model) + (f" (and {others} more)" if others else "")


def _key(location: tuple[int | str, ...], model: type[BaseModel]) -> str:
    """The dotted key of a finding; what follows a plain field is a list index or the name of a union's member."""
    path: list[str] = []
    known: type[BaseModel] | None = model
    for part in location:
        if known is not None:
            path.append(str(part) if str(part).isprintable() else repr(part))
            known = _submodel(known, str(part))
        elif isinstance(part, int):
            path[-1] += f"[{part}]"
    return ".".join(path)


def _message(finding: Any, key: str, model: type[BaseModel]) -> str:
    if finding["type"] == "extra_forbidden":
        owner = model
        for part in finding["loc"][:-1]:
            owner = _submodel(owner, str(part)) or owner
        names = list(owner.model_fields)
        close = difflib.get_close_matches(str(finding["loc"][-1]), names, n=1, cutoff=0.5)
        hint = f"did you mean {close[0]}?" if close else f"known: {', '.join(names)}"
        return f"{key} is not a setting (value {shown(finding['input'])}); {hint}"
    if finding["type"] == "missing":
        return f"{key} is required; add it"
    message = finding["msg"].removeprefix("Value error, ")
    if finding["type"] == "value_error":
        return f"{key}: {message}" if key else message
    if finding["type"] == "model_type":
        message = "it should be a section of keys and values"
    hint = "; YAML takes it for text, write 1.0e-3" if _is_number(finding["input"]) else ""
    return f"{key} = {shown(finding['input'])} is not allowed: {message[0].lower()}{message[1:]}{hint}"


def _is_number(value: Any) -> bool:
    """Whether a text is a number in scientific notation, which YAML 1.1 knows only with a point and a sign."""
    try:
        return isinstance(value, str) and "e" in value.lower() and math.isfinite(float(value))
    except ValueError:
        return False


def _submodel(model: type[BaseModel] | None, name: str) -> type[BaseModel] | None:
    if model is None or name not in model.model_fields:
        return None
    annotation = model.model_fields[name].annotation
    for candidate in (annotation, *get_args(annotation)):
        if isinstance(candidate, type) and issubclass(candidate, BaseModel):
            return candidate
    return None


def runtime_of(model: type[Settings]) -> type[Settings]:
    """The machine settings of a stage's section; none of a door without settings."""
    found = (RUNTIMES[section] for section, each in STAGES.values() if each is model)
    return next(found, Runtime if issubclass(model, Runtime) else Settings)


def with_runtime(model: type[Settings]) -> type[Settings]:
    """A stage's own settings together with the machine settings: what its command line accepts."""
    return create_model(f"{model.__name__}CommandLine", __base__=tuple(dict.fromkeys((model, runtime_of(model)))))

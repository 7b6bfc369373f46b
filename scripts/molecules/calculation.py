"""Descriptors of a molecule, with RDKit and mordred."""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Sequence
from typing import Any

from common.errors import UserError, one_line

Values = list[float | None]

_calculators: list[Callable[[Any], Values]]  # of a worker


def check_installed(sets: Sequence[str]) -> None:
    """UserError where a package is missing."""
    for name in ("pebble", "rdkit", *sets):
        try:
            importlib.import_module(name)
        except ImportError as error:
            raise UserError(f"molecules: {name} is missing ({error}); pip install -r envs/molecules.txt") from None


def names_of(sets: Sequence[str]) -> list[str]:
    """Names of the descriptors; one that an earlier set has as well ends in the name of its own."""
    names: list[str] = []
    for each in dict.fromkeys(sets):
        own = _names(each)
        known = set(names)
        names += [f"{name}_{each}" if name in known else name for name in own]
    return names


def prepare(sets: list[str]) -> None:
    """Make this process ready for :func:`describe`."""
    global _calculators
    from rdkit import rdBase

    rdBase.DisableLog("rdApp.*")
    _calculators = [_calculator(each) for each in dict.fromkeys(sets)]


def describe(smiles: str | None) -> Values | str:
    """The values of one molecule, None = not defined; or a text that says why there are none."""
    from rdkit import Chem

    text = (smiles or "").strip()
    if not text:
        return "no SMILES"
    try:
        molecule = Chem.MolFromSmiles(text)
        return _fault(text) if molecule is None else [value for each in _calculators for value in each(molecule)]
    except Exception as error:  # whatever RDKit, a descriptor or its libraries raise costs one molecule
        return one_line(f"{type(error).__name__}: {error}")


def _fault(smiles: str) -> str:
    """Why RDKit takes no molecule from it."""
    from rdkit import Chem

    molecule = Chem.MolFromSmiles(smiles, sanitize=False)
    if molecule is None:
        return "not a SMILES"
    problems = [one_line(each.Message()) for each in Chem.DetectChemistryProblems(molecule)]
    return "; ".join(problems) or "not a molecule to RDKit"


def _names(which: str) -> list[str]:
    if which == "rdkit":
        from rdkit.Chem import Descriptors

        return [name for name, _ in Descriptors.descList]
    return [str(each) for each in _mordred().descriptors]


def _calculator(which: str) -> Callable[[Any], Values]:
    if which == "rdkit":
        from rdkit.Chem import Descriptors

        return lambda molecule: [
            _number(value) for value in Descriptors.CalcMolDescriptors(molecule, missingVal=None, silent=True).values()
        ]
    mordred = _mordred()
    return lambda molecule: [_number(value) for value in mordred(molecule)]


def _mordred() -> Any:
    from mordred import Calculator, descriptors

    return Calculator(descriptors, ignore_3D=True)


def _number(value: Any) -> float | None:
    """A number; what is none, an error of mordred or NaN, is not defined."""
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return None if math.isnan(number) else number

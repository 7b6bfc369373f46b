"""The examples in docstrings are true."""

from __future__ import annotations

import doctest
import importlib

import pytest

from conftest import ROOT

SCRIPTS = ROOT / "scripts"
MODULES = [
    ".".join(path.relative_to(SCRIPTS).with_suffix("").parts)
    for path in sorted(SCRIPTS.rglob("*.py"))
    if "\n    >>> " in path.read_text(encoding="utf-8")
]


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_of_a_module_give_what_they_say(name):
    tried = doctest.testmod(importlib.import_module(name))
    assert tried.attempted and not tried.failed

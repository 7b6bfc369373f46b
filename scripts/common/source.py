"""Which source a script runs, and its digest: an edit of the numerics reruns exactly the stages that use them."""

from __future__ import annotations

import ast
import functools
import hashlib
from pathlib import Path

GROUND = "common"  # opens files and stages; it computes nothing, so an edit there changes no result


def used_modules(script: Path, root: Path) -> list[Path]:
    """``script`` and every module below ``root`` that it imports, directly or not, except the ground; sorted."""
    seen: set[Path] = set()
    waiting = [script]
    while waiting:
        path = waiting.pop()
        if path in seen:
            continue
        seen.add(path)
        waiting += [
            found
            for name in _imports(path.read_text(encoding="utf-8"))
            if (found := root / (name.replace(".", "/") + ".py")).is_file()
        ]
    return sorted(path for path in seen if path.relative_to(root).parts[0] != GROUND)


@functools.cache
def _imports(source: str) -> frozenset[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            # a name imported from a package may be a module or an object: a module is a file
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return frozenset(names)


def source_digest(script: Path, root: Path) -> str:
    """Digest of what :func:`used_modules` finds."""
    digest = hashlib.sha256()
    for path in used_modules(script, root):
        digest.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:12]

"""The names that vulture leaves alone: each is defined somewhere, and each group of them is in order."""

from __future__ import annotations

import ast
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
ALLOWLIST = ROOT / "tools" / "vulture_allowlist.py"


def defined(tree: ast.AST) -> set[str]:
    """Return the names that a module defines, assigns or takes as parameters."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.arg):
            found.add(node.arg)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            found.add(node.attr)
    return found


def test_each_name_is_defined_somewhere() -> None:
    names = {
        node.attr for node in ast.walk(ast.parse(ALLOWLIST.read_text(encoding="utf-8"))) if isinstance(node, ast.Attribute)
    }
    for folder in ("benchmarks", "cartows", "examples", "tests", "tools"):
        for path in (ROOT / folder).rglob("*.py"):
            names -= defined(ast.parse(path.read_text(encoding="utf-8")))
    assert names == set()


def test_each_group_is_sorted() -> None:
    for group in ALLOWLIST.read_text(encoding="utf-8").split("\n\n"):
        names = [line for line in group.splitlines() if line.startswith("_.")]
        assert names == sorted(set(names))

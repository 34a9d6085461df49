"""Read the settings of ``cartows.options.Options`` from its source: names, types, defaults and ``#:`` comments."""

from __future__ import annotations

import ast
import dataclasses
import inspect
from typing import NamedTuple

from cartows import Options

__all__ = ["OptionRow", "option_rows"]


class OptionRow(NamedTuple):
    """One setting, as the reference shows it."""

    name: str
    type: str
    default: str
    text: str


def option_rows() -> list[OptionRow]:
    """Return one row for each field of ``Options``, in the order of the source.

    Fields that follow each other without a comment of their own share the comment above them.

    Raises:
        ValueError: The first field has no ``#:`` comment.
    """
    source = inspect.getsource(Options)
    lines = source.splitlines()
    (found,) = ast.parse(source).body
    assert isinstance(found, ast.ClassDef)
    defaults = {field.name: field.default for field in dataclasses.fields(Options)}
    rows: list[OptionRow] = []
    for node in found.body:
        if not isinstance(node, ast.AnnAssign) or not isinstance(node.target, ast.Name):
            continue
        comment: list[str] = []
        above = node.lineno - 2
        while above >= 0 and lines[above].strip().startswith("#:"):
            comment.insert(0, lines[above].strip()[2:].strip())
            above -= 1
        if not comment and not rows:
            raise ValueError(f"Options.{node.target.id} has no '#:' comment")
        text = " ".join(comment) or rows[-1].text
        rows.append(OptionRow(node.target.id, ast.unparse(node.annotation), _shown(defaults[node.target.id]), text))
    return rows


def _shown(value: object) -> str:
    """Return a default as the table shows it; large sizes with their unit as well."""
    if isinstance(value, int) and value >= 64 * 1024:
        for unit, size in (("MiB", 1024 * 1024), ("KiB", 1024)):
            if value % size == 0:
                return f"`{value}` ({value // size} {unit})"
    return f"`{value!r}`"

"""The rooms of the house: imports go down only, and each dependency has one room."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "cartows"

# Lowest floor first. A module may import from the floors below, and on its own floor from those that stand left of it.
FLOORS = [
    "websocket.close_codes websocket errors options message schema frames merging place ratelimit refusals revocations",
    "turnstile transport protocol rooms history replay backlog outbox sending connection channel servers credentials presence",
    "auth.keys auth.jwt auth.flask_login auth",
    "backplane.base backplane.backoff backplane.local backplane.connect "
    "backplane.scripts backplane.echoes backplane.lane backplane.leases",
    "backplane.announcer backplane.listener backplane.people backplane.streams backplane outgoing",
    "subscriptions hooks dialogue client route broadcasts publisher sqlalchemy",
    "heartbeat registry clients auditor dispatch feed hub",
    "admission gate handoff upgrade handler",
    "extension",
]

# Everything that is neither the package itself nor the standard library, and who may know of it.
DEPENDENCIES = {
    "cryptography": {"auth.keys"},
    "flask": {"auth.flask_login", "extension", "gate", "handler", "upgrade"},
    "flask_login": {"auth.flask_login"},
    "flask_sock": {"extension"},
    "jwt": {"auth.keys"},
    "msgspec": {"merging", "message", "schema"},
    "redis": {"backplane.connect"},
    "simple_websocket": {"route"},
    "sqlalchemy": {"sqlalchemy"},
    "wsproto": {"protocol"},
}

# The list of what is public; nothing imports it.
FRONT = "__init__"

PLACES = {name: (floor, place) for floor, names in enumerate(FLOORS) for place, name in enumerate(names.split())}


def modules(package: Path) -> list[str]:
    """Return the package's modules, subpackages by their dotted names."""
    found = (path.relative_to(package).with_suffix("") for path in package.rglob("*.py"))
    return sorted(".".join(path.parts).removesuffix(".__init__") for path in found)


def source(package: Path, module: str) -> ast.Module:
    """Return a module as it is written."""
    path = package / Path(*module.split("."))
    file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    return ast.parse(file.read_text(encoding="utf-8"), str(file))


def _for_types_only(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in {
        name.id if isinstance(name, ast.Name) else name.attr
        for name in ast.walk(node.test)
        if isinstance(name, (ast.Name, ast.Attribute))
    }


def running(node: ast.AST) -> Iterator[ast.AST]:
    """Walk through what runs: all but what stands below ``if TYPE_CHECKING``."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and _for_types_only(child):
            children: list[ast.stmt] = child.orelse
            for each in children:
                yield each
                yield from running(each)
        else:
            yield child
            yield from running(child)


def imports(package: Path, module: str) -> tuple[set[str], set[str]]:
    """Return which modules of the package a module imports, and which packages of others."""
    inner: set[str] = set()
    outer: set[str] = set()
    known = set(modules(package))

    def note(dotted: str) -> None:
        head, _, rest = dotted.partition(".")
        if head != package.name:
            outer.add(head)
            return
        while rest and rest not in known:
            rest = rest.rpartition(".")[0]
        inner.add(rest or FRONT)

    parents = [package.name, *module.split(".")]
    if not (package / Path(*module.split("."))).is_dir():
        parents.pop()
    if module == FRONT:
        parents = [package.name]
    for node in running(source(package, module)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                note(alias.name)
        elif isinstance(node, ast.ImportFrom):
            above = parents[: len(parents) - node.level + 1] if node.level else []
            origin = ".".join([*above, *([node.module] if node.module else [])])
            for alias in node.names:
                # `from . import hub` and `from .hub import Hub` alike.
                note(f"{origin}.{alias.name}" if origin.partition(".")[0] == package.name else origin)
    return inner, outer


def faults(package: Path) -> list[str]:
    """Return every import that goes up, sideways to the right, or to a dependency whose room is elsewhere."""
    found = []
    for module in modules(package):
        inner, outer = imports(package, module)
        for other in sorted(inner):
            if module == FRONT:
                continue
            if other == FRONT or module not in PLACES or other not in PLACES:
                found.append(f"{module} imports {other}: not in the table of floors")
            elif PLACES[other] >= PLACES[module]:
                found.append(f"{module} imports {other}, which does not stand below it")
        for other in sorted(outer - sys.stdlib_module_names):
            if module not in DEPENDENCIES.get(other, ()):
                found.append(f"{module} imports {other}")
    return found


def test_every_module_has_its_place_and_every_place_its_module() -> None:
    assert set(modules(PACKAGE)) - {FRONT} == set(PLACES)
    assert sum(len(names.split()) for names in FLOORS) == len(PLACES)


def test_imports_go_down_only_and_each_dependency_has_one_room() -> None:
    assert faults(PACKAGE) == []


def test_every_dependency_is_still_needed_where_it_is_allowed() -> None:
    used = {module: imports(PACKAGE, module)[1] for module in modules(PACKAGE)}
    assert {name: {module for module, outer in used.items() if name in outer} for name in DEPENDENCIES} == DEPENDENCIES


PLANTED: list[tuple[str, str, str | None]] = [
    ("frames", "from .hub import Hub", "frames imports hub, which does not stand below it"),
    ("frames", "from . import hub", "frames imports hub, which does not stand below it"),
    ("frames", "import cartows.hub", "frames imports hub, which does not stand below it"),
    ("frames", "from cartows.hub import Hub", "frames imports hub, which does not stand below it"),
    ("frames", "def late():\n    from .hub import Hub", "frames imports hub, which does not stand below it"),
    ("options", "from .message import Message", "options imports message, which does not stand below it"),
    ("hub", "from . import Handler", "hub imports __init__: not in the table of floors"),
    ("hub", "from cartows import Handler", "hub imports __init__: not in the table of floors"),
    ("hub", "import flask.json", "hub imports flask"),
    ("hub", "from msgspec import json", "hub imports msgspec"),
    ("hub", "try:\n    import redis\nexcept ImportError:\n    pass", "hub imports redis"),
    ("hub", "from .client import Client\nimport os.path", None),
    ("message", "from .errors import MessageError\nimport msgspec", None),
    ("client", "import typing\nif typing.TYPE_CHECKING:\n    from .hub import Hub", None),
    (
        "client",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    pass\nelse:\n    from .hub import Hub",
        "client imports hub, which does not stand below it",
    ),
]


def test_a_fault_is_found_where_there_is_one(tmp_path: Path) -> None:
    package = tmp_path / "cartows"
    package.mkdir()
    for module, line, fault in PLANTED:
        for name in [FRONT, "client", "errors", "frames", "handler", "hub", "message", "options"]:
            (package / f"{name}.py").write_text(line if name == module else "")
        assert faults(package) == ([fault] if fault else []), line

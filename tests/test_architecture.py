"""The structure of the package: what may import what, where each dependency is used, how long a file may grow.

``ALLOWED`` is the table of ARCHITECTURE.md. Imports below ``TYPE_CHECKING`` count as any others.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "cartows"

#: What each package, or module beside the packages, may import of cartows.
ALLOWED: dict[str, str] = {
    "encoding": "",
    "errors": "",
    "nesting": "",
    "origins": "",
    "limits": "",
    "rooms": "",
    "servers": "",
    "websocket": "",
    "options": "errors origins",
    "message": "encoding errors nesting",
    "identity": "rooms",
    "history": "rooms websocket",
    "presence": "message rooms",
    "auth": "errors identity rooms websocket",
    "hooks": "auth errors identity message rooms websocket",
    "client": "auth errors history hooks identity message nesting options rooms websocket",
    "backplane": "errors nesting options presence rooms",
    "broadcaster": "backplane errors message rooms",
    "publisher": "backplane broadcaster errors message options rooms",
    "sqlalchemy": "backplane broadcaster errors message options rooms",
    "hub": "backplane broadcaster client errors history identity limits message options presence rooms servers websocket",
    "handler": "auth client errors hooks hub identity limits options origins rooms servers websocket",
    "extension": "auth broadcaster client encoding errors handler hooks hub message options presence rooms servers websocket",
    # The list of what is public.
    "__init__": "auth broadcaster client errors extension handler hub message options publisher",
}

#: Where each dependency outside the standard library may be imported: a package, or one module of it.
DEPENDENCIES: dict[str, set[str]] = {
    "cryptography": {"auth.keys"},
    "flask": {"auth.flask_login", "extension", "handler"},
    "flask_login": {"auth.flask_login"},
    "flask_sock": {"extension"},
    "jwt": {"auth.keys"},
    "msgspec": {"encoding", "message", "client.coalescing"},
    "redis": {"backplane.redis"},
    "simple_websocket": {"client.simple_websocket"},
    "sqlalchemy": {"sqlalchemy"},
    "werkzeug": {"handler"},
    "wsproto": {"websocket"},
}

#: Modules of the standard library that one place alone may import.
RESERVED = {"sqlite3": {"backplane"}}

MAX_LINES = 350
MAX_TEST_LINES = 500

#: Files that may be longer, each with its reason.
LONGER: dict[str, str] = {
    "cartows/message.py": "One list of event types and their constructors; a third of it is the text of the reference page.",
    "cartows/broadcaster.py": "Half of it is the docstrings of the public broadcast methods, which belong in one class.",
}

#: Modules without a test file of their own, and the tests that cover them.
COVERED_BY: dict[str, str] = {
    "auth.arguments": "tests/auth/test_jwt.py",
    "auth.claims": "tests/auth/test_jwt.py",
    "client.advice": "tests/hub/test_shutdown.py",
    "client.batch": "tests/client/test_sender.py",
    "client.client": "tests/hub/test_hub.py",
    "client.connection": "tests/client/test_sender.py",
    "client.outbox": "tests/client/test_sender.py",
    "client.transport": "tests/client/test_sender.py",
    # What is reported to a hub shows in what its clients receive.
    "hub.backplane_sink": "tests/hub/test_hub.py",
    "hub.client_services": "tests/hub/test_hub.py",
    "hub.dispatcher": "tests/hub/test_hub.py",
    "hub.pipeline": "tests/hub/test_hub.py",
    # Which processes are warned shows in the processes of real servers.
    "hub.reach": "tests/integration/test_processes.py",
    # The updates themselves are made in presence, which has unit tests; sending them needs a server and its clients.
    "hub.presence_notifier": "tests/integration/test_presence_live.py",
    # Registration, resume and subscriptions are checked against a model.
    "hub.sessions": "tests/hub/test_resume_model.py",
    "handler.admission": "tests/integration/test_auth_live.py",
    "handler.handler": "tests/integration/test_http.py",
    "handler.registration": "tests/integration/test_app_handlers.py",
    "handler.routes": "tests/test_extension.py",
    # Protocols and values: both backplanes implement them.
    "backplane.base": "tests/backplane/redis/test_local_delivery.py",
    # A hub without a broker uses it for every event.
    "backplane.local": "tests/hub/test_hub.py",
    # Reading needs a hub that receives: whole processes do, at a Redis that fails.
    "backplane.redis.backplane": "tests/integration/test_cluster.py",
    "backplane.redis.event_scripts": "tests/backplane/redis/test_event_store.py",
    # A few lines that the outages of the event writer run.
    "backplane.redis.backoff": "tests/backplane/redis/test_circuit_breaker.py",
    # Local delivery owns the echoes, and every outage of its tests runs them.
    "backplane.redis.echoes": "tests/backplane/redis/test_local_delivery.py",
    # The log of an outage is checked where one is announced.
    "backplane.redis.presence_status": "tests/backplane/redis/test_presence_announcer.py",
    # It needs the fixtures of a real Redis.
    "publisher": "tests/backplane/redis/test_publisher.py",
    # Its tests are several files.
    "sqlalchemy": "tests/sqlalchemy/test_transactions.py",
}


def modules(package: Path) -> dict[str, Path]:
    """Return the modules of a package by their dotted names below it; a package's own is that of its folder."""
    found = {}
    for path in sorted(package.rglob("*.py")):
        parts = path.relative_to(package).with_suffix("").parts
        if parts[-1] == "__init__" and len(parts) > 1:
            parts = parts[:-1]
        found[".".join(parts)] = path
    return found


def top(module: str) -> str:
    """Return the package, or module beside the packages, to which a module belongs."""
    return module.partition(".")[0]


def imports(package: Path, module: str, known: Mapping[str, Path]) -> Iterator[tuple[int, str | None, str]]:
    """Yield each import of a module: its line, the module of the package or None, and the name as it is written."""
    path = known[module]
    parents = [package.name, *module.split(".")]
    if path.name != "__init__.py" or module == "__init__":
        parents.pop()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), str(path))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = parents[: len(parents) - node.level + 1] if node.level else []
            origin = ".".join([*above, *([node.module] if node.module else [])])
            names = [f"{origin}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            head, _, rest = name.partition(".")
            if head != package.name:
                yield node.lineno, None, name
                continue
            while rest and rest not in known:
                rest = rest.rpartition(".")[0]
            yield node.lineno, rest or "__init__", name


def faults(package: Path) -> list[str]:
    """Return every import that breaks a rule, with its file, its line and the rule."""
    known = modules(package)
    found = []
    for module in known:
        room = top(module)
        for line, other, name in imports(package, module, known):
            place = f"{known[module].relative_to(package.parent)}:{line} imports {name}"
            if other is None:
                outside = name.partition(".")[0]
                allowed = DEPENDENCIES.get(outside, set()) if outside not in sys.stdlib_module_names else RESERVED.get(outside)
                if allowed is not None and not any(module == each or module.startswith(f"{each}.") for each in allowed):
                    found.append(f"{place}: only {', '.join(sorted(allowed)) or 'nothing'} may import {outside}")
            elif room not in ALLOWED:
                found.append(f"{place}: {room} is not in the table")
            elif top(other) != room and top(other) not in ALLOWED[room].split():
                found.append(f"{place}: {room} may import only {ALLOWED[room] or 'nothing'}")
    return sorted(set(found))


def circles(package: Path) -> list[list[str]]:
    """Return the modules that import each other in a circle, each circle once."""
    known = modules(package)
    edges = {
        # A package's list of names is imported with each of its modules, and is no dependency of theirs.
        module: {other for _, other, _ in imports(package, module, known) if other not in (None, module, "__init__")}
        for module in known
    }
    found: list[list[str]] = []
    done: set[str] = set()

    def visit(module: str, path: list[str]) -> None:
        if module in path:
            circle = path[path.index(module) :]
            if not any(set(circle) == set(each) for each in found):
                found.append(circle)
            return
        if module in done:
            return
        for other in sorted(edges.get(str(module), ())):
            visit(str(other), [*path, module])
        done.add(module)

    for module in sorted(edges):
        visit(module, [])
    return found


def test_every_package_has_its_row_and_every_row_its_package() -> None:
    assert {top(module) for module in modules(PACKAGE)} == set(ALLOWED)


def test_imports_follow_the_table() -> None:
    assert faults(PACKAGE) == []


def test_no_module_is_part_of_a_circle() -> None:
    assert circles(PACKAGE) == []


def test_every_row_of_the_table_of_dependencies_is_needed() -> None:
    known = modules(PACKAGE)
    used: dict[str, set[str]] = {name: set() for name in DEPENDENCIES}
    for module in known:
        for _, other, name in imports(PACKAGE, module, known):
            outside = name.partition(".")[0]
            if other is None and outside in DEPENDENCIES:
                used[outside] |= {each for each in DEPENDENCIES[outside] if module == each or module.startswith(f"{each}.")}
    assert used == DEPENDENCIES


def lines_of(path: Path) -> int:
    return len(path.read_text(encoding="utf-8").splitlines())


def test_no_file_grows_past_its_bound_without_a_reason() -> None:
    bounds = [(path, MAX_LINES) for path in PACKAGE.rglob("*.py")]
    bounds += [(path, MAX_TEST_LINES) for path in (ROOT / "tests").rglob("*.py")]
    grown = {str(path.relative_to(ROOT)): lines_of(path) for path, bound in bounds if lines_of(path) > bound}
    assert grown.keys() == LONGER.keys(), grown
    assert all(LONGER.values())


def test_every_module_has_tests_where_they_are_looked_for() -> None:
    missing = []
    for module, path in modules(PACKAGE).items():
        if path.name == "__init__.py":
            continue
        parts = module.split(".")
        mirrored = ROOT.joinpath("tests", *parts[:-1], f"test_{parts[-1]}.py")
        if mirrored.exists() == (module in COVERED_BY):
            missing.append(module)
    assert missing == []
    assert [each for each in COVERED_BY.values() if not (ROOT / each).exists()] == []


PLANTED: list[tuple[str, str, str | None]] = [
    ("websocket/frames.py", "from ..hub import Hub", "websocket may import only nothing"),
    ("websocket/frames.py", "from .. import hub", "websocket may import only nothing"),
    ("websocket/frames.py", "import cartows.hub.hub", "websocket may import only nothing"),
    ("websocket/frames.py", "def late():\n    from cartows.hub.hub import Hub", "websocket may import only nothing"),
    (
        "client/client.py",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from ..hub.hub import Hub",
        "client may import only",
    ),
    ("client/client.py", "from . import connection\nfrom ..options import Options", None),
    ("options.py", "from .message import Message", "options may import only errors origins"),
    ("options.py", "from .errors import OptionsError\nimport os.path", None),
    ("hub/hub.py", "from .. import Handler", "hub may import only"),
    ("hub/hub.py", "import flask.json", "only auth.flask_login, extension, handler may import flask"),
    ("hub/hub.py", "try:\n    import redis\nexcept ImportError:\n    pass", "only backplane.redis may import redis"),
    ("hub/hub.py", "import sqlite3", "only backplane may import sqlite3"),
    ("hub/hub.py", "import unheard_of", "only nothing may import unheard_of"),
    ("stranger.py", "from .errors import CartowsError", "stranger is not in the table"),
]


@pytest.mark.parametrize(("file", "text", "rule"), PLANTED)
def test_a_broken_rule_is_found(tmp_path: Path, file: str, text: str, rule: str | None) -> None:
    package = tmp_path / "cartows"
    names = [
        "hub/hub.py",
        "client/client.py",
        "client/connection.py",
        "websocket/frames.py",
        "errors.py",
        "message.py",
        "options.py",
    ]
    for name in {*names, file, "__init__.py", "hub/__init__.py", "client/__init__.py", "websocket/__init__.py"}:
        path = package / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text if name == file else "")
    found = faults(package)
    if rule is None:
        assert found == []
    else:
        assert len(found) == 1
        assert re.match(rf"cartows/{file}:\d+ imports ", found[0])
        assert rule in found[0]


@pytest.mark.parametrize("across", [False, True])
def test_a_circle_is_found(tmp_path: Path, across: bool) -> None:
    package = tmp_path / "cartows"
    (package / "hub").mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "hub" / "__init__.py").write_text("from .hub import Hub")
    (package / "hub" / "hub.py").write_text("from .registry import Registry")
    later = (
        "from ..options import Options"
        if across
        else "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from .hub import Hub"
    )
    (package / "hub" / "registry.py").write_text(later)
    (package / "options.py").write_text("from .hub.hub import Hub" if across else "")
    assert [set(each) for each in circles(package)] == [{"hub.hub", "hub.registry", *(["options"] if across else [])}]

"""What the documents tabulate, compared with the code: options, close codes, public names, imports, files, make targets."""

from __future__ import annotations

import dataclasses
import re
import sys
from pathlib import Path

import cartows
import cartows.errors
from cartows.websocket.close_codes import CloseCode, is_final, sendable
from tests.test_architecture import ALLOWED, DEPENDENCIES

ROOT = Path(__file__).resolve().parent.parent
sys.path.append(str(ROOT / "docs" / "extensions"))

from option_rows import option_rows  # noqa: E402

#: Every document.
DOCUMENTS = [
    *ROOT.glob("*.md"),
    *ROOT.glob("examples/*/README.md"),
    ROOT / "benchmarks" / "README.md",
    *ROOT.glob("docs/*/*.md"),
]


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def rows_below(heading: str, text: str) -> dict[str, list[str]]:
    """Return the rows of the first table below a heading: the names in backticks that each cell has, by the first cell."""
    section = text.split(f"\n{heading}\n")[1]
    table = re.search(r"^\|[-|: ]+\|\n((?:\|.*\n)+)", section, re.MULTILINE)
    assert table is not None
    found = {}
    for line in table[1].splitlines():
        first, *cells = line.strip("|").split(" | ")
        found[first.strip(" `")] = re.findall(r"`([\w.]+)`", " ".join(cells))
    return found


def test_the_readme_is_two_screens() -> None:
    assert len(read("README.md").splitlines()) <= 150


def test_the_table_of_imports_is_the_one_that_is_enforced() -> None:
    architecture = read("ARCHITECTURE.md")
    assert rows_below("## What may import what", architecture) == {name: value.split() for name, value in ALLOWED.items()}
    outside = rows_below("Outside of the standard library:", architecture)
    assert {name: set(places) for name, places in outside.items()} == DEPENDENCIES


def test_the_files_that_the_architecture_names_exist() -> None:
    names = re.findall(r"`((?:\w+/)*\w+\.(?:py|js|ts|md))`", read("ARCHITECTURE.md"))
    roots = (ROOT, ROOT / "cartows")
    assert [name for name in names if not any((root / name).exists() for root in roots)] == []


def test_every_option_has_its_row_with_its_default_and_its_meaning() -> None:
    rows = option_rows()
    assert [row.name for row in rows] == [field.name for field in dataclasses.fields(cartows.Options)]
    assert all(row.text for row in rows)
    shown = {row.name: row.default for row in rows}
    assert shown["send_queue_bytes"] == "`1048576` (1 MiB)"
    assert shown["max_message_size"] == "`524288` (512 KiB)"
    assert shown["handoff"] == "`None`"
    assert shown["filter_keys"] == "`('project_id', 'board_id')`"


def test_the_notes_on_options_name_options() -> None:
    names = re.findall(r"`(\w+)`", " ".join(re.findall(r"^\*\*(.*)\*\*$", read("docs/reference/options.md"), re.MULTILINE)))
    assert names and set(names) <= {field.name for field in dataclasses.fields(cartows.Options)}


def test_the_table_of_close_codes_has_every_code_and_whether_it_is_final() -> None:
    section = read("docs/reference/http-and-close-codes.md").split("\n## After the upgrade: close codes\n")[1]
    shown = {}
    for codes, reconnect in re.findall(r"^\| ([\d, ]+) \|.*\| ([^|]*) \|$", section, re.MULTILINE):
        shown |= {int(code): reconnect for code in codes.split(", ")}
    assert {code.value for code in CloseCode if sendable(code)} <= shown.keys()
    # The other party is at fault with 1002 and 1007, and would be again.
    assert {code for code, reconnect in shown.items() if reconnect == "no"} - {1002, 1007} == {
        code for code in shown if is_final(code)
    }


def test_every_public_name_is_in_the_reference() -> None:
    reference = read("docs/reference/api.md")
    described = set(re.findall(r"^\.\. auto(?:class|function):: (\w+)", reference, re.MULTILINE))
    if ".. automodule:: cartows.errors\n" in reference:
        described |= set(cartows.errors.__all__)
    assert set(cartows.__all__) <= described
    assert {"JWTAuth", "FlaskLoginAuth", "publish_on_commit"} <= described


def test_every_name_that_the_documents_import_or_tabulate_is_there() -> None:
    for path in DOCUMENTS:
        for names in re.findall(r"^from cartows import (.*)$", path.read_text(encoding="utf-8"), re.MULTILINE):
            for name in names.split(","):
                assert hasattr(cartows, name.strip()), path
    table = read("docs/reference/api.md").split("\n## In short\n")[1].split("\n## ")[0]
    for name in re.findall(r"`(?:hub|handler|client|ws)?\.?(?:(\w+)\()", table):
        owners = (cartows, cartows.Hub, cartows.Client, cartows.Handler, cartows.CartoWS)
        assert any(hasattr(owner, name) for owner in owners), name


def test_the_extras_and_targets_that_the_documents_use_exist() -> None:
    extras = set(re.findall(r"^(\w+) =\n    ", read("setup.cfg").split("[options.extras_require]")[1], re.MULTILINE))
    targets = set(re.findall(r"^([\w-]+):", read("Makefile"), re.MULTILINE))
    for path in DOCUMENTS:
        text = path.read_text(encoding="utf-8")
        for names in re.findall(r"pip install '\.\[([\w,]+)\]'", text):
            assert set(names.split(",")) <= extras, path
        assert set(re.findall(r"`make ([a-z-]+)\b[^`]*`", text)) <= targets, path

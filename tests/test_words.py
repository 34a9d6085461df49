"""The project's words: none of the terms that CONTRIBUTING.md replaces stands in code, docs, examples, benchmarks or messages.

The list is short on purpose: each term on it was private to this project and has a standard one. A term that plain English
needs, such as "past" or "turn", is not on it.
"""

from __future__ import annotations

import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

FOLDERS = ("benchmarks", "cartows", "docs", "examples", "tests", "tools")
SUFFIXES = (".c", ".cfg", ".css", ".html", ".js", ".json", ".md", ".mjs", ".py", ".sh", ".toml", ".ts", ".txt")
BUILT = {"__pycache__", "_build", "build", "node_modules"}

#: Files that have to name the words.
EXEMPT = {"tests/test_words.py", "CONTRIBUTING.md"}

#: Each term and what stands in its place. They are searched for without regard to case, and as parts of identifiers: a space
#: in a term is also an underscore or a change of case, so "put out" finds `put_out` and `putOut`; an underscore is no space,
#: so "look_at" leaves "look at" alone.
WORDS = {
    "adrift": "degraded",
    "auditor": "rechecker",
    "bells?": "wakeup pipe",
    "break_off": "close on error",
    "culprit": "failing value",
    "cut_off": "broker_lost",
    "dialogue": "commands",
    "dismiss(?:es|ed|ing)?": "disconnect",
    "entrance": "admission",
    "farewells?": "closing frames",
    "goodbyes?": "closing frames, or disconnect message",
    "hear|hears|heard|hearing|hearers?": "receive, subscription, recipients, delivered",
    "heirs?": "parent transaction",
    "known_as": "identity_key",
    "lanes?": "event writer",
    "let_in": "accept",
    "look_at": "recheck_expiry, or inspect",
    "mend|mends|mended": "fix, fixed",
    # At the head of an identifier: not in `at_most_one`.
    "(?<![a-z]_)(?:longest|most)_(?!common)[a-z]+": "max_x",
    "nonsense": "invalid messages",
    "patience": "wait limit",
    # Not aria-live="polite".
    "politely|polite(?![\"'])": "yield the GIL",
    "puts? out|putting out": "disconnect",
    "rejoin(?:s|ed|ing)?": "broker_restored",
    "save that": "except that",
    "(?:show|shows|shown) out": "close for restart",
    "somebody|nobody|anybody|everybody|whoever": "a user, a client, no client, whichever it is",
    "spoken_for": "has_clients",
    "start_over": "new_epoch",
    # A text message and a text frame are WebSocket's own terms.
    "a texts?(?! (?:area|block|editor|field|file|frame|input|message|node)s?)": "a string",
    "behind an id": "after an id",
    "turnstiles?": "read scheduler",
    "twins?": "compressed form",
    "whole numbers?": "integer",
}

#: As names in the library's code and its tests; in prose, people are people.
NAMES = {"people|persons?": "presence entries"}


def pattern(words: dict[str, str]) -> re.Pattern[str]:
    return re.compile("|".join(f"(?<![a-z])(?:{word.replace(' ', '[ _]')})(?![a-z])" for word in words), re.IGNORECASE)


WORD = pattern(WORDS)
NAME = pattern(NAMES)


def split(text: str) -> str:
    """Return the text with each identifier in camelCase written with underscores."""
    return re.sub(r"(?<=[a-z])(?=[A-Z][a-z])", "_", text)


def replacement(found: str) -> str:
    return next(standard for word, standard in (WORDS | NAMES).items() if pattern({word: standard}).fullmatch(found))


def names(path: Path, text: str) -> Iterator[tuple[int, str]]:
    """Yield the identifiers of a program, with their lines; none where no line has one of the names."""
    if not NAME.search(split(text)):
        return
    if path.suffix == ".py":
        for token in tokenize.generate_tokens(io.StringIO(text).readline):
            if token.type == tokenize.NAME:
                yield token.start[0], token.string
    elif path.suffix in (".js", ".mjs", ".ts"):
        for number, line in enumerate(text.splitlines(), 1):
            # Without comments and strings, as far as one line tells.
            for name in re.findall(r"\w+", re.sub(r"^\s*/?\*.*|//.*|'[^']*'|\"[^\"]*\"|`[^`]*`", "", line)):
                yield number, name


def faults(root: Path) -> list[str]:
    """Return each place of a private word: its file, its line and the standard term."""
    found = []
    paths = [path for folder in FOLDERS for path in (root / folder).rglob("*")]
    for path in sorted([*paths, *root.glob("*")]):
        place = path.relative_to(root).as_posix()
        if place in EXEMPT or path.is_dir() or BUILT & set(path.relative_to(root).parts):
            continue
        if path.suffix not in SUFFIXES and path.name != "Makefile":
            continue
        text = path.read_text(encoding="utf-8")
        hits = [(number, match[0]) for number, line in enumerate(text.splitlines(), 1) for match in WORD.finditer(split(line))]
        if place.startswith(("cartows/", "tests/")):
            hits += [(number, match[0]) for number, name in names(path, text) for match in NAME.finditer(split(name))]
            hits += [(0, match[0]) for match in NAME.finditer(place)]
        hits += [(0, match[0]) for match in WORD.finditer(place)]
        found += [
            f"{place}:{number}: {word!r} is {replacement(word)!r} here" if number else f"{place}: its name has {word!r}"
            for number, word in sorted(hits)
        ]
    return found


def test_no_private_word_is_left() -> None:
    found = faults(ROOT)
    assert not found, f"{len(found)} private words:\n" + "\n".join(found)


@pytest.mark.parametrize(
    ("file", "text", "word"),
    [
        ("cartows/hub/hub.py", "# Whoever comes next\n", "Whoever"),
        ("cartows/hub/hub.py", "def put_out(): ...\n", "put_out"),
        ("cartows/hub/hub.py", "class ReadTurnstile: ...\n", "Turnstile"),
        ("cartows/hub/hub.py", "MOST_HELD = 5\n", "MOST_HELD"),
        ("cartows/hub/hub.py", "people = {}\n", "people"),
        ("cartows/hub/hub.py", "raise ValueError('is not a whole number')\n", "whole number"),
        ("cartows/static/cartows.js", "this.#people = peopleIn(found);\n", "people"),
        ("docs/reference/wire.md", "`ref` is a text of 64 characters\n", "a text"),
        ("examples/board/static/live.js", "const hearsAll = true;\n", "hears"),
        ("benchmarks/probe.c", "/* nobody reads */\n", "nobody"),
        ("README.md", "Every client that hears of it\n", "hears"),
        ("tests/apps/people.py", "", "people"),
        ("Makefile", "# Mended later\n", "Mended"),
    ],
)
def test_a_private_word_is_found(tmp_path: Path, file: str, text: str, word: str) -> None:
    (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / file).write_text(text)
    found = faults(tmp_path)
    assert found and all(word in fault for fault in found)
    assert found[0].startswith(f"{file}:1: " if text else f"{file}: ")


@pytest.mark.parametrize(
    "text",
    [
        "People share a board; a person may have two tabs.",
        "Look at the log. The connection was cut off. Start over, and let in the next request.",
        "A text message, a text frame, at most max_events, at_most_one, most of them, the longest wait.",
        "the heart of it, theirs, a mender, planes and airplane, belated bellhop, the compute node",
        "const text = 'mean'; shear(); outputOut; input_output; show output; hearth",
    ],
)
def test_plain_english_is_not_hit(tmp_path: Path, text: str) -> None:
    (tmp_path / "cartows").mkdir()
    (tmp_path / "cartows" / "module.py").write_text(f'"""{text}"""\n')
    assert faults(tmp_path) == []

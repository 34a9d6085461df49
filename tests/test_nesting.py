"""How deep JSON is nested, found without decoding it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cartows import nesting
from cartows.nesting import containers, is_deeper
from tests.support.costs import Lines

LIGHT = settings(deadline=None, report_multiple_bugs=False, max_examples=200)

#: Strings that look like structure, or like the end of a string.
STRINGS = st.text(alphabet='[]{}"\\,:ab\n😀', max_size=8)
JSON = st.recursive(
    st.none() | st.integers() | STRINGS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(STRINGS, inner, max_size=3),
    max_leaves=30,
)


def depth(value: Any) -> int:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    return 0 if inner is None else 1 + max(map(depth, inner), default=0)


@LIGHT
@given(JSON, st.booleans())
def test_json_is_deeper_than_all_smaller_numbers_of_levels(value: Any, compact: bool) -> None:
    text = json.dumps(value, ensure_ascii=compact, separators=(",", ":") if compact else None)
    found = depth(value)
    for levels in range(found + 3):
        assert is_deeper(text, levels) == is_deeper(text.encode(), levels) == (found > levels)
    assert containers(text) == containers(text.encode()) >= found


@pytest.mark.parametrize(
    ("opening", "closing"), [("[", "]"), ('{"a":', "}"), ('{"]}":["}",', "]}"), ("[1,[],", ",[2]]"), (' [\n"[[" , ', " ] ")]
)
def test_the_bound_is_exact_however_json_is_nested(opening: str, closing: str) -> None:
    for levels in range(1, 40):
        text = opening * levels + "0" + closing * levels
        found = depth(json.loads(text))
        assert is_deeper(text, found - 1) and not is_deeper(text, found)


@LIGHT
@given(st.text(alphabet='[]{}"\\,:1 ', max_size=60))
def test_the_start_of_what_is_not_json_counts_until_it_goes_wrong(text: str) -> None:
    # A decoder goes as deep as the part before the first fault is.
    depth = deepest = 0
    in_string = escaped = False
    for char in text:
        if in_string:
            in_string, escaped = char != '"' or escaped, char == "\\" and not escaped
        elif char == '"':
            in_string = True
        elif char == "\\" or (char in "]}" and not depth):
            break
        else:
            depth += (char in "[{") - (char in "]}")
            deepest = max(deepest, depth)
    assert not deepest or is_deeper(text, deepest - 1)


@pytest.mark.parametrize("unit", ["[],", "{},", '"[",', '"\\"",', "[[[]]],", '{"a":1},', "["])
def test_the_cost_does_not_depend_on_what_is_nested(unit: str) -> None:
    """Each line of Python runs once, whatever is in half a megabyte."""
    with Lines(nesting) as lines:
        is_deeper(unit * (500_000 // len(unit)), 256)
    assert lines.count < 40

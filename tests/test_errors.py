"""The exceptions: one root, with the built-in class that each also is; and strings of a peer in the log."""

from __future__ import annotations

import pytest

import cartows
from cartows.errors import CartowsError, printable


def test_every_exception_has_one_root() -> None:
    found = [each for each in vars(cartows).values() if isinstance(each, type) and issubclass(each, Exception)]
    assert [each for each in found if not issubclass(each, CartowsError)] == []
    assert len(found) > 1


@pytest.mark.parametrize(
    ("error", "built_in"),
    [(cartows.OptionsError, ValueError), (cartows.MessageError, ValueError), (cartows.HubClosed, RuntimeError)],
)
def test_an_exception_is_also_the_built_in_one(error: type[Exception], built_in: type[Exception]) -> None:
    assert issubclass(error, built_in)


def test_a_printable_string_stays_as_it_is() -> None:
    assert printable("é 😀 'x'") == "é 😀 'x'"


@pytest.mark.parametrize("text", ["a\nb", "\x1b[31mred", "\u2028", "\ud800", "\x00", "\u202e"])
def test_what_a_terminal_would_interpret_is_escaped(text: str) -> None:
    assert printable(text).isprintable()
    assert printable(text).encode()

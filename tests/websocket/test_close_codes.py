"""Close codes: which may be sent, which are final, and that this module alone contains the numbers."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import cartows
from cartows.websocket.close_codes import CloseCode, is_final, is_never_sent, is_ordinary, sendable

#: The codes that a client must not reconnect after, and those that it may.
FINAL = [1008, 1009, 3500, 3503, 3504, 3507, 3999, 4500, 4999]
RECONNECT = [1000, 1001, 1002, 1005, 1006, 1011, 1012, 3000, 3005, 3008, 3012, 3013, 3499, 4000, 4499]


def test_a_client_reconnects_except_after_a_final_code() -> None:
    assert [code for code in FINAL if not is_final(code)] == []
    assert [code for code in RECONNECT if is_final(code)] == []


@pytest.mark.parametrize("code", [1004, 1005, 1006, 1015])
def test_a_code_that_only_describes_an_end_is_never_sent(code: int) -> None:
    assert is_never_sent(code)
    assert not sendable(code)


def test_the_codes_of_the_protocol_and_of_applications_may_be_sent() -> None:
    allowed = {*range(1000, 1015), *range(3000, 5000)} - {1004, 1005, 1006}
    assert {code for code in range(-1, 70_000) if sendable(code)} == allowed


def test_an_end_without_a_fault_and_the_codes_of_the_application_are_ordinary() -> None:
    assert {code for code in CloseCode if is_ordinary(code)} == {1000, 1001, 1005, 1006, 1012}
    assert is_ordinary(4000)
    assert is_ordinary(4999)


def test_no_other_module_compares_or_closes_with_a_number() -> None:
    numbers = "|".join(str(int(code)) for code in CloseCode)
    pattern = re.compile(rf"(?:code\s*(?:[=!<>]=?|in \()\s*|close\(|abort\()(?:{numbers})\b")
    package = Path(cartows.__file__).parent
    found = [
        f"{path.relative_to(package)}: {line.strip()}"
        for path in package.rglob("*.py")
        if path.name != "close_codes.py"
        for line in path.read_text(encoding="utf-8").splitlines()
        if pattern.search(line)
    ]
    assert found == []

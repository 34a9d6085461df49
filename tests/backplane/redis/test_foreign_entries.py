"""What is told from an event in the stream, and how often it is logged."""

from __future__ import annotations

import logging

import pytest

from cartows.backplane.redis.event_store import Record
from cartows.backplane.redis.foreign_entries import ForeignEntry, ForeignEntryLog, parse_entry

GOOD = {
    b"e": b"0123abcd",
    b"o": b"a" * 16,
    b"s": b"1",
    b"p": b"",
    b"c": b"",
    b"a": b'{"r":[["board_id","b1"]],"u":true,"e":false}',
    b"t": b"task.created",
    b"b": b'{"type":"task.created"}',
    b"m": b'["task","t1"]',
    b"k": b"",
}


def test_an_event_is_a_record() -> None:
    assert isinstance(parse_entry(b"5-0", GOOD), Record)


@pytest.mark.parametrize(
    "changed",
    [
        {b"s": b"one"},
        {b"s": b"9" * 5000},
        {b"e": b"\xff"},
        {b"b": b""},
        {b"b": b"[]"},
        {b"b": b"{"},
        {b"m": b"5"},
        {b"m": b"[[1]]"},
        {b"m": b'{"a": 1}'},
        {b"a": b""},
        {b"a": b"[]"},
        {b"a": b"{}"},
        {b"a": b"[" * 100_000},
        {b"a": b'{"r":5,"u":true,"e":false}'},
        {b"a": b'{"r":[["board_id"]],"u":true,"e":false}'},
        {b"a": b'{"r":["ab"],"u":1,"e":false}'},
        {b"a": b'{"r":[["board_id",["b1"]]],"u":true,"e":false}'},
        # Numbers whose hashes are all the same.
        {b"a": b'{"r":[["board_id",2305843009213693951]],"u":true,"e":false}'},
    ],
)
def test_what_has_another_form_is_none(changed: dict[bytes, bytes]) -> None:
    found = parse_entry(b"5-0", GOOD | changed)
    assert isinstance(found, ForeignEntry)
    assert found.number == 5
    assert len(found.reason) < 300


@pytest.mark.parametrize("id", [b"5-1", b"1700000000000-3", b"18446744073709551615-18446744073709551615"])
def test_an_id_that_no_event_has_has_no_number(id: bytes) -> None:
    found = parse_entry(id, GOOD)
    assert isinstance(found, ForeignEntry)
    assert found.number == 0


def test_many_entries_are_one_line_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    now = 100.0
    log = ForeignEntryLog(logging.getLogger("cartows.test"), "redis://here", "events", lambda: now)
    for number in range(1000):
        log.log(f"entry {number}")
    now += 61
    log.log("another")
    first, second = [record.getMessage() for record in caplog.records]
    assert "entry 0" in first
    assert "database of its own" in first
    assert "another, and 999 others" in second

"""What others have stored, and this process reads: entries of the stream in Redis, and the JWK Set at a URL."""

from __future__ import annotations

import json
import re
from unittest.mock import Mock

from cartows.auth import key_source
from cartows.backplane.redis import foreign_entries
from cartows.backplane.redis.event_store import Record
from cartows.errors import OptionsError

# The fields of an entry, and what cartows writes into them: lines of input replace them one by one.
_FIELDS = {
    b"t": b"task.created",
    b"b": b'{"type":"task.created"}',
    b"a": b'{"r":[["board_id","b1"]],"u":true,"e":false}',
    b"m": b'["task","t1"]',
    b"k": b"1",
    b"e": b"epoch",
    b"o": b"origin",
    b"s": b"7",
    b"p": b"origin:6",
    b"c": b"mark",
}


def entry(data: bytes) -> None:
    """An entry, its id in the first line and its fields in the others, is an event whose parts can be used, or foreign.

    An empty line leaves the field as cartows writes it, and a line of one zero byte leaves it out.
    """
    id, *lines = data.split(b"\n")
    fields = dict(_FIELDS)
    for name, line in zip(_FIELDS, lines, strict=False):
        if line == b"\x00":
            del fields[name]
        elif line:
            fields[name] = line
    # Redis makes no other id than two integers.
    found = foreign_entries.parse_entry(id if re.fullmatch(rb"\d{1,20}-\d{1,20}", id) else b"5-0", fields)
    if not isinstance(found, Record):
        assert found.number >= 0 and len(found.reason) < 1000 + len(id) * 4
        return
    event = found.event
    assert found.number >= 0 and isinstance(event.type, str) and event.body.startswith(b"{")
    assert all(isinstance(key, str) and isinstance(value, str) for key, value in event.audience.rooms)
    hash((event.audience, event.entity))


def key_set(data: bytes) -> None:
    """What is at a ``jwks_url`` becomes keys, or an OptionsError that shows none of it."""
    download, key_source._Download = key_source._Download, Mock(return_value=Mock(within=lambda timeout: data))
    try:
        keys = key_source.fetcher("https://keys.example/jwks.json", 1.0)()
    except OptionsError as error:
        assert len(str(error)) < 500
        return
    finally:
        key_source._Download = download
    assert keys
    for key in keys:
        assert not isinstance(key.material, bytes), "no secret is taken from a URL"
        assert json.dumps(repr(key)).count("BEGIN") == 0

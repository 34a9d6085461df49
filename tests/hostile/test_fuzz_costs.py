"""The measure of time and memory by input byte: it lets honest clients pass, and the attacks of ``costly`` as well."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.hostile import costly, mutations
from tests.hostile.fuzz_costs import conversation
from tests.hostile.target import frame, json_frame
from tests.hostile.test_fuzz import IN_PROCESS, RANDOM
from tests.support.raw_client import CONTINUATION, TEXT, deflate_bomb

SEEDS = {
    "colliding numbers": frame(TEXT, costly.collisions()),
    "amplification": b"".join(
        frame(TEXT, costly.amplifier(kind), rsv=4) + json_frame({"type": "ping"})
        for kind in ("x", "ping", "subscribe", "auth.refresh") * 10
    ),
    "endless deflate": frame(TEXT, costly.ended_deflate(b"{}"), rsv=4, fin=False)
    + frame(CONTINUATION, bytes(range(256)) * 128, fin=False) * 256,
    "unfinished message": b"".join(costly.unfinished(250_000)),
    "bomb": frame(TEXT, deflate_bomb(20), rsv=4),
    "long names": b"".join(
        json_frame({"type": "subscribe", "data": {"board_id": [f"{n}-{k}".ljust(256, "\U0001f600") for k in range(10)]}})
        for n in range(10)
    ),
    "honest": b"".join(
        json_frame({"type": "subscribe", "data": {"board_id": [f"b{n}"], "presence": {"name": "Ann"}}}) for n in range(20)
    ),
    "floods": frame(TEXT, b'{"type":"ping"}') * 20_000,
}


@pytest.mark.parametrize("name", SEEDS)
def test_every_attack_costs_no_more_than_its_bytes_may(name: str) -> None:
    conversation(SEEDS[name])


@settings(IN_PROCESS, max_examples=60)
@given(st.lists(RANDOM, min_size=1, max_size=4), st.sampled_from([mutations.frames, mutations.compressed, mutations.message]))
def test_no_input_costs_more_than_its_bytes_may(rngs: list, make: object) -> None:
    parts = [make(rng) for rng in rngs]
    conversation(b"".join(frame(TEXT, part) if make is mutations.message else part for part in parts))

"""The measure of time and memory by input byte: it lets honest clients pass, and the attacks of ``costly`` as well."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.hostile import costly, fuzz_costs, mutations
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


def messages(rng: Random) -> bytes:
    return frame(TEXT, mutations.message(rng))


@pytest.fixture(autouse=True)
def hubs() -> Iterator[None]:
    yield
    fuzz_costs.close()


@pytest.mark.parametrize("name", SEEDS)
def test_every_attack_costs_no_more_than_its_bytes_may(name: str) -> None:
    fuzz_costs.conversation(SEEDS[name])


@settings(IN_PROCESS, max_examples=60)
@given(st.lists(RANDOM, min_size=1, max_size=4), st.sampled_from([mutations.frames, mutations.compressed, messages]))
def test_no_input_costs_more_than_its_bytes_may(rngs: list[Random], make: Callable[[Random], bytes]) -> None:
    fuzz_costs.conversation(b"".join(make(rng) for rng in rngs))


def test_a_cost_over_its_bound_is_a_failure() -> None:
    assert fuzz_costs.Costs(1000, 0.0, 0, 0).problems() == []
    assert len(fuzz_costs.Costs(1000, 1000.0, fuzz_costs.PEAK + 1, fuzz_costs.KEPT + 1).problems()) == 3

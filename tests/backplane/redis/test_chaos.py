"""A short run of the chaos test in both modes; ``python -m tests.backplane.redis.chaos`` runs it for longer."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.backplane.redis import chaos


@pytest.mark.parametrize("empty", [False, True], ids=["keeps", "loses"])
def test_every_client_receives_all_that_is_stored_once_or_is_notified_to_reload(tmp_path: Path, empty: bool) -> None:
    table, faults = chaos.run(6.0, 5, empty, tmp_path)
    assert not faults, "\n\n".join([*faults[:3], table])

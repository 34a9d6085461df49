"""The revocations: what a check that was under way learns of them."""

from __future__ import annotations

from cartows.hub import revocations as module_under_test
from cartows.hub.revocations import Revocations


def test_nothing_since_the_last_mark() -> None:
    revocations = Revocations()
    revocations.add("ann", disconnects=True)
    assert revocations.since(revocations.mark(), "ann") == (False, False)


def test_each_identity_learns_of_its_own() -> None:
    revocations = Revocations()
    mark = revocations.mark()
    revocations.add("ann", disconnects=True)
    revocations.add("bob", disconnects=False)
    assert revocations.since(mark, "ann") == (True, False)
    assert revocations.since(mark, "bob") == (False, True)
    assert revocations.since(mark, "carl") == (False, False)
    assert revocations.since(mark, None) == (False, False)
    revocations.add("ann", disconnects=False)
    assert revocations.since(mark, "ann") == (True, True)
    assert revocations.since(mark + 2, "ann") == (False, True)


def test_a_check_that_is_older_than_what_is_remembered_counts_as_disconnected() -> None:
    revocations = Revocations()
    mark = revocations.mark()
    for _ in range(module_under_test._MAX_REMEMBERED):
        revocations.add("bob", disconnects=False)
    assert revocations.since(mark, "ann") == (False, False)
    revocations.add("bob", disconnects=False)
    assert revocations.since(mark, "ann") == (True, False)

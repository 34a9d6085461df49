"""The send queue: what each policy gives up and what it never does."""

from __future__ import annotations

import itertools

import pytest

from cartows.client.send_queue import SendQueue
from cartows.options import Policy
from cartows.websocket.frames import Frame
from tests.support.send_queues import MUCH, POLICIES, answer, changes, event, events, frame, made, names, notice

# Waiting and going out ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", POLICIES)
def test_what_waits_goes_out_in_order_and_is_counted_until_then(policy: Policy) -> None:
    queue = made(policy, [event(1), answer("a"), event(2)])
    pieces = queue.pieces(MUCH)
    assert (names(queue), len(queue), queue.bytes) == ([1, "a", 2], 3, len(b"".join(pieces)))
    queue.pop(2)
    assert (names(queue), len(queue), queue.bytes) == ([2], 1, len(pieces[2]))
    queue.pop(1)
    assert (queue.pieces(MUCH), len(queue), queue.bytes) == ([], 0, 0)
    queue.pop(0)


def test_a_send_takes_what_fits_but_one_frame_at_least_and_256_at_most() -> None:
    queue = made("disconnect", events(*range(1, 301)))
    first, second = queue.pieces(MUCH)[:2]
    assert queue.pieces(0) == queue.pieces(len(first) + len(second) - 1) == [first]
    assert queue.pieces(len(first) + len(second)) == [first, second]
    assert len(queue.pieces(MUCH)) == 256


@pytest.mark.parametrize("policy", POLICIES)
def test_a_cut_frame_is_let_go_of_and_its_rest_handed_back(policy: Policy) -> None:
    queue = made(policy, events(1, 2, 3))
    pieces = queue.pieces(MUCH)
    cut = queue.pop_sent(pieces, len(pieces[0]) + 5)
    assert cut is not None and (cut[0].plain, cut[1]) == (pieces[1], 5)
    assert (names(queue), queue.bytes) == ([3], len(pieces[2]))


def test_a_send_that_ends_between_two_frames_leaves_no_rest() -> None:
    queue = made("disconnect", events(1, 2))
    pieces = queue.pieces(MUCH)
    assert queue.pop_sent(pieces, 0) is None
    assert names(queue) == [1, 2]
    assert queue.pop_sent(pieces, len(pieces[0])) is None
    assert names(queue) == [2]


def test_compressed_frames_are_counted_and_sent_as_they_are_on_the_wire() -> None:
    large = frame({"id": 1, "content": "x" * 2000}, number=1, compress_min_size=1000)
    for deflate in [False, True]:
        queue = SendQueue("disconnect", 4, MUCH, deflate, notice)
        queue.extend([large])
        assert queue.pieces(MUCH) == [large.wire(deflate)]
        assert queue.bytes == len(large.wire(deflate))
        queue.pop(1)
        assert queue.bytes == 0
    assert len(large.wire(True)) < len(large.wire(False))


@pytest.mark.parametrize("policy", POLICIES)
def test_both_bounds_may_be_reached_but_not_passed_with_the_rest_of_a_cut_frame_counted(policy: Policy) -> None:
    queue = made(policy, events(1, 2), max_frames=2, max_bytes=len(event(1).plain) * 2 + 10)
    assert not queue.over(10)
    assert queue.over(11)
    queue.extend(events(3))
    assert queue.over(0)
    assert made(policy, events(1, 2, 3), max_frames=2).over(0)


@pytest.mark.parametrize("policy", POLICIES)
def test_within_bounds_nothing_is_given_up(policy: Policy) -> None:
    queue = made(policy, [event(1, name="a", x=1), event(2, name="a", x=2), answer("b")])
    assert queue.relieve(0)
    assert names(queue) == [1, 2, "b"]
    assert not queue.incomplete


@pytest.mark.parametrize("policy", POLICIES)
def test_clearing_leaves_nothing_and_what_comes_next_starts_afresh(policy: Policy) -> None:
    queue = made(policy, [event(number, name="a", x=number) for number in range(1, 7)])
    queue.relieve(0)
    queue.clear()
    assert (len(queue), queue.bytes, queue.pieces(MUCH)) == (0, 0, [])
    queue.extend([event(7, name="a", y=7), event(8, name="a", z=8)])
    assert changes(queue) == {7: {"y": 7}, 8: {"z": 8}}
    queue.extend([event(number, name="a", x=number) for number in range(9, 13)])
    assert queue.relieve(0) == (policy != "disconnect")
    first = {"disconnect": 7, "drop_oldest": "lost 9", "coalesce": "lost 7"}
    assert names(queue)[0] == first[policy], "what is given up now is reported now"


# disconnect -----------------------------------------------------------------------------------------------------------


def test_disconnect_gives_up_nothing_and_gives_no_relief() -> None:
    queue = made("disconnect", events(1, 2, 3, 4, 5))
    assert not queue.relieve(0)
    assert names(queue) == [1, 2, 3, 4, 5]
    assert not queue.incomplete


# drop_oldest ----------------------------------------------------------------------------------------------------------


def test_the_oldest_events_go_and_no_more_than_must() -> None:
    queue = made("drop_oldest", events(1, 2, 3, 4, 5, 6))
    assert queue.relieve(0)
    assert names(queue) == ["lost 3", 4, 5, 6]
    assert queue.incomplete


def test_events_go_until_the_bytes_fit() -> None:
    size = len(event(1).plain)
    queue = made("drop_oldest", events(1, 2, 3, 4, 5), max_frames=9, max_bytes=size * 3 + len(notice(1).plain))
    assert queue.relieve(size)
    assert names(queue) == ["lost 3", 4, 5]


def test_what_is_no_event_stays_where_it_stood() -> None:
    queue = made("drop_oldest", [answer("a"), event(1), answer("b"), event(2), event(3), answer("c"), event(4)], max_frames=5)
    assert queue.relieve(0)
    assert names(queue) == ["a", "lost 1", "b", "c", 4]


def test_when_only_answers_are_left_and_they_are_too_many_there_is_no_relief() -> None:
    queue = made("drop_oldest", [answer("a"), event(1), *map(answer, "bcde"), event(2)])
    assert not queue.relieve(0)
    assert names(queue) == ["a", "lost 1", *"bcde"]
    queue = made("drop_oldest", map(answer, "abcde"))
    assert not queue.relieve(0)
    assert names(queue) == [*"abcde"]
    assert not queue.incomplete


def test_one_notice_grows_with_what_is_dropped_right_after_it() -> None:
    queue = made("drop_oldest", events(7, 8, 9, 10, 11))
    assert queue.relieve(0)
    assert names(queue) == ["lost 8", 9, 10, 11]
    queue.extend(events(12, 13))
    assert queue.relieve(0)
    assert names(queue) == ["lost 10", 11, 12, 13]


def test_a_notice_after_answers_grows_where_it_stands() -> None:
    queue = made("drop_oldest", [answer("a"), *events(1, 2, 3, 4, 5)])
    assert queue.relieve(0)
    assert names(queue) == ["a", "lost 3", 4, 5]


def test_a_notice_does_not_report_what_was_lost_after_an_answer_that_follows_it() -> None:
    queue = made("drop_oldest", [event(1), event(2), answer("a"), event(3), event(4)])
    assert queue.relieve(0)
    assert names(queue) == ["lost 2", "a", 3, 4]
    queue.extend(events(5))
    assert queue.relieve(0)
    assert names(queue) == ["lost 2", "a", 4, 5]


def test_what_is_lost_once_the_notice_has_gone_out_has_one_of_its_own() -> None:
    queue = made("drop_oldest", events(1, 2, 3, 4, 5))
    assert queue.relieve(0)
    queue.pop(1)
    queue.extend(events(6, 7))
    assert queue.relieve(0)
    assert names(queue) == ["lost 4", 5, 6, 7]


def test_a_notice_whose_number_grows_by_a_digit_still_fits() -> None:
    size = len(event(10).plain)
    max_bytes = size * 2 + len(notice(9).plain)
    queue = made("drop_oldest", events(9, 11, 12), max_frames=9, max_bytes=max_bytes)
    assert queue.relieve(0)
    assert names(queue) == ["lost 9", 11, 12]
    queue.extend(events(13))
    assert queue.relieve(0)
    assert names(queue) == ["lost 12", 13]
    assert queue.bytes <= max_bytes


def test_an_event_that_fits_in_no_queue_leaves_only_its_notice() -> None:
    queue = made("drop_oldest", [event(1, x="y" * 999)], max_bytes=500)
    assert queue.relieve(0)
    assert names(queue) == ["lost 1"]


def test_a_client_is_not_told_of_a_loss_where_no_notice_can_be_made() -> None:
    for policy in POLICIES[1:]:
        queue = SendQueue(policy, 2, MUCH, False, None)
        queue.extend([event(number, name="a", x=number) for number in range(1, 5)])
        assert queue.relieve(0)
        assert names(queue) == ([3, 4] if policy == "drop_oldest" else [4])
        assert queue.incomplete
    queue = SendQueue("drop_oldest", 2, 10, False, None)
    queue.extend(events(1))
    assert queue.relieve(0)
    assert (len(queue), queue.bytes, queue.pieces(MUCH)) == (0, 0, [])
    queue.extend([answer("a")])
    assert names(queue) == ["a"]


# What it costs -------------------------------------------------------------------------------------------------------


def test_an_event_is_dropped_at_the_cost_of_itself() -> None:
    looks = itertools.count()
    notices = itertools.count()

    class Watched(Frame):
        """Counts how often it is looked at."""

        def wire(self, deflate: bool) -> bytes:
            next(looks)
            return super().wire(deflate)

    def counted(number: int) -> Frame:
        next(notices)
        return notice(number)

    queue = SendQueue("drop_oldest", 200, MUCH, False, counted)
    for start in range(1, 10_001, 100):
        queue.extend([Watched(b"{}", number=number) for number in range(start, start + 100)])
        assert queue.relieve(0)
    assert next(looks) == 10_000 + 10_000 - 199, "each is measured when it comes and when it goes"
    assert next(notices) <= 100

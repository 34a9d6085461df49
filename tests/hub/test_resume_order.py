"""Resume and subscriptions in rare orders of events, each checked against the resume model of tests/support."""

from __future__ import annotations

import itertools
import json
import threading
from contextlib import closing
from functools import partial
from typing import Any

from cartows import Hub
from cartows.history.history import Event
from tests.support.resume_link import BOARDS, SMALL_BUFFER, Link, Request, number_of
from tests.support.resume_model import Model, hold
from tests.support.waiting import DEADLINE


def test_resuming_from_an_event_that_the_hub_has_not_reached_yet_has_no_gap_and_no_repeat() -> None:
    # The answer to a POST has an id, too. Between its registration and that event the page subscribes to another room.
    for since in (None, 0):
        with closing(Model(send_queue_size=2)) as model:
            hub = model.hub
            release = hold(hub)
            for number in range(10):
                model.publish("own", {"board_id": [BOARDS[number % 2]]})
            link = model.connect(0, {"board_id": ("a",)}, model.id(8))
            link.early = True
            request = Request(True, (("board_id", "b"),), None if since is None else model.id(since))
            link.requests.append(request)
            link.unanswered.append(request)

            def subscribe(hub: Hub = hub, link: Link = link, request: Request = request) -> None:
                if hub._pipeline.dispatcher.history.head < 3:
                    hub._pipeline.queue.put_registration(subscribe)
                else:
                    link.client.handle_incoming_message(json.dumps(request.message()))

            hub._pipeline.queue.put_registration(subscribe)
            release.set()
            model.check_all()


def test_a_message_before_the_registration_is_answered_in_the_right_place() -> None:
    with closing(Model()) as model:
        for number in range(6):
            model.publish("own", {"board_id": [BOARDS[number % 2]]})
        model.check_all()
        release = hold(model.hub)
        link = model.connect(0, {"board_id": ("a",)}, model.id(1))
        link.early = True
        request = Request(True, (("board_id", "b"),), model.id(0))
        link.pings = 1
        link.requests.append(request)
        link.unanswered.append(request)
        for message in ({"type": "ping"}, request.message()):
            link.client.handle_incoming_message(json.dumps(message))
        release.set()
        model.check_all()
        assert model.resumed == 1
        assert sorted(number_of(message) for message in link.messages if message["type"] == "note") == [2, 3, 4, 5, 6]


def test_what_a_replay_has_passed_is_not_sent_again_and_a_ping_meanwhile_has_the_right_position() -> None:
    with closing(Model()) as model:
        for _ in range(30):
            model.publish("own", {}, 300)
        model.check_all()
        link = model.connect(0, {}, model.id(0), SMALL_BUFFER)
        history = model.hub._pipeline.dispatcher.history
        append, done = history.append, threading.Event()

        def append_and_wait(events: list[Event]) -> None:
            append(events)
            # The writer takes these from the history before the hub offers them.
            link.ping()
            link.read_until(lambda: len(link.messages) > 20)
            link.ping()
            link.read_until(lambda: any(number_of(message) == history.head for message in link.messages))
            link.ping()
            link.read_until(lambda: sum(message["type"] == "pong" for message in link.messages) == 3)
            done.set()

        history.append = append_and_wait  # type: ignore[method-assign,assignment]
        model.publish("own", {}, 300)
        assert done.wait(DEADLINE)
        history.append = append  # type: ignore[method-assign]
        model.check_all()


def test_the_position_of_a_client_that_receives_nothing_advances() -> None:
    with closing(Model()) as model:
        link = model.connect(0, {"board_id": ("a",)}, None)
        for _ in range(5):
            last = model.publish("own", {"board_id": ["b"]})
        model.check_all()
        for _ in range(5):
            last = model.publish("own", {"board_id": ["b"]})
        model.await_hub(last)
        link.ping()
        link.read_until(lambda: any(message["type"] == "pong" for message in link.messages))
        assert link.position == model.id(last)


def test_requests_around_the_registration_take_effect_in_order() -> None:
    with closing(Model()) as model:
        hub = model.hub
        release = hold(hub)
        link = model.connect(0, {}, None)
        link.early = True
        requests = [
            Request(True, (("board_id", "a"),)),
            Request(True, (("board_id", "b"),)),
            Request(False, (("board_id", "a"),)),
        ]
        link.requests += requests
        link.unanswered += requests
        # The first comes before the registration, the others between that and the hub's next iteration.
        link.client.handle_incoming_message(json.dumps(requests[0].message()))
        for request in requests[1:]:
            hub._pipeline.queue.put_registration(partial(link.client.handle_incoming_message, json.dumps(request.message())))
        release.set()
        model.check_all()
        model.publish("own", {"board_id": ["a"]})
        number = model.publish("own", {"board_id": ["b"]})
        model.check_all()
        assert number in [number_of(message) for message in link.messages if message["type"] == "note"]


def test_a_request_of_a_client_that_is_being_closed_does_not_keep_the_hub_busy() -> None:
    with closing(Model()) as model:
        hub, other = model.hub, model.connect(1, {}, None)
        link = model.connect(0, {}, None)
        link.read_until(lambda: bool(link.messages))
        other.read_until(lambda: bool(other.messages))
        hub.client_count()
        iterations = 0
        take = hub._pipeline.queue.take

        def counted(max_events: int, max_arrivals: int) -> Any:
            nonlocal iterations
            iterations += 1
            return take(max_events, max_arrivals)

        # The peer does not answer the close frame, and its reader is still busy with a message.
        link.client.close(4500, "closed")
        link.client.handle_incoming_message(json.dumps(Request(True, (("board_id", "b"),)).message()))
        hub._pipeline.queue.take = counted  # type: ignore[method-assign]
        for _ in range(20):
            number = model.publish("everyone", {})
            other.read_until(lambda number=number: number_of(other.messages[-1]) == number)  # type: ignore[misc]
        assert iterations <= 60
        del hub._pipeline.queue.take
        model.drop(0)


def test_a_history_that_expires_during_a_registration_is_not_recovered_silently() -> None:
    with closing(Model(history_ttl=10.0)) as model:
        history = model.hub._pipeline.dispatcher.history
        history._clock = lambda: 0.0
        for _ in range(5):
            model.publish("everyone", {})
        model.check_all()
        # Each reading of the clock advances it by 6 s: what is there at the first has expired at the second.
        clock = itertools.count(6.0, 6.0)
        history._clock = lambda: next(clock)
        link = model.connect(0, {}, model.id(2))
        link.read_until(lambda: bool(link.messages) or link.over)
        if link.messages[0]["data"]["recovered"]:
            # Events that were recovered may have expired since, but they are not skipped.
            link.read_until(lambda: len(link.messages) == 5)
            numbers = [number_of(message) for message in link.messages[1:] if "id" in message]
            assert numbers == [3, 4, 5, 6] or (numbers == [3, 4, 5, 6][: len(numbers)] and link.code == 3008)

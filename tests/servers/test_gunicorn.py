"""gunicorn: which worker runs here, how many there are, and how it is made to end a request in silence."""

from __future__ import annotations

import errno
import threading
from typing import Any

import pytest

from cartows.servers.gunicorn import Gunicorn
from tests.support.gunicorn import Arbiter, ThreadedWorker, Worker

AT_MOST = 10.0

server = Gunicorn()


def test_nothing_is_found_in_a_script_or_a_test() -> None:
    assert not server.serves()
    assert (server.find_worker(), server.workers()) == (None, None)


@pytest.mark.parametrize("kind", [Worker, ThreadedWorker])
def test_the_worker_that_runs_the_main_thread_is_found(kind: type[Worker]) -> None:
    worker = kind(workers=3)
    assert worker.run(server.find_worker) is worker
    assert worker.run(server.serves) is True
    assert worker.run(server.workers) == 3


def test_the_worker_is_found_from_a_request_thread_whose_own_stack_it_is_on() -> None:
    # gthread: the pool's thread is inside ThreadWorker.handle_request.
    worker = Worker(workers=2)
    found: list[Any] = []
    thread = threading.Thread(target=worker.run, args=(lambda: found.extend([server.find_worker(), server.workers()]),))
    thread.start()
    thread.join(AT_MOST)
    assert found == [worker, 2]


def test_the_environment_names_gunicorn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SERVER_SOFTWARE", "gunicorn/23.0.0")
    assert server.serves()


def test_a_preloaded_app_learns_how_many_workers_there_will_be() -> None:
    arbiter = Arbiter(workers=7)
    assert arbiter.run(server.workers) == 7
    assert arbiter.run(server.find_worker) is None


def test_the_socket_is_in_the_environ() -> None:
    sock = object()
    assert server.find_socket({"gunicorn.socket": sock}) is sock
    assert server.find_socket({"werkzeug.socket": sock}) is None


def test_a_response_ends_with_what_gunicorn_takes_for_a_closed_connection() -> None:
    def start_response(*arguments: Any) -> None:
        raise AssertionError("nothing may be sent")

    with pytest.raises(StopIteration):
        server.end_response(start_response, taken=True)
    with pytest.raises(BrokenPipeError) as caught:
        server.end_response(start_response, taken=False)
    assert caught.value.errno == errno.EPIPE

"""gunicorn: which worker runs here, how many there are, what it has read beyond a request, how it is kept from sending more."""

from __future__ import annotations

import io
import os
import socket
import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

import pytest
from gunicorn.config import Config
from gunicorn.http.parser import RequestParser

from cartows.servers.detection import configured_threads
from cartows.servers.gunicorn import Gunicorn
from tests.support.gunicorn import Arbiter, ThreadedWorker, Worker

AT_MOST = 10.0

server = Gunicorn()


def test_nothing_is_found_in_a_script_or_a_test() -> None:
    assert not server.serves()
    assert (server.find_worker(), server.workers(), server.threads()) == (None, None, None)
    assert configured_threads() == 0


@pytest.mark.parametrize("kind", [Worker, ThreadedWorker])
def test_the_worker_that_runs_the_main_thread_is_found(kind: type[Worker]) -> None:
    worker = kind(workers=3, threads=8)
    assert worker.run(server.find_worker) is worker
    assert worker.run(server.serves) is True
    assert worker.run(server.workers) == 3
    assert worker.run(server.threads) == worker.run(configured_threads) == 8


def test_the_worker_is_found_from_a_request_thread_whose_own_stack_it_is_on() -> None:
    # gthread: the pool's thread is inside ThreadWorker.handle_request.
    worker = Worker(workers=2)
    found: list[Any] = []
    thread = threading.Thread(target=worker.run, args=(lambda: found.extend([server.find_worker(), server.workers()]),))
    thread.start()
    thread.join(AT_MOST)
    assert found == [worker, 2]


def test_the_child_of_a_worker_does_not_serve_although_the_worker_is_on_its_stack() -> None:
    worker = Worker()
    worker.pid = os.getppid()
    assert worker.run(server.serves) is False


def test_the_master_that_loads_a_preloaded_app_does_not_serve() -> None:
    assert Arbiter(workers=7).run(server.serves) is False


def test_a_process_that_the_master_forks_is_a_worker() -> None:
    def elsewhere() -> FrameType:
        return sys._getframe()

    space = {"__name__": "gunicorn.arbiter", "sys": sys}
    exec("def spawn_worker(): return sys._getframe()\ndef other(): return sys._getframe()", space)
    spawn: Callable[[], FrameType] = space["spawn_worker"]  # type: ignore[assignment]
    other: Callable[[], FrameType] = space["other"]  # type: ignore[assignment]
    assert server.starts_worker(spawn())
    assert not server.starts_worker(other()) and not server.starts_worker(elsewhere())


def test_a_preloaded_app_learns_how_many_workers_there_will_be() -> None:
    arbiter = Arbiter(workers=7)
    assert arbiter.run(server.workers) == 7
    assert arbiter.run(server.find_worker) is None


def test_the_socket_is_in_the_environ() -> None:
    sock = object()
    assert server.find_socket({"gunicorn.socket": sock}) is sock
    assert server.find_socket({"werkzeug.socket": sock}) is None


def test_a_request_over_http_2_has_no_socket_of_its_own() -> None:
    for over in ({"SERVER_PROTOCOL": "HTTP/2.0"}, {"SERVER_PROTOCOL": "HTTP/2"}, {"gunicorn.http2.send_trailers": print}):
        assert server.find_socket({"gunicorn.socket": object(), **over}) is None
    sock = object()
    assert server.find_socket({"gunicorn.socket": sock, "SERVER_PROTOCOL": "HTTP/1.1"}) is sock


def test_what_gunicorn_has_read_beyond_a_request_is_returned_once() -> None:
    mine, peer = socket.socketpair()
    with mine, peer:
        peer.sendall(b"GET /ws HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\n\r\n\x81\x80frames")
        request = next(RequestParser(Config(), mine, ("127.0.0.1", 1)))
        assert server.early_bytes({"wsgi.input": request.body}, mine) == b"\x81\x80frames"
        assert server.early_bytes({"wsgi.input": request.body}, mine) == b""


def test_an_input_that_is_not_gunicorns_has_nothing_beyond_the_request() -> None:
    for other in (None, io.BytesIO(b"body"), object()):
        assert server.early_bytes({"wsgi.input": other}, None) == b""


def test_an_ended_socket_takes_nothing_more() -> None:
    mine, peer = socket.socketpair()
    with mine, peer:
        server.end(mine)
        assert peer.recv(1) == b""
        with pytest.raises(BrokenPipeError):
            mine.send(b"HTTP/1.1 101")
        server.end(mine)

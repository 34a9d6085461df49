"""Which server runs this process, how many workers there are, and what has replaced the threads."""

from __future__ import annotations

import sys
import threading
import urllib.request
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from werkzeug.serving import make_server

from cartows.servers.detection import configured_workers, find_socket, find_worker, forked_to_serve, replaced_threads, serving
from cartows.servers.gunicorn import Gunicorn
from cartows.servers.werkzeug import Werkzeug
from tests.support.gunicorn import ThreadedWorker, Worker

AT_MOST = 10.0


def test_no_server_runs_in_a_script_or_a_test() -> None:
    assert not serving()
    assert find_worker() is None
    assert configured_workers() == 1
    assert find_socket({"wsgi.version": (1, 0)}) is None


def test_a_worker_that_only_exists_serves_no_app() -> None:
    worker = Worker(workers=4)
    assert not serving()
    assert find_worker() is None
    assert configured_workers() == 1
    assert worker.alive


@pytest.mark.parametrize("kind", [Worker, ThreadedWorker])
def test_the_worker_that_runs_the_main_thread_is_found(kind: type[Worker]) -> None:
    worker = kind(workers=3)
    assert worker.run(find_worker) is worker
    assert worker.run(serving) is True
    assert worker.run(configured_workers) == 3


def test_an_environment_that_every_child_inherits_proves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SERVER_SOFTWARE", "gunicorn/23.0.0")
    monkeypatch.setenv("WERKZEUG_SERVER_FD", "3")
    assert not serving()


def test_a_process_that_code_of_the_apps_own_has_forked_is_no_worker() -> None:
    assert not forked_to_serve(sys._getframe())
    assert not forked_to_serve(None)


@pytest.mark.parametrize("workers", [None, "4"])
def test_a_number_of_workers_that_is_none_is_one(workers: Any) -> None:
    assert Worker(workers).run(configured_workers) == 1


def test_a_worker_without_settings_is_one() -> None:
    worker = Worker()
    del worker.cfg
    assert worker.run(configured_workers) == 1


def test_nothing_is_found_where_gunicorn_was_never_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "gunicorn.workers.base")
    monkeypatch.delitem(sys.modules, "gunicorn.arbiter")
    assert Worker(3).run(lambda: (serving(), find_worker(), configured_workers())) == (False, None, 1)


def test_flasks_own_server_serves() -> None:
    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [f"{serving()} {configured_workers()}".encode()]

    server = make_server("127.0.0.1", 0, app, threaded=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{server.port}/", timeout=AT_MOST) as response:
            assert response.read() == b"True 1"
    finally:
        server.shutdown()
        thread.join(AT_MOST)
        server.server_close()
    assert not serving()


@pytest.mark.parametrize("key, kind", [("werkzeug.socket", Werkzeug), ("gunicorn.socket", Gunicorn)])
def test_the_server_that_received_a_request_is_found_by_its_socket(key: str, kind: type[Any]) -> None:
    sock = object()
    found = find_socket({key: sock})
    assert found is not None
    assert (type(found[0]), found[1], found[0].socket_key) == (kind, sock, key)


@pytest.mark.parametrize(
    "module, asked, what, name",
    [
        ("gevent.monkey", "is_module_patched", "threading", "gevent"),
        ("eventlet.patcher", "is_monkey_patched", "thread", "eventlet"),
    ],
)
def test_a_library_that_has_replaced_the_threads_is_named(
    monkeypatch: pytest.MonkeyPatch, module: str, asked: str, what: str, name: str
) -> None:
    assert replaced_threads() is None
    monkeypatch.setitem(sys.modules, module, SimpleNamespace(**{asked: lambda which: which == what}))
    assert replaced_threads() == name
    monkeypatch.setitem(sys.modules, module, SimpleNamespace(**{asked: lambda which: False}))
    assert replaced_threads() is None

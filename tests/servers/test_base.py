"""What is read off the stacks: whether a web server runs here, which worker, and how many there are."""

from __future__ import annotations

import sys
import threading
import urllib.request
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from werkzeug.serving import make_server

from cartows.servers.base import configured_workers, gunicorn_worker, replaced_threads, serving

AT_MOST = 10.0


class Owner:
    """Stand for gunicorn's worker and its arbiter: what runs the app is a method of it."""

    def __init__(self, workers: Any = 1) -> None:
        self.alive = True
        self.cfg = SimpleNamespace(workers=workers)

    def run(self, app: Callable[[], Any]) -> Any:
        return app()


class Worker(Owner):
    pass


class Arbiter(Owner):
    pass


class ThreadedWorker(Worker):
    def run(self, app: Callable[[], Any]) -> Any:
        return [call() for call in (app,)][0]  # noqa: RUF015 -- a frame of its own, without a self


@pytest.fixture(autouse=True)
def gunicorn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the stand-ins where gunicorn's classes are found."""
    monkeypatch.setitem(sys.modules, "gunicorn.workers.base", SimpleNamespace(Worker=Worker))
    monkeypatch.setitem(sys.modules, "gunicorn.arbiter", SimpleNamespace(Arbiter=Arbiter))


def test_no_server_runs_in_a_script_or_a_test() -> None:
    assert not serving()
    assert gunicorn_worker() is None
    assert configured_workers() == 1


def test_a_worker_that_only_exists_serves_nobody() -> None:
    worker = Worker(workers=4)
    assert not serving()
    assert gunicorn_worker() is None
    assert configured_workers() == 1
    assert worker.alive


@pytest.mark.parametrize("kind", [Worker, ThreadedWorker])
def test_the_worker_that_runs_the_main_thread_is_found(kind: type[Worker]) -> None:
    worker = kind(workers=3)
    assert worker.run(gunicorn_worker) is worker
    assert worker.run(serving) is True
    assert worker.run(configured_workers) == 3


def test_the_worker_is_found_from_a_request_thread_whose_own_stack_it_is_on() -> None:
    # gthread: the pool's thread is inside ThreadWorker.handle_request.
    worker = Worker(workers=2)
    found: list[Any] = []
    thread = threading.Thread(target=worker.run, args=(lambda: found.extend([gunicorn_worker(), configured_workers()]),))
    thread.start()
    thread.join(AT_MOST)
    assert found == [worker, 2]


def test_the_stacks_of_other_threads_are_left_alone() -> None:
    worker = Worker(workers=5)
    found: list[Any] = []

    def elsewhere() -> None:
        found.append(gunicorn_worker())

    def run() -> None:
        thread = threading.Thread(target=elsewhere)
        thread.start()
        thread.join(AT_MOST)

    worker.run(run)
    assert found == [None]


@pytest.mark.parametrize("name, value", [("SERVER_SOFTWARE", "gunicorn/23.0.0"), ("WERKZEUG_SERVER_FD", "3")])
def test_a_thread_of_the_apps_own_serves_where_the_environment_names_a_server(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    assert serving()


def test_a_preloaded_app_knows_how_many_workers_there_will_be() -> None:
    arbiter = Arbiter(workers=7)
    assert arbiter.run(configured_workers) == 7
    assert arbiter.run(gunicorn_worker) is None


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
    assert Worker(3).run(lambda: (serving(), gunicorn_worker(), configured_workers())) == (False, None, 1)


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

"""Middleware of the kinds that apps put around themselves, each of which notes what it sees of a request for ``/ws``."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import remote
from flask import Flask, Request, Response, session
from flask.typing import ResponseReturnValue

from cartows import CartoWS, Hub

App = Callable[..., Iterable[bytes]]

app = Flask(__name__)
app.secret_key = "not a secret"
hub = Hub()
remote.install(app, hub)
ws = CartoWS(app, hub)

#: What was seen, in order, and how many requests are being served.
notes: list[str] = []
active = [0]
lock = threading.Lock()


@ws.authenticate
def visitor(request: Request) -> str:
    session["visits"] = session.get("visits", 0) + 1
    return "ann"


@app.after_request
def see_response(response: Response) -> Response:
    if response.status_code == 101:
        notes.append(f"after_request 101 {response.mimetype}")
        response.set_cookie("seen", "yes")
    return response


@app.get("/notes")
def take_notes() -> ResponseReturnValue:
    taken, notes[:] = list(notes), []
    # The request for these is one of them.
    return {"notes": taken, "active": max(active[0] - 1, 0)}


class Generator:
    """A middleware that is a generator: the app is called only when the server iterates."""

    def __init__(self, app: App) -> None:
        self.app = app

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterator[bytes]:
        yield from self.app(environ, start_response)


class CatchAll:
    """Answers an error of the app with a page of its own."""

    def __init__(self, app: App) -> None:
        self.app = app

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        try:
            return self.app(environ, start_response)
        except Exception as error:
            notes.append(f"catch-all {error!r}")
            start_response("500 INTERNAL SERVER ERROR", [("Content-Type", "text/plain")])
            return [b"sorry"]


class Reporter:
    """Reports whatever is raised while the app is called, iterated or closed, as Sentry's does."""

    def __init__(self, app: App) -> None:
        self.app = app

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        def noting(status: str, headers: list[Any], *rest: Any) -> Any:
            if environ["PATH_INFO"] == "/ws":
                notes.append(f"started {status.split()[0]}")
            return start_response(status, headers, *rest)

        try:
            return self._reported(self.app(environ, noting))
        except BaseException as error:
            notes.append(f"reported {error!r}")
            raise

    def _reported(self, body: Iterable[bytes]) -> Iterator[bytes]:
        iterator = iter(body)
        try:
            while True:
                try:
                    item = next(iterator)
                except StopIteration:
                    return
                except BaseException as error:
                    notes.append(f"reported {error!r}")
                    raise
                yield item
        finally:
            getattr(body, "close", lambda: None)()


class ActiveRequests:
    """Counts requests that are being served, as OpenTelemetry's does: up at the call, and down when it has returned."""

    def __init__(self, app: App) -> None:
        self.app = app

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        with lock:
            active[0] += 1
        # Not in a finally: an exception leaves the request counted.
        body = self.app(environ, start_response)
        return self._ending(body)

    def _ending(self, body: Iterable[bytes]) -> Iterator[bytes]:
        try:
            yield from body
        finally:
            getattr(body, "close", lambda: None)()
            with lock:
                active[0] -= 1


kind = {"generator": Generator, "catch-all": CatchAll, "reporter": Reporter, "active": ActiveRequests}[app.config["MIDDLEWARE"]]
app.wsgi_app = kind(app.wsgi_app)  # type: ignore[method-assign]

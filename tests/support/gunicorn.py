"""Stand-ins for the classes of gunicorn that run an app: what runs it is a method of theirs."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest


class Owner:
    """What gunicorn's worker and its arbiter have in common."""

    def __init__(self, workers: Any = 1, threads: Any = 1) -> None:
        self.alive = True
        self.pid = os.getpid()
        self.cfg = SimpleNamespace(workers=workers, threads=threads)

    def run(self, app: Callable[[], Any]) -> Any:
        return app()


class Worker(Owner):
    """A worker that handles a request in its own frame."""


class ThreadedWorker(Worker):
    """A worker that handles a request in a frame without a ``self``."""

    def run(self, app: Callable[[], Any]) -> Any:
        return [call() for call in (app,)][0]  # noqa: RUF015 -- a frame of its own


class Arbiter(Owner):
    """The master process, which loads a preloaded app."""


def install(monkeypatch: pytest.MonkeyPatch) -> None:
    """Put the stand-ins where gunicorn's classes are found."""
    monkeypatch.setitem(sys.modules, "gunicorn.workers.base", SimpleNamespace(Worker=Worker))
    monkeypatch.setitem(sys.modules, "gunicorn.arbiter", SimpleNamespace(Arbiter=Arbiter))

"""Checks after every test: it must leave no thread and no descriptor of this process behind."""

from __future__ import annotations

import gc
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

# How long the last threads and descriptors of a test may take to end, in seconds.
CLEANUP_WAIT = 10.0

# Linux shows what a process holds open; elsewhere only Python's own list of threads is checked.
HAS_PROC = sys.platform == "linux" and Path("/proc/self/fd").is_dir()


def _threads() -> set[str]:
    """Return every thread of this process: Python's by name, and those that only the kernel lists."""
    known = {f"{thread.native_id} {thread.name}" for thread in threading.enumerate() if thread.is_alive()}
    if not HAS_PROC:
        return known
    named = {entry.split(" ", 1)[0] for entry in known}
    return known | {f"{task} (not Python's)" for task in os.listdir("/proc/self/task") if task not in named}


def _descriptors() -> set[str]:
    """Return every open descriptor of this process, with what it is open on."""
    if not HAS_PROC:
        return set()
    found = set()
    for number in os.listdir("/proc/self/fd"):
        try:
            found.add(f"{number} -> {os.readlink(f'/proc/self/fd/{number}')}")
        except OSError:  # the descriptor of this very listing
            continue
    return found


def _remaining(current: Callable[[], set[str]], before: set[str]) -> set[str]:
    """Return what exists now and did not before, as soon as that is nothing, or else at the deadline."""
    deadline = time.monotonic() + CLEANUP_WAIT
    left = current() - before
    while left and time.monotonic() < deadline:
        gc.collect()  # a descriptor that only a reference cycle holds is not a leak
        time.sleep(0.01)
        left = current() - before
    return left


def pytest_collection_finish() -> None:
    """Exclude the objects of the imports from later collections: each test runs two of them."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def dead_threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Fail a test in which a thread died of an exception; a test that expects that clears this list."""
    died: list[str] = []

    def record(args: threading.ExceptHookArgs) -> None:
        name = args.thread.name if args.thread is not None else "a thread"
        what = traceback.format_exception(args.exc_type, args.exc_value, args.exc_traceback)
        died.append(f"{name} died:\n{''.join(what)}")

    monkeypatch.setattr(threading, "excepthook", record)
    yield died
    if died:
        pytest.fail("\n".join(died))


@pytest.fixture(autouse=True)
def nothing_left_behind(dead_threads: list[str]) -> Iterator[None]:
    """Fail a test that leaves a thread or a descriptor behind; what was there before it is not counted."""
    gc.collect()
    threads, descriptors = _threads(), _descriptors()
    yield
    left = sorted(_remaining(_threads, threads) | _remaining(_descriptors, descriptors))
    if left:
        pytest.fail("left behind: " + "; ".join(left))

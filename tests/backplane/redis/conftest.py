"""Fixtures of the tests with a real Redis: servers, proxies to them, and event writers, all of which end with the test."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cartows.backplane.redis.connect import Broker
from cartows.backplane.redis.event_store import Store
from cartows.backplane.redis.event_writer import EventWriter
from tests.support.redis.presence import Process, Start
from tests.support.redis.server import Proxy, Redis
from tests.support.redis.writers import TIMEOUT, MakeWriter


@pytest.fixture
def make_redis(tmp_path: Path) -> Iterator[Callable[..., Redis]]:
    """Start servers for one test."""
    servers: list[Redis] = []

    def start(**settings: Any) -> Redis:
        directory = tmp_path / f"redis{len(servers)}"
        directory.mkdir()
        server = Redis(directory, **settings)
        servers.append(server)
        return server

    yield start
    for server in servers:
        server.stop()


@pytest.fixture
def server(make_redis: Callable[..., Redis]) -> Redis:
    """A server for one test."""
    return make_redis()


@pytest.fixture
def proxy(server: Redis) -> Iterator[Proxy]:
    """A proxy to that server."""
    proxy = Proxy(server.port)
    yield proxy
    proxy.close()


@pytest.fixture
def make_store() -> Iterator[Callable[..., Store]]:
    """Make connections to a server for the thread of the test."""
    stores: list[Store] = []

    def make(url: str, timeout: float = 10.0) -> Store:
        store = Store(Broker(url).link(timeout))
        stores.append(store)
        return store

    yield make
    for store in stores:
        store.close()


@pytest.fixture
def make_writer() -> Iterator[MakeWriter]:
    """Make event writers to a server."""
    writers: list[EventWriter] = []

    def make(
        url: str, *, timeout: float = TIMEOUT, size: int = 10_000, max_bytes: int = 2**24, sink: Any = None
    ) -> EventWriter:
        broker = Broker(url)
        logger = logging.getLogger("cartows.test")
        writer = EventWriter(lambda: Store(broker.link(timeout)), size, max_bytes, logger, sink)
        writers.append(writer)
        return writer

    yield make
    for writer in writers:
        writer.stop(0)


@pytest.fixture
def start(server: Redis) -> Iterator[Start]:
    """Start processes that share presence."""
    processes: list[Process] = []

    def start(url: str = server.url, **options: Any) -> Process:
        process = Process(url, **options)
        processes.append(process)
        process.sync.start()
        return process

    yield start
    for process in processes:
        process.sync.stop(10)

"""Fixtures of the integration tests: servers, shared by the tests of a module where possible."""

from __future__ import annotations

import json
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import pytest
import trustme

from tests.support.cluster import PUBLISH_TIMEOUT, Cluster
from tests.support.harness import HOST, Plan, Server, Tls
from tests.support.redis.server import Redis


class Serve(Protocol):
    """Return a running server with an app of ``tests/apps``."""

    def __call__(self, app: str = ..., *, fresh: bool = ..., config: dict[str, Any] | None = ..., **plan: Any) -> Server:
        """Start it, or return the one that an earlier test of the module started with the same arguments.

        ``fresh`` starts one for this test alone. ``config`` goes into ``app.config``; the rest is for ``Plan``.
        """


class Fleet:
    """The servers of one test module."""

    def __init__(self, factory: pytest.TempPathFactory, tls: Tls) -> None:
        self._factory = factory
        self._tls = tls
        self._shared: dict[Plan, Server] = {}
        #: Those of the running test.
        self.used: list[Server] = []

    def get(self, plan: Plan, fresh: bool) -> Server:
        server = None if fresh else self._shared.get(plan)
        if server is None:
            server = Server(plan, self._factory.mktemp("server"), self._tls)
            if not fresh:
                self._shared[plan] = server
        if server not in self.used:
            self.used.append(server)
        return server

    def check(self) -> None:
        """Check the servers of this test; stop those that no other test may use, and those that fail."""
        used, self.used = self.used, []
        faults = []
        for server in used:
            shared = self._shared.get(server.plan) is server
            try:
                if shared or server.process.poll() is None:
                    server.check()
                if not shared:
                    server.stop()
            except AssertionError as error:
                faults.append(f"{server.plan}: {error}")
                server.kill()
                if shared:  # the next test gets a new one
                    del self._shared[server.plan]
        if faults:
            pytest.fail("\n".join(faults))

    def stop(self) -> None:
        servers, self._shared = list(self._shared.values()), {}
        faults = []
        for server in servers:  # all at once, since some take a moment to stop
            server.terminate()
        for server in servers:
            try:
                server.stop()
            except AssertionError as error:
                faults.append(f"{server.plan}: {error}")
                server.kill()
        if faults:
            pytest.fail("\n".join(faults))


@pytest.fixture(scope="session")
def tls(tmp_path_factory: pytest.TempPathFactory) -> Tls:
    directory: Path = tmp_path_factory.mktemp("tls")
    authority = trustme.CA()
    issued = authority.issue_cert(HOST)
    issued.cert_chain_pems[0].write_to_path(directory / "certificate.pem")
    issued.private_key_pem.write_to_path(directory / "key.pem")
    client = ssl.create_default_context()
    authority.configure_trust(client)
    return Tls(directory / "certificate.pem", directory / "key.pem", client)


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory, tls: Tls) -> Iterator[Fleet]:
    servers = Fleet(tmp_path_factory, tls)
    yield servers
    servers.stop()


@pytest.fixture
def serve(fleet: Fleet) -> Iterator[Serve]:
    def start(app: str = "quickstart", *, fresh: bool = False, config: dict[str, Any] | None = None, **plan: Any) -> Server:
        return fleet.get(Plan(app, config=json.dumps(config or {}, sort_keys=True), **plan), fresh)

    yield start
    fleet.check()


# Many workers, one Redis ----------------------------------------------------------------------------------------------

CONFIG = {"CARTOWS_PUBLISH_TIMEOUT": PUBLISH_TIMEOUT, "CARTOWS_FILTER_KEYS": ["project_id", "board_id"]}


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Redis]:
    """The Redis of the module. It has written what it acknowledged, so it loses nothing when it is killed."""
    server = Redis(tmp_path_factory.mktemp("redis"), persistent=True, appendfsync="no")
    yield server
    server.stop()


@pytest.fixture
def make_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Redis]]:
    """Return a function that starts Redis servers for one test."""
    servers: list[Redis] = []

    def start(**settings: Any) -> Redis:
        servers.append(Redis(tmp_path_factory.mktemp("redis"), **settings))
        return servers[-1]

    yield start
    for server in servers:
        server.stop()


@pytest.fixture
def make_cluster(serve: Serve) -> Callable[..., Cluster]:
    """Return a function that starts workers on a Redis and waits until they are ``connected``; the rest is ``app.config``."""

    def start(
        url: str, *, fresh: bool = True, connected: bool = True, arguments: tuple[str, ...] = (), **config: Any
    ) -> Cluster:
        settings = {**CONFIG, "CARTOWS_REDIS_URL": url, **config}
        found = Cluster(serve("cluster", workers=3, config=settings, fresh=fresh, arguments=arguments))
        if connected:
            found.await_connected()
        return found

    return start


@pytest.fixture
def cluster(redis: Redis, make_cluster: Callable[..., Cluster]) -> Cluster:
    """The workers of the module; a test that stops their Redis starts it again."""
    return make_cluster(redis.url, fresh=False)


@pytest.fixture
def own(make_redis: Callable[..., Redis], make_cluster: Callable[..., Cluster]) -> Cluster:
    """Workers and a Redis for one test."""
    return make_cluster(make_redis().url)

"""URLs, and the errors of a broker that cannot be used: each fault with a real server that has it."""

from __future__ import annotations

import builtins
import logging
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import redis

from cartows import OptionsError
from cartows.backplane.redis.connect import Broker, BrokerError, Link, Script
from cartows.backplane.redis.event_store import Store, record_of
from tests.support.harness import ROOT
from tests.support.redis.events import NAMES, event
from tests.support.redis.server import HOST, Redis, binary, free_port
from tests.support.waiting import wait_until

MANY_WORKERS = ROOT / "docs" / "how-to" / "many-workers.md"

SECRET = "s3cr:t/#?@%"
QUOTED = "s3cr%3At%2F%23%3F%40%25"


def fault(url: str, timeout: float = 5.0) -> BrokerError:
    """Return the error of storing an event there."""
    link = Broker(url).link(timeout)
    try:
        with pytest.raises(BrokerError) as caught:
            Store(link).store("a" * 16, 1, [event(1)], 0)
    finally:
        link.close()
    text = str(caught.value)
    assert text.isprintable()
    assert SECRET not in text
    assert QUOTED not in text
    assert text.startswith(f"Storing events at {Broker(url).address} failed: ")
    return caught.value


# URLs -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("redis://", "redis://localhost:6379/0"),
        ("redis://cache", "redis://cache:6379/0"),
        ("redis://cache:7000/3", "redis://cache:7000/3"),
        ("redis://cache?db=4", "redis://cache:6379/4"),
        (f"redis://:{QUOTED}@cache/1", "redis://cache:6379/1"),
        (f"redis://user:{QUOTED}@[::1]:7000/", "redis://[::1]:7000/0"),
        ("rediss://cache?ssl_ca_certs=/some/where.pem", "rediss://cache:6379/0"),
        (f"unix:///run/redis.sock?db=2&password={QUOTED}", "unix:///run/redis.sock"),
    ],
)
def test_a_url_has_an_address_that_can_be_logged(url: str, address: str) -> None:
    broker = Broker(url)
    link = broker.link(1.0)
    assert broker.address == address
    for shown in (repr(broker), repr(link), repr(link._client), repr(link._client.connection_pool), str(vars(link))):
        assert SECRET not in shown
        assert QUOTED not in shown


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("", "does not begin with redis://"),
        (None, "does not begin with redis://"),
        ("cache:6379", "does not begin with redis://"),
        (f"http://:{QUOTED}@cache", "does not begin with redis://"),
        (f"redis://:{SECRET}@cache", "cannot be parsed"),
        (f"redis://:{QUOTED}@cache:99999", "cannot be parsed"),
        (f"redis://:{QUOTED}@cache:port", "cannot be parsed"),
        (f"redis://:{QUOTED}@cache/zero", "the database after its host is not a number"),
        (f"redis://:{QUOTED}@cache/0#x", 'it has a "#"'),
        (f"redis://:{QUOTED}@cache?socket_timeout=60", "its query sets socket_timeout"),
        (f"redis://:{QUOTED}@cache?{QUOTED}=60", "its query sets something"),
        (f"redis://:{QUOTED}@cache?ssl_ca_certs=x", "its query sets ssl_ca_certs"),
        (f"rediss://:{QUOTED}@cache?ssl_check_hostname=maybe", "neither true nor false"),
        ("unix://", "it names no socket"),
    ],
)
def test_a_url_that_cannot_be_used_is_rejected_with_what_is_allowed(url: str, expected: str) -> None:
    with pytest.raises(OptionsError, match="CARTOWS_REDIS_URL cannot be used: ") as caught:
        Broker(url)
    text = str(caught.value)
    assert expected in text
    assert "It must be redis://[[user]:password@]host[:port][/db]" in text
    assert "s3cr" not in text
    assert caught.value.__context__ is None


def test_a_missing_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def importing(name: str, *arguments: Any) -> Any:
        if name.partition(".")[0] == "redis":
            raise ImportError(name)
        return real(name, *arguments)

    monkeypatch.setattr(builtins, "__import__", importing)
    monkeypatch.delitem(sys.modules, "redis")
    with pytest.raises(OptionsError, match=r"pip install 'cartows\[redis\]'"):
        Broker("redis://cache")


@pytest.mark.parametrize("database", [0, 3])
def test_a_password_and_a_database_are_used(make_redis: Callable[..., Redis], make_store: Any, database: int) -> None:
    server = make_redis(requirepass=SECRET)
    store = make_store(f"redis://:{QUOTED}@{HOST}:{server.port}/{database}")
    assert store.store("a" * 16, 1, [event(1)], 0).number == 1
    assert f"db{database}" in server.do("INFO", "keyspace")


def test_a_unix_socket_is_used(make_redis: Callable[..., Redis], monkeypatch: pytest.MonkeyPatch, make_store: Any) -> None:
    server = make_redis()
    # The whole path may be longer than a socket's name can be.
    monkeypatch.chdir(server.directory)
    broker = Broker("unix:///redis.sock")
    broker._settings["path"] = server.socket.name
    link = broker.link(5.0)
    try:
        assert Store(link).store("a" * 16, 1, [event(1)], 0).number == 1
    finally:
        link.close()


# Faults -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("user", "expected"),
    [
        ("", "It requires a password"),
        (":wrong@", "Check the user and the password"),
        ("unknown:x@", "Check the user and the password"),
    ],
)
def test_a_wrong_password(make_redis: Callable[..., Redis], user: str, expected: str) -> None:
    server = make_redis(requirepass=SECRET)
    error = fault(f"redis://{user}{HOST}:{server.port}/0")
    assert expected in str(error)
    assert not error.broken
    assert "wrong" not in str(error).partition("failed: ")[2]


def test_a_password_where_none_is_wanted(server: Redis) -> None:
    assert "Check the user and the password" in str(fault(f"redis://:{QUOTED}@{HOST}:{server.port}/0"))


@pytest.mark.parametrize("rights", ["-eval -evalsha", "~other:*", "-xadd"])
def test_a_user_that_may_not(server: Redis, rights: str) -> None:
    keys = rights if rights.startswith("~") else f"~* +@all {rights}"
    server.do("ACL", "SETUSER", "app", "on", f">{SECRET}", "+@all", *keys.split())
    error = fault(f"redis://app:{QUOTED}@{HOST}:{server.port}/0")
    assert "Its user may not do that" in str(error)


def test_the_rights_that_are_asked_for_are_enough(server: Redis, make_store: Any) -> None:
    """Those that the remedy names, with a database number as well: SELECT is in @connection from Redis 7 on only."""
    server.do("ACL", "SETUSER", "app", "on", f">{SECRET}", "~cartows:*")
    url = f"redis://app:{QUOTED}@{HOST}:{server.port}/3"
    remedy = str(fault(url))
    rights = re.search(r"allow it ~cartows:\* (.*)$", remedy)
    assert rights, remedy
    documented = re.findall(r"[-+][@a-z]+", MANY_WORKERS.read_text().partition("ACL SETUSER")[2].partition("\n- ")[0])
    exact = documented[documented.index("-@all") :]
    assert documented == [*rights[1].split(), *exact]
    for number, given in enumerate((rights[1].split(), exact)):
        server.do("ACL", "SETUSER", "app", "-@all", *given)
        store = make_store(url)
        epoch, *_ = store.store("a" * 16, number + 1, [event(1)], 0)
        with server.client() as client:
            client.execute_command("SELECT", 3)
            id, fields = client.xrange(NAMES.events)[-1]
        assert store.check(epoch, number + 1, record_of(id, fields)).state == "fine"
        assert store.position() == (epoch, number + 1)


@pytest.mark.parametrize("database", [0, 3])
def test_a_sentinel(tmp_path: Path, database: int) -> None:
    path = binary()
    assert path is not None
    port = free_port()
    configuration = tmp_path / "sentinel.conf"
    configuration.write_text(f"port {port}\nbind {HOST}\nsentinel monitor primary {HOST} {free_port()} 1\n")
    process = subprocess.Popen([path, str(configuration), "--sentinel"], cwd=tmp_path, stdout=subprocess.DEVNULL)
    try:
        url = f"redis://{HOST}:{port}/{database}"
        error = wait_until(lambda: _unless_refused(url), "the Sentinel to answer")
        assert "It is a Sentinel" in str(error)
        assert "name the primary" in str(error)
    finally:
        process.terminate()
        process.wait(10)


def _unless_refused(url: str) -> BrokerError | None:
    error = fault(url)
    return None if "Nothing listens there" in str(error) else error


def test_a_full_server(server: Redis) -> None:
    server.config("maxmemory", "100kb")
    error = fault(server.url)
    assert "It is full" in str(error)
    assert not error.broken


def test_a_replica(make_redis: Callable[..., Redis]) -> None:
    primary, replica = make_redis(), make_redis()
    replica.replicate(primary)
    assert "It is a replica" in str(fault(replica.url))


def test_a_server_that_cannot_write_to_its_disk(make_redis: Callable[..., Redis]) -> None:
    server = make_redis(dbfilename="taken.rdb")
    (server.directory / "taken.rdb").mkdir()
    server.config("save", "3600 1")
    with server.client() as client:
        client.bgsave()
        wait_until(lambda: client.info("persistence")["rdb_last_bgsave_status"] == "err", "a save to fail")
    assert "It cannot write to its disk" in str(fault(server.url))
    server.config("save", "")


def test_a_server_that_runs_a_script_of_another_client(server: Redis) -> None:
    server.config("lua-time-limit", 10)
    with server.client() as client:
        client.ping()
        running = threading.Thread(target=_swallow, args=(client.eval, "while true do end", 0))
        running.start()
        try:
            with server.client() as other:
                wait_until(lambda: _is_busy(other), "the script to be busy")
            assert "A script of another client is running there" in str(fault(server.url))
        finally:
            server.do("SCRIPT", "KILL")
            running.join(10)


def _is_busy(client: redis.Redis) -> bool:
    try:
        client.ping()
    except redis.ResponseError as error:
        return str(error).startswith("BUSY")
    return False


def _swallow(call: Callable[..., Any], *arguments: Any) -> None:
    try:
        call(*arguments)
    except Exception:
        logging.getLogger("cartows.test").info("ended, as intended")


def test_a_server_without_streams(make_redis: Callable[..., Redis]) -> None:
    # Older ones do not know XADD either.
    server = make_redis(rename_command=["XADD", ""])
    assert "It must be Redis 5.0 or later" in str(fault(server.url))


def test_a_server_that_accepts_no_more_connections(make_redis: Callable[..., Redis]) -> None:
    server = make_redis()
    with server.client() as client:
        client.config_set("maxclients", 1)
        assert "It accepts no more connections" in str(fault(server.url))


def test_no_server_listens() -> None:
    error = fault(f"redis://{HOST}:{free_port()}")
    assert "Nothing listens there" in str(error)
    assert error.broken


# redis-py 5.0 leaves a socket to the garbage collector here.
@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")
def test_no_such_socket() -> None:
    assert "Nothing listens there" in str(fault("unix:///no/such/socket"))


def test_no_such_host() -> None:
    assert "The host's name cannot be resolved" in str(fault("redis://nowhere.invalid"))


def test_a_server_that_does_not_answer(server: Redis) -> None:
    server.pause()
    error = fault(server.url, timeout=0.2)
    assert "no answer within 0.2 s. It may be paused" in str(error)
    assert not error.broken


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "The server there is not Redis"),
        (b"", "It was stopped, or it closes connections"),
        (b"-LOADING Redis is loading the dataset in memory\r\n" * 9, "It has just started"),
        (b"-MOVED 866 127.0.0.1:7001\r\n" * 9, "It is a node of a Redis Cluster"),
        (b"-MASTERDOWN Link with MASTER is down\r\n" * 9, "lost its primary"),
        (b"-ERR unknown command 'EVALSHA', with args: 's3cr:t/#?@%'\r\n" * 9, "It must be Redis 5.0 or later"),
        (b"-ERR something\x1b[31m else\r\n" * 9, "something"),
    ],
)
def test_what_another_server_answers(answer: bytes, expected: str) -> None:
    listener = socket.create_server((HOST, 0))

    def serve() -> None:
        for _ in range(1):
            peer, _ = listener.accept()
            with peer:
                peer.recv(65536)
                peer.sendall(answer)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        assert expected in str(fault(f"redis://:{QUOTED}@{HOST}:{listener.getsockname()[1]}"))
    finally:
        thread.join(10)
        listener.close()


def test_a_connection_that_was_killed_is_opened_again(server: Redis) -> None:
    link: Link = Broker(server.url).link(5.0)
    script = Script.of("return 7")
    try:
        assert link.run("Trying", script, [], []) == 7
        assert server.kill_clients() == 1
        try:
            link.run("Trying", script, [], [])
        except BrokerError as error:
            assert error.broken
        assert link.run("Trying", script, [], []) == 7
    finally:
        link.close()

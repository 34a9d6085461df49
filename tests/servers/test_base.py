"""What the servers have in common: how they are found on the stack, and how a socket is taken."""

from __future__ import annotations

import socket
import ssl
import threading
from typing import Any

from cartows.servers.base import SocketServer, find_on_stack
from tests.support.gunicorn import Arbiter, ThreadedWorker, Worker

AT_MOST = 10.0


def find() -> list[Any]:
    return find_on_stack("gunicorn.workers.base", "Worker")


def test_instances_are_found_on_the_callers_stack_innermost_first() -> None:
    outer, inner = Worker(), ThreadedWorker()
    assert outer.run(lambda: inner.run(find)) == [inner, outer]
    assert Arbiter().run(find) == []
    assert find() == []


def test_the_stacks_of_other_threads_are_not_read() -> None:
    worker = Worker(workers=5)
    found: list[Any] = []

    def elsewhere() -> None:
        found.append(find())

    def run() -> None:
        thread = threading.Thread(target=elsewhere)
        thread.start()
        thread.join(AT_MOST)

    worker.run(run)
    assert found == [[]]


def test_a_class_of_a_module_that_was_never_imported_is_not_found() -> None:
    assert Worker().run(lambda: find_on_stack("no.such.module", "Worker")) == []
    assert Worker().run(lambda: find_on_stack("gunicorn.workers.base", "NoSuchClass")) == []


def test_only_a_plain_socket_can_be_taken() -> None:
    class Wrapped(socket.socket):
        pass

    server = SocketServer()
    with socket.socket() as plain, Wrapped() as wrapped, socket.socket() as raw:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        with context.wrap_socket(raw, do_handshake_on_connect=False) as tls:
            assert [server.can_take(each) for each in (plain, wrapped, tls, object())] == [True, False, False, False]


def test_what_the_server_keeps_is_a_dead_end_that_it_may_shut_down_and_close() -> None:
    dead_end, other = socket.socketpair()
    other.close()
    held, peer = socket.socketpair()
    with dead_end, peer:
        own = held.dup()
        SocketServer().take(held, dead_end)
        assert held.recv(1) == b""
        held.shutdown(socket.SHUT_RDWR)
        held.close()
        own.sendall(b"still open")
        assert peer.recv(64) == b"still open"
        own.close()

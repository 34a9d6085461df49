"""Attacks by which few bytes, or few clients, cost the server much: time with the GIL held, or memory for them together."""

from __future__ import annotations

import contextlib
import functools
import json
import threading
import time
import zlib
from collections.abc import Iterator
from random import Random

from tests.hostile.target import DEFLATE, GONE, AttackClient, Target, frame, json_frame, open_client
from tests.support.raw_client import CONTINUATION, TEXT, deflate

# A multiple of it hashes to 0, in every CPython of 64 bits: sys.hash_info.modulus.
_MODULUS = 2**61 - 1

# Clients that one thread of an attack holds open: with two threads sixty, and each occupies as much memory as it may.
_CLIENTS = 30

# How long they stay at least, once all of them have sent everything: the server has to read that; seconds.
_STAY = 1.0

# A message just below max_message_size (512 KiB).
_SIZE = 500_000

# Names of 256 characters of four bytes each, by the message: as many as fit a small command.
_NAMES, _MESSAGES = 10, 10


def packed(message: object) -> bytes:
    """Return JSON without spaces."""
    return json.dumps(message, separators=(",", ":")).encode()


@functools.cache
def collisions(count: int = 21_000) -> bytes:
    """Return a ``subscribe`` to numbers that a set compares with one another: the square of their count."""
    return packed({"type": "subscribe", "data": {"board_id": [k * _MODULUS for k in range(1, count + 1)]}})


@functools.cache
def amplifier(kind: str, size: int = _SIZE) -> bytes:
    """Return a deflated message of many empty lists, each an object with the GIL held and work for the garbage collector."""
    return deflate(b'{"type":"%s","data":[%s[]]}' % (kind.encode(), b"[]," * (size // 3)))


def ended_deflate(data: bytes) -> bytes:
    """Return data as a deflate stream whose last block has BFINAL set: nothing can follow."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    return packer.compress(data) + packer.flush(zlib.Z_FINISH)


def colliding_numbers(target: Target, rng: Random, stop: threading.Event) -> str:
    with open_client(target) as client:
        client.try_send(frame(TEXT, collisions()))
        client.finish()
        return client.ending()


def amplification(target: Target, rng: Random, stop: threading.Event) -> str:
    """Send deflated lists as every kind of message, as fast as the rate limit allows, with a ping after each."""
    with open_client(target, DEFLATE) as client:
        for number in range(40):
            kind = ("subscribe", "ping", "auth.refresh", "no.such", "pong")[number % 5]
            if not client.try_send(frame(TEXT, amplifier(kind), rsv=4) + json_frame({"type": "ping"})):
                break
        client.finish()
        return client.ending()


def endless_deflate(target: Target, rng: Random, stop: threading.Event) -> str:
    """End the deflate stream, and go on with the message: zlib keeps what follows, and inflates nothing of it."""
    more = frame(CONTINUATION, rng.randbytes(64 * 1024), fin=False)
    with open_client(target, DEFLATE) as client:
        client.try_send(frame(TEXT, ended_deflate(b'{"type":"ping"}'), rsv=4, fin=False))
        for _ in range(128):
            if not client.try_send(more):
                break
        return client.ending(4.0)


def unread_in_numbers(target: Target, rng: Random, stop: threading.Event) -> str:
    """Ask for long answers with many clients, read none, and stay."""
    ask = json_frame({"type": "echo", "data": "x" * 50_000})
    with _crowd(target, stop) as clients:
        for _ in range(20):
            for client in clients:
                client.try_send(ask)
    return GONE


def long_names(target: Target, rng: Random, stop: threading.Event) -> str:
    """Hold as many rooms as one may, with the longest names there can be, and a different set with every client."""
    with _crowd(target, stop) as clients:
        for client in clients:
            for _ in range(_MESSAGES):
                names = [f"{rng.getrandbits(64):016x}".ljust(256, "\U0001f600") for _ in range(_NAMES)]
                client.try_send(
                    frame(TEXT, json.dumps({"type": "subscribe", "data": {"board_id": names}}, ensure_ascii=False).encode())
                )
    return GONE


def unfinished(size: int = _SIZE) -> Iterator[bytes]:
    """Yield the frames of a message without an end; one character in two thousand makes Python keep four bytes for each."""
    line = ("x" * 2000 + "\U0001f600").encode()
    yield frame(TEXT, line, fin=False)
    for _ in range(size // len(line) - 1):
        yield frame(CONTINUATION, line, fin=False)


def unfinished_messages(target: Target, rng: Random, stop: threading.Event) -> str:
    message = b"".join(unfinished())
    with _crowd(target, stop) as clients:
        for client in clients:
            client.try_send(message)
    return GONE


@contextlib.contextmanager
def _crowd(target: Target, stop: threading.Event) -> Iterator[list[AttackClient]]:
    """Hold many clients, each with the buffer of a client far away, until ``stop``, and at least until all is sent."""
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(open_client(target, receive_buffer=4096)) for _ in range(_CLIENTS)]
        for client in clients:
            # One that is not read from any more must not hold the attack up.
            client.socket.settimeout(0.2)
            stack.callback(client.reset)
        yield clients
        stop.wait()
        time.sleep(_STAY)

"""The attacks: each a round that is repeated for as long as the attack lasts, and how a round may end.

Every round makes its own connections, is bounded in time, and returns in a word how the server ended it. What stays open
stays so until ``over`` is set.
"""

from __future__ import annotations

import dataclasses
import functools
import re
import threading
import time
import zlib
from collections import Counter
from collections.abc import Callable, Sequence
from random import Random

from tests.hostile import mutations
from tests.hostile.wire import CONTINUATION, GONE, PING, PONG, SILENT, TEXT, Target, Wire, frame, request, said

Round = Callable[[Target, Random, threading.Event], str]

DEFLATE = ("Sec-WebSocket-Extensions", "permessage-deflate")

# How long a mutated request, which need not be a whole one, is given to be answered.
_GLANCE = 0.3

# How often a slow client sends its next byte.
DRIP = 0.02


@dataclasses.dataclass(frozen=True)
class Attack:
    """One way to misbehave."""

    name: str
    what: str
    round: Round
    #: How a round may end, as a regular expression; anything else is a finding.
    ends: str
    threads: int = 2
    #: Holds request threads, which is the server's business and not the app's: see slow_handshake.
    starves: bool = False
    #: A round whose end decides nothing when the server is too busy to answer soon.
    lasts: bool = False

    def expects(self, end: str) -> bool:
        return re.fullmatch(self.ends, end) is not None


# A request that is no opening handshake gets an answer that says so, from the server or from the app; never an error of theirs.
ANSWERS = r"101|400|403|404|405|408|413|414|417|421|426|429|431|501|503|505|gone|silent"
# A client that breaks the protocol, or makes no sense, is told why; one that leaves first is not.
CLOSES = r"close (1000|1001|1002|1003|1005|1007|1008|1009|3000|3013|4999)|gone"


def open_wire(target: Target, *more: tuple[str, str], receive_buffer: int = 0, path: str | None = None) -> Wire:
    """Return a connection that was upgraded. Raises ConnectionError where that was refused."""
    wire = Wire(target, receive_buffer=receive_buffer)
    status = wire.open([*target.handshake(), *more], path)
    if status != "101":
        wire.vanish()
        raise ConnectionRefusedError(status)
    return wire


def broken_handshakes(target: Target, chance: Random, over: threading.Event) -> str:
    with Wire(target) as wire:
        wire.send(mutations.handshake(chance, target))
        found = wire.status(_GLANCE)
        wire.vanish()
        return found


def broken_frames(target: Target, chance: Random, over: threading.Event) -> str:
    with open_wire(target) as wire:
        wire.send(mutations.frames(chance))
        wire.finish()
        return wire.ending()


def broken_deflate(target: Target, chance: Random, over: threading.Event) -> str:
    with open_wire(target, DEFLATE) as wire:
        wire.send(mutations.compressed(chance))
        wire.finish()
        return wire.ending()


def odd_messages(target: Target, chance: Random, over: threading.Event) -> str:
    """Say things that make no sense until the server has had enough."""
    with open_wire(target) as wire:
        for _ in range(100):
            if not wire.send(frame(TEXT, mutations.message(chance))):
                break
        wire.finish()
        return wire.ending()


def lying_lengths(target: Target, chance: Random, over: threading.Event) -> str:
    """Announce much, send little, and stay."""
    with open_wire(target) as wire:
        wire.send(frame(TEXT, b"{", length=chance.choice((100, 65535, 500_000, 2**31, 2**62))))
        over.wait(_GLANCE)
        wire.finish()
        return wire.ending()


def endless_fragments(target: Target, chance: Random, over: threading.Event) -> str:
    """Never end a message: empty fragments, and pings between them."""
    with open_wire(target) as wire:
        parts = [frame(CONTINUATION, chance.choice((b"", b"x", b"x" * 4096)), fin=False) for _ in range(20)]
        wire.send(frame(TEXT, b"x", fin=False))
        for _ in range(50):
            if over.is_set() or not wire.send(b"".join(parts) + frame(PING)):
                break
        wire.finish()
        return wire.ending()


@functools.cache
def bomb(mebibytes: int) -> bytes:
    """Return so much of nothing, compressed to a thousandth."""
    engine = zlib.compressobj(9, zlib.DEFLATED, -15)
    return b"".join(engine.compress(bytes(1 << 20)) for _ in range(mebibytes)) + engine.flush(zlib.Z_SYNC_FLUSH)


def bombs(target: Target, chance: Random, over: threading.Event) -> str:
    data = bomb(chance.choice((1, 20, 100)))
    with open_wire(target, DEFLATE) as wire:
        if chance.random() < 0.5:
            wire.send(frame(TEXT, data, rsv=4))
        else:
            pieces = [data[start : start + 1000] for start in range(0, len(data), 1000)]
            wire.send(frame(TEXT, pieces[0], rsv=4, fin=False))
            all(wire.send(frame(CONTINUATION, piece, fin=False)) for piece in pieces[1:])
        return wire.ending()


def tiny_messages(target: Target, chance: Random, over: threading.Event) -> str:
    """Send the smallest message there is, a thousand at a time, and read no answer before the end."""
    batch = frame(TEXT, b"{}" if chance.random() < 0.5 else b'{"type":"ping"}') * 1000
    with open_wire(target) as wire:
        for _ in range(20):
            if not wire.send(batch):
                break
        return wire.ending()


def pings(target: Target, chance: Random, over: threading.Event) -> str:
    batch = frame(PING, b"x" * chance.choice((0, 125))) * 1000
    with open_wire(target) as wire:
        for _ in range(20):
            if not wire.send(batch):
                break
        return wire.ending()


# Long enough for a server to put out who goes on regardless, and short enough to find that it does not.
_FORBEARANCE = 4.0


def unasked_pongs(target: Target, chance: Random, over: threading.Event) -> str:
    """Send what is no message and wants no answer."""
    batch = frame(PONG, b"x" * 125) * 1000
    with open_wire(target) as wire:
        for _ in range(10):
            if not wire.send(batch):
                break
        return wire.ending(_FORBEARANCE)


def empty_fragments(target: Target, chance: Random, over: threading.Event) -> str:
    """Send a message that neither grows nor ends."""
    batch = frame(CONTINUATION, b"", fin=False) * 1000
    with open_wire(target) as wire:
        wire.send(frame(TEXT, b"x", fin=False))
        for _ in range(20):
            if not wire.send(batch):
                break
        return wire.ending(_FORBEARANCE)


def connections(target: Target, chance: Random, over: threading.Event) -> str:
    """Come and go, some without a word, some in the middle of one."""
    for _ in range(10):
        with Wire(target) as wire:
            wire.send(chance.choice((b"", b"GET", b"\x16\x03\x01\x02\x00\x01\x00", b"\r\n\r\n")))
            chance.choice((wire.vanish, wire.finish))()
    return GONE


def reconnects(target: Target, chance: Random, over: threading.Event) -> str:
    """Be let in, and vanish before, with or after the greeting."""
    with Wire(target) as wire:
        path = target.at(f"since=x.{chance.randrange(1000)}") if chance.random() < 0.5 else target.path
        status = wire.open(path=path)
        if chance.random() < 0.5:
            wire.vanish()
        return status


def subscriptions(target: Target, chance: Random, over: threading.Event) -> str:
    """Come into and leave many rooms, be present there, and ask for all of their past, time and again."""
    rooms = [f"room-{number}" for number in range(chance.choice((1, 50, 101, 5000)))]
    since = chance.choice(("", "x.1", "9" * 5000, "\x00"))
    enter = {"type": "subscribe", "data": {"board_id": rooms, "since": since, "presence": {"name": "x" * 900}}}
    leave = {"type": "unsubscribe", "data": {"board_id": rooms}}
    with open_wire(target) as wire:
        for _ in range(60):
            if not wire.send(said(enter) + said(leave)):
                break
        wire.finish()  # a server that is busy elsewhere may never find it too fast
        return wire.ending()


def slow_frames(target: Target, chance: Random, over: threading.Event) -> str:
    """Send a message byte by byte, and never its end."""
    message = frame(TEXT, b'{"type":"ping","note":"' + b"x" * 60_000)
    with open_wire(target, receive_buffer=4096) as wire:
        for place in range(len(message)):
            if over.wait(DRIP) or not wire.send(message[place : place + 1]):
                break
        wire.finish()
        return wire.ending()


def never_reading(target: Target, chance: Random, over: threading.Event) -> str:
    """Take nothing from the socket, and ask for answers all the same."""
    with open_wire(target, receive_buffer=4096) as wire:
        while not over.wait(0.06):
            if not wire.send(frame(PING, b"x" * 125)):
                break
        wire.vanish()
        return GONE


def slow_handshakes(target: Target, chance: Random, over: threading.Event) -> str:
    """Send a handshake byte by byte.

    The web server reads a request before any app code runs: gunicorn's gthread gives it a pool thread with the first byte and
    has no limit for the rest. Events and clients that are connected do not need that pool; HTTP does.
    """
    with Wire(target) as wire:
        for byte in request(target.handshake(), target.path)[:-2]:
            if over.wait(DRIP) or not wire.send(bytes([byte])):
                break
        over.wait()
        wire.vanish()
        return GONE


def cross_site(target: Target, chance: Random, over: threading.Event) -> str:
    """Be a page of somebody else's, in the browser of a user who is logged in."""
    own = f"http://{target.host}:{target.port}"
    origin = chance.choice(
        ("https://evil.example", "null", "", f"{own}.evil.example", f"{own}@evil.example", "file://", "http://[::1", "x" * 5000)
    )
    with Wire(target) as wire:
        return wire.open([*target.handshake(), ("Origin", origin)])


def forged_tokens(target: Target, chance: Random, over: threading.Event) -> str:
    """Show tokens that nobody signed, and what real ones have been turned into where the target tells of them."""
    token = chance.choice(
        (
            "",
            "x",
            "a.b.c",
            "eyJhbGciOiJub25lIn0.eyJzdWIiOiJhbm4ifQ.",
            "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhbm4ifQ.c2lnbmVk",
            "." * 5000,
            "e30." * 1000,
            "\x00",
            "é",
            *target.forged,
        )
    )
    header = ("Authorization", f"Bearer {token}")
    if chance.random() < 0.5:
        header = ("Sec-WebSocket-Protocol", f"cartows, bearer.{token}")
    headers = [each for each in target.handshake() if each[0] not in ("Authorization", "Sec-WebSocket-Protocol", "Cookie")]
    with Wire(target) as wire:
        return wire.open([*headers, header])


ATTACKS = (
    Attack("broken handshakes", "handshakes with one to four things wrong", broken_handshakes, ANSWERS),
    Attack("broken frames", "reserved bits, fragments out of turn, lengths that lie", broken_frames, CLOSES),
    Attack("broken deflate", "compressed messages that are none", broken_deflate, CLOSES),
    Attack("odd messages", "JSON that is nearly a message", odd_messages, CLOSES),
    Attack("lying lengths", "frames of which only the beginning comes", lying_lengths, CLOSES),
    Attack("endless fragments", "messages that never end", endless_fragments, CLOSES),
    Attack("bombs", "a hundred megabytes in a hundred kilobytes", bombs, "close 1009|gone", threads=1),
    Attack("tiny messages", "thousands of the smallest messages", tiny_messages, "close (3013|1008)|gone"),
    Attack("pings", "thousands of pings", pings, "close 3013|gone"),
    Attack("unasked pongs", "thousands of pongs", unasked_pongs, "close 3013|gone"),
    Attack("empty fragments", "a message that neither grows nor ends", empty_fragments, "close (3013|1002|1008|1009)|gone"),
    Attack("connections", "connections that come and go", connections, GONE),
    Attack("reconnects", "handshakes, and nothing after them", reconnects, "101|503"),
    Attack("subscriptions", "rooms, presence and past, time and again", subscriptions, "close (3013|1008)|gone"),
    Attack("slow frames", "a message byte by byte", slow_frames, CLOSES, threads=8, lasts=True),
    Attack("never reading", "clients that ask and never read", never_reading, GONE, threads=8, lasts=True),
    Attack("slow handshakes", "handshakes byte by byte", slow_handshakes, GONE, threads=2, starves=True, lasts=True),
    Attack("cross-site", "pages of another origin", cross_site, "400|403"),
    Attack("forged tokens", "tokens that nobody signed", forged_tokens, "400|401"),
)


class Assault:
    """Attacks under way, from ``start`` to ``stop``; what they met is in ``ends``."""

    def __init__(self, target: Target, attacks: Sequence[Attack], seed: int, *, pause: float = 0.0) -> None:
        self._target, self._pause = target, pause
        self._over = threading.Event()
        self._lock = threading.Lock()
        #: How rounds have ended, by attack.
        self.ends: dict[str, Counter[str]] = {attack.name: Counter() for attack in attacks}
        #: What should not have come: a sentence each.
        self.findings: list[str] = []
        self._threads = [
            threading.Thread(target=self._run, args=(attack, Random(f"{seed} {attack.name} {number}")), name=attack.name)
            for attack in attacks
            for number in range(attack.threads)
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """End every round and wait for it."""
        self._over.set()
        for thread in self._threads:
            thread.join()

    def _run(self, attack: Attack, chance: Random) -> None:
        while not self._over.is_set():
            began = time.monotonic()
            try:
                end = attack.round(self._target, chance, self._over)
            except ConnectionRefusedError as error:
                end = f"refused {error}"
            except OSError as error:
                # A server under attack may reset a connection, or be slow to take one.
                end = type(error).__name__
            except Exception as error:
                end = f"{type(error).__name__}: {error}"
                self._find(f"{attack.name}: what the server said could not be read: {end}")
            self._count(attack, end)
            self._over.wait(max(0.0, self._pause - (time.monotonic() - began)))

    def _count(self, attack: Attack, end: str) -> None:
        with self._lock:
            self.ends[attack.name][end] += 1
        if end == SILENT and attack.expects(end):
            return
        refused = end.startswith("refused ") or end in ("ConnectionResetError", "TimeoutError", "BrokenPipeError")
        if not refused and not attack.expects(end):
            self._find(f"{attack.name}: a round ended with {end!r}, which is none of {attack.ends}")
        if end.startswith("refused 5") and end != "refused 503":
            self._find(f"{attack.name}: the server answered {end.removeprefix('refused ')}")

    def _find(self, sentence: str) -> None:
        with self._lock:
            if sentence not in self.findings:
                self.findings.append(sentence)

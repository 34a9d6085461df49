"""The attacks: each a round that is repeated for as long as the attack lasts, and how a round may end.

Each round makes its own connections, is bounded in time, and returns how the server ended it. Connections that are to stay
open do so until ``stop`` is set.
"""

from __future__ import annotations

import dataclasses
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from random import Random

from tests.hostile import costly, mutations
from tests.hostile.target import DEFLATE, GONE, SILENT, AttackClient, Target, frame, json_frame, open_client
from tests.support.raw_client import CONTINUATION, PING, PONG, TEXT, deflate_bomb, make_request

Round = Callable[[Target, Random, threading.Event], str]

# How long to wait for the answer to a mutated request, which need not be a complete one; seconds.
_SHORT_WAIT = 0.3

# The time between two bytes of a slow client, in seconds.
BYTE_INTERVAL = 0.02


@dataclasses.dataclass(frozen=True)
class Attack:
    """One way to misbehave."""

    name: str
    what: str
    round: Round
    #: How a round may end, as a regular expression; anything else is a finding.
    ends: str
    #: What prevents that other clients notice: an option, or what the server does.
    held_by: str
    threads: int = 2
    #: Holds request threads, which only the web server can prevent: see slow_handshakes.
    starves: bool = False
    #: A round lasts as long as the attack, so none need have ended in a short one.
    lasts: bool = False

    def expects(self, end: str) -> bool:
        # Any client may be closed for the memory that all of them take together.
        return end == "close 3008" or re.fullmatch(self.ends, end) is not None


# A request that is not an opening handshake gets an answer that names the reason, from the server or the app; never a 500.
ANSWERS = r"101|400|403|404|405|408|413|414|417|421|426|429|431|501|503|505|gone|silent"
# A client that breaks the protocol, or sends invalid messages, is closed with the reason, unless it leaves first.
CLOSES = r"close (1000|1001|1002|1003|1005|1007|1008|1009|3000|3013|4999)|gone"


def broken_handshakes(target: Target, rng: Random, stop: threading.Event) -> str:
    with AttackClient(target) as client:
        client.try_send(mutations.handshake(rng, target))
        found = client.status(_SHORT_WAIT)
        client.reset()
        return found


def broken_frames(target: Target, rng: Random, stop: threading.Event) -> str:
    with open_client(target) as client:
        client.try_send(mutations.frames(rng))
        client.finish()
        return client.ending()


def broken_deflate(target: Target, rng: Random, stop: threading.Event) -> str:
    with open_client(target, DEFLATE) as client:
        client.try_send(mutations.compressed(rng))
        client.finish()
        return client.ending()


def odd_messages(target: Target, rng: Random, stop: threading.Event) -> str:
    """Send invalid messages until the server closes."""
    with open_client(target) as client:
        for _ in range(100):
            if not client.try_send(frame(TEXT, mutations.message(rng))):
                break
        client.finish()
        return client.ending()


def lying_lengths(target: Target, rng: Random, stop: threading.Event) -> str:
    """Announce long frames, send little of them, and stay connected."""
    with open_client(target) as client:
        client.try_send(frame(TEXT, b"{", length=rng.choice((100, 65535, 500_000, 2**31, 2**62))))
        stop.wait(_SHORT_WAIT)
        client.finish()
        return client.ending()


def endless_fragments(target: Target, rng: Random, stop: threading.Event) -> str:
    """Never end a message: empty fragments, and pings between them."""
    with open_client(target) as client:
        parts = [frame(CONTINUATION, rng.choice((b"", b"x", b"x" * 4096)), fin=False) for _ in range(20)]
        client.try_send(frame(TEXT, b"x", fin=False))
        for _ in range(50):
            if stop.is_set() or not client.try_send(b"".join(parts) + frame(PING)):
                break
        client.finish()
        return client.ending()


def bombs(target: Target, rng: Random, stop: threading.Event) -> str:
    data = deflate_bomb(rng.choice((1, 20, 100)))
    with open_client(target, DEFLATE) as client:
        if rng.random() < 0.5:
            client.try_send(frame(TEXT, data, rsv=4))
        else:
            pieces = [data[start : start + 1000] for start in range(0, len(data), 1000)]
            client.try_send(frame(TEXT, pieces[0], rsv=4, fin=False))
            all(client.try_send(frame(CONTINUATION, piece, fin=False)) for piece in pieces[1:])
        return client.ending()


def tiny_messages(target: Target, rng: Random, stop: threading.Event) -> str:
    """Send the smallest messages, a thousand at a time, and read no answer before the end."""
    batch = frame(TEXT, b"{}" if rng.random() < 0.5 else b'{"type":"ping"}') * 1000
    with open_client(target) as client:
        for _ in range(20):
            if not client.try_send(batch):
                break
        return client.ending()


def pings(target: Target, rng: Random, stop: threading.Event) -> str:
    batch = frame(PING, b"x" * rng.choice((0, 125))) * 1000
    with open_client(target) as client:
        for _ in range(20):
            if not client.try_send(batch):
                break
        return client.ending()


# Long enough for a server to close a client that exceeds its limits, and short enough to find that it does not; seconds.
_FLOOD_WAIT = 4.0


def unasked_pongs(target: Target, rng: Random, stop: threading.Event) -> str:
    """Send pongs, which are not messages and get no answer."""
    batch = frame(PONG, b"x" * 125) * 1000
    with open_client(target) as client:
        for _ in range(10):
            if not client.try_send(batch):
                break
        return client.ending(_FLOOD_WAIT)


def empty_fragments(target: Target, rng: Random, stop: threading.Event) -> str:
    """Send a message that neither grows nor ends."""
    batch = frame(CONTINUATION, b"", fin=False) * 1000
    with open_client(target) as client:
        client.try_send(frame(TEXT, b"x", fin=False))
        for _ in range(20):
            if not client.try_send(batch):
                break
        return client.ending(_FLOOD_WAIT)


def connections(target: Target, rng: Random, stop: threading.Event) -> str:
    """Connect and leave, sometimes without sending anything, sometimes in the middle of a line."""
    for _ in range(10):
        with AttackClient(target) as client:
            client.try_send(rng.choice((b"", b"GET", b"\x16\x03\x01\x02\x00\x01\x00", b"\r\n\r\n")))
            rng.choice((client.reset, client.finish))()
    return GONE


def reconnects(target: Target, rng: Random, stop: threading.Event) -> str:
    """Complete the handshake, and vanish before, with or after the greeting."""
    with AttackClient(target) as client:
        path = target.at(f"since=x.{rng.randrange(1000)}") if rng.random() < 0.5 else target.path
        status = client.upgrade(path=path)
        if rng.random() < 0.5:
            client.reset()
        return status


def subscriptions(target: Target, rng: Random, stop: threading.Event) -> str:
    """Join and leave many rooms, with presence and a replay of their history, again and again."""
    rooms = [f"room-{number}" for number in range(rng.choice((1, 50, 101, 5000)))]
    since = rng.choice(("", "x.1", "9" * 5000, "\x00"))
    join = {"type": "subscribe", "data": {"board_id": rooms, "since": since, "presence": {"name": "x" * 900}}}
    leave = {"type": "unsubscribe", "data": {"board_id": rooms}}
    with open_client(target) as client:
        for _ in range(60):
            if not client.try_send(json_frame(join) + json_frame(leave)):
                break
        client.finish()  # a busy server may never find it too fast
        return client.ending()


def slow_frames(target: Target, rng: Random, stop: threading.Event) -> str:
    """Send a message byte by byte, and never finish it."""
    message = frame(TEXT, b'{"type":"ping","note":"' + b"x" * 60_000)
    with open_client(target, receive_buffer=4096) as client:
        for place in range(len(message)):
            if stop.wait(BYTE_INTERVAL) or not client.try_send(message[place : place + 1]):
                break
        client.finish()
        return client.ending()


def never_reading(target: Target, rng: Random, stop: threading.Event) -> str:
    """Read nothing from the socket, and ask for answers all the same."""
    with open_client(target, receive_buffer=4096) as client:
        while not stop.wait(0.06):
            if not client.try_send(frame(PING, b"x" * 125)):
                break
        client.reset()
        return GONE


def slow_handshakes(target: Target, rng: Random, stop: threading.Event) -> str:
    """Send a handshake byte by byte.

    The web server reads a request before any app code runs: gunicorn's gthread gives it a pool thread with the first byte and
    has no time limit for the rest. Events and connected clients do not need that pool; HTTP does.
    """
    with AttackClient(target) as client:
        for byte in make_request(target.path, target.handshake())[:-2]:
            if stop.wait(BYTE_INTERVAL) or not client.try_send(bytes([byte])):
                break
        stop.wait()
        client.reset()
        return GONE


def cross_site(target: Target, rng: Random, stop: threading.Event) -> str:
    """Connect as a page of another site does, in the browser of a user who is logged in."""
    own = f"http://{target.host}:{target.port}"
    origin = rng.choice(
        ("https://evil.example", "null", "", f"{own}.evil.example", f"{own}@evil.example", "file://", "http://[::1", "x" * 5000)
    )
    with AttackClient(target) as client:
        return client.upgrade([*target.handshake(), ("Origin", origin)])


def forged_tokens(target: Target, rng: Random, stop: threading.Event) -> str:
    """Send tokens that were never signed and, where the target has some, altered copies of real ones."""
    token = rng.choice(
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
    if rng.random() < 0.5:
        header = ("Sec-WebSocket-Protocol", f"cartows, bearer.{token}")
    headers = [each for each in target.handshake() if each[0] not in ("Authorization", "Sec-WebSocket-Protocol", "Cookie")]
    with AttackClient(target) as client:
        return client.upgrade([*headers, header])


ATTACKS = (
    Attack(
        "broken handshakes",
        "handshakes with one to four things wrong",
        broken_handshakes,
        ANSWERS,
        "checks before the upgrade: 4xx",
    ),
    Attack(
        "broken frames",
        "reserved bits, fragments out of order, lengths that lie",
        broken_frames,
        CLOSES,
        "the parser: 1002, 1007, 1009",
    ),
    Attack("broken deflate", "compressed messages that do not inflate", broken_deflate, CLOSES, "the parser: 1002, 1007, 1009"),
    Attack("odd messages", "JSON that is nearly a message", odd_messages, CLOSES, "the limit of invalid messages: 1008"),
    Attack(
        "lying lengths",
        "frames of which only the beginning comes",
        lying_lengths,
        CLOSES,
        "`max_message_size`; a length is never allocated in advance",
    ),
    Attack(
        "endless fragments",
        "messages that never end",
        endless_fragments,
        CLOSES,
        "`max_message_size`, `rate_limit` for small fragments",
    ),
    Attack(
        "bombs",
        "a hundred megabytes in a hundred kilobytes",
        bombs,
        "close 1009|gone",
        "`max_message_size`, counted while inflating: 1009",
        threads=1,
    ),
    Attack(
        "tiny messages",
        "thousands of the smallest messages",
        tiny_messages,
        "close (3013|1008)|gone",
        "`rate_limit`, `rate_burst`: 3013",
    ),
    Attack("pings", "thousands of pings", pings, "close 3013|gone", "`rate_limit`, `rate_burst`: 3013"),
    Attack("unasked pongs", "thousands of pongs", unasked_pongs, "close 3013|gone", "`rate_limit`, `rate_burst`: 3013"),
    Attack(
        "empty fragments",
        "a message that neither grows nor ends",
        empty_fragments,
        "close (3013|1002|1008|1009)|gone",
        "`rate_limit`, `rate_burst`: 3013",
    ),
    Attack(
        "connections", "connections that come and go", connections, GONE, "no thread and no client before a whole handshake"
    ),
    Attack(
        "reconnects",
        "handshakes, and nothing after them",
        reconnects,
        "101|503",
        "a slot per client, given back: `max_clients`",
    ),
    Attack(
        "subscriptions",
        "rooms, presence and replays, again and again",
        subscriptions,
        "close (3013|1008)|gone",
        "`max_filters`, `rate_limit` with a charge per room: 3013",
    ),
    Attack(
        "slow frames",
        "a message byte by byte",
        slow_frames,
        CLOSES,
        "a reader thread waits in the read scheduler, not on the socket",
        threads=8,
        lasts=True,
    ),
    Attack(
        "never reading",
        "clients that ask and never read",
        never_reading,
        GONE,
        "`send_queue_size`, `send_queue_bytes`, `write_wait`: 3008",
        threads=8,
        lasts=True,
    ),
    Attack(
        "slow handshakes",
        "handshakes byte by byte",
        slow_handshakes,
        GONE,
        "nothing but the proxy for HTTP; clients do not need the pool",
        threads=2,
        starves=True,
        lasts=True,
    ),
    Attack(
        "colliding numbers",
        "half a megabyte of integers with one hash",
        costly.colliding_numbers,
        CLOSES,
        "a bound on the size of a command; no container is keyed by numbers of a client",
        threads=1,
    ),
    Attack(
        "amplification",
        "half a kilobyte that inflates to half a megabyte of lists",
        costly.amplification,
        CLOSES,
        "a message that unpacks out of all proportion is refused: 1009; `rate_limit_bytes` counts what is unpacked",
        threads=1,
    ),
    Attack(
        "endless deflate",
        "a compressed message that goes on after its end",
        costly.endless_deflate,
        "close (1002|1007|1009)|gone",
        "`max_message_size` on the wire: 1009, 1007",
        threads=1,
    ),
    Attack(
        "unread in numbers",
        "sixty clients that ask for much and read nothing",
        costly.unread_in_numbers,
        GONE,
        "`send_queue_bytes`, `total_queue_bytes`, `write_buffer`: 3008",
        lasts=True,
    ),
    Attack(
        "long names",
        "clients with a hundred rooms of 256 emoji each",
        costly.long_names,
        GONE,
        "room names are bounded in bytes",
        lasts=True,
    ),
    Attack(
        "unfinished messages",
        "clients that each leave a long message unfinished",
        costly.unfinished_messages,
        GONE,
        "`max_message_size`; fragments are kept as bytes and counted in `total_queue_bytes`",
        lasts=True,
    ),
    Attack("cross-site", "pages of another origin", cross_site, "400|403", "`allowed_origins`: 403"),
    Attack("forged tokens", "tokens without a valid signature", forged_tokens, "400|401", "`authenticate`: 401"),
)


class Assault:
    """Running attacks, from ``start`` to ``stop``; how their rounds ended is in ``ends``."""

    def __init__(self, target: Target, attacks: Sequence[Attack], seed: int, *, pause: float = 0.0) -> None:
        self._target, self._pause = target, pause
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        #: How rounds have ended, by attack.
        self.ends: dict[str, Counter[str]] = {attack.name: Counter() for attack in attacks}
        #: What should not have happened: a sentence each.
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
        self._stopping.set()
        for thread in self._threads:
            thread.join()

    def _run(self, attack: Attack, rng: Random) -> None:
        while not self._stopping.is_set():
            began = time.monotonic()
            try:
                end = attack.round(self._target, rng, self._stopping)
            except ConnectionRefusedError as error:
                end = f"refused {error}"
            except OSError as error:
                # A server under attack may reset a connection, or be slow to accept one.
                end = type(error).__name__
            except Exception as error:
                end = f"{type(error).__name__}: {error}"
                self._find(f"{attack.name}: the server's answer could not be read: {end}")
            self._count(attack, end)
            self._stopping.wait(max(0.0, self._pause - (time.monotonic() - began)))

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

"""The settings of a hub and its handler: one frozen dataclass, also readable from ``app.config`` as ``CARTOWS_*``.

Threads: any, an Options never changes.
Locks: none.
Blocks: never.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from .errors import OptionsError

__all__ = ["Options"]

PREFIX = "CARTOWS_"

# What the system's own calls take: seconds for timers and poll, bytes for setsockopt.
_LONGEST = 1_000_000
_LARGEST = 2**31 - 1

# What a handler is asked before the upgrade: the Origin header and the request; True lets the browser in.
OriginCheck = Callable[[Any], bool]

# A slow client is disconnected, or loses the oldest events that wait, or has waiting updates of one thing merged.
Policy = Literal["disconnect", "drop_oldest", "coalesce"]

# What stands beside filters in the messages that name them.
_RESERVED_KEYS = frozenset({"since", "presence", "recovered", "replayed", "rooms"})


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """Hold every setting; times are seconds, sizes are bytes unless a line says otherwise.

    Raises OptionsError when a value, or a pair of values, cannot work.
    """

    #: Where the extension puts its WebSocket route.
    path: str = "/ws"
    #: Messages the hub's broadcast channel holds.
    broadcast_queue_size: int = 256
    #: How long a publisher waits for room in that channel, all told.
    publish_timeout: float = 1.0
    #: Messages one client's send queue holds.
    send_queue_size: int = 256
    #: Bytes one client's send queue holds; whichever bound is reached first.
    send_queue_bytes: int = 1024 * 1024
    #: What becomes of a client whose queue is over its bound.
    slow_consumer: Policy = "disconnect"
    #: Events kept for clients that come back.
    history_size: int = 1024
    #: Bytes of events kept for them, uncompressed; whichever bound is reached first.
    history_bytes: int = 8 * 1024 * 1024
    #: How long an event is kept for them.
    history_ttl: float = 300.0
    #: Where many workers and machines meet, e.g. redis://localhost:6379/0; None for one process by itself.
    redis_url: str | None = dataclasses.field(default=None, repr=False)
    #: Events, and their bytes, that wait in a process while Redis is away.
    spool_size: int = 10_000
    spool_bytes: int = 16 * 1024 * 1024
    #: How long who has disconnected is still shown as present, so that a reload shows nothing.
    presence_leave_wait: float = 15.0
    #: Tabs in a room above which only the number of people is sent.
    presence_room_limit: int = 200
    #: How long a client's socket may take nothing at all while something waits for it.
    write_wait: float = 10.0
    #: How long a client may be silent before it is put out with 3012.
    pong_wait: float = 60.0
    #: How often a client is pinged; must be less than pong_wait.
    ping_period: float = 54.0
    #: The largest inbound message, after decompression.
    max_message_size: int = 512 * 1024
    #: Bytes asked of the kernel per read.
    read_buffer: int = 4096
    #: SO_SNDBUF of every client's socket; None leaves it to the kernel.
    write_buffer: int | None = None
    #: Origins that may connect: None for the same host, "*" for all, a list, or a callable(request) -> bool.
    allowed_origins: str | Sequence[str] | OriginCheck | None = None
    #: Clients this process serves; None takes it from the process's file limit, less headroom.
    max_clients: int | None = None
    #: Clients from one address, by the request's remote_addr; None for any number.
    max_clients_per_ip: int | None = None
    #: Clients of one identity; None for any number.
    max_clients_per_user: int | None = None
    #: Inbound messages, pings included, that one client may send per second in the long run; None for any number.
    rate_limit: float | None = 20.0
    #: Inbound messages that one client may send at once.
    rate_burst: int = 40
    #: Filter values one client may hold.
    max_filters: int = 100
    #: The query parameters that are filters.
    filter_keys: tuple[str, ...] = ("project_id", "board_id")
    #: Events of at least so many bytes are compressed for clients that can read it; None never compresses.
    compress_min_size: int | None = 1024
    #: Send `connected` first; off for a raw protocol.
    greeting: bool = True
    #: None hands a socket off where that is possible, True too and warns where it is not, False keeps the request's thread.
    handoff: bool | None = None

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            object.__setattr__(self, field.name, _checked(field.name, getattr(self, field.name)))
        if self.ping_period >= self.pong_wait:
            raise OptionsError(
                f"{_key('ping_period')}={self.ping_period!r} must be less than {_key('pong_wait')}={self.pong_wait!r}: "
                "a client must have time to answer a ping before it is put out"
            )

    @classmethod
    def from_config(cls, config: Mapping[str, Any], base: Options | None = None, **overrides: Any) -> Options:
        """Read the ``CARTOWS_*`` keys of a Flask config, on top of ``base``; arguments given here win over them.

        Raises OptionsError for a key that no setting has and for a value that cannot work.
        """
        known = {field.name for field in dataclasses.fields(cls)}
        values = {name: getattr(base, name) for name in known} if base is not None else {}
        for key in config:
            if key.startswith(PREFIX):
                name = key[len(PREFIX) :].lower()
                if name not in known:
                    raise OptionsError(f"{key} is no setting of cartows. Settings are: {_listing(known)}")
                values[name] = config[key]
        for name, value in overrides.items():
            if name not in known:
                raise OptionsError(f"{name}= is no setting of cartows. Settings are: {', '.join(sorted(known))}")
            values[name] = value
        return cls(**values)


_REDIS_SCHEMES = ("redis://", "rediss://", "unix://")


def _key(name: str) -> str:
    return PREFIX + name.upper()


def _listing(names: set[str]) -> str:
    return ", ".join(sorted(_key(name) for name in names))


def _refuse(name: str, value: object, allowed: str) -> OptionsError:
    return OptionsError(f"{_key(name)}={value!r} ({name}=) cannot be used: it must be {allowed}")


def _checked(name: str, value: Any) -> Any:
    if name == "allowed_origins":
        return _checked_origins(value)
    if name == "filter_keys":
        return _checked_filter_keys(value)
    kinds = _KINDS[name]
    if name == "slow_consumer":
        if value not in kinds:
            raise _refuse(name, value, f"one of {', '.join(map(repr, kinds))}")
        return value
    if value is None and types.NoneType in kinds:
        return None
    if bool in kinds:
        if not isinstance(value, bool):
            raise _refuse(name, value, "true or false" + (" or None" if types.NoneType in kinds else ""))
        return value
    if name == "redis_url":
        if not isinstance(value, str) or not value.startswith(_REDIS_SCHEMES):
            # Not the value, which may hold a password.
            raise OptionsError(f"{_key(name)} cannot be used: it must be a URL that begins with {', '.join(_REDIS_SCHEMES)}")
        return value
    if str in kinds:
        if not isinstance(value, str) or not value.startswith("/"):
            raise _refuse(name, value, 'a path that begins with "/"')
        return value
    number = float if float in kinds else int
    most = _LONGEST if number is float else _LARGEST
    # Not a number compares as False.
    if isinstance(value, bool) or not isinstance(value, (int, float) if number is float else int) or not 0 < value <= most:
        kind = "a number" if number is float else "a whole number"
        or_none = " or None" if types.NoneType in kinds else ""
        raise _refuse(name, value, f"{kind} above 0{or_none}, at most {most}")
    return number(value)


def _checked_origins(value: Any) -> Any:
    if value is None or callable(value) or value == "*":
        return value
    found = value.split(",") if isinstance(value, str) else value
    try:
        origins = tuple(origin.strip().rstrip("/").lower() for origin in found)
    except (TypeError, AttributeError):
        origins = ()
    if not origins or not all(origin == "null" or "://" in origin for origin in origins):
        raise _refuse("allowed_origins", value, '"*", a callable(request), or a list such as ["https://app.example.com"]')
    return origins


def _checked_filter_keys(value: Any) -> tuple[str, ...]:
    found = value.split(",") if isinstance(value, str) else value
    try:
        keys = tuple(key.strip() for key in found)
    except (TypeError, AttributeError):
        keys = ()
    if not keys or not all(keys) or _RESERVED_KEYS.intersection(keys):
        allowed = f'a list of names such as ["project_id", "board_id"], none of them {", ".join(sorted(_RESERVED_KEYS))}'
        raise _refuse("filter_keys", value, allowed)
    return keys


def _kinds() -> dict[str, tuple[type, ...]]:
    """Resolve the annotations once: what each field may hold is written down there and nowhere else."""
    return {name: typing.get_args(hint) or (hint,) for name, hint in typing.get_type_hints(Options).items()}


_KINDS = _kinds()

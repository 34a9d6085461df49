"""The options of a hub and its handler: one frozen dataclass, also read from ``app.config`` as ``CARTOWS_*``.

The comments above the fields are the text of the reference page.
"""

from __future__ import annotations

import dataclasses
import difflib
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, TypedDict

from .errors import OptionsError
from .origins import listed_origin

__all__ = ["OptionArguments", "Options", "check_names"]

PREFIX = "CARTOWS_"

# The limits of system calls: seconds for timers and poll, bytes for setsockopt. More would fail on first use.
_MAX_SECONDS = 1_000_000
_MAX_INTEGER = 2**31 - 1
# What is only counted, and may be more.
_MAX_BYTES = 2**63 - 1

# Called with the request before the upgrade; returns whether its origin is allowed.
OriginCheck = Callable[[Any], bool]

Policy = Literal["disconnect", "drop_oldest", "coalesce"]

# Names with a meaning of their own in queries and messages, which cannot be filter keys.
_RESERVED_KEYS = frozenset({"since", "presence", "recovered", "replayed", "rooms"})


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """All options of a hub and its handler. They never change; times are seconds, sizes are bytes.

    Each field is a keyword argument here and of ``CartoWS``, and an ``app.config`` key: ``CARTOWS_`` and its name in capitals.

    Raises:
        OptionsError: If a value, or a pair of values, cannot be used.
    """

    #: The path of the WebSocket route that the extension adds. Default: ``"/ws"``.
    path: str = "/ws"
    #: The host of the route, in an app that was made with ``host_matching=True``, e.g. ``"live.example.com"``; it may have
    #: variables, as hosts of Flask's routes do. Default: None.
    host: str | None = None
    #: The largest number of messages in the hub's broadcast queue. Default: 256.
    broadcast_queue_size: int = 256
    #: The longest time that a broadcast waits, in seconds, for room in the broadcast queue or for Redis, however many threads
    #: wait. Default: 1.0.
    publish_timeout: float = 1.0
    #: The largest number of messages in one client's send queue. Default: 256.
    send_queue_size: int = 256
    #: The largest number of bytes in one client's send queue; the limit that is reached first applies. Default: 1 MiB.
    send_queue_bytes: int = 1024 * 1024
    #: The largest number of bytes that wait for all clients of this process together, an event that waits for several counted
    #: once; beyond it those for whom most waits are disconnected with 3008. None is an eighth of the memory that the machine or
    #: the container has, divided by the server's worker processes. Default: None.
    total_queue_bytes: int | None = None
    #: What happens when a client's send queue is full: ``"disconnect"`` closes it with 3008, ``"drop_oldest"`` drops the
    #: oldest events that wait, ``"coalesce"`` merges updates of the same entity that wait. Default: ``"disconnect"``.
    slow_consumer: Policy = "disconnect"
    #: The largest number of events that are kept for clients that resume. Default: 1024.
    history_size: int = 1024
    #: The largest number of bytes of events that are kept, uncompressed; the limit that is reached first applies.
    #: Default: 8 MiB.
    history_bytes: int = 8 * 1024 * 1024
    #: How long an event is kept, in seconds. Default: 300.
    history_ttl: float = 300.0
    #: The URL of the Redis server that connects several workers or machines, e.g. ``redis://localhost:6379/0``; None for a
    #: single process. Default: None.
    redis_url: str | None = dataclasses.field(default=None, repr=False)
    #: The largest number of events that wait in a process while Redis is unreachable. Default: 10,000.
    spool_size: int = 10_000
    #: The largest number of bytes of these events; the limit that is reached first applies. Default: 16 MiB.
    spool_bytes: int = 16 * 1024 * 1024
    #: How long a client that has disconnected is still shown as present, in seconds, so that a reload shows nothing.
    #: Default: 15.
    presence_leave_wait: float = 15.0
    #: The largest number of tabs in a room whose members are sent names; in a larger room they are sent only the number of
    #: identities. Default: 200.
    presence_room_limit: int = 200
    #: How long a client's socket may accept no data while some is queued, in seconds; then it is disconnected. Default: 10.
    write_wait: float = 10.0
    #: How long a client may be silent before it is disconnected with 3012, in seconds. Default: 60.
    pong_wait: float = 60.0
    #: How often a client is pinged, in seconds; must be less than ``pong_wait``. Default: 54.
    ping_period: float = 54.0
    #: The largest inbound message in bytes, after decompression; a client that sends a larger one is disconnected with 1009.
    #: Default: 512 KiB.
    max_message_size: int = 512 * 1024
    #: The largest number of bytes that are read from a socket at a time. Default: 4096.
    read_buffer: int = 4096
    #: The size of each client socket's send buffer in the kernel (``SO_SNDBUF``), in bytes, twice which a client that does not
    #: read can occupy; None leaves it to the kernel, and that can be some MiB. Default: 64 KiB.
    write_buffer: int | None = 64 * 1024
    #: The origins of pages that may connect: None for the host of the request, ``"*"`` for all, a list of origins, where
    #: ``https://*.example.com`` stands for all subdomains, or a function that takes the request and returns whether it is
    #: allowed. Default: None.
    allowed_origins: str | Sequence[str] | OriginCheck | None = None
    #: The largest number of clients in this process; None derives it from the limits of open files,
    #: threads and memory. Default: None.
    max_clients: int | None = None
    #: The largest number of clients from one address, by the request's ``remote_addr``; None is unlimited. Default: None.
    max_clients_per_ip: int | None = None
    #: The largest number of clients with one identity; None is unlimited. Default: None.
    max_clients_per_user: int | None = None
    #: How many inbound messages one client may send per second on average, pings included; None is unlimited. Default: 20.
    rate_limit: float | None = 20.0
    #: How many inbound messages one client may send at once. Default: 40.
    rate_burst: int = 40
    #: How many bytes one client may send per second on average, counted once they are unpacked; two seconds' worth, and a
    #: message of ``max_message_size``, may come at once. None is unlimited. Default: 1 MiB.
    rate_limit_bytes: int | None = 1024 * 1024
    #: The largest number of rooms that one client may be subscribed to. Default: 100.
    max_filters: int = 100
    #: The query parameters that are filters: a list, or a string with commas. Default: ``("project_id", "board_id")``.
    filter_keys: tuple[str, ...] = ("project_id", "board_id")
    #: The smallest event that is compressed, in bytes, for clients that can read it; None never compresses. Default: 1024.
    compress_min_size: int | None = 1024
    #: Whether cartows sends its own messages, such as ``connected`` and ``disconnect``; False for a protocol of the
    #: application's own. Default: True.
    greeting: bool = True
    #: Whether sockets are taken over from the server, so that clients hold no request thread. None does so where it is
    #: possible; True does the same and logs a warning where it is not; False never does. Default: None.
    handoff: bool | None = None

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            object.__setattr__(self, field.name, _checked(field.name, getattr(self, field.name)))
        if self.ping_period >= self.pong_wait:
            raise OptionsError(
                f"{_key('ping_period')}={self.ping_period!r} must be less than {_key('pong_wait')}={self.pong_wait!r}: "
                "a client needs time to answer a ping before it is disconnected"
            )

    @classmethod
    def from_config(cls, config: Mapping[str, Any], base: Options | None = None, **overrides: Any) -> Options:
        """Return options from the ``CARTOWS_*`` keys of a Flask config.

        Args:
            config: The config, e.g. ``app.config``. Keys without the prefix are ignored.
            base: The options that the config overrides; the defaults if None.
            **overrides: Options that override the config.

        Raises:
            OptionsError: For a key or an argument that is not an option, and for a value that cannot be used.
        """
        known = {field.name for field in dataclasses.fields(cls)}
        values = {name: getattr(base, name) for name in known} if base is not None else {}
        for key in config:
            if key.startswith(PREFIX):
                name = key[len(PREFIX) :].lower()
                if name not in known:
                    raise OptionsError(f"{key} is not an option of cartows. The options are: {_listing(known)}")
                values[name] = config[key]
        check_names(overrides)
        return cls(**{**values, **overrides})


class OptionArguments(TypedDict, total=False):
    """The fields of Options as keyword arguments, for the type checkers of those who write ``CartoWS(app, hub, ...)``."""

    path: str
    host: str | None
    broadcast_queue_size: int
    publish_timeout: float
    send_queue_size: int
    send_queue_bytes: int
    total_queue_bytes: int | None
    slow_consumer: Policy
    history_size: int
    history_bytes: int
    history_ttl: float
    redis_url: str | None
    spool_size: int
    spool_bytes: int
    presence_leave_wait: float
    presence_room_limit: int
    write_wait: float
    pong_wait: float
    ping_period: float
    max_message_size: int
    read_buffer: int
    write_buffer: int | None
    allowed_origins: str | Sequence[str] | OriginCheck | None
    max_clients: int | None
    max_clients_per_ip: int | None
    max_clients_per_user: int | None
    rate_limit: float | None
    rate_burst: int
    rate_limit_bytes: int | None
    max_filters: int
    filter_keys: Sequence[str]
    compress_min_size: int | None
    greeting: bool
    handoff: bool | None


def check_names(arguments: Mapping[str, Any]) -> None:
    """Raise OptionsError for a keyword argument that is not an option."""
    known = {field.name for field in dataclasses.fields(Options)}
    for name in arguments:
        if name not in known:
            close = difflib.get_close_matches(name, known, 1)
            meant = f" Did you mean {close[0]}=?" if close else ""
            raise OptionsError(f"{name}= is not an option of cartows.{meant} The options are: {', '.join(sorted(known))}")


_REDIS_SCHEMES = ("redis://", "rediss://", "unix://")


def _key(name: str) -> str:
    return PREFIX + name.upper()


def _listing(names: set[str]) -> str:
    return ", ".join(sorted(_key(name) for name in names))


def _invalid(name: str, value: object, allowed: str) -> OptionsError:
    return OptionsError(f"{_key(name)}={value!r} ({name}=) cannot be used: it must be {allowed}")


def _checked(name: str, value: Any) -> Any:
    if name == "allowed_origins":
        return _checked_origins(value)
    if name == "filter_keys":
        return _checked_filter_keys(value)
    kinds = _KINDS[name]
    if name == "slow_consumer":
        if value not in kinds:
            raise _invalid(name, value, f"one of {', '.join(map(repr, kinds))}")
        return value
    if value is None and types.NoneType in kinds:
        return None
    if bool in kinds:
        if not isinstance(value, bool):
            raise _invalid(name, value, "true or false" + (" or None" if types.NoneType in kinds else ""))
        return value
    if name == "redis_url":
        if not isinstance(value, str) or not value.startswith(_REDIS_SCHEMES):
            # Without the value, which may contain a password.
            raise OptionsError(f"{_key(name)} cannot be used: it must be a URL that begins with {', '.join(_REDIS_SCHEMES)}")
        return value
    if name == "host":
        if not isinstance(value, str) or not value or "/" in value:
            raise _invalid(name, value, 'a host such as "live.example.com", or None')
        return value
    if str in kinds:
        if not isinstance(value, str) or not value.startswith("/"):
            raise _invalid(name, value, 'a path that begins with "/"')
        return value
    number = float if float in kinds else int
    largest = _MAX_SECONDS if number is float else _MAX_BYTES if name == "total_queue_bytes" else _MAX_INTEGER
    # NaN compares as False.
    if isinstance(value, bool) or not isinstance(value, (int, float) if number is float else int) or not 0 < value <= largest:
        kind = "a number" if number is float else "an integer"
        or_none = " or None" if types.NoneType in kinds else ""
        raise _invalid(name, value, f"{kind} above 0{or_none}, at most {largest}")
    return number(value)


def _checked_origins(value: Any) -> Any:
    if value is None or callable(value) or value == "*":
        return value
    allowed = '"*", a callable(request), or a list such as ["https://app.example.com", "https://*.example.com"]'
    found = value.split(",") if isinstance(value, str) else value
    try:
        origins = tuple(listed_origin(origin) for origin in found)
    except ValueError as error:
        raise _invalid("allowed_origins", value, f"{allowed}: {error}") from error
    except (TypeError, AttributeError):
        origins = ()
    if not origins:
        raise _invalid("allowed_origins", value, allowed)
    return origins


def _checked_filter_keys(value: Any) -> tuple[str, ...]:
    found = value.split(",") if isinstance(value, str) else value
    try:
        keys = tuple(key.strip() for key in found)
    except (TypeError, AttributeError):
        keys = ()
    if not keys or not all(keys) or _RESERVED_KEYS.intersection(keys):
        allowed = f'a list of names such as ["project_id", "board_id"], none of them {", ".join(sorted(_RESERVED_KEYS))}'
        raise _invalid("filter_keys", value, allowed)
    return keys


def _resolve_kinds() -> dict[str, tuple[type, ...]]:
    """Return the types that each field may have, from its annotation, which is resolved once."""
    return {name: typing.get_args(hint) or (hint,) for name, hint in typing.get_type_hints(Options).items()}


_KINDS = _resolve_kinds()

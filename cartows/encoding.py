"""What the data of an event is as JSON: by msgspec, and as the app's own JSON has it where msgspec differs or gives up.

The usual values pass through msgspec alone. A value that it refuses, a number that JSON does not have, and a mapping whose
``items`` are not what it stores make the data be rebuilt from plain values, in Python. Where an app's JSON provider has ideas
of its own, it is asked first.

Threads: any. A provider is the app's: it is called on the thread that broadcasts.
"""

from __future__ import annotations

import copy
import datetime as dt
import decimal
import enum
import re
from collections.abc import Callable, Iterable
from functools import partial
from math import isfinite
from typing import Any

import msgspec

__all__ = ["AppJson", "Hook", "exact_datetime", "to_json"]

Hook = Callable[[Any], Any]

# The standard library's own datetime and date: behind what freezegun has put in their place, and in a tuple, where it does not
# replace them.
_REAL: tuple[Any, ...] = tuple(kind for kind in dt.datetime.__mro__ if kind.__module__ == "datetime")[:2]
_MOMENTS = (*_REAL, dt.time, dt.timedelta)

# What is the same in any JSON and holds nothing else.
_PLAIN = frozenset({str, int, bool, type(None), msgspec.Raw})


class AppJson:
    """The JSON provider of an app as a hook of the encoder; a provider with ideas of its own is asked for all data.

    Args:
        app: The app, which may replace its provider at any time.
        standard: The class of the provider that has no ideas of its own: dates and the like are as msgspec writes them then.
    """

    def __init__(self, app: Any, standard: Any) -> None:
        self._app = app
        self._standard = standard
        self._default = standard.default
        self._seen: Any = None
        self._own = False
        self.encoder = msgspec.json.Encoder(enc_hook=partial(_converted, self))

    def __call__(self, value: Any) -> Any:
        """Return what the provider makes of a value that JSON does not have."""
        provider = self._app.json
        # A provider need not have one: ``dumps`` and ``loads`` are all that Flask asks for.
        default = getattr(provider, "default", None)
        return _raw(provider.dumps(value)) if default is None else default(value)

    def has_own_form(self) -> bool:
        """Return whether the provider writes values in its own way."""
        provider = self._app.json
        if provider is not self._seen:
            dumps = getattr(provider.dumps, "__func__", None)
            self._own = dumps is not self._standard.dumps or not hasattr(provider, "default")
            self._seen = provider
        # An app may also set ``app.json.default``.
        return self._own or provider.default is not self._default

    def form(self, value: Any) -> Any:
        """Return a value as the provider writes it, and what it does not take as msgspec does."""
        if type(value) in _PLAIN:
            return value
        try:
            return _raw(self._app.json.dumps(value))
        except Exception:
            # Something in it is no JSON, or not the provider's: ask for each value by itself.
            return _rebuilt(value, self)


def _raw(text: str | bytes) -> msgspec.Raw:
    """Return JSON that was written elsewhere, without spaces. Raises DecodeError for what is none, such as NaN."""
    msgspec.json.decode(text)
    return msgspec.Raw(msgspec.json.format(text.encode() if isinstance(text, str) else text, indent=-1))


def to_json(value: Any, hook: Hook | None) -> bytes:
    """Return a value as JSON. Raises what the hook raises, TypeError and ValueError."""
    try:
        if hook is None:
            body = _ENCODER.encode(value)
        elif type(hook) is AppJson:
            body = hook.encoder.encode(value)
        else:
            body = msgspec.json.encode(value, enc_hook=partial(_converted, hook))
    except RecursionError:
        raise
    except Exception:
        # Most often a key that msgspec does not take.
        return msgspec.json.encode(_rebuilt(value), enc_hook=partial(_converted, hook))
    # To msgspec a number that JSON does not have is null, and a MultiDict an object of lists. Both signs are found in C:
    # looking at each value takes longer than encoding it.
    suspicious = (b"[" in body and _LIST_FIRST.search(body)) or (b"null" in body and _may_hold_nan(value))
    if suspicious and _differs((value,)):
        return msgspec.json.encode(_rebuilt(value), enc_hook=partial(_converted, hook))
    return body


# An object whose first value is a list, or perhaps is, since its first key has a quote. Possessive: it reads each key once.
_LIST_FIRST = re.compile(rb'\{"[^"]*+(?:":\[|(?<=\\)")')

# MessagePack has the bits of a number as they are. What a hook has made was checked before.
_BITS = msgspec.msgpack.Encoder(enc_hook=lambda value: None)
_NAN_OR_INFINITY = re.compile(rb"\xcb[\x7f\xff][\xf0-\xff]")


def _may_hold_nan(value: Any) -> bool:
    """Return False where no number in a value is NaN or infinity; in much less time than it takes to look at each."""
    try:
        return _NAN_OR_INFINITY.search(_BITS.encode(value)) is not None
    except Exception:
        # An integer that MessagePack does not have.
        return True


def _differs(values: Iterable[Any]) -> bool:
    plain = _PLAIN
    for value in values:
        kind = type(value)
        if kind in plain:
            continue
        if kind is float:
            # NaN minus NaN and infinity minus itself are NaN.
            if value - value != 0:
                return True
        elif kind is dict:
            if _differs(value.values()):
                return True
        elif kind is list or isinstance(value, (list, tuple, set, frozenset)):
            if _differs(value):
                return True
        elif isinstance(value, msgspec.Struct):
            if _differs(msgspec.structs.astuple(value)):
                return True
        elif isinstance(value, dict):
            if kind.items is not dict.items or _differs(value.values()):
                return True
        elif isinstance(value, enum.Enum):
            if _differs((value.value,)):
                return True
        elif _differs([getattr(value, name, None) for name in _fields(kind)]):
            return True
    return False


def _fields(kind: type[Any]) -> Iterable[str]:
    """Return the names of the fields of a Struct, a dataclass or an attrs class; none of any other."""
    if issubclass(kind, msgspec.Struct):
        return kind.__struct_fields__
    attributes = getattr(kind, "__attrs_attrs__", ())
    return getattr(kind, "__dataclass_fields__", ()) or [attribute.name for attribute in attributes]


def _converted(hook: Hook | None, value: Any) -> Any:
    """Return what msgspec is to write in place of a value of a type that it does not know: its ``enc_hook``."""
    if value is None or value is True or value is False:
        # As a key only.
        return _key(value)
    # As in JSON, a string or a number of a class of the app's own is a string or a number. Nor is a date another one than it
    # would be without a tool that sets the clock.
    if isinstance(value, (str, int, float, *_MOMENTS)):
        return _rebuilt(value)
    if hook is None:
        found = _native(value)
        if found is value:
            raise TypeError(f"Encoding objects of type {type(value).__name__} is unsupported")
        return found
    try:
        return _rebuilt(hook(value))
    except Exception:
        found = _native(value)
        if found is value:
            raise
        return found


def _native(value: Any) -> Any:
    """Return a number that is not one of Python's own as one, else the value."""
    if isinstance(value, decimal.Decimal):
        return str(value)
    dtype = getattr(value, "dtype", None)
    if type(value).__module__ == "numpy" and getattr(value, "ndim", None) == 0 and getattr(dtype, "kind", "") in "biuf":
        return _rebuilt(value.item())
    return value


def _rebuilt(value: Any, own: AppJson | None = None) -> Any:
    """Return a value made of what msgspec writes as JSON has it; what neither knows stays, for the hook.

    With ``own`` its provider is asked first for all that JSON itself does not have. Raises ValueError for a number that JSON
    does not have.
    """
    if type(value) in _PLAIN:
        return value
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, int):
        return int.__pos__(value)
    if isinstance(value, float):
        if not isfinite(value):
            raise ValueError(f"{float.__repr__(value)} is a number that JSON does not have: pass None, or a string")
        return float.__pos__(value)
    if isinstance(value, dict):
        return {_key(key): _rebuilt(inner, own) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_rebuilt(inner, own) for inner in value]
    if own is not None:
        try:
            found = own(value)
        except TypeError:
            found = value
        if found is not value:
            return _rebuilt(found, own)
    if isinstance(value, (set, frozenset)):
        return [_rebuilt(inner, own) for inner in value]
    if isinstance(value, enum.Enum):
        return _rebuilt(value.value, own)
    if isinstance(value, _MOMENTS):
        return _exact(value)
    names = _fields(type(value))
    changed = {}
    for name in names:
        inner = getattr(value, name, None)
        found = _rebuilt(inner, own)
        if found is not inner:
            changed[name] = found
    if not changed:
        return value
    if isinstance(value, msgspec.Struct):
        return msgspec.structs.replace(value, **changed)
    value = copy.copy(value)
    for name, inner in changed.items():
        # Also where the class is frozen.
        object.__setattr__(value, name, inner)
    return value


def _key(key: Any) -> Any:
    """Return the key of an object as msgspec takes it."""
    if type(key) is str:
        return key
    if key is None or isinstance(key, bool):
        return {None: "null", True: "true", False: "false"}[key]
    if isinstance(key, enum.Enum):
        return _key(key.value)
    if isinstance(key, str):
        return str.__str__(key)
    if isinstance(key, int):
        return int.__pos__(key)
    if isinstance(key, float):
        return float.__pos__(key)
    if isinstance(key, _MOMENTS):
        return _exact(key)
    return _native(key)


def _exact(value: Any) -> Any:
    """Return a date, a time or a duration of a class of the app's own as one of the standard library's."""
    if isinstance(value, _REAL[0]):
        return exact_datetime(value)
    if isinstance(value, _REAL[1]):
        return _REAL[1](value.year, value.month, value.day)
    if isinstance(value, dt.time):
        return dt.time(value.hour, value.minute, value.second, value.microsecond, value.tzinfo, fold=value.fold)
    return dt.timedelta(value.days, value.seconds, value.microseconds)


def exact_datetime(value: dt.datetime) -> dt.datetime:
    """Return a datetime of the standard library's own class."""
    if type(value) is _REAL[0]:
        return value
    moment: dt.datetime = _REAL[0](
        value.year,
        value.month,
        value.day,
        value.hour,
        value.minute,
        value.second,
        value.microsecond,
        value.tzinfo,
        fold=value.fold,
    )
    return moment


_ENCODER = msgspec.json.Encoder(enc_hook=partial(_converted, None))

"""The way to a Redis: a client from a URL, and what goes wrong with it in one line that says what to do.

Threads: a Broker is a value; a Link belongs to the thread that uses it.
Locks: none.
Blocks: every method of a Link, on the network: connecting and each answer take ``timeout`` seconds at most, a look-up of the
    host's name as long as the system's resolver likes. No thread that serves a request calls one.
"""

from __future__ import annotations

import hashlib
from typing import Any, NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit

from ...errors import OptionsError, printable

__all__ = ["Broker", "BrokerError", "Link", "Script"]

_FORMS = (
    "It must be redis://[[user]:password@]host[:port][/db], rediss://... for TLS, or unix:///path/to/socket[?db=0]; in a user "
    "or a password, write a character such as / # ? @ or % as %2F, %23, %3F, %40 or %25"
)

# What a URL may say behind its "?": time limits and retries are not among it, those are the lane's.
_QUERY = frozenset({"db", "password", "username"})
_TLS_QUERY = frozenset({"db"}) | {
    f"ssl_{name}"
    for name in ("ca_certs", "ca_data", "ca_path", "cert_reqs", "certfile", "check_hostname", "keyfile", "password")
}
_FLAGS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}

# So much of what a server says is repeated.
_MAX_ANSWER = 200

# What an error's class and text, in small letters, may hold, and what is to be done then. The first that fits counts. The
# codes that Redis begins its answers with are looked for anywhere: redis-py cuts some off, a script puts its own words before.
_REMEDIES: tuple[tuple[tuple[str, ...], str], ...] = (
    (("cartowslayout",), "Another version of cartows keeps its events there: run one version, or use another database of it"),
    (
        ("noperm", "nopermission", "acl failure", "executing the script"),
        "Its user may not do that: allow it ~cartows:* +@read +@write +@connection +@scripting +time",
    ),
    # A command of more than a few words is not even looked at before the password.
    (
        ("authentication required", "noauth", "unauthenticated"),
        "It wants a password: CARTOWS_REDIS_URL=redis://:password@host:6379/0",
    ),
    (
        ("wrongpass", "invalid username-password", "invalid password", "without any password", "no password is set"),
        "Check the user and the password in CARTOWS_REDIS_URL",
    ),
    (("authenticationerror", "authorizationerror"), "Check the user and the password in CARTOWS_REDIS_URL"),
    (("oom command", "outofmemory"), "It is full: give it more maxmemory, or take out what others keep there"),
    (("readonly", "read only replica"), "It is a replica: let CARTOWS_REDIS_URL name the primary, or wait for the failover"),
    (("masterdown",), "It is a replica that has lost its primary: let CARTOWS_REDIS_URL name the primary"),
    (("busyloading", "loading redis", "loading the dataset"), "It has just started and reads its data: it will answer soon"),
    (("busy redis is busy", "running a script"), "A script of somebody's keeps it: SCRIPT KILL there ends it"),
    (("misconf",), "It cannot write to its disk: its own log says why"),
    (("noreplicas", "not enough good replicas"), "Too few of its replicas are there: see min-replicas-to-write"),
    (("wrongtype",), "A key that begins with cartows: is somebody else's: use another database of it"),
    (("unknown redis command", "unknown command"), "It must be Redis 5.0 or later, with no command that cartows needs renamed"),
    (
        ("crossslot", "clusterdown", "movederror", " moved ", "askerror"),
        "It is a node of a Redis Cluster, which cartows does not use yet",
    ),
    (("max number of clients",), "It takes no more connections: raise its maxclients"),
    (("invalidresponse", "protocol error"), "What answers there is no Redis: check host and port in CARTOWS_REDIS_URL"),
    (("certificate", "ssl", "tls"), "Check the certificates, and that rediss:// stands where there is TLS and only there"),
    (
        ("name or service", "name resolution", "nodename", "getaddrinfo", "gaierror", "no address associated", "unicodeerror"),
        "Nobody knows the host's name: check it in CARTOWS_REDIS_URL, and the resolver of this machine",
    ),
    (("timeout", "timed out"), "It may be paused, overloaded, or behind a network that loses packets"),
    (("refused", "no such file"), "Nothing listens there: start Redis, or check host and port in CARTOWS_REDIS_URL"),
    (("unreachable", "no route"), "There is no way to it from this machine: check the network and the firewalls"),
    (("closed by server", "reset by peer", "broken pipe", "writing to socket"), "It was stopped, or closes connections"),
)


class BrokerError(Exception):
    """Say in one line what was attempted at the broker, what was found, and what to do about it; never with a password.

    ``broken`` says that only the connection failed, so that another may do at once.
    """

    def __init__(self, text: str, *, broken: bool = False) -> None:
        super().__init__(text)
        self.broken = broken


class Script(NamedTuple):
    """Be a Lua script, with the name that the server remembers it by."""

    text: str
    sha: str

    @classmethod
    def of(cls, text: str) -> Script:
        """Return a script for its text."""
        return cls(text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest())


class Broker:
    """Be a Redis that a URL names; connects to nothing.

    Raises OptionsError for a URL that names none, and where redis-py is missing.
    """

    def __init__(self, url: str) -> None:
        self._redis = _library()
        self._secrets: tuple[str, ...] = ()
        self._settings: dict[str, Any] = {}
        fault = self._read(url)
        # Raised here, where no error of a parser that quotes the URL is being handled.
        if fault is not None:
            raise OptionsError(f"CARTOWS_REDIS_URL cannot be used: {fault}. {_FORMS}")

    def __repr__(self) -> str:
        return f"<Broker {self.place}>"

    def _read(self, url: Any) -> str | None:
        """Take the URL apart; returns what is wrong with it, in words that quote no part that may be a password."""
        scheme, separator, _ = url.partition("://") if isinstance(url, str) else ("", "", "")
        if not separator or scheme not in ("redis", "rediss", "unix"):
            return "it does not begin with redis://, rediss:// or unix://"
        try:
            parts = urlsplit(url)
            port = parts.port
            query = parse_qs(parts.query, keep_blank_values=True)
        except ValueError:
            return "its host and port cannot be made out"
        if parts.fragment:
            return 'it has a "#"'
        known = _TLS_QUERY if scheme == "rediss" else _QUERY
        unknown = sorted(name for name in query if name not in known)
        if unknown:
            # What is no name may be the rest of a password with a "?" in it.
            named = ", ".join(unknown) if all(map(str.isidentifier, unknown)) else "something"
            return f"it sets {named} behind its ?, where only {', '.join(sorted(known))} can stand"
        database = query["db"][0] if "db" in query else "" if scheme == "unix" else parts.path.strip("/")
        if database and not (database.isascii() and database.isdigit()):
            return "the database behind its host is no number"
        if scheme == "unix" and not parts.path:
            return "it names no socket"
        user = unquote(parts.username or "") or query.get("username", [""])[0]
        password = unquote(parts.password or "") or query.get("password", [""])[0]
        secret = {password, parts.password or "", *query.get("ssl_password", ())} - {""}
        self._secrets = tuple(sorted(secret, key=len, reverse=True))
        connection = self._redis.connection
        settings: dict[str, Any] = {"db": int(database or 0)}
        if scheme == "unix":
            settings |= {"connection_class": connection.UnixDomainSocketConnection, "path": unquote(parts.path)}
            self.place = f"unix://{settings['path']}"
        else:
            host = unquote(parts.hostname or "localhost")
            settings |= {"host": host, "port": port or 6379}
            settings["connection_class"] = connection.SSLConnection if scheme == "rediss" else connection.Connection
            shown = f"[{host}]" if ":" in host else host
            self.place = f"{scheme}://{shown}:{port or 6379}/{settings['db']}"
        self.place = printable(self.place)
        if user or password:
            settings["credential_provider"] = self._credentials(user, password)
        settings |= {name: values[0] for name, values in query.items() if name.startswith("ssl_")}
        if "ssl_check_hostname" in settings:
            flag = _FLAGS.get(settings["ssl_check_hostname"].lower())
            if flag is None:
                return "ssl_check_hostname is neither true nor false"
            settings["ssl_check_hostname"] = flag
        self._settings = settings
        return None

    def _credentials(self, user: str, password: str) -> Any:
        # The settings of a pool stand in its repr; an object that gives the password out when asked does not show it there.
        class Credentials(self._redis.credentials.CredentialProvider):  # type: ignore[misc, name-defined]
            def get_credentials(self) -> tuple[str, ...]:
                return (user, password) if user else (password,)

        return Credentials()

    def link(self, timeout: float) -> Link:
        """Return a way to this Redis for one thread; it connects when it is first used."""
        redis = self._redis
        pool = redis.ConnectionPool(
            **self._settings,
            socket_timeout=timeout,
            socket_connect_timeout=timeout,
            # There is one deadline, and one who tries again: the lane. A retry in here would know of neither.
            retry=redis.retry.Retry(redis.backoff.NoBackoff(), 0),
            health_check_interval=0,
            protocol=2,
            decode_responses=False,
        )
        return Link(self, redis.Redis(connection_pool=pool), timeout)

    def explain(self, attempted: str, error: BaseException, timeout: float) -> BrokerError:
        """Return what an error of redis-py or of the system means; ``attempted`` is a phrase such as "Storing events"."""
        exceptions = self._redis.exceptions
        # A connection is closed by who waits for nothing but an answer: the reason that the system gave lies below.
        seen = f"{type(error).__name__} {type(error.__context__).__name__} {error}".lower()
        remedy = next((remedy for marks, remedy in _REMEDIES if any(mark in seen for mark in marks)), None)
        found = printable(" ".join(str(error).split())) or type(error).__name__
        for secret in self._secrets:
            found = found.replace(secret, "***")
        if isinstance(error, (exceptions.TimeoutError, TimeoutError)):
            found = f"no answer within {timeout:g} s"
        text = f"{attempted} at {self.place} failed: {found[:_MAX_ANSWER].rstrip('. ')}"
        told = exceptions.AuthenticationError, exceptions.AuthorizationError, exceptions.BusyLoadingError
        broken = isinstance(error, exceptions.ConnectionError) and not isinstance(error, told)
        return BrokerError(f"{text}. {remedy}" if remedy else text, broken=broken)


class Link:
    """Be one thread's connection to a Redis: made when it is needed, and made anew after an error."""

    def __init__(self, broker: Broker, client: Any, timeout: float) -> None:
        self._broker = broker
        self._client = client
        self._timeout = timeout

    def __repr__(self) -> str:
        return f"<Link {self._broker.place}>"

    def run(self, attempted: str, script: Script, keys: list[str], arguments: list[Any]) -> Any:
        """Run a script, by its name where the server remembers it. Raises BrokerError."""
        try:
            try:
                return self._client.evalsha(script.sha, len(keys), *keys, *arguments)
            except self._broker._redis.exceptions.NoScriptError:
                return self._client.eval(script.text, len(keys), *keys, *arguments)
        except Exception as error:
            raise self._broker.explain(attempted, error, self._timeout) from None

    def call(self, attempted: str, *command: Any) -> Any:
        """Send a command as redis-py's ``execute_command`` does, and return the answer as it parses it. Raises BrokerError."""
        try:
            return self._client.execute_command(*command)
        except Exception as error:
            raise self._broker.explain(attempted, error, self._timeout) from None

    def close(self) -> None:
        """Close the connection; the next use makes another."""
        self._client.connection_pool.disconnect()


def _library() -> Any:
    """Return redis-py, which nobody needs who has no URL."""
    try:
        import redis
        import redis.backoff
        import redis.connection
        import redis.credentials
        import redis.exceptions
        import redis.retry
    except ImportError:
        pass
    else:
        return redis
    raise OptionsError("CARTOWS_REDIS_URL is set, and redis-py is not there to use it: pip install 'cartows[redis]'")

"""Connections to a Redis server that a URL names, and its failures, each in one line with a remedy.

**Threads**: a Broker is a value; a Link belongs to the thread that uses it.

**Blocks**: every method of a Link waits for the network. Connecting and each answer take ``timeout`` seconds at most, looking
up the host's name as long as the system's resolver takes. No thread that serves a request calls one.
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

# What a URL's query may set. Timeouts and retries are not included: they belong to the event writer.
_QUERY = frozenset({"db", "password", "username"})
_TLS_QUERY = frozenset({"db"}) | {
    f"ssl_{name}"
    for name in ("ca_certs", "ca_data", "ca_path", "cert_reqs", "certfile", "check_hostname", "keyfile", "password")
}
_FLAGS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}

# How much of a server's own text an error repeats.
_MAX_ANSWER = 200

# What a server answers that has no such command.
_UNKNOWN_COMMAND = "unknown command"

_SENTINEL = (
    "It is a Sentinel, which has no events and which cartows does not ask for the primary: let CARTOWS_REDIS_URL name the "
    "primary itself, or a proxy that follows it"
)

# Parts of an error's class and text, in lower case, and the remedy. The first match counts. Redis's error codes are looked for
# anywhere: redis-py cuts some off, and a script's own text comes before them.
_REMEDIES: tuple[tuple[tuple[str, ...], str], ...] = (
    (("cartowslayout",), "Another version of cartows keeps its events there: run one version, or use another database"),
    (
        ("noperm", "nopermission", "acl failure", "executing the script"),
        # SELECT, for a URL with a database, is in @connection from Redis 7 on only.
        "Its user may not do that: allow it ~cartows:* +@read +@write +@connection +@scripting +select +time",
    ),
    # Before authentication, a server rejects a command of more than a few words without looking at it.
    (
        ("authentication required", "noauth", "unauthenticated"),
        "It requires a password: CARTOWS_REDIS_URL=redis://:password@host:6379/0",
    ),
    (
        ("wrongpass", "invalid username-password", "invalid password", "without any password", "no password is set"),
        "Check the user and the password in CARTOWS_REDIS_URL",
    ),
    (("authenticationerror", "authorizationerror"), "Check the user and the password in CARTOWS_REDIS_URL"),
    (("oom command", "outofmemory"), "It is full: raise its maxmemory, or remove what other applications keep there"),
    (("readonly", "read only replica"), "It is a replica: let CARTOWS_REDIS_URL name the primary, or wait for the failover"),
    (("masterdown",), "It is a replica that has lost its primary: let CARTOWS_REDIS_URL name the primary"),
    (
        ("busyloading", "loading redis", "loading the dataset"),
        "It has just started and is loading its data: it will answer soon",
    ),
    (("busy redis is busy", "running a script"), "A script of another client is running there: SCRIPT KILL ends it"),
    (("misconf",), "It cannot write to its disk: its log has the reason"),
    (("noreplicas", "not enough good replicas"), "Too few of its replicas are connected: see min-replicas-to-write"),
    (("wrongtype",), "Another application uses a key that begins with cartows: use another database"),
    (
        (_UNKNOWN_COMMAND, "unknown redis command"),
        "It must be Redis 5.0 or later, and no command that cartows needs may be renamed",
    ),
    (
        ("crossslot", "clusterdown", "movederror", " moved ", "askerror"),
        "It is a node of a Redis Cluster, which cartows does not support yet",
    ),
    (("max number of clients",), "It accepts no more connections: raise its maxclients"),
    (("invalidresponse", "protocol error"), "The server there is not Redis: check host and port in CARTOWS_REDIS_URL"),
    (("certificate", "ssl", "tls"), "Check the certificates, and use rediss:// for a server with TLS and only there"),
    (
        ("name or service", "name resolution", "nodename", "getaddrinfo", "gaierror", "no address associated", "unicodeerror"),
        "The host's name cannot be resolved: check it in CARTOWS_REDIS_URL, and this machine's resolver",
    ),
    (("timeout", "timed out"), "It may be paused, overloaded, or behind a network that loses packets"),
    (("refused", "no such file"), "Nothing listens there: start Redis, or check host and port in CARTOWS_REDIS_URL"),
    (("unreachable", "no route"), "There is no route to it from this machine: check the network and the firewalls"),
    (("closed by server", "reset by peer", "broken pipe", "writing to socket"), "It was stopped, or it closes connections"),
)


class BrokerError(Exception):
    """What was attempted at the broker, how it failed, and the remedy, in one line; never with a password.

    With ``broken`` only the connection failed, so that another one may work at once.
    """

    def __init__(self, text: str, *, broken: bool = False) -> None:
        super().__init__(text)
        self.broken = broken


class Script(NamedTuple):
    """A Lua script, and the name under which the server caches it."""

    text: str
    sha: str

    @classmethod
    def of(cls, text: str) -> Script:
        """Return a script with its name."""
        return cls(text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest())


class Broker:
    """A Redis server that a URL names; it connects to nothing by itself.

    Raises OptionsError for a URL that cannot be used, and where redis-py is missing.
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
        return f"<Broker {self.address}>"

    def _read(self, url: Any) -> str | None:
        """Parse the URL; return what is wrong with it, quoting no part that may be a password."""
        scheme, separator, _ = url.partition("://") if isinstance(url, str) else ("", "", "")
        if not separator or scheme not in ("redis", "rediss", "unix"):
            return "it does not begin with redis://, rediss:// or unix://"
        try:
            parts = urlsplit(url)
            port = parts.port
            query = parse_qs(parts.query, keep_blank_values=True)
        except ValueError:
            return "its host and port cannot be parsed"
        if parts.fragment:
            return 'it has a "#"'
        known = _TLS_QUERY if scheme == "rediss" else _QUERY
        unknown = sorted(name for name in query if name not in known)
        if unknown:
            # What is not a name may be the rest of a password with a "?" in it.
            named = ", ".join(unknown) if all(map(str.isidentifier, unknown)) else "something"
            return f"its query sets {named}; only {', '.join(sorted(known))} may be set there"
        database = query["db"][0] if "db" in query else "" if scheme == "unix" else parts.path.strip("/")
        if database and not (database.isascii() and database.isdigit()):
            return "the database after its host is not a number"
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
            self.address = f"unix://{settings['path']}"
        else:
            host = unquote(parts.hostname or "localhost")
            settings |= {"host": host, "port": port or 6379}
            settings["connection_class"] = connection.SSLConnection if scheme == "rediss" else connection.Connection
            shown = f"[{host}]" if ":" in host else host
            self.address = f"{scheme}://{shown}:{port or 6379}/{settings['db']}"
        self.address = printable(self.address)
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
        # A pool shows its settings in its repr. A credential provider keeps the password out of it.
        class Credentials(self._redis.credentials.CredentialProvider):  # type: ignore[misc, name-defined]
            def get_credentials(self) -> tuple[str, ...]:
                return (user, password) if user else (password,)

        return Credentials()

    def link(self, timeout: float) -> Link:
        """Return a connection to this server for one thread; it is opened when it is first used."""
        return Link(self, self._client(timeout), timeout)

    def _client(self, timeout: float, **settings: Any) -> Any:
        redis = self._redis
        pool = redis.ConnectionPool(
            **(self._settings | settings),
            socket_timeout=timeout,
            socket_connect_timeout=timeout,
            # The event writer alone has the deadline and retries. A retry in redis-py would exceed the deadline.
            retry=redis.retry.Retry(redis.backoff.NoBackoff(), 0),
            health_check_interval=0,
            protocol=2,
            decode_responses=False,
        )
        return redis.Redis(connection_pool=pool)

    def explain(self, attempted: str, error: BaseException, timeout: float) -> BrokerError:
        """Return the BrokerError for an error of redis-py or of the system; ``attempted`` reads like "Storing events"."""
        exceptions = self._redis.exceptions
        # redis-py reports a connection that was closed; the system's own reason is in the error's context.
        seen = f"{type(error).__name__} {type(error.__context__).__name__} {error}".lower()
        remedy = next((remedy for marks, remedy in _REMEDIES if any(mark in seen for mark in marks)), None)
        if _UNKNOWN_COMMAND in seen and self._is_sentinel(timeout):
            remedy = _SENTINEL
        found = printable(" ".join(str(error).split())) or type(error).__name__
        for secret in self._secrets:
            found = found.replace(secret, "***")
        if isinstance(error, (exceptions.TimeoutError, TimeoutError)):
            found = f"no answer within {timeout:g} s"
        text = f"{attempted} at {self.address} failed: {found[:_MAX_ANSWER].rstrip('. ')}"
        answers = exceptions.AuthenticationError, exceptions.AuthorizationError, exceptions.BusyLoadingError
        broken = isinstance(error, exceptions.ConnectionError) and not isinstance(error, answers)
        return BrokerError(f"{text}. {remedy}" if remedy else text, broken=broken)

    def _is_sentinel(self, timeout: float) -> bool:
        """Ask the server whether it is a Sentinel, which knows few commands: SELECT neither, so that no database is named."""
        client = self._client(timeout, db=0)
        try:
            role = client.execute_command("ROLE")
        except Exception:
            return False
        finally:
            client.connection_pool.disconnect()
        return bool(role) and role[0] == b"sentinel"


class Link:
    """One thread's connection to a Redis server: opened when it is needed, and again after an error."""

    def __init__(self, broker: Broker, client: Any, timeout: float) -> None:
        self._broker = broker
        self._client = client
        self._timeout = timeout

    def __repr__(self) -> str:
        return f"<Link {self._broker.address}>"

    def run(self, attempted: str, script: Script, keys: list[str], arguments: list[Any]) -> Any:
        """Run a script, by its name where the server has it cached. Raises BrokerError."""
        try:
            try:
                return self._client.evalsha(script.sha, len(keys), *keys, *arguments)
            except self._broker._redis.exceptions.NoScriptError:
                return self._client.eval(script.text, len(keys), *keys, *arguments)
        except Exception as error:
            raise self._broker.explain(attempted, error, self._timeout) from None

    def call(self, attempted: str, *command: Any) -> Any:
        """Send a command with redis-py's ``execute_command``, and return the parsed answer. Raises BrokerError."""
        try:
            return self._client.execute_command(*command)
        except Exception as error:
            raise self._broker.explain(attempted, error, self._timeout) from None

    def close(self) -> None:
        """Close the connection; the next call opens another."""
        self._client.connection_pool.disconnect()


def _library() -> Any:
    """Return redis-py, which is needed only where there is a URL."""
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
    raise OptionsError("CARTOWS_REDIS_URL needs redis-py, which is not installed: pip install 'cartows[redis]'")

"""What the system grants this process: files, threads and memory, and how many clients that is enough for.

**Threads**: any.
**Blocks**: on some files of ``/proc`` and ``/sys``.

A client takes a descriptor, a thread that reads and, once its socket has fallen behind, a thread that writes. The web server
needs descriptors and threads, too, and cannot go on without: gunicorn's gthread worker starts the threads of its pool when they
are first needed, and ends with all its clients when one cannot be started. So clients are given what is left of every limit.
"""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

__all__ = ["Limit", "Limits", "bound_arenas", "find_limits", "memory_limit"]

# Descriptors left to the app, its database and the sockets that a server has accepted but not yet given to a thread: gunicorn
# accepts up to 1,000 (worker_connections), and its gthread worker dies when accept finds no descriptor.
_SPARE_FILES = 1064

# Threads left to the app and to this library, besides those of the server's pool.
_SPARE_THREADS = 32

# Of the threads that clients may have, one in so many is kept for writers: not every client has a reader alone.
_WRITERS_SHARE = 8

# What a client takes of the memory, in bytes: its objects, its stack, and the kernel's for its thread and its socket. What the
# kernel holds for its socket comes on top: twice SO_SNDBUF.
_CLIENT_BYTES = 64 * 1024

# The part of the memory that clients may take.
_CLIENTS_PART = 2

# Where an address space is bound: the part of it that is left to the heap, and what a thread takes besides its stack.
_HEAP_PART = 4
_THREAD_BYTES = 64 * 1024

# The stack of a thread where RLIMIT_STACK says nothing.
_DEFAULT_STACK = 8 * 1024 * 1024

# glibc reserves so much address space for each of its arenas, of which every new thread makes one until there are 8 for each
# processor: 4 threads in a limit of 900 MB take 290 MB more than their stacks. Two are what one thread at a time can use.
_ARENA_BYTES = 64 * 1024 * 1024
_ARENAS = 2
_M_ARENA_MAX = -8

# Where the system tells nothing.
_UNKNOWN_CLIENTS = 500
_UNKNOWN_MEMORY = 1 << 30

# An unlimited cgroup of the first version has a number as well, of about this size.
_UNLIMITED = 1 << 60

_CAP_SYS_ADMIN, _CAP_SYS_RESOURCE = 21, 24

_root = Path("/")


class Limit(NamedTuple):
    """One limit, and how many clients it is enough for."""

    #: What it limits and how it is called, e.g. ``"threads (cgroup pids.max)"``.
    name: str
    value: int
    clients: int
    #: The threads that clients may have; None where it does not limit threads.
    threads: int | None = None

    def __str__(self) -> str:
        return f"{self.name} {self.value}: {self.clients}"


class Limits(NamedTuple):
    """All limits that were found, the one that decides first."""

    found: tuple[Limit, ...]

    @property
    def clients(self) -> int:
        """The number of clients that every limit is enough for."""
        return self.found[0].clients if self.found else _UNKNOWN_CLIENTS

    @property
    def threads(self) -> int | None:
        """The number of threads that clients may have; None where no limit is known."""
        return min((limit.threads for limit in self.found if limit.threads is not None), default=None)

    def __str__(self) -> str:
        return "; ".join(map(str, self.found)) or "no limit was found"


def find_limits(*, workers: int = 1, pool: int = 0, write_buffer: int = 0) -> Limits:
    """Return the limits of this process.

    Args:
        workers: The number of worker processes that share the limits of a user, a cgroup or the machine.
        pool: The number of threads that the web server starts for requests in each of them.
        write_buffer: ``SO_SNDBUF`` of a client's socket.
    """
    found = list(_file_limits())
    spare = _SPARE_THREADS + pool
    for name, value, available in [*_shared_threads(workers), *_own_threads()]:
        threads = max(2, available - min(spare, available // 2))
        found.append(Limit(name, value, max(1, threads - threads // _WRITERS_SHARE), threads))
    for name, value in _memory_limits():
        clients = value // _CLIENTS_PART // workers // (_CLIENT_BYTES + 2 * write_buffer)
        found.append(Limit(name, value, max(1, clients)))
    # sorted keeps the order of equal ones.
    return Limits(tuple(sorted(found, key=lambda limit: limit.clients)))


def memory_limit() -> int:
    """Return how many bytes of memory there are for this process and those that share its limits."""
    spaces = [value for name in ("RLIMIT_AS", "RLIMIT_DATA") if (value := _rlimit(name)) is not None]
    return min([*(value for _, value in _memory_limits()), *spaces], default=_UNKNOWN_MEMORY)


def bound_arenas() -> bool:
    """Have glibc make no more than two arenas where the address space is limited; return whether that was done.

    ``MALLOC_ARENA_MAX`` in the environment takes precedence.
    """
    if _rlimit("RLIMIT_AS") is None or "MALLOC_ARENA_MAX" in os.environ or not _is_glibc():
        return False
    with suppress(OSError, AttributeError):
        return bool(ctypes.CDLL(None).mallopt(_M_ARENA_MAX, _ARENAS))
    return False


# Files ----------------------------------------------------------------------------------------------------------------


def _file_limits() -> Iterator[Limit]:
    limit = _rlimit("RLIMIT_NOFILE", unlimited=1 << 20)
    if limit is not None:
        yield Limit("open files (RLIMIT_NOFILE, ulimit -n)", limit, max(1, limit - min(_SPARE_FILES, limit // 2)))


# Threads: the name of each limit, its value, and how many threads it leaves to this process ---------------------------


def _shared_threads(workers: int) -> Iterator[tuple[str, int, int]]:
    """Yield the limits that the worker processes share. What they use themselves is not subtracted: it is divided."""
    limit = _rlimit("RLIMIT_NPROC")
    if limit is not None and not _is_privileged():
        yield "threads (RLIMIT_NPROC, ulimit -u)", limit, max(0, limit - _threads_of_others()) // workers
    for limit in _cgroup("pids", "pids.max", "pids.max"):
        yield "threads (pids.max of the cgroup)", limit, limit // workers
    others = _threads_on_machine() - _threads_of_family()
    for name in ("threads-max", "pid_max"):
        limit = _integer(f"proc/sys/kernel/{name}")
        if limit is not None:
            yield f"threads (kernel.{name})", limit, max(0, limit - max(0, others)) // workers


def _own_threads() -> Iterator[tuple[str, int, int]]:
    """Yield the limits of this process alone."""
    maps = _integer("proc/sys/vm/max_map_count")
    if maps is not None:
        # A thread's stack and its guard.
        yield "threads (vm.max_map_count)", maps, max(0, maps - _read("proc/self/maps").count("\n")) // 2
    stack = threading.stack_size() or _rlimit("RLIMIT_STACK", unlimited=_DEFAULT_STACK) or _DEFAULT_STACK
    for name, label, key in (
        ("RLIMIT_AS", "address space (RLIMIT_AS, ulimit -v)", "VmSize"),
        ("RLIMIT_DATA", "data (RLIMIT_DATA, ulimit -d)", "VmData"),
    ):
        limit = _rlimit(name)
        if limit is not None:
            free = limit - limit // _HEAP_PART - _status("self").get(key, 0) * 1024
            free -= _arenas() * _ARENA_BYTES if name == "RLIMIT_AS" else 0
            yield label, limit, max(0, free) // (stack + _THREAD_BYTES)


def _arenas() -> int:
    """Return how many arenas glibc may still make: the first is the heap itself."""
    if not _is_glibc():
        return 0
    try:
        return max(0, int(os.environ.get("MALLOC_ARENA_MAX", _ARENAS)) - 1)
    except ValueError:
        return _ARENAS - 1


def _is_glibc() -> bool:
    try:
        return "glibc" in (os.confstr("CS_GNU_LIBC_VERSION") or "")
    except (AttributeError, ValueError, OSError):
        return False


def _is_privileged() -> bool:
    """Return whether the kernel does not apply RLIMIT_NPROC: to root, and to who may override such limits."""
    if _read("proc/self/uid_map").split() != ["0", "0", "4294967295"]:
        # What is root in a namespace of a user's own is that user.
        return False
    capabilities = next((line.split()[1] for line in _read("proc/self/status").splitlines() if line.startswith("CapEff:")), "0")
    return os.getuid() == 0 or bool(int(capabilities, 16) & (1 << _CAP_SYS_ADMIN | 1 << _CAP_SYS_RESOURCE))


def _threads_of_others() -> int:
    """Return how many threads the user of this process has in others, except in its parent and its siblings."""
    parent, uid, count = os.getppid(), os.getuid(), 0
    with suppress(OSError):
        for entry in os.scandir(_root / "proc"):
            if entry.name.isdigit() and int(entry.name) not in (os.getpid(), parent):
                with suppress(OSError):
                    if entry.stat().st_uid == uid:
                        status = _status(entry.name)
                        count += status.get("Threads", 0) if status.get("PPid") != parent else 0
    return count


def _threads_on_machine() -> int:
    try:
        return int(_read("proc/loadavg").split()[3].partition("/")[2])
    except (IndexError, ValueError):
        return 0


def _threads_of_family() -> int:
    """Return how many threads this process and its siblings have."""
    parent = os.getppid()
    siblings = _read(f"proc/{parent}/task/{parent}/children").split() if parent > 1 else []
    return sum(_status(process).get("Threads", 0) for process in siblings or ["self"])


# Memory ---------------------------------------------------------------------------------------------------------------


def _memory_limits() -> Iterator[tuple[str, int]]:
    for limit in _cgroup("memory", "memory.max", "memory.limit_in_bytes"):
        yield "bytes of memory (of the cgroup)", limit
    with suppress(AttributeError, ValueError, OSError):
        yield "bytes of memory (of the machine)", os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


# Reading --------------------------------------------------------------------------------------------------------------


def _rlimit(name: str, unlimited: int | None = None) -> int | None:
    """Return a soft limit, ``unlimited`` where there is none, and None where the system has no such limits."""
    try:
        import resource  # not on Windows
    except ImportError:
        return None
    which: Any = getattr(resource, name, None)
    if which is None:
        return None
    limit: int = resource.getrlimit(which)[0]
    return unlimited if limit == resource.RLIM_INFINITY or limit < 0 else limit


def _cgroup(controller: str, name: str, name_v1: str) -> list[int]:
    """Return the smallest limit of this process's cgroup and those around it, of either version; none where there is none."""
    found = []
    for line in _read("proc/self/cgroup").splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controllers and controller not in controllers.split(","):
            continue
        file = name_v1 if controllers else name
        for mount in [controllers, controller] if controllers else ["", "unified"]:
            # A container sees its own cgroup at the root, under whatever path it stands outside.
            inner = Path(path.lstrip("/"))
            found += [_integer(Path("sys/fs/cgroup", mount, each, file)) for each in (inner, *inner.parents)]
    limits = [limit for limit in found if limit is not None and limit < _UNLIMITED]
    return [min(limits)] if limits else []


def _status(process: str) -> dict[str, int]:
    """Return the numbers in the status of a process; those of memory are in KiB."""
    pairs = [line.partition(":")[::2] for line in _read(f"proc/{process}/status").splitlines()]
    return {key: int(value.split()[0]) for key, value in pairs if value.split() and value.split()[0].isdigit()}


def _integer(path: str | Path) -> int | None:
    """Return the number in a file; None where there is no such file, and for ``max``."""
    try:
        return int(_read(path))
    except ValueError:
        return None


def _read(path: str | Path) -> str:
    try:
        return (_root / path).read_text(errors="replace")
    except OSError:
        return ""

"""What the system grants, read from files as the kernel writes them, and the number of clients that follows."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Mapping
from pathlib import Path

import pytest

from cartows import limits
from cartows.limits import Limits, bound_arenas, find_limits, memory_limit

resource = pytest.importorskip("resource")

MIB = 1 << 20


@pytest.fixture(autouse=True)
def root(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Replace /proc and /sys by an empty directory, and the machine by one with much memory."""
    monkeypatch.setattr(limits, "_root", tmp_path)
    monkeypatch.setattr(os, "sysconf", lambda name: {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": 1 << 40}[name])
    monkeypatch.setattr(limits, "_is_glibc", lambda: True)
    monkeypatch.delenv("MALLOC_ARENA_MAX", raising=False)
    return tmp_path


@pytest.fixture
def rlimits(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """Return the limits by their names, to be filled; all others are unlimited."""
    found: dict[str, int] = {}
    by_number = {
        getattr(resource, name): name for name in dir(resource) if name.startswith("RLIMIT_") and name != "RLIMIT_OFILE"
    }

    def getrlimit(which: int) -> tuple[int, int]:
        return found.get(by_number[which], resource.RLIM_INFINITY), resource.RLIM_INFINITY

    monkeypatch.setattr(resource, "getrlimit", getrlimit)
    return found


def write(root: Path, files: Mapping[str, str]) -> None:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)


def deciding(found: Limits) -> str:
    return found.found[0].name


# Files ----------------------------------------------------------------------------------------------------------------


def test_the_file_limit_less_headroom_is_the_number_of_clients(rlimits: dict[str, int]) -> None:
    for limit, clients in {1: 1, 2: 1, 256: 128, 1024: 512, 2128: 1064, 4096: 3032, 65536: 64472}.items():
        rlimits["RLIMIT_NOFILE"] = limit
        assert find_limits().clients == clients, limit
        assert "RLIMIT_NOFILE" in deciding(find_limits())


def test_no_file_limit_is_no_endless_number_of_clients(rlimits: dict[str, int]) -> None:
    assert find_limits().clients == (1 << 20) - 1064


def test_where_nothing_is_limited_there_is_a_number_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "resource", None)

    def unknown(name: str) -> int:
        raise ValueError(name)

    monkeypatch.setattr(os, "sysconf", unknown)
    found = find_limits()
    assert (found.clients, found.threads, memory_limit()) == (500, None, 1 << 30)


# Threads --------------------------------------------------------------------------------------------------------------

# The threads that are left to the app and to cartows, and of the others the eighth that is left to writers.
HEADROOM = 32


def clients_of(threads: int) -> int:
    return threads - threads // 8


def as_user(root: Path, uid_map: str = "0 0 4294967295", capabilities: str = "0") -> None:
    write(root, {"proc/self/uid_map": uid_map, "proc/self/status": f"Threads:\t5\nCapEff:\t{capabilities}\n"})


def test_the_threads_of_a_user_are_shared_with_its_other_processes(
    root: Path, rlimits: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    rlimits["RLIMIT_NPROC"] = 1000
    monkeypatch.setattr(os, "getuid", lambda: root.stat().st_uid)
    monkeypatch.setattr(os, "getppid", lambda: 10)
    as_user(root, "0 100000 65536")
    write(
        root,
        {
            # The parent and the worker beside this process share the limit, and do not use up this one's part of it.
            "proc/10/status": "PPid:\t1\nThreads:\t1\n",
            "proc/11/status": "PPid:\t10\nThreads:\t400\n",
            "proc/77/status": "PPid:\t1\nThreads:\t68\n",
            "proc/cpuinfo": "",
        },
    )
    assert find_limits().threads == 1000 - 68 - HEADROOM
    assert find_limits().clients == clients_of(1000 - 68 - HEADROOM)
    assert "RLIMIT_NPROC" in deciding(find_limits())
    assert find_limits(workers=2, pool=8).threads == (1000 - 68) // 2 - HEADROOM - 8


@pytest.mark.parametrize(
    ("uid", "uid_map", "capabilities", "limited"),
    [
        (0, "0 0 4294967295", "1ffffffffff", False),
        (1000, "0 0 4294967295", "0", True),
        (1000, "0 0 4294967295", "1000000", False),
        # Root in a container without privileges is an ordinary user to the kernel.
        (0, "0 100000 65536", "1ffffffffff", True),
    ],
    ids=["root", "a user", "CAP_SYS_RESOURCE", "root of a user namespace"],
)
def test_the_limit_of_a_user_counts_for_those_whom_the_kernel_applies_it_to(
    root: Path,
    rlimits: dict[str, int],
    monkeypatch: pytest.MonkeyPatch,
    uid: int,
    uid_map: str,
    capabilities: str,
    limited: bool,
) -> None:
    rlimits["RLIMIT_NPROC"] = 1000
    monkeypatch.setattr(os, "getuid", lambda: uid)
    as_user(root, uid_map, capabilities)
    assert (find_limits().threads is not None) == limited


@pytest.mark.parametrize(
    "files",
    [
        {"proc/self/cgroup": "0::/", "sys/fs/cgroup/pids.max": "500"},
        {"proc/self/cgroup": "0::/a/b", "sys/fs/cgroup/a/b/pids.max": "max", "sys/fs/cgroup/a/pids.max": "500"},
        {"proc/self/cgroup": "0::/a", "sys/fs/cgroup/a/pids.max": "500", "sys/fs/cgroup/pids.max": "900"},
        {"proc/self/cgroup": "3:cpu:/x\n8:pids:/a\n0::/", "sys/fs/cgroup/pids/a/pids.max": "500"},
        # A container of the first version: its path is that outside.
        {"proc/self/cgroup": "8:pids:/docker/4f5e", "sys/fs/cgroup/pids/pids.max": "500"},
    ],
    ids=["v2", "v2, outer", "v2, both", "v1", "v1, container"],
)
def test_the_threads_of_a_cgroup_are_divided_by_the_workers(root: Path, rlimits: dict[str, int], files: dict[str, str]) -> None:
    write(root, files)
    found = find_limits(workers=2, pool=4)
    assert "pids.max" in deciding(found)
    assert (found.threads, found.clients) == (250 - HEADROOM - 4, clients_of(250 - HEADROOM - 4))
    assert "500" in str(found), "what was found is logged"


def test_the_threads_of_the_machine_are_what_other_processes_leave(
    root: Path, rlimits: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "getppid", lambda: 10)
    write(
        root,
        {
            "proc/loadavg": "0.00 0.01 0.05 1/700 4711",
            "proc/self/status": "Threads:\t5\n",
            "proc/10/task/10/children": "11 12 ",
            "proc/11/status": "Threads:\t100\n",
            "proc/12/status": "Threads:\t100\n",
            "proc/sys/kernel/threads-max": "3000",
        },
    )
    assert find_limits(workers=2).threads == (3000 - 500) // 2 - HEADROOM
    assert "kernel.threads-max" in deciding(find_limits())
    write(root, {"proc/sys/kernel/pid_max": "2000"})
    assert "kernel.pid_max" in deciding(find_limits())


def test_two_maps_are_a_thread(root: Path, rlimits: dict[str, int]) -> None:
    write(root, {"proc/sys/vm/max_map_count": "65530", "proc/self/maps": "a\n" * 530})
    assert find_limits().threads == 32500 - HEADROOM


def test_in_a_small_limit_half_of_the_threads_is_left_to_the_server(root: Path, rlimits: dict[str, int]) -> None:
    for limit, threads in ((40, 20), (3, 2), (0, 2)):
        write(root, {"proc/self/cgroup": "0::/", "sys/fs/cgroup/pids.max": str(limit)})
        found = find_limits(pool=16)
        assert found.threads == threads
        assert found.clients >= 1


# Address space --------------------------------------------------------------------------------------------------------


def test_an_address_space_is_divided_into_stacks(root: Path, rlimits: dict[str, int]) -> None:
    rlimits.update(RLIMIT_AS=900 * MIB, RLIMIT_STACK=8 * MIB)
    write(root, {"proc/self/status": f"VmSize:\t{130 * 1024} kB\n"})
    # A quarter for the heap, and an arena.
    threads = int((900 * 3 / 4 - 130 - 64) / (8 + 1 / 16)) - HEADROOM + 3
    found = find_limits()
    assert found.threads is not None and threads - 4 <= found.threads <= threads
    assert "RLIMIT_AS" in deciding(found) and "ulimit -v" in deciding(found)
    rlimits["RLIMIT_STACK"] = MIB
    smaller = find_limits().threads
    assert smaller is not None and smaller > 6 * found.threads, "smaller stacks are more threads"


def test_the_stack_that_the_app_has_set_counts(root: Path, rlimits: dict[str, int]) -> None:
    rlimits.update(RLIMIT_DATA=900 * MIB, RLIMIT_STACK=8 * MIB)
    before = find_limits().threads
    old = threading.stack_size(MIB)
    try:
        after = find_limits().threads
    finally:
        threading.stack_size(old)
    assert before is not None and after is not None and after > 6 * before
    assert "RLIMIT_DATA" in deciding(find_limits())


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="mallopt is glibc's")
def test_arenas_are_bounded_where_the_address_space_is(rlimits: dict[str, int], monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[int, int]] = []

    class Libc:
        def mallopt(self, which: int, value: int) -> int:
            calls.append((which, value))
            return 1

    monkeypatch.setattr(limits.ctypes, "CDLL", lambda name: Libc())
    assert not bound_arenas(), "an app's malloc is left alone where nothing is limited"
    rlimits["RLIMIT_AS"] = 900 * MIB
    assert bound_arenas()
    monkeypatch.setenv("MALLOC_ARENA_MAX", "4")
    assert not bound_arenas(), "what the operator has set stands"
    assert calls == [(-8, 2)]


# Memory ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "files",
    [
        {"proc/self/cgroup": "0::/", "sys/fs/cgroup/memory.max": str(512 * MIB)},
        {"proc/self/cgroup": "4:memory:/a/b", "sys/fs/cgroup/memory/a/memory.limit_in_bytes": str(512 * MIB)},
    ],
    ids=["v2", "v1"],
)
def test_half_of_the_memory_is_for_clients_and_what_the_kernel_holds_for_them(
    root: Path, rlimits: dict[str, int], files: dict[str, str]
) -> None:
    write(root, files)
    assert memory_limit() == 512 * MIB
    assert find_limits(workers=2, write_buffer=65536).clients == 512 * MIB // 2 // 2 // (192 * 1024)
    assert "cgroup" in deciding(find_limits())
    assert find_limits().threads is None


def test_an_unlimited_cgroup_is_no_limit(root: Path, rlimits: dict[str, int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sysconf", lambda name: {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": 1 << 20}[name])
    write(
        root,
        {
            "proc/self/cgroup": "4:memory:/\n0::/",
            "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712",
            "sys/fs/cgroup/memory.max": "max",
        },
    )
    assert memory_limit() == 4096 << 20
    assert "of the machine" in deciding(find_limits())


def test_the_limits_of_this_system_can_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    found = find_limits(workers=2, pool=8, write_buffer=65536)
    assert found.clients >= 1 and found.found and memory_limit() > MIB
    assert [limit.clients for limit in found.found] == sorted(limit.clients for limit in found.found)

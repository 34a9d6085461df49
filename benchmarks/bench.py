"""The tools of every row: the scale of the load, watched servers, and blasts of events to many clients.

Blocks: for the length of a measurement, which is bounded.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import resource
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from .processes import Call, Floor, Gunicorn, Loadgen, MeasureError, Server
from .report import Figure, Outcome, Sample

# gunicorn's recommendation for a small app, as in the README.
THREADS = 8
# As in a wave of reconnects, within gunicorn's default backlog.
HANDSHAKES = "32"

# CPUs that other processes may use during a run that counts, and how long a run is delayed for that.
QUIET = 0.1
QUIET_WAIT = 5.0
REPEATS = 1


@dataclasses.dataclass(frozen=True)
class Scale:
    """The size of the load; the targets apply to the full scale."""

    #: Clients of most rows, and of the row `many`.
    clients: int = 1000
    many: int = 10_000
    #: Events of the unpaced flood.
    flood: int = 10_000
    #: Length of a paced measurement.
    seconds: float = 5.0
    #: HTTP requests per percentile.
    probes: int = 2000


QUICK = Scale(clients=100, many=500, flood=1000, seconds=1.0, probes=200)


class Bench:
    """One run of one row: starts servers, and collects notes for the report."""

    def __init__(self, scale: Scale) -> None:
        self.scale = scale
        # Sentences for the report, each once.
        self.notes: list[str] = []

    def note(self, sentence: str) -> None:
        if sentence not in self.notes:
            self.notes.append(sentence)

    @contextlib.contextmanager
    def cartows(self, threads: int = THREADS, env: Mapping[str, str] | None = None) -> Iterator[Gunicorn]:
        """Serve the cartows app, with every option at its default, queue bounds included."""
        with self.watched(Gunicorn("cartows_app", threads, env=env)) as server:
            yield server

    @contextlib.contextmanager
    def flask_sock(self, clients: int) -> Iterator[Gunicorn]:
        """Serve the flask-sock loop, with a pool thread and a connection for each of its clients."""
        connections = str(clients + 100)
        with self.watched(Gunicorn("flask_sock_app", clients + 20, "--worker-connections", connections)) as server:
            yield server

    @contextlib.contextmanager
    def watched(self, server: Gunicorn) -> Iterator[Gunicorn]:
        """Serve, and note errors of the server."""
        with server:
            yield server
            alive = Path(f"/proc/{server.worker}").exists()
        tracebacks = server.log.read_text(errors="replace").count("Traceback (most recent call last)")
        if not alive:
            self.note(f"{server.name}: the worker died during the measurement, see {server.log}")
        if tracebacks:
            self.note(f"{server.name}: {tracebacks} tracebacks in its log, see {server.log}")


@dataclasses.dataclass(frozen=True)
class Blast:
    """A number of events, hz a second (0: as fast as they are accepted), each with size bytes of text."""

    events: int
    hz: float = 0.0
    size: int = 0
    #: The number of boards that get them, one after another; 0 for events that clients without a filter receive.
    boards: int = 0
    #: To all clients, whatever their boards.
    everyone: bool = False

    @property
    def path(self) -> str:
        to = f"&boards={self.boards}" if self.boards else "&everyone=1" if self.everyone else ""
        return f"/blast?n={self.events}&hz={self.hz}&size={self.size}{to}"

    @property
    def each(self) -> int:
        """The number of events that one client receives."""
        return self.events // max(1, self.boards)

    @property
    def seconds(self) -> float:
        return self.events / self.hz if self.hz else 0.0


class Delivery:
    """Connected clients, and blasts to them, one after another."""

    def __init__(self, server: Server, load: Loadgen, blasts: Sequence[Blast], limit: float) -> None:
        self._server, self._load, self._blasts, self._limit = server, load, iter(blasts), limit
        # The request that publishes, from start() to finish().
        self._call: Call | None = None
        # Seconds it took to connect all clients, each greeted where the server greets.
        self.connect_s = load.ready()
        if isinstance(server, Gunicorn):
            server.await_clients(load.clients)

    def start(self) -> None:
        """Start the next blast, and return at once."""
        self._call = Call(self._server, next(self._blasts).path, self._limit)

    def finish(self) -> dict[str, Any]:
        """Wait for the events; return the load generator's result together with the server's."""
        if self._call is None:
            self.start()
        assert self._call is not None
        call, self._call = self._call, None
        result = self._load.result(self._limit + 20)
        return {**result, **(call.answer(1.0) or {"seconds": 0.0, "rejected": 0})}


@contextlib.contextmanager
def delivery(
    server: Server,
    clients: int,
    blast: Blast,
    *options: str,
    then: Sequence[Blast] = (),
    limit: float = 60.0,
    path: str = "/ws",
) -> Iterator[Delivery]:
    """Connect the clients; the result of a blast covers `limit` seconds since then, or since the blast before."""
    blasts = (blast, *then)
    greeting = ["-g"] if isinstance(server, Gunicorn) and server.greets else []
    options = ("-j", HANDSHAKES, "-l", str(limit), *greeting, *options)
    with Loadgen(server.port, clients, [each.each for each in blasts], *options, path=path) as load:
        yield Delivery(server, load, blasts, limit)


def deliver(server: Server, clients: int, blast: Blast, *options: str) -> dict[str, Any]:
    with delivery(server, clients, blast, *options) as under_way:
        return under_way.finish()


def faults(result: Mapping[str, Any]) -> float:
    """Count every event that was not delivered once and in order to each client, or not accepted at all."""
    return float(result["lost"] + result["surplus"] + result["misplaced"] + result["rejected"])


def pace_reached(result: Mapping[str, Any], blast: Blast) -> bool:
    """Return whether the events were as frequent as intended: a publisher that is too slow would lower the latency."""
    return 0 < float(result["seconds"]) <= blast.seconds * 1.05 + 0.1


@dataclasses.dataclass(frozen=True)
class Row:
    """One row of the benchmark."""

    name: str
    title: str
    figures: Sequence[Figure]
    #: Measures once; called for every run.
    measure: Callable[[Bench], Sample]
    #: The maximum number of open sockets of one process.
    sockets: Callable[[Scale], int] = lambda scale: scale.clients
    #: The default number of runs, whose median counts.
    runs: int = 3
    #: Whether it is measured only if it is named.
    on_demand: bool = False
    #: What this machine lacks for it, in a sentence; empty if nothing.
    lacking: Callable[[], str] = str


def run(row: Row, scale: Scale, runs: int) -> Outcome:
    """Measure a row so many times; a failed run is noted and does not stop the others.

    If other processes disturbed a run there is one more, and the least disturbed ones count.
    """
    outcome = Outcome(row.name, row.title, row.figures, [], [])
    files = row.sockets(scale) + 500  # for the other open files of the processes, with a margin
    allowed = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if files > allowed:
        outcome.notes.append(f"skipped: needs {files} open files, and the hard limit is {allowed} (ulimit -Hn)")
        return outcome
    if lacking := row.lacking():
        outcome.notes.append(f"skipped: {lacking}")
        return outcome
    bench = Bench(scale)
    began = time.monotonic()
    samples: list[tuple[float, Sample]] = []
    for number in range(runs + REPEATS):
        if number >= runs and sum(others < QUIET for others, _ in samples) >= runs:
            break
        _await_quiet()
        since, cpu = time.monotonic(), _other_cpu()
        try:
            sample = row.measure(bench)
        except MeasureError as error:
            bench.note(f"a run failed: {error}")
            outcome.failed += 1
            continue
        others = (_other_cpu() - cpu) / (time.monotonic() - since)
        samples.append((max(0.0, others), sample))
    counted = sorted(samples, key=lambda each: max(each[0], QUIET))[:runs]
    outcome.samples = [sample for _, sample in counted]
    outcome.others = max((others for others, _ in counted), default=0.0)
    outcome.seconds = time.monotonic() - began
    if len(samples) > runs:
        bench.note(f"{len(samples)} runs, of which the {runs} least disturbed by other processes count")
    outcome.notes += bench.notes
    return outcome


def _await_quiet() -> None:
    """Delay a run for a while until other processes are idle."""
    deadline = time.monotonic() + QUIET_WAIT
    while time.monotonic() < deadline:
        cpu = _other_cpu()
        time.sleep(0.5)
        if _other_cpu() - cpu < QUIET * 0.5:
            return


def _other_cpu() -> float:
    """Return the CPU seconds used so far by all processes except this one and those it has waited for."""
    user, nice, system, _, _, _, _, steal = map(int, Path("/proc/stat").read_text().split()[1:9])
    ours = sum(use.ru_utime + use.ru_stime for use in map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)))
    return (user + nice + system + steal) / os.sysconf("SC_CLK_TCK") - ours


def floor_result(clients: int, blast: Blast) -> dict[str, Any]:
    """Deliver the same with the C floor."""
    with Floor() as floor:
        return deliver(floor, clients, blast)

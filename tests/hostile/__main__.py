"""Attack a server that serves cartows, and report what well-behaved clients noticed.

``python -m tests.hostile`` attacks a server that it starts itself. ``--url`` names another: that needs nothing but the standard
library, and the permission of its owner. Attackers and well-behaved clients share one Python process, so p99 includes their
own delays; ``python -m benchmarks hostile`` measures without them.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from tests.hostile.attacks import ATTACKS, Assault, Attack
from tests.hostile.bystanders import EVENT, Bystanders, Publish
from tests.hostile.table import Result, catalogue, heading, line, summary
from tests.hostile.target import Target

if TYPE_CHECKING:
    from tests.hostile.watch import Watch
    from tests.support.harness import Server

# The attack that needs an app with tokens.
TOKENS = "forged tokens"

WARNING = """\
This ATTACKS {url}: broken handshakes and frames, floods, compressed bombs, clients that never read.
A server that withstands this continues to serve; another may hang, fill its memory or crash, for all of its users.
Do this only to a server that is yours to break, and inform those who monitor it."""


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    if options.list:
        print(catalogue())
        return 0
    attacks = [attack for attack in ATTACKS if attack.name in options.only or not options.only]
    if options.url is None:
        return _attack_own_server(attacks, options)
    try:
        target = Target.of(options.url, [_header(each) for each in options.header])
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    target = target._replace(guarded=options.guarded)
    if not target.guarded:
        attacks = [attack for attack in attacks if attack.name != TOKENS]
    print(WARNING.format(url=options.url), file=sys.stderr)
    if not options.yes and not _agreed():
        return 2
    if options.attackers_only:
        return _attack_only(target, attacks, options)
    try:
        return _report(_attack(target, attacks, options, _publisher(target, options.publish)))
    except ConnectionRefusedError as error:
        print(f"{options.url} admits no well-behaved client: {error}", file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.hostile", description=__doc__, formatter_class=_Formatter)
    parser.add_argument("--url", help="ws://HOST[:PORT]/PATH of a server that is yours to break (default: one is started)")
    parser.add_argument("--yes", action="store_true", help="do not ask for confirmation")
    parser.add_argument(
        "--header",
        action="append",
        default=[],
        metavar="'NAME: VALUE'",
        help="sent by well-behaved clients to be admitted; repeatable",
    )
    parser.add_argument("--guarded", action="store_true", help="the app refuses clients without a token: try forged ones")
    parser.add_argument(
        "--publish",
        metavar="PATH",
        help=f'a path of the app that broadcasts what is posted as {{"number": N}}, as an event of type {EVENT!r}',
    )
    parser.add_argument("--seconds", type=float, default=5.0, metavar="S", help="duration of each attack (default: 5)")
    parser.add_argument("--together", action="store_true", help="run all attacks at once, not one after another")
    parser.add_argument("--only", action="append", default=[], choices=[attack.name for attack in ATTACKS], metavar="ATTACK")
    parser.add_argument(
        "--pause", type=float, default=0.0, metavar="S", help="minimum time from one round of a thread to its next (default: 0)"
    )
    parser.add_argument(
        "--seed", type=int, default=None, metavar="N", help="seed of the attacks' random choices; it is printed"
    )
    parser.add_argument("--list", action="store_true", help="list the attacks and exit")
    parser.add_argument("--attackers-only", action="store_true", help=argparse.SUPPRESS)  # the benchmark has its own clients
    return parser


class _Formatter(argparse.RawDescriptionHelpFormatter):
    pass


def _header(text: str) -> tuple[str, str]:
    name, colon, value = text.partition(":")
    if not colon:
        raise ValueError(f"{text!r} is not a header: write NAME: VALUE")
    return name.strip(), value.strip()


def _agreed() -> bool:
    if not sys.stdin.isatty():
        print("There is no terminal to confirm this on: add --yes.", file=sys.stderr)
        return False
    return input("Type the word attack to continue: ").strip() == "attack"


def _publisher(target: Target, path: str | None) -> Publish | None:
    if path is None:
        return None
    where = urlsplit(path).path
    return lambda number: 200 if target.http("POST", where, {"number": number}) < 300 else 500


def _attack_own_server(attacks: Sequence[Attack], options: argparse.Namespace) -> int:
    try:
        from tests.hostile.own_server import GUARDED, publisher, run_server, target_of
        from tests.hostile.tokens import FORGED, Issuer
    except ModuleNotFoundError as error:
        print(f"Starting a server needs {error.name}: pip install '.[test]'; --url needs nothing.", file=sys.stderr)
        return 2
    issuer = Issuer()
    with run_server(HOSTILE_PUBLIC_KEY=issuer.pem.decode()) as server:
        target = target_of(server)
        results = _attack(target, [each for each in attacks if each.name != TOKENS], options, publisher(server), server)
        guarded = target_of(server, ("Authorization", f"Bearer {issuer.token()}"))
        guarded = guarded._replace(path=GUARDED, forged=tuple(forge(issuer) for forge in FORGED.values()))
        results += _attack(guarded, [each for each in attacks if each.name == TOKENS], options, publisher(server), server)
    return _report(results)


def _report(results: Sequence[Result]) -> int:
    print("\n" + summary(results))
    return 1 if any(result.problems for result in results) else 0


def _attack(
    target: Target,
    attacks: Sequence[Attack],
    options: argparse.Namespace,
    publish: Publish | None,
    server: Server | None = None,
) -> list[Result]:
    if not attacks:
        return []
    seed = random.randrange(1 << 32) if options.seed is None else options.seed
    what = "pings and GET / only; with --publish events are counted" if publish is None else "20 events/s"
    print(f"seed {seed}; well-behaved clients beside each attack: {what}\n{heading()}")
    results = []
    for group in [attacks] if options.together else [[attack] for attack in attacks]:
        watch = _watch(server)
        assault = Assault(target, group, seed, pause=options.pause)
        with watch or contextlib.nullcontext(), Bystanders(target, publish) as bystanders:
            assault.start()
            try:
                time.sleep(options.seconds)
            finally:
                assault.stop()
        problems = bystanders.report.problems(starved=any(attack.starves for attack in group)) + assault.findings
        rounds = sum(sum(ends.values()) for ends in assault.ends.values())
        with contextlib.ExitStack() as stack:
            if server is not None and watch is not None:
                stack.callback(server.close_clients)
                try:
                    server.check()
                except AssertionError as error:
                    problems.append(f"the server did not return to its idle state: {error}")
                problems += watch.problems(None if any(attack.lasts for attack in group) else rounds)
        result = Result(tuple(group), assault.ends, bystanders.report, problems, watch.peak if watch is not None else None)
        print(line(result), flush=True)
        results.append(result)
    return results


def _watch(server: Server | None) -> Watch | None:
    if server is None:
        return None
    from tests.hostile.watch import Watch

    return Watch(server)


def _attack_only(target: Target, attacks: Sequence[Attack], options: argparse.Namespace) -> int:
    """Attack for a while and print the result as JSON; a line is printed once the attack has begun."""
    assault = Assault(target, attacks, options.seed or 0, pause=options.pause)
    assault.start()
    print("ATTACKING", flush=True)
    try:
        time.sleep(options.seconds)
    finally:
        assault.stop()
    print(json.dumps({"ends": assault.ends, "findings": assault.findings}), flush=True)
    return 1 if assault.findings else 0


if __name__ == "__main__":
    sys.exit(main())

"""The targets of the fuzzer, and what runs them: ``python -m tests.hostile.fuzz [TARGET ...] [--seconds N]``.

With atheris, inputs are guided by what they reach; without it, hypothesis mutates the kept ones. Both begin with the corpus in
``corpus/TARGET``, and an input that fails is written to ``found/TARGET``. ``make test`` runs each kept input and some new ones.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

try:
    import atheris
except ImportError:  # it has no build for every Python
    atheris = None

with atheris.instrument_imports(include=["cartows", "wsproto"]) if atheris is not None else contextlib.nullcontext():
    from tests.hostile import fuzz_costs, fuzz_frames, fuzz_stored

Target = Callable[[bytes], None]

HERE = Path(__file__).parent
CORPUS, FOUND = HERE / "corpus", HERE / "found"

# The largest input that is made, in bytes. A cost that grows with its square shows below this.
MAX_SIZE = 16_384

TARGETS: dict[str, Target] = {
    **{target.__name__: target for target in fuzz_frames.TARGETS},
    "conversation": fuzz_costs.conversation,
    "entry": fuzz_stored.entry,
    "key_set": fuzz_stored.key_set,
}


def corpus(target: str) -> list[bytes]:
    """Return the kept inputs of a target."""
    return [path.read_bytes() for path in sorted((CORPUS / target).glob("*"))]


def mutated(rng: random.Random, inputs: Sequence[bytes]) -> bytes:
    """Return one input with some bytes changed, moved, repeated or joined with those of another."""
    data = rng.choice(inputs)
    for _ in range(rng.randint(1, 6)):
        start, end = sorted(rng.randrange(len(data) + 1) for _ in range(2))
        part = rng.choice(
            (
                b"",
                rng.randbytes(rng.randint(1, 8)),
                data[start:end] * rng.randint(2, 30),
                rng.choice(inputs)[:1000],
                rng.choice((b"[", b"{", b'"', b"\\ud800", b"\xff", b"\x00", b"-1", b"1e999", b"9" * 400, b"null", b"\n")),
            )
        )
        data = (data[:start] + part + data[end:])[:MAX_SIZE]
    return data


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.hostile.fuzz", description=__doc__)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"one or more of {', '.join(TARGETS)} (default: all)")
    parser.add_argument("--seconds", type=int, default=60, metavar="N", help="how long each target is run (default: 60)")
    parser.add_argument("--guided", action="store_true", help=argparse.SUPPRESS)  # one target, in a process of its own
    options = parser.parse_args(arguments)
    if unknown := [name for name in options.targets if name not in TARGETS]:
        parser.error(f"there is no target {unknown[0]!r}: choose from {', '.join(TARGETS)}")
    names = options.targets or list(TARGETS)
    if options.guided:
        _guided(names[0], options.seconds)
    if atheris is None:
        print("atheris is not installed here: the inputs are mutated without knowing what they reach", file=sys.stderr)
    failed = []
    for name in names:
        print(f"== {name}, {options.seconds} s", flush=True)
        if not (_run_guided(name, options.seconds) if atheris is not None else _blind(name, options.seconds)):
            failed.append(name)
    print(f"failed: {', '.join(failed)}; the inputs are in {FOUND}" if failed else "no target failed")
    return 1 if failed else 0


def _run_guided(name: str, seconds: int) -> bool:
    """Run atheris in a process of its own: libFuzzer ends the one that it runs in."""
    command = [sys.executable, "-m", "tests.hostile.fuzz", name, "--guided", "--seconds", str(seconds)]
    return subprocess.run(command, check=False).returncode == 0


def _guided(name: str, seconds: int) -> None:
    found, new = FOUND / name, FOUND / f"{name}.new"
    for directory in (found, new):
        directory.mkdir(parents=True, exist_ok=True)
    flags = [f"-max_total_time={seconds}", f"-max_len={MAX_SIZE}", f"-artifact_prefix={found}/", "-print_final_stats=1"]
    atheris.Setup([sys.argv[0], *flags, "-timeout=60", "-rss_limit_mb=2048", str(new), str(CORPUS / name)], TARGETS[name])
    atheris.Fuzz()


def _blind(name: str, seconds: int) -> bool:
    inputs, rng, runs = corpus(name) or [b""], random.Random(), 0
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        data = mutated(rng, inputs)
        runs += 1
        try:
            TARGETS[name](data)
        except Exception as error:
            path = FOUND / name / hashlib.sha256(data).hexdigest()[:16]
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
            print(f"{name}: {type(error).__name__}: {error}; the input is {path}", file=sys.stderr)
            return False
    print(f"{runs} inputs")
    return True


if __name__ == "__main__":
    status = main()
    sys.stdout.flush()
    # The hub threads of the target `conversation` have nothing left to do.
    os._exit(status)

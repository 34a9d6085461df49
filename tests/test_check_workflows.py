"""The check of the forge's workflows, and that the browser client needs no package, which no audit would see."""

from __future__ import annotations

import json
from pathlib import Path

from tools import check_workflows

ROOT = Path(__file__).parents[1]


def test_the_workflows_run_what_every_change_must_pass() -> None:
    script, workflow = (ROOT / ".ci" / "run").read_text(), (ROOT / ".github" / "workflows" / "ci.yml").read_text()
    assert check_workflows.missing_targets(script, workflow) == []
    assert check_workflows.missing_targets(script, workflow.replace("make lint", "make")) == ["lint"]
    assert check_workflows.missing_targets(script + "\nmake other\n", workflow) == ["other"]


def test_the_workflows_have_every_python_that_the_package_names() -> None:
    prefix = "Programming Language :: Python :: 3."
    named = [line.strip().removeprefix(prefix) for line in (ROOT / "setup.cfg").read_text().splitlines() if prefix in line]
    matrix = json.loads(next(line for line in _ci() if "python: [" in line).partition(":")[2])
    assert [f"3.{minor}" for minor in named] == matrix


def _ci() -> list[str]:
    return (ROOT / ".github" / "workflows" / "ci.yml").read_text().splitlines()


def test_the_browser_client_needs_no_package() -> None:
    package = json.loads((ROOT / "cartows" / "static" / "package.json").read_text())
    assert not {key for key in package if "ependencies" in key}

"""The check of the links between the Markdown files: which links it takes for broken, and which it leaves alone."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tools import check_links

OTHER = """# The *other* page

(a-target)=
## Rooms, filters & `send_to()`

## Twice
## Twice

<a id="by-hand"></a>

```sh
# No heading
```
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "docs" / "images").mkdir(parents=True)
    (tmp_path / "docs" / "images" / "a picture.png").touch()
    (tmp_path / "docs" / "other.md").write_text(OTHER, encoding="utf-8")
    (tmp_path / "docs" / "api.md").write_text("# API\n\n```{autoclass} cartows.Hub\n```\n", encoding="utf-8")
    return tmp_path


def faults(root: Path, text: str) -> list[str]:
    (root / "README.md").write_text(f"# Here\n\n{text}\n\n## A heading\n", encoding="utf-8")
    return check_links.faults(root)


@pytest.mark.parametrize(
    "text",
    [
        "[a](docs/other.md) [folder](docs) [b](<docs/images/a picture.png>) ![c](docs/images/a%20picture.png 'A picture')",
        "[a](#a-heading) [b](docs/other.md#the-other-page) [c](docs/other.md#rooms-filters--send_to)",
        "[a](docs/other.md#a-target) [b](docs/other.md#twice-1) [c](docs/other.md#by-hand)",
        "[web](https://example.com/x#y) <https://example.com> [mail](mailto:a@example.com) [web](//example.com)",
        "[class](docs/api.md#cartows.Hub)",
        "`code [a](missing.md)` and ``code ` [a](missing.md)``",
        "```\n[a](missing.md)\n```\n\n~~~~md\n~~~\n[a](missing.md)\n~~~~",
        "- a list\n\n  ```md\n  [a](missing.md)\n  ```",
        "<!-- [a](missing.md)\n[b](missing.md) -->",
        "[a][name]\n\n[name]: docs/other.md",
        "[`a`](docs/other.md) and a\n`wrapped\nspan` with [b](docs/other.md)",
    ],
)
def test_a_link_that_leads_somewhere_is_accepted(root: Path, text: str) -> None:
    assert faults(root, text) == []


@pytest.mark.parametrize(
    ("text", "link", "reason"),
    [
        ("[a](missing.md)", "missing.md", "no file"),
        ("![a](docs/images/a-picture.png)", "docs/images/a-picture.png", "no file"),
        ("[a](#no-heading)", "#no-heading", "no such heading in README.md"),
        ("[a](docs/other.md#twice-2)", "docs/other.md#twice-2", "no such heading in other.md"),
        ("[a](docs/api.md#start)", "docs/api.md#start", "no such heading in api.md"),
        ("[a](/docs/other.md)", "/docs/other.md", "begins with a slash"),
        ("[a]()", "", "is empty"),
        ("[`a`](missing.md)", "missing.md", "no file"),
        ("[![a](docs/images/a%20picture.png)](missing.md)", "missing.md", "no file"),
        ("[a][name]\n\n[name]: <missing.md> 'A title'", "missing.md", "no file"),
        ('<img alt="a" src="missing.png">', "missing.png", "no file"),
        ('<source media="(x)" srcset="missing.png 2x, docs/b.png">', "missing.png", "no file"),
        ("a `wrapped\nspan` and [b](missing.md)", "missing.md", "no file"),
    ],
)
def test_a_link_that_leads_nowhere_is_found(root: Path, text: str, link: str, reason: str) -> None:
    (found,) = faults(root, text)
    line = next(number for number, each in enumerate(text.splitlines(), 3) if link in each)
    assert found.startswith(f"README.md:{line}: {link!r} ") and reason in found


def test_a_page_below_the_root_is_checked_from_its_own_folder(root: Path) -> None:
    (root / "docs" / "third.md").write_text("[a](other.md) [b](../README.md#here) [c](docs/other.md)", encoding="utf-8")
    (found,) = faults(root, "")
    assert found.startswith("docs/third.md:1: 'docs/other.md' ")


@pytest.mark.parametrize("folder", [".venv/lib", "node_modules/react", "docs/_build"])
def test_pages_that_are_not_of_this_repository_are_left_alone(root: Path, folder: str) -> None:
    (root / folder).mkdir(parents=True)
    (root / folder / "README.md").write_text("[a](missing.md)", encoding="utf-8")
    assert faults(root, "") == []


@pytest.mark.parametrize(("text", "code"), [("[a](docs/other.md)", 0), ("[a](missing.md)", 1)])
def test_the_program_fails_where_a_link_is_broken(root: Path, text: str, code: int) -> None:
    (root / "README.md").write_text(text, encoding="utf-8")
    done = subprocess.run([sys.executable, check_links.__file__, str(root)], capture_output=True, text=True, timeout=60)
    assert (done.returncode, bool(done.stdout), done.stderr) == (code, bool(code), "")

"""Check the links between the Markdown files of this repository: ``python tools/check_links.py [ROOT]``.

Each link to a file or a folder must have one there, and each anchor a heading, a MyST target or an HTML ``id``. Links to the
web are left alone, and so are MyST's roles and directives, which Sphinx checks.
"""

from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from urllib.parse import unquote

#: Folders that hold no page of this repository.
SKIPPED = {"_build", "build", "dist", "node_modules", "venv"}

FENCE = re.compile(r"^\s*(?:[-*>]\s+)*(`{3,}|~{3,})")
# Within one paragraph.
CODE = re.compile(r"(`+)(?!`)(?:(?!\n\s*\n).)*?(?<!`)\1(?!`)", re.DOTALL)
COMMENT = re.compile(r"<!--.*?-->", re.DOTALL)

# `[text](target)`, with a title or in angle brackets, `[name]: target`, and the attributes of HTML.
LINKS = (
    re.compile(r"\]\(\s*(?:<([^<>\n]*)>|((?:[^()\s]|\([^()\s]*\))*))(?:\s+(?:\"[^\"]*\"|'[^']*'))?\s*\)"),
    re.compile(r"^ {0,3}\[[^\]\n]+\]:\s+(?:<([^<>\n]*)>|(\S+))", re.MULTILINE),
    re.compile(r"<[^<>]*\s(?:href|src)=(?:\"([^\"]*)\"|'([^']*)')", re.IGNORECASE),
    re.compile(r"<[^<>]*\ssrcset=(?:\"([^\"\s,]*)|'([^'\s,]*))", re.IGNORECASE),
)

HEADING = re.compile(r"^ {0,3}#{1,6}\s+(.*?)\s*#*\s*$")
TARGET = re.compile(r"^\(([^()\s]+)\)=\s*$")
HTML_ID = re.compile(r"<[^<>]*\s(?:id|name)=[\"']([^\"']+)[\"']", re.IGNORECASE)
# An API page of autodoc: its anchors are the full names of what it documents.
API = re.compile(r"^\s*(?:\.\. |`{3,}\{|:{3,}\{)(?:py:)?auto(?:class|module|function|exception|data|decorator)\b", re.MULTILINE)


def pages(root: Path) -> list[Path]:
    """Return the Markdown files below a folder, those of hidden and of built folders left out."""
    found = []
    for path in root.rglob("*.md"):
        folders = path.relative_to(root).parts[:-1]
        if not any(folder in SKIPPED or folder.startswith(".") or folder.endswith(".egg-info") for folder in folders):
            found.append(path)
    return sorted(found)


def prose(text: str) -> str:
    """Return a page without its code and its comments, each line at its number."""
    text = COMMENT.sub(lambda match: "\n" * match[0].count("\n"), text)
    lines = []
    fence = ""
    for line in text.splitlines():
        marks = FENCE.match(line)
        if fence:
            if marks and marks[1].startswith(fence) and line.strip() == marks[1]:
                fence = ""
            lines.append("")
        elif marks:
            fence = marks[1]
            lines.append("")
        else:
            lines.append(line)
    return "\n".join(lines)


def slug(heading: str) -> str:
    """Return the anchor that GitHub, and MyST likewise, makes of a heading."""
    text = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", heading)  # a link counts by its text
    text = re.sub(r"<[^<>]*>|[`*]|(?<!\w)_|_(?!\w)", "", text)
    return re.sub(r"[^\w\- ]", "", text.lower()).strip().replace(" ", "-")


@cache
def anchors(page: Path) -> frozenset[str]:
    """Return what a page's links may name after the ``#``."""
    found: set[str] = set()
    times: Counter[str] = Counter()
    for line in prose(page.read_text(encoding="utf-8")).splitlines():
        if heading := HEADING.match(line):
            name = slug(heading[1])
            found.add(f"{name}-{times[name]}" if times[name] else name)
            times[name] += 1
        if target := TARGET.match(line):
            found.add(target[1])
        found.update(HTML_ID.findall(line))
    return frozenset(found)


def links(page: Path) -> Iterator[tuple[int, str]]:
    """Yield the links of a page, each with its line."""
    text = prose(page.read_text(encoding="utf-8"))
    # A code span may be the text of a link, but holds none.
    text = CODE.sub(lambda match: "\n" * match[0].count("\n") or "`", text)
    for kind in LINKS:
        for match in kind.finditer(text):
            yield text.count("\n", 0, match.start()) + 1, match[1] or match[2] or ""


def fault(page: Path, link: str) -> str | None:
    """Return what is wrong with a link, or None."""
    if re.match(r"[a-z][a-z0-9+.-]*:|//", link, re.IGNORECASE):
        return None
    if not link:
        return "is empty"
    file, _, anchor = (unquote(part) for part in link.partition("#"))
    if file.startswith("/"):
        return "begins with a slash, which GitHub and Sphinx take for different folders"
    target = page.parent / file if file else page
    if not target.exists():
        return "has no file there"
    if anchor and target.suffix == ".md" and anchor not in anchors(target):
        if API.search(target.read_text(encoding="utf-8")) and "." in anchor:
            return None
        return f"has no such heading in {target.name}"
    return None


def faults(root: Path) -> list[str]:
    """Return each broken link below a folder, with its file and its line."""
    found = []
    for page in pages(root):
        for line, link in sorted(links(page)):
            if wrong := fault(page, link):
                found.append(f"{page.relative_to(root)}:{line}: {link!r} {wrong}")
    return found


def main() -> int:
    root = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).resolve().parents[1]
    found = faults(root)
    print(*found, sep="\n", end="\n" if found else "")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())

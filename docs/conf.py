"""The settings of Sphinx; ``make docs`` builds."""

from __future__ import annotations

import configparser
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE / "extensions")]

import cartows  # noqa: E402

_setup = configparser.ConfigParser()
_setup.read(HERE.parent / "setup.cfg", encoding="utf-8")

project = "cartows"
author = copyright = "cartows contributors"
release = version = _setup["metadata"]["version"]

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "myst_parser",
    "sphinx_copybutton",
    "options_table",
]
exclude_patterns = ["_build", "extensions"]

html_theme = "furo"
html_title = f"cartows {release}"
html_static_path: list[str] = []

# [text](page.md#heading) finds headings of the first three levels, as GitHub does.
myst_heading_anchors = 3
myst_enable_extensions = ["colon_fence", "deflist"]

# Shell blocks have no prompts, so that they can be copied and tested as they are.
copybutton_exclude = ".linenos, .gp"

autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
napoleon_numpy_docstring = False
napoleon_use_rtype = False

# The lexers of Pygments stumble over valid JSX; such a block is highlighted all the same.
suppress_warnings = ["misc.highlighting_failure"]

# Types in signatures that the reference does not describe: other packages' and the standard library's, and what stands on
# modules of cartows that no application uses. A name of the public API that is not in the reference fails the build.
nitpick_ignore_regex = [
    ("py:.*", r"(?!cartows\.).*"),
    ("py:.*", r"cartows\.(\w+\.)+_?\w+"),
]


def link_public_names(app: Any, env: Any, node: Any, contnode: Any) -> Any:
    """Resolve ``cartows.hub.hub.Hub``, as a signature has it, to ``cartows.Hub``, under which the reference describes it."""
    name = str(node.get("reftarget", "")).rpartition(".")[2]
    if node.get("refdomain") != "py" or name not in cartows.__all__ or node["reftarget"] == f"cartows.{name}":
        return None
    domain = env.domains.python_domain
    return domain.resolve_xref(env, node["refdoc"], app.builder, "obj", f"cartows.{name}", node, contnode)


def setup(app: Any) -> None:
    """Connect the handlers of this file."""
    app.connect("missing-reference", link_public_names)

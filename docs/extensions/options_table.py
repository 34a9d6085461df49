"""The directive ``options-table``: the settings of ``Options`` as a table, made from the source."""

from __future__ import annotations

from docutils import nodes
from option_rows import option_rows
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective
from sphinx.util.typing import ExtensionMetadata

__all__ = ["OptionsTable", "setup"]


class OptionsTable(SphinxDirective):
    """Insert one row for each setting: its name, its default, its meaning. For pages in Markdown."""

    def run(self) -> list[nodes.Node]:
        """Return the table."""
        lines = ["| option | default | meaning |", "|---|---|---|"]
        for row in option_rows():
            cells = (f"`{row.name}`", row.default, row.text)
            lines.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
        return self.parse_text_to_nodes("\n".join(lines))


def setup(app: Sphinx) -> ExtensionMetadata:
    """Register the directive with Sphinx."""
    app.add_directive("options-table", OptionsTable)
    return {"parallel_read_safe": True, "parallel_write_safe": True}

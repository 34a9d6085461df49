"""Export the typed events as JSON Schema and as TypeScript, both made from the structs that are sent.

``python tools/export_schema.py`` writes both into ``cartows/static``; a test fails if they differ from the structs.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec

from cartows.message import ACTIONS, ERROR_CODES, BoardEvent, ErrorEvent, MessageType, ProjectEvent, TaskEvent

__all__ = ["EVENTS", "schema", "typescript", "write"]

_STATIC = Path(__file__).parents[1] / "cartows" / "static"
_SCHEMA, _TYPES = "events.schema.json", "cartows.d.ts"
_BEGIN, _END = "// <events>\n", "// </events>\n"

#: The struct that is the ``data`` of each type of event.
EVENTS: dict[MessageType, type[msgspec.Struct]] = {
    MessageType.TASK_CREATED: TaskEvent,
    MessageType.TASK_UPDATED: TaskEvent,
    MessageType.TASK_DELETED: TaskEvent,
    MessageType.PROJECT_CREATED: ProjectEvent,
    MessageType.PROJECT_UPDATED: ProjectEvent,
    MessageType.BOARD_UPDATED: BoardEvent,
}


def schema() -> dict[str, Any]:
    """Return the JSON Schema (2020-12) of the messages that carry a typed event."""
    _, structs = msgspec.json.schema_components([*dict.fromkeys(EVENTS.values())], ref_template="#/$defs/{name}")
    for struct in structs.values():
        if "description" in struct:
            # The first line of the docstring: the schema itself describes the arguments.
            struct["description"] = struct["description"].partition("\n")[0]
        for field in struct["properties"].values():
            # A field with its default value is left out on the wire.
            field.pop("default", None)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "The typed events of cartows",
        "oneOf": [_message(type.value, struct.__name__) for type, struct in EVENTS.items()],
        "$defs": structs,
    }


def _message(type: str, struct: str) -> dict[str, Any]:
    action = {"properties": {"action": {"enum": list(ACTIONS[type])}}}
    return {
        "title": type,
        "type": "object",
        "properties": {
            "type": {"const": type},
            "timestamp": {"type": "string", "format": "date-time"},
            "id": {"type": "string"},
            "data": {"allOf": [{"$ref": f"#/$defs/{struct}"}, action]},
        },
        "required": ["type", "timestamp", "data"],
    }


def typescript() -> str:
    """Return the same types in TypeScript, and the codes of an ``error`` message."""
    structs = schema()["$defs"]
    lines = ["export type Id = string | number;", ""]
    for name, struct in structs.items():
        # The field that the application fills, e.g. a task.
        (own,) = [field for field, kind in struct["properties"].items() if not kind]
        lines += [f"export interface {name}<{own.capitalize()} = any> {{"]
        lines += [_field(field, kind, struct["required"], own) for field, kind in struct["properties"].items()]
        lines += ["}", ""]
    lines += ["export interface ErrorEvent {"]
    lines += [f"    code: {_union(ERROR_CODES)} | (string & {{}});"]
    lines += [f"    {field}: string;" for field in ErrorEvent.__struct_fields__ if field != "code" and field != "details"]
    lines += ["    details?: string;", "}", "", "export interface TypedEvents {"]
    for type, event in EVENTS.items():
        lines += [f"    '{type.value}': {event.__name__} & {{ action: {_union(ACTIONS[type.value])} }};"]
    return "\n".join([*lines, "}", ""])


def _field(name: str, kind: dict[str, Any], required: list[str], own: str) -> str:
    written = {"string": "string", "object": f"Partial<{own.capitalize()}>", None: own.capitalize()}
    found = kind.get("type")
    return f"    {name}{'' if name in required else '?'}: {'Id' if isinstance(found, list) else written[found]};"


def _union(names: tuple[str, ...]) -> str:
    return " | ".join(f"'{name}'" for name in names)


def files() -> dict[Path, str]:
    """Return the generated files with their text."""
    types = _STATIC / _TYPES
    before, _, rest = types.read_text(encoding="utf-8").partition(_BEGIN)
    _, _, after = rest.partition(_END)
    return {
        _STATIC / _SCHEMA: json.dumps(schema(), indent=2) + "\n",
        types: f"{before}{_BEGIN}{typescript()}{_END}{after}",
    }


def write() -> None:
    """Write the generated files."""
    for path, text in files().items():
        path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    write()

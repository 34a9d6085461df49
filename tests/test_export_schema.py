"""The schema of the events and the files made from it: both match the structs, and the events that are sent are valid."""

from __future__ import annotations

import datetime as dt
import json
import uuid
from collections.abc import Iterator
from typing import Any

import jsonschema
import msgspec
import pytest

from cartows import message as made
from cartows.message import Message, MessageType
from tools import export_schema as schema

RICH = {"id": uuid.uuid4(), "due": dt.date(2026, 11, 23), "title": "Water the plants", "none": None}

SENT = [
    made.new_task_created_message("t1", "b1", RICH, project_id="p1"),
    made.new_task_created_message(1, uuid.uuid4(), RICH),
    made.new_task_updated_message("t1", "b1", {"title": "x"}, RICH),
    made.new_task_updated_message("t1", "b1", {"column": 2}, action="moved"),
    made.new_task_deleted_message("t1", "b1"),
    made.new_project_created_message("p1", RICH),
    made.new_project_updated_message("p1", {"name": "x"}, RICH),
    made.new_board_updated_message("b1", "p1", {"name": "x"}, RICH),
    made.new_board_updated_message("b1", None, {"order": [1, 2]}, action="reordered"),
]


@pytest.fixture(scope="module")
def validator() -> jsonschema.Draft202012Validator:
    jsonschema.Draft202012Validator.check_schema(schema.schema())
    return jsonschema.Draft202012Validator(schema.schema())


def test_the_files_match_the_structs() -> None:
    for path, text in schema.files().items():
        assert path.read_text(encoding="utf-8") == text, f"{path.name} is out of date: python tools/export_schema.py"


def test_a_new_field_changes_both_files(monkeypatch: pytest.MonkeyPatch) -> None:
    before = schema.files()

    class TaskEvent(made.TaskEvent, kw_only=True, omit_defaults=True):
        colour: str = ""

    changed = {type: TaskEvent if struct is made.TaskEvent else struct for type, struct in schema.EVENTS.items()}
    monkeypatch.setattr(schema, "EVENTS", changed)
    after = schema.files()
    assert [path for path in before if before[path] == after[path]] == []
    assert any("    colour?: string;\n" in text for text in after.values())


def test_writing_changes_nothing_else(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    types = tmp_path / "cartows.d.ts"
    types.write_text("// before\n// <events>\nold\n// </events>\n// after\n", encoding="utf-8")
    monkeypatch.setattr(schema, "_STATIC", tmp_path)
    schema.write()
    text = types.read_text(encoding="utf-8")
    assert text.startswith("// before\n// <events>\nexport type Id")
    assert text.endswith("}\n// </events>\n// after\n")
    assert json.loads((tmp_path / "events.schema.json").read_text(encoding="utf-8")) == schema.schema()


def test_every_typed_event_is_in_the_schema() -> None:
    typed = {type for type in MessageType if type.value.partition(".")[0] in {"task", "project", "board"}}
    assert set(schema.EVENTS) == typed
    assert set(made.ACTIONS) == {type.value for type in typed}


def wire(message: Message) -> Any:
    return json.loads(message.encode())


@pytest.mark.parametrize("message", SENT, ids=lambda message: f"{message.type}-{message.data.action}")
def test_the_events_that_are_sent_are_valid(validator: jsonschema.Draft202012Validator, message: Message) -> None:
    message.id = "9f2c61d0.1795"
    validator.validate(wire(message))


def broken() -> Iterator[Any]:
    good = wire(SENT[0])
    yield {**good, "type": "task.renamed"}
    yield {key: value for key, value in good.items() if key != "timestamp"}
    yield {**good, "data": {**good["data"], "action": "moved"}}
    yield {**good, "data": {key: value for key, value in good["data"].items() if key != "task_id"}}
    yield {**good, "data": {**good["data"], "changes": [1]}}
    yield {**good, "data": {**good["data"], "board_id": None}}


@pytest.mark.parametrize("message", list(broken()), ids=lambda message: message["type"])
def test_what_is_not_an_event_is_invalid(validator: jsonschema.Draft202012Validator, message: Any) -> None:
    assert not validator.is_valid(message)


def test_a_struct_checks_nothing() -> None:
    """The annotations are for the schema alone."""
    event = made.TaskEvent(task_id=("a", 1), board_id=None, action="whatever", changes="text")
    assert json.loads(msgspec.json.encode(event))["task_id"] == ["a", 1]

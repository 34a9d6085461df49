"""Messages as frames, and the contents of a send queue as unit tests read them."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable
from typing import Any

from cartows.client.send_queue import SendQueue
from cartows.options import Policy
from cartows.websocket.frames import Frame

POLICIES: list[Policy] = ["disconnect", "drop_oldest", "coalesce"]
# Room enough where a test is not about bytes.
MUCH = 1_000_000


def frame(message: dict[str, Any], **about: Any) -> Frame:
    """Return a message as a frame."""
    return Frame(json.dumps(message).encode(), **about)


def event(
    number: int, kind: str = "updated", name: str | None = None, *, number_on_frame: bool = True, **changes: Any
) -> Frame:
    """Return an event about the task of that name; without a name each event is about a task of its own."""
    name = name or f"of {number}"
    data: dict[str, Any] = {"task_id": name, "action": kind, "changes": changes}
    return frame(
        {"type": f"task.{kind}", "id": number, "data": data},
        number=number if number_on_frame else 0,
        entity=("task", name),
        merges=kind == "updated",
    )


def answer(id: str) -> Frame:
    """Return a frame that is no event of the hub's."""
    return frame({"type": "answer", "id": id})


def notice(number: int) -> Frame:
    """Return the frame that reports a loss."""
    return frame({"type": "pong", "id": number, "data": {"incomplete": True}})


def read(wire: bytes) -> dict[str, Any]:
    """Return the message in a frame as it is sent, inflated where it is compressed."""
    size = {126: 4, 127: 10}.get(wire[1], 2)
    payload = wire[size:]
    if wire[0] & 0x40:
        payload = zlib.decompressobj(-15).decompress(payload + b"\0\0\xff\xff")
    found: dict[str, Any] = json.loads(payload)
    return found


def waiting(queue: SendQueue) -> list[dict[str, Any]]:
    """Return all messages in the queue, in order; tests keep them to one send."""
    return [read(wire) for wire in queue.pieces(MUCH)]


def names(queue: SendQueue) -> list[Any]:
    """Return the ids of all messages in the queue, a notice's as a string."""
    return [f"lost {each['id']}" if each["type"] == "pong" else each["id"] for each in waiting(queue)]


def changes(queue: SendQueue) -> dict[Any, Any]:
    """Return the changes in each event in the queue."""
    return {each["id"]: each["data"]["changes"] for each in waiting(queue) if each["type"].startswith("task.")}


def made(policy: Policy, frames: Iterable[Frame] = (), *, max_frames: int = 4, max_bytes: int = MUCH) -> SendQueue:
    """Return a queue in which these frames wait."""
    queue = SendQueue(policy, max_frames, max_bytes, False, notice)
    queue.extend(list(frames))
    return queue


def events(*numbers: int) -> list[Frame]:
    """Return updates of different tasks."""
    return [event(number) for number in numbers]

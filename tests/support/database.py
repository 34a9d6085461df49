"""A database of tasks, and a hub that keeps what is published to it."""

from __future__ import annotations

import json
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from cartows import Hub, Message, PublishResult
from cartows.broadcaster import Broadcaster
from cartows.rooms import Audience


class Base(DeclarativeBase):
    pass


class Task(Base):
    __tablename__ = "tasks"
    id: Mapped[int] = mapped_column(primary_key=True)
    title: Mapped[str] = mapped_column(default="")
    parent: Mapped[int | None] = mapped_column(sa.ForeignKey("tasks.id", deferrable=True, initially="DEFERRED"))


class RecordingHub(Hub):
    """A hub that keeps what is published instead of sending it."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.published: list[tuple[Message, Audience]] = []
        self.raises: Exception | None = None
        self.calls = 0

    def publish(self, message: Message, audience: Audience) -> PublishResult:
        self.calls += 1
        if self.raises is not None:
            raise self.raises
        self.published.append((message, audience))
        return PublishResult(True, "queued", f"e.{len(self.published)}")

    def events(self) -> list[tuple[str, Any]]:
        """Return the type and the data of what was published, as a client reads them."""
        return [(message.type, json.loads(message.encode(self.enc_hook)).get("data")) for message, _ in self.published]

    def data(self) -> list[Any]:
        """Return the data of what was published."""
        return [data for _, data in self.events()]

    def changes(self) -> list[Any]:
        """Return the ``changes`` of what was published."""
        return [data.get("changes") for data in self.data()]


class Opaque:
    """A value that JSON does not support."""

    def __init__(self, text: str) -> None:
        self.text = text


def database(url: str, **arguments: Any) -> sa.Engine:
    """Return an empty SQLite database whose savepoints and foreign keys work as in other databases."""
    engine = sa.create_engine(url, **arguments)

    @sa.event.listens_for(engine, "connect")
    def _(connection: Any, record: Any) -> None:
        connection.isolation_level = None
        connection.execute("PRAGMA foreign_keys=ON")

    @sa.event.listens_for(engine, "begin")
    def _(connection: sa.Connection) -> None:
        connection.exec_driver_sql("BEGIN")

    Base.metadata.create_all(engine)
    return engine


def update(
    events: Broadcaster, changes: Any, task: Any = None, *, id: Any = 1, board: Any = "b1", action: str = "updated"
) -> None:
    """Broadcast an update of a task."""
    events.broadcast_task_updated(id, board, changes, task, action=action)

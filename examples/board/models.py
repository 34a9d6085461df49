"""Projects, their boards with columns and tasks, and the settings of SQLite for several threads."""

import secrets
from datetime import date

from flask import has_request_context, request
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy import ForeignKey, String, Text, event
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship


class Base(DeclarativeBase):
    pass


db = SQLAlchemy(model_class=Base)


def new_id():
    """Return an id that was never used before: a page remembers deleted tasks, so their ids must not be used again."""
    return secrets.token_hex(8)


class Project(db.Model):
    id: Mapped[str] = mapped_column(String(32), primary_key=True, default=new_id)
    name: Mapped[str] = mapped_column(String(80))
    # Grows with every change. Two requests that commit one after the other may publish in the other order: a page ignores
    # an event whose version is not newer than what it shows.
    version: Mapped[int] = mapped_column(default=1)
    rank: Mapped[int] = mapped_column(default=0)

    boards: Mapped[list["Board"]] = relationship(back_populates="project", order_by="Board.rank")

    def to_dict(self):
        return {"id": self.id, "name": self.name, "version": self.version, "rank": self.rank}


class Board(db.Model):
    id: Mapped[str] = mapped_column(String(32), primary_key=True, default=new_id)
    project_id: Mapped[str] = mapped_column(ForeignKey("project.id"), index=True)
    name: Mapped[str] = mapped_column(String(80))
    # Also counts changes of its columns and of the order of its tasks; see Project.version.
    version: Mapped[int] = mapped_column(default=1)
    rank: Mapped[int] = mapped_column(default=0)

    project: Mapped[Project] = relationship(back_populates="boards")
    columns: Mapped[list["Column"]] = relationship(back_populates="board", order_by="Column.rank")
    tasks: Mapped[list["Task"]] = relationship(back_populates="board", order_by="Task.position, Task.id")

    def summary(self):
        return {"id": self.id, "project_id": self.project_id, "name": self.name, "version": self.version, "rank": self.rank}

    def to_dict(self):
        """Return the board with its columns in their order, without tasks: what every ``board.updated`` carries."""
        columns = sorted(self.columns, key=lambda column: column.rank)
        return self.summary() | {"columns": [column.to_dict() for column in columns]}


class Column(db.Model):
    id: Mapped[str] = mapped_column(String(32), primary_key=True, default=new_id)
    board_id: Mapped[str] = mapped_column(ForeignKey("board.id"), index=True)
    name: Mapped[str] = mapped_column(String(80))
    rank: Mapped[int] = mapped_column(default=0)

    board: Mapped[Board] = relationship(back_populates="columns")
    tasks: Mapped[list["Task"]] = relationship(back_populates="column", order_by="Task.position, Task.id")

    def to_dict(self):
        return {"id": self.id, "name": self.name}


class Task(db.Model):
    id: Mapped[str] = mapped_column(String(32), primary_key=True, default=new_id)
    board_id: Mapped[str] = mapped_column(ForeignKey("board.id"), index=True)
    column_id: Mapped[str] = mapped_column(ForeignKey("column.id"), index=True)
    title: Mapped[str] = mapped_column(String(200))
    notes: Mapped[str] = mapped_column(Text, default="")
    label: Mapped[str] = mapped_column(String(10), default="")
    due: Mapped[date | None]
    # Between those of its neighbours: moving a task changes only that task, until there is no room between two.
    position: Mapped[float]
    version: Mapped[int] = mapped_column(default=1)  # see Project.version

    board: Mapped[Board] = relationship(back_populates="tasks")
    column: Mapped[Column] = relationship(back_populates="tasks")

    def to_dict(self):
        return {
            "id": self.id,
            "project_id": self.board.project_id,
            "board_id": self.board_id,
            "column_id": self.column_id,
            "title": self.title,
            "notes": self.notes,
            "label": self.label,
            "due": self.due.isoformat() if self.due else None,
            "position": self.position,
            "version": self.version,
        }


def prepare(engine):
    """Configure SQLite for several threads and processes: readers do not wait, and writers wait instead of failing."""
    if engine.dialect.name != "sqlite":
        return

    @event.listens_for(engine, "connect")
    def connected(connection, record):
        connection.isolation_level = None  # Python's sqlite3 must not begin transactions by itself; see below.
        # The timeout first: when several processes start on a new file, one of them switches it to WAL and the others wait.
        for pragma in ("busy_timeout=10000", "journal_mode=WAL", "synchronous=NORMAL", "foreign_keys=ON"):
            connection.execute(f"PRAGMA {pragma}").close()

    @event.listens_for(engine, "begin")
    def begin(connection):
        # A transaction that reads first and then writes fails at once if another has written in between, whatever the timeout.
        # So every transaction that may write takes the write lock at its first statement.
        reads = has_request_context() and request.method in ("GET", "HEAD")
        connection.exec_driver_sql("BEGIN" if reads else "BEGIN IMMEDIATE")

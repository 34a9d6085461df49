"""An empty database, a session, a hub, and the broadcaster that sends its events on commit."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session
from sqlalchemy.pool import NullPool

from cartows.broadcaster import Broadcaster
from cartows.sqlalchemy import publish_on_commit
from tests.support.database import RecordingHub, database


@pytest.fixture
def engine(tmp_path: Path) -> sa.Engine:
    return database(f"sqlite:///{tmp_path / 'tasks.db'}", poolclass=NullPool)


@pytest.fixture
def session(engine: sa.Engine) -> Iterator[Session]:
    with Session(engine) as session:
        yield session


@pytest.fixture
def hub() -> RecordingHub:
    return RecordingHub()


@pytest.fixture
def events(session: Session, hub: RecordingHub) -> Broadcaster:
    return publish_on_commit(session, hub)

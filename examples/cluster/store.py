"""The database of the example: the numbers that each source has published, in an SQLite file that all processes share.

Threads: any; each call has a connection of its own.
Blocks: for 5 s at most, while another process writes.
"""

import contextlib
import os
import sqlite3


def set_up(file):
    with _connection(file) as database:
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("CREATE TABLE IF NOT EXISTS numbers (source TEXT, n INTEGER, PRIMARY KEY (source, n))")


def write(source, n):
    with _connection() as database:
        database.execute("INSERT INTO numbers VALUES (?, ?)", (source, n))


def last_of(source):
    with _connection() as database:
        return database.execute("SELECT COALESCE(MAX(n), 0) FROM numbers WHERE source = ?", (source,)).fetchone()[0]


def read(count):
    """Return the latest numbers as ``[source, n]``, oldest first, and the last number of every source."""
    with _connection() as database:
        numbers = database.execute("SELECT source, n FROM numbers ORDER BY rowid DESC LIMIT ?", (count,)).fetchall()
        last = database.execute("SELECT source, MAX(n) FROM numbers GROUP BY source").fetchall()
    return {"numbers": numbers[::-1], "last": dict(last)}


@contextlib.contextmanager
def _connection(file=None):
    file = file or os.environ["CLUSTER_DATABASE"]
    with contextlib.closing(sqlite3.connect(file, timeout=5)) as database, database:
        yield database

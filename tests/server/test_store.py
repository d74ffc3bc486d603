"""The database file: older ones are brought up to date, and what was deleted is not in it any more."""

from __future__ import annotations

import errno
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import delete, insert, select, text
from sqlalchemy.exc import IntegrityError

from server.records import analyses, audit, deliveries, keys
from server.records.audit import Event
from server.store import SCHEMA_VERSION, Store, api_keys, metadata

MARKER = "zebra-crossing-at-midnight"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "emollama.sqlite3"


@pytest.fixture
def store(file: Path) -> Iterator[Store]:
    opened = Store(f"sqlite:///{file}")
    yield opened
    opened.close()


def make_old(file: Path, *, first_version: bool = False) -> None:
    with sqlite3.connect(file) as connection:
        connection.executescript(Path(__file__).with_name("database_v2.sql").read_text(encoding="utf-8"))
        if first_version:
            connection.execute("DROP TABLE api_keys")
            connection.execute("UPDATE schema_version SET version = 1")
    connection.close()


def layout(file: Path) -> dict[str, list[tuple[object, ...]]]:
    """Every table's columns, as the database tells them."""
    with sqlite3.connect(file) as connection:
        found = {
            name: sorted(tuple(row[1:]) for row in connection.execute(f"PRAGMA table_info({name})"))
            for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
        }
    connection.close()
    return found


def test_a_database_of_version_3_is_brought_up_to_date(file: Path, tmp_path: Path) -> None:
    with sqlite3.connect(file) as connection:
        connection.executescript(Path(__file__).with_name("database_v3.sql").read_text(encoding="utf-8"))
    connection.close()
    store = Store(f"sqlite:///{file}")
    (key,) = keys.all_keys(store)
    assert (key.id, key.scopes, key.note, key.purpose) == ("4k1xq0m3c8zt", ("analyze",), "the shop", None)
    record = analyses.find(store, "analysis-1", now=5.0)
    assert record is not None
    assert (record.metadata, record.result, record.purpose) == ({"case": "17"}, '{"emotion": {"label": "joy"}}', None)
    (delivery,) = deliveries.about(store, "ftjob-1")
    assert (delivery.owner, delivery.num_attempts, delivery.next_at) == ("ann", 3, 4.0)
    # The audit log is there, empty, and as closed as in a new database.
    audit.append(store, [Event(action="keys.create")])
    with pytest.raises(IntegrityError, match="append-only"), store.write() as connection:
        connection.execute(text("DELETE FROM audit_log"))
    store.close()
    fresh = tmp_path / "fresh.sqlite3"
    Store(f"sqlite:///{fresh}").close()
    assert layout(file) == layout(fresh)
    Store(f"sqlite:///{file}").close()


@pytest.mark.parametrize("first_version", [False, True])
def test_an_older_database_is_brought_up_to_date(file: Path, tmp_path: Path, first_version: bool) -> None:
    make_old(file, first_version=first_version)
    store = Store(f"sqlite:///{file}")
    assert store.database_id == "0123456789abcdef0123456789abcdef"
    assert keys.all_keys(store) == ()
    # The webhook that was to be sent is still to be sent, and is its job's owner's.
    (delivery,) = deliveries.about(store, "ftjob-1")
    assert (delivery.id, delivery.owner, delivery.num_attempts, delivery.next_at) == ("evt_1", "ann", 3, 4.0)
    assert delivery.url is None
    due = deliveries.claim_due(store, now=5.0, hold_seconds=60)
    assert due is not None
    assert due.body == '{"id": "evt_1"}'
    with store.read() as connection:
        assert connection.execute(text("SELECT version FROM schema_version")).scalar() == SCHEMA_VERSION
        assert {table: [] for table in metadata.tables} == {
            table: connection.execute(text(f"PRAGMA foreign_key_check({table})")).all() for table in metadata.tables
        }
    store.close()
    fresh = tmp_path / "fresh.sqlite3"
    Store(f"sqlite:///{fresh}").close()
    assert layout(file) == layout(fresh)
    # Opened again, nothing is done to it.
    again = Store(f"sqlite:///{file}")
    assert len(deliveries.about(again, "ftjob-1")) == 1
    again.close()


def test_what_an_older_program_deleted_is_scrubbed_from_its_database(file: Path) -> None:
    make_old(file)
    with sqlite3.connect(file) as connection:
        connection.execute("PRAGMA secure_delete=OFF")
        for number in range(50):
            connection.execute(
                "INSERT INTO files (id, filename, purpose, kind, num_bytes, created_at) "
                "VALUES (?, ?, 'f', 'k', 1, 1.0)",
                (f"file-{number}", MARKER * 20),
            )
        connection.commit()
        connection.execute("DELETE FROM files")
    connection.close()
    assert MARKER.encode() in file.read_bytes()
    Store(f"sqlite:///{file}").close()
    assert MARKER.encode() not in file.read_bytes()


def bytes_of(file: Path) -> bytes:
    """The database with its log, as they lie on the disk."""
    return b"".join(path.read_bytes() for path in file.parent.glob(f"{file.name}*"))


@pytest.mark.parametrize("everything", [False, True])
def test_nothing_deleted_is_left_in_the_file_or_its_log(file: Path, store: Store, everything: bool) -> None:
    row = {"owner": "ann", "digest": "d", "scopes": [], "note": MARKER, "created_at": 1.0}
    with store.write() as connection:
        connection.execute(insert(api_keys), [{"id": f"k{number}", **row} for number in range(200)])
    with store.write() as connection:
        connection.execute(delete(api_keys))
    assert MARKER.encode() in bytes_of(file)
    assert store.scrub(everything=everything)
    assert MARKER.encode() not in bytes_of(file)
    # While somebody reads an older state, the log cannot be emptied, and it says so.
    with store.write() as connection:
        connection.exec_driver_sql("PRAGMA busy_timeout=50")
    with store.read() as reader:
        reader.execute(select(api_keys)).all()
        with store.write() as connection:
            connection.execute(insert(api_keys).values(id="k", **row))
            connection.exec_driver_sql("PRAGMA busy_timeout=50")
        assert not store.scrub()
    assert store.scrub()


def test_a_full_disk_is_told_as_one(store: Store) -> None:
    with store.write() as connection:
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar()
        connection.exec_driver_sql(f"PRAGMA max_page_count={pages}")
    row = {"owner": "ann", "digest": "d", "scopes": [], "note": "n" * 200, "created_at": 1.0}
    with pytest.raises(OSError, match="no room") as caught, store.write() as connection:
        connection.execute(insert(api_keys), [{"id": f"k{number}", **row} for number in range(500)])
    assert caught.value.errno == errno.ENOSPC

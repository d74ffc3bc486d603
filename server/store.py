"""The database of files, jobs, analyses, adapters and the audit log: tables, version, and two kinds of transaction.

SQLite in the data folder by default (write-ahead log, one writer at a time, the others wait), Postgres by URL; nothing
here is special to either but what `_prepare` and `Store.write` say. `server.records` and the queues read and write
it; a row never leaves them, only frozen dataclasses do.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import sqlite3
import uuid
from collections.abc import Iterator
from typing import Any

from sqlalchemy import (
    DDL,
    JSON,
    BigInteger,
    Boolean,
    Column,
    Connection,
    Engine,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    create_engine,
    event,
    insert,
    inspect,
    select,
    text,
    update,
)
from sqlalchemy.engine import make_url
from sqlalchemy.exc import OperationalError

from emollama.errors import EmoLlamaError

logger = logging.getLogger("server.store")

SCHEMA_VERSION = 4
_BUSY_MS = 30_000
_SETUP_LOCK = 0x656D6F  # any number that is ours, for Postgres' advisory lock

metadata = MetaData()
# Rows are ordered by `seq`: several may be made within one tick of the clock.

schema_version = Table(
    "schema_version", metadata,
    Column("version", Integer, nullable=False),
    Column("database_id", String(64), nullable=False),
)  # fmt: skip

files = Table(
    "files", metadata,
    Column("seq", Integer, primary_key=True, autoincrement=True),
    Column("id", String(64), nullable=False, unique=True),
    Column("owner", String(64), nullable=False, server_default="local"),
    Column("filename", String(255), nullable=False),
    Column("purpose", String(32), nullable=False),
    Column("kind", String(16), nullable=False),
    Column("num_bytes", BigInteger, nullable=False),
    Column("created_at", Float, nullable=False),
    Column("expires_at", Float),
)  # fmt: skip

jobs = Table(
    "jobs", metadata,
    Column("seq", Integer, primary_key=True, autoincrement=True),
    Column("id", String(64), nullable=False, unique=True),
    Column("owner", String(64), nullable=False, server_default="local"),
    Column("status", String(32), nullable=False, index=True),
    Column("wanted", String(16), nullable=False, server_default="run"),
    Column("base", String(255), nullable=False),
    Column("model_name", String(255), nullable=False, unique=True),
    Column("training_file", String(64), nullable=False),
    Column("validation_file", String(64)),
    Column("suffix", String(64)),
    Column("seed", BigInteger, nullable=False),
    Column("hyperparameters", JSON, nullable=False),
    Column("created_at", Float, nullable=False),
    Column("finished_at", Float),
    Column("estimated_finish", Float),
    Column("trained_tokens", BigInteger),
    Column("error", JSON),
    Column("result_files", JSON, nullable=False),
    # What the process that runs the job keeps of it.
    Column("progress", JSON, nullable=False),
    Column("lease_owner", String(64)),
    Column("lease_number", Integer, nullable=False, server_default="0"),
    Column("lease_until", Float, nullable=False, server_default="0"),
)  # fmt: skip

job_metadata = Table(
    "job_metadata", metadata,
    Column("job_id", ForeignKey("jobs.id"), primary_key=True),
    Column("key", String(64), primary_key=True),
    Column("value", String(512), nullable=False),
)  # fmt: skip

job_events = Table(
    "job_events", metadata,
    Column("seq", Integer, primary_key=True, autoincrement=True),
    Column("id", String(64), nullable=False, unique=True),
    Column("job_id", ForeignKey("jobs.id"), nullable=False),
    Column("created_at", Float, nullable=False),
    Column("level", String(8), nullable=False),
    Column("type", String(16), nullable=False),
    Column("message", Text, nullable=False),
    Column("data", JSON),
    Index("job_events_of_job", "job_id", "seq"),
)  # fmt: skip

installed_adapters = Table(
    "installed_adapters", metadata,
    Column("seq", Integer, primary_key=True, autoincrement=True),
    Column("name", String(255), nullable=False, unique=True),
    Column("base", String(512), nullable=False),
    Column("folder", String(4096), nullable=False),
    Column("created_at", Float, nullable=False),
)  # fmt: skip

job_checkpoints = Table(
    "job_checkpoints", metadata,
    Column("seq", Integer, primary_key=True, autoincrement=True),
    Column("id", String(64), nullable=False, unique=True),
    Column("job_id", ForeignKey("jobs.id"), nullable=False),
    Column("created_at", Float, nullable=False),
    Column("step", Integer, nullable=False),
    Column("model_name", String(255), nullable=False),
    Column("metrics", JSON, nullable=False),
    Index("job_checkpoints_of_job", "job_id", "step", unique=True),
)  # fmt: skip

adapters = Table(
    "adapters", metadata,
    Column("seq", Integer, primary_key=True, autoincrement=True),
    Column("name", String(255), nullable=False, unique=True),
    Column("owner", String(64), nullable=False, server_default="local"),
    Column("base", String(255), nullable=False),
    Column("folder", String(512), nullable=False),
    Column("job_id", ForeignKey("jobs.id"), nullable=False, index=True),
    Column("is_checkpoint", Boolean, nullable=False),
    Column("created_at", Float, nullable=False),
)  # fmt: skip

api_keys = Table(
    "api_keys", metadata,
    Column("seq", Integer, primary_key=True, autoincrement=True),
    Column("id", String(64), nullable=False, unique=True),
    Column("owner", String(64), nullable=False),
    Column("digest", String(64), nullable=False),
    Column("scopes", JSON, nullable=False),
    Column("note", String(200), nullable=False),
    Column("per_minute", Integer),
    Column("created_at", Float, nullable=False),
    Column("expires_at", Float),
    Column("revoked_at", Float),
    Column("purpose", String(64)),
)  # fmt: skip

deliveries = Table(
    "webhook_deliveries", metadata,
    Column("seq", Integer, primary_key=True, autoincrement=True),
    Column("id", String(64), nullable=False, unique=True),
    Column("subject_id", String(64), nullable=False, index=True),
    Column("owner", String(64), nullable=False),
    Column("type", String(64), nullable=False),
    Column("body", Text, nullable=False),
    Column("url", Text),
    Column("secret", String(128)),
    Column("created_at", Float, nullable=False),
    Column("num_attempts", Integer, nullable=False, server_default="0"),
    Column("next_at", Float),
    Column("delivered_at", Float),
    Column("last_status", Integer),
    Column("last_error", String(255)),
)  # fmt: skip

analyses = Table(
    "analyses", metadata,
    Column("seq", Integer, primary_key=True, autoincrement=True),
    Column("id", String(64), nullable=False, unique=True),
    Column("owner", String(64), nullable=False),
    Column("status", String(16), nullable=False, index=True),
    Column("wanted", String(16), nullable=False, server_default="run"),
    Column("filename", String(255), nullable=False),
    Column("num_bytes", BigInteger, nullable=False),
    Column("options", JSON, nullable=False),
    Column("metadata", JSON, nullable=False),
    Column("webhook_url", Text),
    Column("webhook_secret", String(128)),
    Column("retention_seconds", Float, nullable=False),
    Column("created_at", Float, nullable=False),
    Column("started_at", Float),
    Column("finished_at", Float),
    Column("expires_at", Float, index=True),
    Column("stage", String(32)),
    Column("progress", Float, nullable=False, server_default="0"),
    Column("result", Text),
    Column("error", JSON),
    Column("purpose", String(64)),
    Column("consent_reference", String(100)),
    # What the process that works on it keeps of it.
    Column("num_starts", Integer, nullable=False, server_default="0"),
    Column("lease_owner", String(64)),
    Column("lease_number", Integer, nullable=False, server_default="0"),
    Column("lease_until", Float, nullable=False, server_default="0"),
    Index("analyses_of_owner", "owner", "status"),
)  # fmt: skip

idempotency_keys = Table(
    "idempotency_keys", metadata,
    Column("seq", Integer, primary_key=True, autoincrement=True),
    Column("owner", String(64), nullable=False),
    Column("key", String(255), nullable=False),
    Column("holder", String(64), nullable=False),
    Column("fingerprint", String(64)),
    Column("resource_id", String(64), index=True),
    Column("created_at", Float, nullable=False),
    Column("expires_at", Float, nullable=False, index=True),
    Index("idempotency_key_of_owner", "owner", "key", unique=True),
)  # fmt: skip

# Who had what read, when, with which model and why; nothing of what was read. `server.records.audit` chains its rows.
audit_log = Table(
    "audit_log", metadata,
    Column("seq", Integer, primary_key=True, autoincrement=False),
    Column("id", String(64), nullable=False, unique=True),
    Column("at", Float, nullable=False, index=True),
    Column("owner", String(64), index=True),
    Column("key_id", String(64)),
    Column("action", String(128), nullable=False),
    Column("status", Integer),
    Column("code", String(64)),
    Column("model", String(255)),
    Column("purpose", String(64)),
    Column("consent_reference", String(100)),
    Column("subject_id", String(64), index=True),
    Column("hash", String(64), nullable=False),
)  # fmt: skip
_APPEND_ONLY = "the audit log is append-only"
# SQLite's REPLACE removes rows without asking the trigger on DELETE, so what comes must come after all that is there.
_SQLITE_TRIGGERS = (
    f"CREATE TRIGGER audit_log_no_update BEFORE UPDATE ON audit_log BEGIN SELECT RAISE(ABORT, '{_APPEND_ONLY}'); END",
    f"CREATE TRIGGER audit_log_no_delete BEFORE DELETE ON audit_log BEGIN SELECT RAISE(ABORT, '{_APPEND_ONLY}'); END",
    "CREATE TRIGGER audit_log_at_the_end BEFORE INSERT ON audit_log "
    "WHEN EXISTS (SELECT 1 FROM audit_log WHERE seq >= NEW.seq OR id = NEW.id) "
    f"BEGIN SELECT RAISE(ABORT, '{_APPEND_ONLY}'); END",
)
_POSTGRES_TRIGGERS = (
    "CREATE OR REPLACE FUNCTION audit_log_append_only() RETURNS trigger LANGUAGE plpgsql AS "
    f"$body$ BEGIN RAISE EXCEPTION '{_APPEND_ONLY}'; END $body$",
    "CREATE TRIGGER audit_log_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON audit_log "
    "FOR EACH STATEMENT EXECUTE FUNCTION audit_log_append_only()",
)
for _dialect, _statements in (("sqlite", _SQLITE_TRIGGERS), ("postgresql", _POSTGRES_TRIGGERS)):
    for _statement in _statements:
        event.listen(audit_log, "after_create", DDL(_statement).execute_if(dialect=_dialect))


class StoreError(EmoLlamaError):
    """The database cannot be used: it is newer than this program, or cannot be reached."""


class Store:
    """An open database; `read` and `write` give a connection in a transaction."""

    def __init__(self, url: str) -> None:
        self._engine = _engine(url)
        self._writing = self._engine.execution_options(emollama_write=True)
        try:
            with self.write() as connection:
                self.database_id, is_older = _prepare(connection)
            if is_older:
                self.scrub(everything=True)
        except BaseException:
            self.close()
            raise

    @contextlib.contextmanager
    def read(self) -> Iterator[Connection]:
        with self._engine.connect() as connection, connection.begin():
            yield connection

    @contextlib.contextmanager
    def write(self) -> Iterator[Connection]:
        """A transaction that commits at the end; on SQLite it is the only writer from its first statement on."""
        try:
            with self._writing.connect() as connection, connection.begin():
                yield connection
        except OperationalError as exc:
            raise_if_full(exc.orig)
            raise

    def scrub(self, *, everything: bool = False) -> bool:
        """Leave nothing in SQLite's files of what was deleted; blocks, and waits for who reads.

        Deleted content is overwritten where it lies (``secure_delete``), but the write-ahead log still has the pages as
        they were: it is emptied. ``everything`` also writes the whole database anew, without what earlier versions of
        it, or moved pages, may have left. Returns False where it could not be done: the log is in use, or the database
        is another server's, whose own business this is.
        """
        if self._engine.dialect.name != "sqlite":
            return False
        raw = self._engine.raw_connection()
        try:
            cursor = raw.cursor()
            if everything:
                cursor.execute("VACUUM")
            is_busy = bool(cursor.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0])
            cursor.close()
        except sqlite3.OperationalError as exc:
            raise_if_full(exc)
            logger.warning("the database could not be scrubbed", extra={"fields": {"reason": exc.sqlite_errorname}})
            return False
        finally:
            raw.close()
        return not is_busy

    def close(self) -> None:
        self._engine.dispose()


def raise_if_full(exc: BaseException | None) -> None:
    """Raise SQLite's way of saying that the disk is full as everybody else does."""
    if getattr(exc, "sqlite_errorname", "") == "SQLITE_FULL":
        raise OSError(errno.ENOSPC, "no room for the database") from exc


def _engine(url: str) -> Engine:
    parsed = make_url(url)
    if parsed.get_backend_name() != "sqlite":
        return create_engine(url, pool_pre_ping=True, pool_size=8, max_overflow=24)
    engine = create_engine(url, pool_size=8, max_overflow=24)

    @event.listens_for(engine, "connect")
    def _on_connect(connection: Any, _: Any) -> None:
        connection.isolation_level = None  # the driver begins no transaction of its own; `_on_begin` does
        cursor = connection.cursor()
        for pragma in (
            f"busy_timeout={_BUSY_MS}", "journal_mode=WAL", "synchronous=NORMAL", "foreign_keys=ON",
            "secure_delete=ON",
        ):  # fmt: skip
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()

    @event.listens_for(engine, "begin")
    def _on_begin(connection: Connection) -> None:
        # A transaction that reads first and writes later may fail when another one wrote in between, however long it
        # waits; one that takes the write lock at once only waits.
        writes = connection.get_execution_options().get("emollama_write", False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    return engine


def _prepare(connection: Connection) -> tuple[str, bool]:
    """Make the tables of a new database, bring an older one up to date, refuse a newer one.

    Returns its id, and whether it was an older one.
    """
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _SETUP_LOCK})
    schema_version.create(connection, checkfirst=True)
    found = connection.execute(select(schema_version)).first()
    if found is not None and found.version > SCHEMA_VERSION:
        raise StoreError(
            f"the database has schema version {found.version}; this program reads up to {SCHEMA_VERSION}: use the "
            "version of emollama that made it, or name another database or data folder"
        )
    if found is not None and found.version == SCHEMA_VERSION:
        return str(found.database_id), False
    if found is None:
        metadata.create_all(connection)
        database_id = uuid.uuid4().hex
        connection.execute(insert(schema_version).values(version=SCHEMA_VERSION, database_id=database_id))
        return database_id, False
    # Version 2 brought api_keys, version 3 analyses, idempotency_keys, installed_adapters, version 4 audit_log: new
    # tables.
    if found.version < 3:
        _put_aside_deliveries(connection)
    metadata.create_all(connection)
    if found.version < 3:
        _bring_back_deliveries(connection)
    _add_columns(connection)
    connection.execute(update(schema_version).values(version=SCHEMA_VERSION))
    return str(found.database_id), True


# What version 4 brought to tables that were there.
_NEW_COLUMNS = (api_keys.c.purpose, analyses.c.purpose, analyses.c.consent_reference)


def _add_columns(connection: Connection) -> None:
    """Add the columns that an older database lacks; all of them may be empty."""
    for column in _NEW_COLUMNS:
        there = {each["name"] for each in inspect(connection).get_columns(column.table.name)}
        if column.name not in there:
            kind = column.type.compile(connection.dialect)
            connection.exec_driver_sql(f"ALTER TABLE {column.table.name} ADD COLUMN {column.name} {kind}")


_OLD_DELIVERIES = (
    "id", "type", "body", "created_at", "num_attempts", "next_at", "delivered_at", "last_status", "last_error",
)  # fmt: skip


def _put_aside_deliveries(connection: Connection) -> None:
    """Make room for the table of version 3; before, a delivery was a job's, and only there for the operator."""
    connection.exec_driver_sql("CREATE TABLE old_deliveries AS SELECT * FROM webhook_deliveries")
    connection.exec_driver_sql("DROP TABLE webhook_deliveries")


def _bring_back_deliveries(connection: Connection) -> None:
    names = ", ".join(_OLD_DELIVERIES)
    found = ", ".join(f"old_deliveries.{name}" for name in _OLD_DELIVERIES)
    connection.exec_driver_sql(
        f"INSERT INTO webhook_deliveries (subject_id, owner, {names}) "
        f"SELECT old_deliveries.job_id, jobs.owner, {found} "
        "FROM old_deliveries JOIN jobs ON jobs.id = old_deliveries.job_id ORDER BY old_deliveries.seq"
    )
    connection.exec_driver_sql("DROP TABLE old_deliveries")

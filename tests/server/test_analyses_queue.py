"""The queue of analyses in the database: whose turn it is, who may write, what is cleared away when."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from emollama.errors import BusyError
from emollama.media import MediaLimits
from emollama.media_windows import LONG_LIMITS
from server.analyses import queue
from server.analyses.janitor import DELIVERIES_SECONDS, ORPHAN_AFTER_SECONDS, Janitor
from server.analyses.queue import Ending
from server.analyses.worker import MAX_STARTS, Around, Worker
from server.gate import Gate
from server.layout import DataFolder
from server.leases import LeaseLostError
from server.media_worker import InProcess
from server.metrics import Live, Metrics
from server.models import ModelHost, ModelSpec
from server.records import analyses, deliveries
from server.records.analyses import AnalysisRecord
from server.store import Store

DAY = 86_400.0


@pytest.fixture
def data(tmp_path: Path) -> DataFolder:
    folder = DataFolder(tmp_path)
    folder.create()
    return folder


@pytest.fixture
def store(data: DataFolder) -> Iterator[Store]:
    opened = Store(f"sqlite:///{data.database}")
    yield opened
    opened.close()


def add(store: Store, name: str, *, owner: str = "ann", **values: Any) -> str:
    record = AnalysisRecord(
        id=f"analysis-{name}", owner=owner, filename=f"{name}.wav", num_bytes=3, options={"transcript": "secret words"},
        **{"retention_seconds": DAY, "created_at": 1.0, **values},
    )  # fmt: skip
    with store.write() as connection:
        analyses.add_within(connection, record)
    return record.id


def found(store: Store, analysis_id: str, *, now: float = 0.0) -> AnalysisRecord:
    record = analyses.find(store, analysis_id, now=now)
    assert record is not None
    return record


def claim(store: Store, *, now: float, owner: str = "p") -> queue.Lease:
    lease = queue.claim(store, owner=owner, seconds=10, now=now)
    assert lease is not None
    return lease


def test_turns_go_around_the_owners(store: Store) -> None:
    for number in range(3):
        add(store, f"a{number}", owner="ann")
    add(store, "b0", owner="bob")
    add(store, "c0", owner="cat")
    order = [claim(store, now=float(now)).record.id for now in range(100, 105)]
    assert order == [f"analysis-{name}" for name in ("a0", "b0", "c0", "a1", "a2")]


def test_who_slept_through_the_end_of_the_lease_changes_nothing(store: Store) -> None:
    analysis_id = add(store, "a")
    sleeper = claim(store, now=100.0, owner="p")
    assert queue.claim(store, owner="q", seconds=10, now=109.0) is None
    taker = claim(store, now=110.0, owner="q")
    assert taker.record.num_starts == 2
    for write in (
        lambda: queue.advance(store, sleeper, stage="judge", progress=0.5),
        lambda: queue.give_back(store, sleeper),
        lambda: queue.end(store, sleeper, Ending(status="failed", at=1.0)),
    ):
        with pytest.raises(LeaseLostError):
            write()
    assert queue.wishes(store, [sleeper]) == {}
    assert queue.wishes(store, [taker]) == {analysis_id: "run"}
    queue.advance(store, taker, stage="judge", progress=0.5)
    assert (found(store, analysis_id).stage, found(store, analysis_id).progress) == ("judge", 0.5)
    # One whose process is dead is cancelled without it; should it live after all, it has nothing to say any more.
    record = queue.cancel(store, analysis_id, now=121.0, tells_operator=False)
    assert record is not None
    assert record.status == "cancelled"
    with pytest.raises(LeaseLostError):
        queue.end(store, taker, Ending(status="succeeded", at=122.0, result={}))
    assert found(store, analysis_id).status == "cancelled"


def test_what_is_given_back_has_its_old_place_and_was_no_start(store: Store) -> None:
    first, _ = add(store, "1"), add(store, "2", owner="bob")
    lease = claim(store, now=100.0)
    queue.give_back(store, lease, free_at=105.0)
    assert (found(store, first).status, found(store, first).num_starts) == ("queued", 0)
    assert claim(store, now=104.0).record.id == "analysis-2"
    assert claim(store, now=105.0).record.id == first


def around(store: Store, data: DataFolder, analyzer: Any, now: float) -> Around:
    models = ModelHost([ModelSpec(name="nano", base="nano")], load=lambda spec: analyzer)
    models._loaded["nano"] = analyzer
    live = Live(running=lambda: 0, waiting=lambda: 0, models=lambda: 1, jobs=dict)
    return Around(
        store=store, data=data, models=models, gate=Gate(concurrency=1, queue_size=0), decoder=InProcess(),
        metrics=Metrics(live), limits=MediaLimits(), long_limits=LONG_LIMITS, lease_seconds=10, timeout_seconds=60,
        tells_operator=False, clock=lambda: now,
    )  # fmt: skip


def work(store: Store, data: DataFolder, analyzer: Any, *, now: float, is_stopping: bool = False) -> None:
    Worker(claim(store, now=now), around(store, data, analyzer, now), is_stopping=lambda: is_stopping).run()


def test_a_clip_that_ended_its_process_too_often_is_given_up(
    store: Store, data: DataFolder, analyzer_type: Any
) -> None:
    analysis_id = add(store, "a")
    data.analysis(analysis_id).write_bytes(b"abc")
    for start in range(MAX_STARTS):
        claim(store, now=100.0 + 20 * start)  # and its process is killed
    analyzer = analyzer_type()
    work(store, data, analyzer, now=200.0)
    record = found(store, analysis_id)
    assert record.status == "failed"
    assert record.error is not None
    assert record.error["code"] == "analysis_crashed"
    assert analyzer.calls == []
    assert not data.analysis(analysis_id).exists()


def test_a_model_that_is_busy_or_a_service_that_stops_gives_it_back(
    store: Store, data: DataFolder, analyzer_type: Any
) -> None:
    analysis_id = add(store, "a")
    data.analysis(analysis_id).write_bytes(b"abc")
    work(store, data, analyzer_type(error=BusyError("full", retry_after_seconds=30.0)), now=100.0)
    assert (found(store, analysis_id).status, found(store, analysis_id).num_starts) == ("queued", 0)
    assert queue.claim(store, owner="p", seconds=1, now=129.0) is None
    work(store, data, analyzer_type(), now=130.0, is_stopping=True)
    assert found(store, analysis_id).status == "queued"
    work(store, data, analyzer_type(), now=130.0)
    assert found(store, analysis_id).status == "succeeded"
    assert not data.analysis(analysis_id).exists()


def test_a_database_that_fails_leaves_the_clip_for_later(
    store: Store, data: DataFolder, analyzer_type: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    analysis_id = add(store, "a")
    data.analysis(analysis_id).write_bytes(b"abc")

    def full(*_: Any) -> None:
        raise OSError(28, "no room for the database")

    with monkeypatch.context() as patched:
        patched.setattr(queue, "end", full)
        work(store, data, analyzer_type(), now=100.0)
    assert (found(store, analysis_id).status, found(store, analysis_id).num_starts) == ("queued", 1)
    assert data.analysis(analysis_id).exists()
    work(store, data, analyzer_type(), now=110.0)
    assert found(store, analysis_id).status == "succeeded"


def bytes_of(data: DataFolder) -> bytes:
    return b"".join(path.read_bytes() for path in data.root.rglob("*") if path.is_file())


def test_results_are_kept_for_their_time_and_then_really_gone(store: Store, data: DataFolder) -> None:
    now = [1000.0]
    janitor = Janitor(store, data, clock=lambda: now[0])
    kept, short = add(store, "kept", retention_seconds=7 * DAY), add(store, "short", retention_seconds=60.0)
    for name in ("zebra", "giraffe"):
        lease = claim(store, now=1000.0)
        queue.end(store, lease, Ending(status="succeeded", at=1000.0, result={"clip": name * 50}, tells_operator=True))
    waiting = add(store, "waiting", owner="zoe")
    assert found(store, kept, now=1000.0).options == {}
    now[0] = 1059.0
    janitor.clean()
    assert found(store, short, now=1059.0).result is not None
    # At its time it is gone from the API, and when the janitor has come from the disk.
    assert analyses.find(store, short, now=1060.0) is None
    assert [record.id for record in analyses.page(store, now=1060.0, after=None, limit=9).items] == [waiting, kept]
    assert b"giraffegiraffe" in bytes_of(data)
    now[0] = 1060.0
    janitor.clean()
    assert b"giraffegiraffe" not in bytes_of(data)
    assert b"short.wav" not in bytes_of(data)
    assert b"zebrazebra" in bytes_of(data)
    assert deliveries.about(store, short) == ()
    now[0] = 1000.0 + 7 * DAY
    janitor.clean()
    assert b"zebrazebra" not in bytes_of(data)
    # What waits has no time yet.
    assert found(store, waiting, now=now[0]).status == "queued"


def test_the_janitor_takes_clips_that_nobody_will_read(store: Store, data: DataFolder) -> None:
    waiting, ended = add(store, "waiting"), add(store, "ended", owner="bob")
    claim(store, now=1.0)
    queue.end(store, claim(store, now=2.0), Ending(status="failed", at=3.0, error={}))
    assert found(store, ended).status == "failed"
    clock = [1e9]
    for name in (waiting, ended, "analysis-orphan"):
        data.analysis(name).write_bytes(b"abc")
        data.windows(name).mkdir()
        (data.windows(name) / "000000.safetensors").write_bytes(b"abc")
        for path in (data.analysis(name), data.windows(name)):
            os.utime(path, (1e9, 1e9))
    janitor = Janitor(store, data, clock=lambda: clock[0])
    with store.write() as connection:  # what was ended long ago is not what this is about
        connection.exec_driver_sql("UPDATE analyses SET expires_at = NULL")
    janitor.clean()
    kept = {waiting, f"{waiting}.windows"}
    assert {path.name for path in data.analyses.iterdir()} == {*kept, "analysis-orphan", "analysis-orphan.windows"}
    clock[0] += ORPHAN_AFTER_SECONDS + 1
    janitor.clean()
    assert {path.name for path in data.analyses.iterdir()} == kept


def test_old_deliveries_are_forgotten_when_nothing_is_to_be_sent(store: Store, data: DataFolder) -> None:
    for name in ("sent", "due"):
        add(store, name, owner=name)
        lease = claim(store, now=100.0)
        queue.end(store, lease, Ending(status="succeeded", at=100.0, result={}, tells_operator=True))
    first = deliveries.claim_due(store, now=100.0, hold_seconds=1)
    assert first is not None
    deliveries.settle(store, first.id, next_at=None, delivered_at=101.0, status=200, error=None)
    with store.write() as connection:
        connection.exec_driver_sql("UPDATE analyses SET expires_at = NULL")
    Janitor(store, data, clock=lambda: 100.0 + DELIVERIES_SECONDS).clean()
    assert deliveries.about(store, first.subject_id) != ()
    Janitor(store, data, clock=lambda: 101.0 + DELIVERIES_SECONDS).clean()
    left = deliveries.about(store, "analysis-sent") + deliveries.about(store, "analysis-due")
    assert len(left) == 1
    assert left[0].next_at is not None

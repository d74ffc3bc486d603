"""The database and the queue in it: versions, leases, wishes, pages."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from pydantic import SecretStr
from sqlalchemy import create_engine, text

from emollama.errors import InputError
from server.app import open_store
from server.errors import ApiError
from server.jobs import queue, requests
from server.jobs.progress import News, Progress
from server.layout import DataFolder
from server.records import adapters, deliveries, jobs
from server.records.jobs import CheckpointRecord, EventRecord, JobRecord
from server.settings import Settings
from server.store import SCHEMA_VERSION, Store, StoreError, metadata
from server.webhooks import delivery_of

BACKENDS = ("sqlite", "postgresql") if "TEST_POSTGRES_URL" in os.environ else ("sqlite",)


@pytest.fixture(params=BACKENDS)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    """An empty database; Postgres is tested where TEST_POSTGRES_URL names one that may be emptied."""
    url = f"sqlite:///{tmp_path / 'queue.sqlite3'}"
    if request.param == "postgresql":
        url = os.environ["TEST_POSTGRES_URL"]
        empty(url)
    opened = Store(url)
    yield opened
    opened.close()


def empty(url: str) -> None:
    engine = create_engine(url)
    metadata.drop_all(engine)
    engine.dispose()


def add_job(store: Store, number: int) -> str:
    job = JobRecord(
        id=f"ftjob-{number}", status="queued", base="nano", model_name=f"ft:{number}", training_file="file-1", seed=1,
        created_at=float(number), hyperparameters={},
    )  # fmt: skip
    jobs.add(store, job, ())
    return job.id


def test_a_lease_is_exclusive_until_it_runs_out(store: Store) -> None:
    for number in (1, 2):
        add_job(store, number)
    first = queue.claim(store, owner="a", seconds=10, now=100.0)
    second = queue.claim(store, owner="b", seconds=10, now=100.0)
    assert first is not None
    assert second is not None
    assert (first.job.id, second.job.id) == ("ftjob-1", "ftjob-2")
    assert queue.claim(store, owner="c", seconds=10, now=109.0) is None
    queue.renew(store, [first], until=130.0)
    taken = queue.claim(store, owner="c", seconds=10, now=115.0)
    assert taken is not None
    assert taken.job.id == "ftjob-2"
    # What b still wants to write is refused, and renewing does not give the job back to it.
    queue.renew(store, [second], until=999.0)
    assert queue.wanted(store, taken) == "run"
    with pytest.raises(queue.LeaseLostError):
        queue.wanted(store, second)
    with pytest.raises(queue.LeaseLostError):
        queue.move(store, second, "running", progress=Progress(), events=(), release=False)
    with pytest.raises(queue.LeaseLostError):
        queue.end(store, second, queue.Ending(status="failed", events=()))
    found = jobs.find(store, "ftjob-2")
    assert found is not None
    assert found.status == "queued"


def test_an_owner_that_takes_a_job_again_has_a_new_lease(store: Store) -> None:
    add_job(store, 1)
    old = queue.claim(store, owner="a", seconds=1, now=100.0)
    new = queue.claim(store, owner="a", seconds=1, now=102.0)
    assert old is not None
    assert new is not None
    with pytest.raises(queue.LeaseLostError):
        queue.wanted(store, old)
    queue.release(store, new, free_at=0.0)
    assert queue.claim(store, owner="b", seconds=1, now=102.0) is not None


def test_many_that_claim_at_once_get_each_job_once(store: Store) -> None:
    ids = {add_job(store, number) for number in range(12)}
    with ThreadPoolExecutor(6) as pool:
        taken = list(pool.map(lambda n: queue.claim(store, owner=f"s{n}", seconds=60, now=1.0), range(20)))
    got = [lease.job.id for lease in taken if lease is not None]
    assert sorted(got) == sorted(ids)


def test_a_newer_database_is_refused(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'emollama.sqlite3'}"
    Store(url).close()
    Store(url).close()  # opening it again finds what the first one made
    engine = create_engine(url)
    with engine.begin() as connection:
        connection.execute(text(f"UPDATE schema_version SET version = {SCHEMA_VERSION + 1}"))
    engine.dispose()
    with pytest.raises(StoreError, match=f"version {SCHEMA_VERSION + 1}"):
        Store(url)


def test_a_data_folder_is_not_used_with_another_database(tmp_path: Path) -> None:
    data = DataFolder(tmp_path / "data")
    settings = Settings(data_dir=data.root)
    open_store(settings, data).close()
    open_store(settings, data).close()
    other = settings.model_copy(update={"database_url": SecretStr(f"sqlite:///{tmp_path / 'other.sqlite3'}")})
    with pytest.raises(InputError, match="belongs to another database"):
        open_store(other, data)


def test_many_that_open_a_new_database_at_once_find_one(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'emollama.sqlite3'}"
    with ThreadPoolExecutor(4) as pool:
        stores = list(pool.map(lambda _: Store(url), range(4)))
    add_job(stores[0], 1)
    assert all(jobs.find(store, "ftjob-1") is not None for store in stores)
    for store in stores:
        store.close()


def test_what_metrics_say_is_written_once_and_under_the_lease(store: Store) -> None:
    add_job(store, 1)
    lease = queue.claim(store, owner="a", seconds=10, now=100.0)
    assert lease is not None
    checkpoint = CheckpointRecord(step=4, model_name="ft:1:ckpt-step-4", metrics={"step": 4, "train_loss": 0.5})
    news = News(
        progress=Progress(offset=99, step=4),
        events=(EventRecord(message="Step 4", type="metrics", data={"step": 4}), EventRecord(message="Checkpoint")),
        checkpoints=(checkpoint,),
        trained_tokens=3_000_000_000,
        estimated_finish=123.5,
        hyperparameters={"n_epochs": 3},
    )
    queue.record(store, lease, news)
    found = jobs.find(store, "ftjob-1")
    assert found is not None
    assert Progress.from_json(found.progress) == news.progress
    assert (found.trained_tokens, found.estimated_finish) == (3_000_000_000, 123.5)
    assert found.hyperparameters == {"n_epochs": 3}
    events = jobs.events_page(store, "ftjob-1", after=None, limit=10)
    assert [event.message for event in events.items] == ["Checkpoint", "Step 4"]
    assert events.items[1].data == {"step": 4}
    assert jobs.checkpoints_page(store, "ftjob-1", after=None, limit=10).items == (checkpoint,)
    adapter = adapters.find(store, "ft:1:ckpt-step-4")
    assert adapter is not None
    assert adapter.folder == "jobs/ftjob-1/exports/step-4"
    queue.drop_checkpoints(store, lease, [4])
    assert jobs.checkpoints_page(store, "ftjob-1", after=None, limit=10).items == ()
    assert adapters.find(store, "ft:1:ckpt-step-4") is None
    # A lease that is gone leaves no event either.
    assert queue.claim(store, owner="b", seconds=10, now=200.0) is not None
    with pytest.raises(queue.LeaseLostError):
        queue.record(store, lease, news)
    assert len(jobs.events_page(store, "ftjob-1", after=None, limit=10).items) == 2


def test_wishes_of_a_job_that_runs_wait_for_its_runner(store: Store) -> None:
    job_id = add_job(store, 1)
    lease = queue.claim(store, owner="a", seconds=10_000, now=4e9)
    assert lease is not None
    assert requests.pause(store, job_id).status == "queued"
    assert queue.wanted(store, lease) == "pause"
    requests.resume(store, job_id)
    assert queue.wanted(store, lease) == "run"
    requests.pause(store, job_id)
    requests.cancel(store, job_id, notify=True)
    requests.cancel(store, job_id, notify=True)
    assert queue.wanted(store, lease) == "cancel"
    with pytest.raises(ApiError, match="it is being cancelled"):
        requests.resume(store, job_id)
    assert deliveries.about(store, job_id) == ()
    with pytest.raises(ApiError, match="no fine-tuning job"):
        requests.cancel(store, "ftjob-0", notify=False)


def test_a_job_that_ends_at_once_tells_so_when_it_is_to(store: Store) -> None:
    job_id = add_job(store, 1)
    assert requests.cancel(store, job_id, notify=True).status == "cancelled"
    (delivery,) = deliveries.about(store, job_id)
    assert delivery.type == "fine_tuning.job.cancelled"
    due = deliveries.claim_due(store, now=4e9, hold_seconds=60)
    assert due is not None
    assert (due.id, due.num_attempts) == (delivery.id, 1)
    assert deliveries.claim_due(store, now=4e9 + 59, hold_seconds=60) is None
    again = deliveries.claim_due(store, now=4e9 + 60, hold_seconds=60)
    assert again is not None
    deliveries.settle(store, again.id, next_at=None, delivered_at=4e9, status=204, error=None)
    assert deliveries.claim_due(store, now=5e9, hold_seconds=60) is None
    assert delivery_of("fine_tuning.job.failed", job_id, owner="local", at=1.0).id != delivery.id


def test_pages_go_on_after_an_item_of_the_same_list(store: Store) -> None:
    for number in range(5):
        add_job(store, number)
    first = jobs.page(store, metadata={}, after=None, limit=2)
    assert ([job.id for job in first.items], first.has_more) == (["ftjob-4", "ftjob-3"], True)
    last = jobs.page(store, metadata={}, after="ftjob-1", limit=2)
    assert ([job.id for job in last.items], last.has_more) == (["ftjob-0"], False)
    with pytest.raises(InputError, match="not in this list"):
        jobs.events_page(store, "ftjob-1", after="ftevent-x", limit=2)

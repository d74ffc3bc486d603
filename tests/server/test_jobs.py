"""Fine-tuning driven by the official openai client, over a running service with a stand-in for the trainer."""

from __future__ import annotations

import csv
import errno
import io
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy.exc import OperationalError

from server.jobs import queue

openai = pytest.importorskip("openai")


def test_a_zip_of_clips_becomes_a_model_that_answers(
    fine_tuning: Callable[..., Any], media: Any, tmp_path: Path, bundle_of_clips: Callable[..., bytes]
) -> None:
    t = fine_tuning(org="acme")
    client = t.client
    file = client.files.create(file=("bored.zip", bundle_of_clips(media, tmp_path)), purpose="fine-tune")
    assert (file.filename, file.purpose, file.status, file.expires_at) == ("bored.zip", "fine-tune", "processed", None)
    created = client.fine_tuning.jobs.create(
        model="nano", training_file=file.id, suffix="bored", seed=7, metadata={"who": "ann"}
    )
    assert created.status in ("queued", "running")
    assert (created.model, created.training_file, created.seed) == ("nano", file.id, 7)
    assert created.fine_tuned_model is None
    assert created.method.supervised.hyperparameters.n_epochs in ("auto", 2)
    job = t.wait(created.id)
    assert job.status == "succeeded", job.error
    name = job.fine_tuned_model
    assert name.startswith("ft:nano:acme:bored:")
    assert job.trained_tokens == 8 * 50
    assert job.finished_at >= job.created_at
    assert job.estimated_finish is None
    assert job.metadata == {"who": "ann"}
    # What was left to the trainer to choose is told when it has chosen.
    chosen = job.method.supervised.hyperparameters
    assert (chosen.n_epochs, chosen.batch_size, chosen.learning_rate_multiplier) == (2, 4, 1.0)
    assert job.hyperparameters == openai.types.fine_tuning.fine_tuning_job.Hyperparameters(**chosen.model_dump())

    answer = t.analyze(name)
    assert answer.status_code == 200
    assert answer.json()["adapter"] == name
    assert t.analyze("nano").json()["adapter"] is None
    listed = {model.id: model for model in client.models.list()}
    assert listed[name].parent == "nano"
    assert client.models.retrieve(name).id == name

    checkpoints = client.fine_tuning.jobs.checkpoints.list(job.id).data
    assert [each.step_number for each in checkpoints] == [8, 4]
    assert checkpoints[1].fine_tuned_model_checkpoint == f"{name}:ckpt-step-4"
    assert checkpoints[1].metrics.train_loss == 0.25
    assert checkpoints[1].metrics.full_valid_loss == 0.5
    assert t.analyze(f"{name}:ckpt-step-4").json()["adapter"] == f"{name}:ckpt-step-4"

    results = [client.files.retrieve(each) for each in job.result_files]
    assert {each.purpose for each in results} == {"fine-tune-results"}
    curves, card = (client.files.content(each).text for each in job.result_files)
    rows = list(csv.DictReader(io.StringIO(curves)))
    assert [float(row["train_loss"]) for row in rows] == pytest.approx([1 / step for step in range(1, 9)])
    assert [row["valid_macro_f1"] for row in rows if row["valid_macro_f1"]] == ["0.5", "0.5"]
    assert card == "# An adapter\n"
    # Of somebody's clips only what they uploaded is left.
    left = {path.name for path in t.run_dir(job.id).iterdir()}
    assert left == {
        "job.json",
        "metrics.jsonl",
        "trainer.log",
        "trainer.lock",
        "config.json",
        "starts.log",
        "export",
        "exports",
    }


def test_events_come_in_order_page_by_page_and_as_a_stream(fine_tuning: Callable[..., Any]) -> None:
    t = fine_tuning()
    job = t.create(pause=0.02)
    streamed: list[dict[str, Any]] = []
    with httpx.stream(
        "GET", f"{t.url}/v1/fine_tuning/jobs/{job.id}/events", params={"stream": "true"}, timeout=30
    ) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        lines = [line for line in response.iter_lines() if line.startswith("data: ")]
    assert lines.pop() == "data: [DONE]"
    streamed = [json.loads(line.removeprefix("data: ")) for line in lines]
    paged = list(t.client.fine_tuning.jobs.list_events(job.id, limit=3))
    assert [event.id for event in reversed(paged)] == [event["id"] for event in streamed]
    messages = [event["message"] for event in streamed]
    assert messages[0] == f"Created fine-tuning job: {job.id}"
    assert messages[-1] == "The job has succeeded"
    steps = [event["data"]["step"] for event in streamed if event["message"].startswith("Step ")]
    assert steps == list(range(1, 9))
    step = next(event for event in streamed if event["message"].startswith("Step 2/8"))
    assert (step["type"], step["level"], step["object"]) == ("metrics", "info", "fine_tuning.job.event")
    assert step["data"]["train_loss"] == 0.5
    assert "Clips read: 4 of 4" in messages
    # A client that was cut off goes on after the last event it saw.
    rest = httpx.get(
        f"{t.url}/v1/fine_tuning/jobs/{job.id}/events?stream=true", headers={"last-event-id": streamed[-3]["id"]}
    )
    assert rest.text.count("data: {") == 2


def test_a_running_job_tells_how_far_it_is(fine_tuning: Callable[..., Any], wait_until: Callable[..., None]) -> None:
    t = fine_tuning()
    job = t.create(steps=20, suffix="waits")
    t.wait(job.id, "running")
    wait_until(lambda: t.job(job.id).estimated_finish is not None and t.job(job.id).trained_tokens)
    told = t.job(job.id)
    assert told.estimated_finish >= told.created_at
    assert told.fine_tuned_model is None
    # Its checkpoints answer while it runs.
    wait_until(lambda: t.client.fine_tuning.jobs.checkpoints.list(job.id).data != [])
    early = t.client.fine_tuning.jobs.checkpoints.list(job.id).data[-1].fine_tuned_model_checkpoint
    assert t.analyze(early).json()["adapter"] == early
    t.client.fine_tuning.jobs.cancel(job.id)
    t.wait(job.id, "cancelled")
    assert "export" not in {path.name for path in t.run_dir(job.id).iterdir()}


def test_a_job_is_cancelled_and_its_checkpoints_stay(
    fine_tuning: Callable[..., Any], wait_until: Callable[..., None], is_alive: Callable[[int], bool]
) -> None:
    t = fine_tuning()
    job = t.create(steps=20, suffix="waits")
    wait_until(lambda: t.client.fine_tuning.jobs.checkpoints.list(job.id).data != [])
    (pid,) = t.starts(job.id)
    t.client.fine_tuning.jobs.cancel(job.id)
    cancelled = t.wait(job.id, "cancelled")
    assert cancelled.finished_at is not None
    assert not is_alive(pid)
    checkpoint = t.client.fine_tuning.jobs.checkpoints.list(job.id).data[-1].fine_tuned_model_checkpoint
    assert t.analyze(checkpoint).status_code == 200
    assert not (t.run_dir(job.id) / "data").exists()
    for verb in ("cancel", "pause", "resume"):
        with pytest.raises(openai.BadRequestError) as caught:
            getattr(t.client.fine_tuning.jobs, verb)(job.id)
        assert caught.value.code == "invalid_job_state"
        assert "was cancelled" in caught.value.message


def test_a_trainer_that_does_not_listen_is_killed(
    fine_tuning: Callable[..., Any], wait_until: Callable[..., None]
) -> None:
    t = fine_tuning(job_grace_seconds=0.2)
    job = t.create(steps=1000, pause=0.05, suffix="stubborn")
    wait_until(lambda: "Step 1/1000: training loss=1.0000" in t.messages(job.id))
    t.client.fine_tuning.jobs.cancel(job.id)
    assert t.wait(job.id).status == "cancelled"


def test_a_job_is_paused_and_goes_on_where_it_stopped(
    fine_tuning: Callable[..., Any], wait_until: Callable[..., None], is_alive: Callable[[int], bool]
) -> None:
    t = fine_tuning()
    job = t.create(steps=60, suffix="waits")
    wait_until(lambda: any(message.startswith("Step 11/") for message in t.messages(job.id)))
    t.client.fine_tuning.jobs.pause(job.id)
    t.wait(job.id, "paused")
    (pid,) = t.starts(job.id)
    assert not is_alive(pid)
    assert t.client.fine_tuning.jobs.pause(job.id).status == "paused"
    assert (t.run_dir(job.id) / "checkpoints" / "last").is_symlink()
    t.go(job.id)
    assert t.client.fine_tuning.jobs.resume(job.id).status in ("queued", "running")
    assert t.wait(job.id).status == "succeeded"
    messages = t.messages(job.id)
    assert sum(message.startswith("Training goes on from the checkpoint of step") for message in messages) == 1
    steps = [int(text.split("/")[0].removeprefix("Step ")) for text in messages if text.startswith("Step ")]
    assert steps == list(range(1, 61))
    assert len(t.starts(job.id)) == 2


def test_a_job_that_waits_is_paused_resumed_and_cancelled_at_once(fine_tuning: Callable[..., Any]) -> None:
    t = fine_tuning(jobs=False)
    job = t.create()
    assert job.status == "queued"
    jobs = t.client.fine_tuning.jobs
    assert jobs.pause(job.id).status == "paused"
    assert jobs.resume(job.id).status == "queued"
    assert jobs.cancel(job.id).status == "cancelled"
    assert not (t.run_dir(job.id) / "data").exists()
    assert t.messages(job.id)[-3:] == ["The job was paused", "The job was resumed", "The job was cancelled"]


def test_a_killed_trainer_is_started_again_from_its_checkpoint(
    fine_tuning: Callable[..., Any], wait_until: Callable[..., None], kill: Callable[[int], None]
) -> None:
    t = fine_tuning()
    job = t.create(steps=60, suffix="waits")
    wait_until(lambda: any(message.startswith("Step 11/") for message in t.messages(job.id)))
    kill(t.starts(job.id)[0])
    t.go(job.id)
    done = t.wait(job.id)
    assert done.status == "succeeded"
    messages = t.messages(job.id)
    assert "The trainer ended with signal 9; it is started again from its last checkpoint" in messages
    losses = [text.partition("loss=")[2] for text in messages if text.startswith("Step ")]
    assert losses == [f"{1 / step:.4f}" for step in range(1, 61)]
    assert done.trained_tokens == 60 * 50


def test_what_a_killed_trainer_leaves_running_is_killed_too(
    fine_tuning: Callable[..., Any], wait_until: Callable[..., None], kill: Callable[[int], None]
) -> None:
    t = fine_tuning()
    job = t.create(steps=30, pause=0.02, suffix="orphan")
    wait_until(lambda: any(message.startswith("Step 3/") for message in t.messages(job.id)))
    kill(t.starts(job.id)[0])
    wait_until(lambda: len(t.starts(job.id)) == 2)
    # The second trainer's child would keep it from ending; it is the group that is ended.
    assert t.wait(job.id).status == "succeeded"


@pytest.mark.parametrize(
    "error", [OperationalError("UPDATE", {}, Exception("the database is away")), OSError(errno.ENOSPC, "full")]
)
def test_a_database_that_fails_for_a_moment_costs_no_job(
    fine_tuning: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    failures = [error, error]
    record = queue.record

    def fail_twice(*arguments: Any) -> None:
        if failures:
            raise failures.pop()
        record(*arguments)

    monkeypatch.setattr(queue, "record", fail_twice)
    t = fine_tuning(job_lease_seconds=0.3)
    job = t.wait(t.create(steps=40, pause=0.02).id)
    assert job.status == "succeeded"
    assert failures == []
    assert len(t.starts(job.id)) == 1
    assert len([text for text in t.messages(job.id) if text.startswith("Step ")]) == 40


def test_a_fault_of_the_service_ends_the_job_and_its_trainer(
    fine_tuning: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, is_alive: Callable[[int], bool]
) -> None:
    def fail(*_: Any) -> None:
        raise ZeroDivisionError("somebody's words")

    monkeypatch.setattr(queue, "record", fail)
    t = fine_tuning()
    job = t.wait(t.create(steps=200, pause=0.05).id)
    assert (job.status, job.error.code) == ("failed", "internal_error")
    assert "words" not in job.error.message
    assert not is_alive(t.starts(job.id)[0])


def test_a_trainer_that_always_crashes_fails_the_job(fine_tuning: Callable[..., Any]) -> None:
    t = fine_tuning(job_max_restarts=2)
    job = t.wait(t.create(suffix="crash").id)
    assert job.status == "failed"
    assert job.error.code == "trainer_crashed"
    assert job.error.message == "the trainer ended with signal 9, 3 times without getting further"
    assert len(t.starts(job.id)) == 3
    assert job.fine_tuned_model is None
    end = time.monotonic() + 10  # the job's end is told before its scratch is swept
    while (t.run_dir(job.id) / "data").exists():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_what_the_trainer_says_of_its_failure_reaches_the_owner(fine_tuning: Callable[..., Any]) -> None:
    t = fine_tuning()
    job = t.wait(t.create(suffix="diverge").id)
    assert job.status == "failed"
    assert (job.error.code, job.error.message) == ("loss_not_finite", "the loss is not finite at step 2")
    event = t.client.fine_tuning.jobs.list_events(job.id).data[0]
    assert event.level == "error"
    assert len(t.starts(job.id)) == 1


def test_an_adapter_that_cannot_be_loaded_is_no_success(fine_tuning: Callable[..., Any]) -> None:
    t = fine_tuning()
    job = t.wait(t.create(suffix="hollow").id)
    assert job.status == "failed"
    assert job.error.code == "invalid_adapter"
    assert str(t.data) not in job.error.message
    assert [model.id for model in t.client.models.list() if "ckpt" not in model.id] == ["nano"]


def test_jobs_are_listed_newest_first_and_by_metadata(fine_tuning: Callable[..., Any]) -> None:
    t = fine_tuning(jobs=False)
    file = t.upload()
    made = [t.create(training_file=file, metadata={"n": str(n), 'a "b"': "c"}).id for n in range(5)]
    jobs = t.client.fine_tuning.jobs
    assert [job.id for job in jobs.list(limit=2)] == made[::-1]
    first = jobs.list(limit=2)
    assert first.has_more
    assert [job.id for job in first.data] == made[:2:-1]
    assert [job.id for job in jobs.list(metadata={"n": "3"})] == [made[3]]
    assert [job.id for job in jobs.list(metadata={'a "b"': "c", "n": "1"})] == [made[1]]
    assert jobs.list(metadata={"n": "9"}).data == []
    with pytest.raises(openai.BadRequestError, match="not in this list"):
        jobs.list(after="ftjob-nothing")


def test_a_deleted_model_is_gone_with_its_files_for_every_process(fine_tuning: Callable[..., Any]) -> None:
    t = fine_tuning()
    job = t.wait(t.create().id)
    name = job.fine_tuned_model
    assert t.analyze(name).status_code == 200
    gone = t.client.models.delete(f"{name}:ckpt-step-4")
    assert (gone.id, gone.object, gone.deleted) == (f"{name}:ckpt-step-4", "model", True)
    assert t.analyze(f"{name}:ckpt-step-4").status_code == 404
    assert t.analyze(name).status_code == 200
    assert [each.step_number for each in t.client.fine_tuning.jobs.checkpoints.list(job.id)] == [8]
    # Another process on the same data loads it when it is asked for.
    other = fine_tuning(data=t.data, jobs=False)
    assert other.analyze(name).json()["adapter"] == name
    t.client.models.delete(name)
    assert other.analyze(name).status_code == 404
    assert t.analyze(name).status_code == 404
    assert t.analyze(f"{name}:ckpt-step-8").status_code == 404
    assert not t.run_dir(job.id).exists()
    assert t.client.fine_tuning.jobs.checkpoints.list(job.id).data == []
    assert [model.id for model in t.client.models.list()] == ["nano"]
    with pytest.raises(openai.NotFoundError):
        t.client.models.delete(name)
    with pytest.raises(openai.BadRequestError) as caught:
        t.client.models.delete("nano")
    assert caught.value.code == "model_not_deletable"


def test_a_bounded_number_of_adapters_is_held(fine_tuning: Callable[..., Any]) -> None:
    t = fine_tuning(adapters_in_memory=1)
    names = [t.wait(t.create().id).fine_tuned_model for _ in range(2)]
    models = t.service.app.state.models
    for name in (*names, *names):
        assert t.analyze(name).json()["adapter"] == name
        assert models.names == ("nano", name)


def test_checkpoints_that_the_trainer_replaced_are_listed_no_more(
    fine_tuning: Callable[..., Any], wait_until: Callable[..., None]
) -> None:
    t = fine_tuning()
    job = t.create(steps=40, pause=0.02, suffix="frugal")
    assert t.wait(job.id).status == "succeeded"
    checkpoints = t.client.fine_tuning.jobs.checkpoints.list(job.id).data
    assert [each.step_number for each in checkpoints] == [40, 36]
    names = {model.id for model in t.client.models.list()}
    assert names == {
        "nano",
        t.job(job.id).fine_tuned_model,
        *(each.fine_tuned_model_checkpoint for each in checkpoints),
    }
    assert sum(message.startswith("Checkpoint of step") for message in t.messages(job.id)) == 10


def test_the_trainer_yields_to_requests_and_is_told_no_secret(
    fine_tuning: Callable[..., Any], wait_until: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    import psutil

    monkeypatch.setenv("EMOLLAMA_WEBHOOK_SECRET", "whsec_" + "a2tr" * 8)
    t = fine_tuning(job_niceness=7)
    job = t.create(steps=200, pause=0.05)
    wait_until(lambda: t.starts(job.id) != [])
    process = psutil.Process(t.starts(job.id)[0])
    assert process.nice() == min(19, psutil.Process().nice() + 7)
    assert "EMOLLAMA_WEBHOOK_SECRET" not in process.environ()
    assert "EMOLLAMA_DATA_DIR" in process.environ()
    t.client.fine_tuning.jobs.cancel(job.id)


def test_the_document_is_true(
    fine_tuning: Callable[..., Any],
    bundle_of_clips: Callable[..., bytes],
    media: Any,
    tmp_path: Path,
    root: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    t = fine_tuning()
    text = (root / "docs/jobs.md").read_text(encoding="utf-8")
    block = text.split("```python\n", 1)[1].split("```", 1)[0]
    assert "http://127.0.0.1:8000/v1" in block
    (tmp_path / "bored.zip").write_bytes(bundle_of_clips(media, tmp_path))
    monkeypatch.chdir(tmp_path)
    exec(block.replace("http://127.0.0.1:8000", t.url).replace("sleep(5)", "sleep(0.1)"), {})
    assert capsys.readouterr().out.startswith("ft:nano:emollama:bored:")

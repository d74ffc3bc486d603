"""What may be asked for when a job is made, and what is refused by name; jobs that are checked after the answer."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from emollama.media import MediaLimits
from server.jobs import data_check
from server.jobs.data_check import DataLimits
from server.jobs.run_folder import RunFolder

openai = pytest.importorskip("openai")

JOBS = "/v1/fine_tuning/jobs"


def refused(queueing: Any, **body: Any) -> dict[str, Any]:
    document = {"model": "nano", "training_file": "file-none", **body}
    answer = httpx.post(f"{queueing.url}{JOBS}", json=document)
    assert answer.status_code in (400, 404), answer.text
    return dict(answer.json()["error"])


@pytest.mark.parametrize(
    ("body", "code", "param", "told"),
    [
        ({"method": {"type": "dpo", "dpo": {}}}, "unsupported_option", "method.type", "'dpo'; supported: supervised"),
        ({"method": {"type": "reinforcement"}}, "unsupported_option", "method.type", "reinforcement"),
        ({"method": {"type": "supervised", "dpo": {}}}, "unsupported_option", "method.dpo", "method.supervised"),
        ({"integrations": [{"type": "wandb", "wandb": {"project": "p"}}]}, "unsupported_option",
         "integrations.0.type", "wandb"),
        ({"colour": "red"}, "unknown_field", "colour", "colour"),
        ({"hyperparameters": {"n_epochs": 0}}, "invalid_value", "hyperparameters.n_epochs", 'or "auto"'),
        ({"hyperparameters": {"n_epochs": "many"}}, "invalid_value", "hyperparameters.n_epochs", '"auto"'),
        ({"hyperparameters": {"epochs": 3}}, "unknown_field", "hyperparameters.epochs", "epochs"),
        ({"method": {"type": "supervised", "supervised": {"hyperparameters": {"batch_size": 1.5}}}}, "invalid_value",
         "method.supervised.hyperparameters.batch_size", "batch_size"),
        ({"hyperparameters": {"n_epochs": 1},
          "method": {"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 2}}}},
         "invalid_value", "hyperparameters", "exclude each other"),
        ({"suffix": "two words"}, "invalid_value", "suffix", "allowed: 1 to 64"),
        ({"suffix": "a:b"}, "invalid_value", "suffix", "allowed"),
        ({"suffix": "x" * 65}, "invalid_value", "suffix", "allowed"),
        ({"seed": -1}, "invalid_value", "seed", "greater"),
        ({"metadata": {"k" * 65: "v"}}, "invalid_value", None, "at most 64"),
        ({"metadata": {"k": "\x00"}}, "invalid_value", "metadata.k", "pattern"),
        ({"metadata": {str(n): "v" for n in range(17)}}, "invalid_value", "metadata", "16"),
        ({"metadata": {"k": 1}}, "invalid_value", "metadata.k", "string"),
        ({"model": "mega"}, "model_not_found", "model", "known: nano"),
        ({"model": "ft:nano:acme:x:1"}, "unsupported_option", "model", "starts from a base model"),
        ({}, "file_not_found", "training_file", "file-none"),
        ({"training_file": "../../etc/passwd"}, "file_not_found", "training_file", "passwd"),
    ],
)  # fmt: skip
def test_what_cannot_be_done_is_refused_by_name(
    queueing: Any, body: dict[str, Any], code: str, param: str | None, told: str
) -> None:
    error = refused(queueing, **body)
    assert error["code"] == code, error
    assert param is None or error["param"] == param
    assert told in error["message"]
    assert list((queueing.data / "jobs").iterdir()) == []


def test_a_body_that_is_no_request_is_refused(queueing: Any) -> None:
    def post(content: bytes, kind: str = "application/json") -> tuple[int, str]:
        answer = httpx.post(f"{queueing.url}{JOBS}", content=content, headers={"content-type": kind})
        return answer.status_code, answer.json()["error"]["code"]

    assert post(b"{not json") == (400, "invalid_value")
    assert post(b"[]") == (400, "invalid_value")
    assert post(b"{}") == (400, "invalid_value")
    assert post(b"{}", "text/plain") == (415, "unsupported_content_type")
    assert post(b'{"suffix": "' + b"x" * 300_000 + b'"}') == (413, "body_too_large")
    assert httpx.get(f"{queueing.url}{JOBS}/ftjob-none").json()["error"]["code"] == "job_not_found"
    for verb in ("cancel", "pause", "resume"):
        assert httpx.post(f"{queueing.url}{JOBS}/ftjob-none/{verb}").json()["error"]["code"] == "job_not_found"
    for part in ("events", "events?stream=true", "checkpoints"):
        assert httpx.get(f"{queueing.url}{JOBS}/ftjob-none/{part}").json()["error"]["code"] == "job_not_found"


def test_the_old_place_of_the_hyper_parameters_is_read(queueing: Any) -> None:
    job = queueing.client.fine_tuning.jobs.create(
        model="nano", training_file=queueing.upload(), hyperparameters={"n_epochs": 3, "batch_size": "auto"}
    )
    assert job.method.supervised.hyperparameters.n_epochs == 3
    assert job.hyperparameters.batch_size == "auto"
    queueing.client.fine_tuning.jobs.cancel(job.id)


def test_a_result_file_is_not_trained_on(fine_tuning: Callable[..., Any]) -> None:
    t = fine_tuning()
    done = t.wait(t.create().id)
    with pytest.raises(openai.BadRequestError, match="purpose"):
        t.create(training_file=done.result_files[0])


def test_the_validation_file_has_the_labels_of_the_training_file(queueing: Any, manifest: Callable[..., bytes]) -> None:
    training = queueing.upload()
    # One row of one label is enough to validate on.
    unheard = queueing.upload(manifest(rows=1, transcript="another word"))
    job = queueing.create(training_file=training, validation_file=unheard)
    assert job.status == "queued"
    queueing.client.fine_tuning.jobs.cancel(job.id)
    other = queueing.upload(manifest(labels=("joy", "awe")))
    with pytest.raises(openai.BadRequestError) as caught:
        queueing.create(training_file=training, validation_file=other)
    assert (caught.value.code, caught.value.param) == ("invalid_validation_file", "validation_file")
    assert {(each["line"], each["code"]) for each in caught.value.body["problems"]} >= {(2, "unknown_label")}


def test_what_is_trained_on_does_not_validate(queueing: Any, manifest: Callable[..., bytes]) -> None:
    training = queueing.upload(manifest(speaker="ann"))
    before = set((queueing.data / "jobs").iterdir())
    with pytest.raises(openai.BadRequestError) as caught:
        queueing.create(training_file=training, validation_file=training)
    assert (caught.value.code, caught.value.param) == ("invalid_validation_file", "validation_file")
    codes = {each["code"] for each in caught.value.body["problems"]}
    assert codes >= {"speaker_in_two_splits", "clip_in_two_splits"}
    assert set((queueing.data / "jobs").iterdir()) == before


def test_what_is_not_checked_in_time_is_checked_by_the_runner(
    fine_tuning: Callable[..., Any], manifest: Callable[..., bytes]
) -> None:
    t = fine_tuning(submit_seconds=0)
    good = t.create()
    assert good.status in ("validating_files", "queued", "running")
    bad = t.create(training_file=t.upload(manifest(label="joy")))
    assert t.wait(good.id).status == "succeeded"
    assert "The files are being checked" in t.messages(good.id)
    failed = t.wait(bad.id)
    assert failed.status == "failed"
    assert (failed.error.code, failed.error.param) == ("invalid_training_file", "training_file")
    assert [each["code"] for each in failed.error.problems if each["severity"] == "error"] == ["one_class"]
    assert not (t.run_dir(bad.id) / "data").exists()
    assert t.starts(bad.id) == []


def test_a_file_that_is_deleted_before_it_was_checked_fails_the_job(fine_tuning: Callable[..., Any]) -> None:
    t = fine_tuning(submit_seconds=0, jobs=False)
    file = t.upload()
    job = t.create(training_file=file)
    assert job.status == "validating_files"
    t.client.files.delete(file)
    runner = fine_tuning(data=t.data)
    failed = runner.wait(job.id)
    assert (failed.status, failed.error.code) == ("failed", "invalid_training_file")


def test_a_check_that_another_process_overtook_takes_nothing_from_it(
    manifest: Callable[..., bytes], tmp_path: Path
) -> None:
    folder, upload = RunFolder(tmp_path / "job"), tmp_path / "upload"
    folder.path.mkdir()
    upload.write_bytes(manifest())
    limits = DataLimits(max_unpacked_bytes=1_000_000, media=MediaLimits())

    def check(stop: Callable[[], bool]) -> None:
        data_check.check_data(folder, training=upload, validation=None, limits=limits, stop=stop)

    check(lambda: False)
    kept = folder.training / "manifest.jsonl"
    inode = kept.stat().st_ino
    check(lambda: False)  # the sleeper ends its check
    with pytest.raises(data_check.StoppedError):
        check(lambda: True)
    assert kept.stat().st_ino == inode
    assert [path.name for path in folder.path.iterdir()] == ["data"]
    folder.new_unpacking()  # of a process that was killed
    assert folder.has_perishable
    folder.prune()
    assert list(folder.path.iterdir()) == []


@pytest.mark.parametrize("verb", ["cancel", "pause"])
def test_a_check_that_goes_on_after_the_answer_can_be_ended(
    fine_tuning: Callable[..., Any],
    media: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    verb: str,
    bundle_of_clips: Callable[..., bytes],
) -> None:
    checking, go = threading.Event(), threading.Event()
    real = data_check._stoppable

    def slow(stop: Any) -> Any:
        probe = real(stop)

        def wait(path: Path, limits: Any) -> Any:
            checking.set()
            go.wait(20)
            return probe(path, limits)

        return wait

    monkeypatch.setattr(data_check, "_stoppable", slow)
    t = fine_tuning(submit_seconds=0)
    job = t.create(training_file=t.upload(bundle_of_clips(media, tmp_path), name="a.zip"))
    assert checking.wait(20)
    assert getattr(t.client.fine_tuning.jobs, verb)(job.id).status == "validating_files"
    go.set()
    if verb == "cancel":
        assert t.wait(job.id).status == "cancelled"
    else:
        t.wait(job.id, "paused")
        assert t.client.fine_tuning.jobs.resume(job.id).status in ("queued", "running")
        assert t.wait(job.id).status == "succeeded"


def test_a_job_may_start_from_the_folder_of_a_model(fine_tuning: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "own-model").mkdir()
    t = fine_tuning(model=str(tmp_path / "own-model"), jobs=False)
    row = b'{"id": "%d", "transcript": "well %d", "label": "%s"}\n'
    rows = b"".join(row % (n, n, (b"joy", b"fear")[n % 2]) for n in range(8))
    file = t.client.files.create(file=("rows.jsonl", rows), purpose="fine-tune")
    job = t.client.fine_tuning.jobs.create(model="own-model", training_file=file.id)
    assert (job.model, job.status) == ("own-model", "queued")

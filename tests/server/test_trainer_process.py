"""The trainer's process: one in a run directory, found again, never mistaken, and what its files are taken for."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from server.jobs import process
from server.jobs.process import ForeignTrainerError
from server.jobs.run_folder import RunFolder

SLEEP = (sys.executable, "-I", "-S", "-c", "import time; time.sleep(60)")


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    (tmp_path / "run").mkdir()
    return RunFolder(tmp_path / "run")


def test_there_is_one_trainer_in_a_run_directory_and_it_is_found(
    folder: RunFolder, is_alive: Callable[[int], bool]
) -> None:
    assert process.find(folder) is None
    trainer = process.start(folder, SLEEP, niceness=0)
    assert trainer is not None
    assert process.start(folder, SLEEP, niceness=0) is None
    found = process.find(folder)
    assert found is not None
    assert found.pid == trainer.pid
    assert found.is_alive()
    assert found.exit_code() is None
    found.kill()
    assert not is_alive(trainer.pid)
    assert not trainer.is_alive()
    assert trainer.exit_code() == -9
    assert process.find(folder) is None
    again = process.start(folder, SLEEP, niceness=0)
    assert again is not None
    again.kill()


def test_a_trainer_that_was_let_go_is_found_and_can_be_ended(
    folder: RunFolder, wait_until: Callable[..., None]
) -> None:
    trainer = process.start(folder, SLEEP, niceness=0)
    assert trainer is not None
    trainer.let_go()
    found = process.find(folder)
    assert found is not None
    found.terminate()
    wait_until(lambda: not found.is_alive())


def test_another_process_with_the_same_number_is_left_alone(
    folder: RunFolder, wait_until: Callable[..., None], is_alive: Callable[[int], bool]
) -> None:
    trainer = process.start(folder, SLEEP, niceness=0)
    assert trainer is not None
    with subprocess.Popen(SLEEP) as bystander:
        document = json.loads(folder.process_file.read_text())
        folder.process_file.write_text(json.dumps({**document, "pid": bystander.pid}))
        found = process.find(folder)
        assert found is not None
        found.terminate()
        time.sleep(0.2)
        assert is_alive(bystander.pid)
        bystander.kill()
    trainer.kill()


def test_a_trainer_on_another_machine_is_left_to_that(folder: RunFolder) -> None:
    trainer = process.start(folder, SLEEP, niceness=0)
    assert trainer is not None
    document = json.loads(folder.process_file.read_text())
    folder.process_file.write_text(json.dumps({**document, "machine": "elsewhere"}))
    with pytest.raises(ForeignTrainerError, match="elsewhere"):
        process.find(folder)
    trainer.kill()
    assert process.find(folder) is None


def test_a_command_that_cannot_be_started_leaves_no_lock(folder: RunFolder) -> None:
    with pytest.raises(FileNotFoundError):
        process.start(folder, ("/no/such/program",), niceness=0)
    assert process.find(folder) is None


def test_what_a_trainer_says_of_its_failure_names_no_path(folder: RunFolder) -> None:
    assert folder.error() is None

    def told(text: str) -> dict[str, Any] | None:
        (folder.path / "error.json").write_text(text)
        return folder.error()

    document = {"code": "invalid_input", "message": f"{folder.path}/data/m.jsonl:3: bad", "param": "training_file"}
    assert told(json.dumps(document)) == {
        "code": "invalid_input", "message": "the file:3: bad", "param": "training_file",
    }  # fmt: skip
    general = "the training failed; the service's log says why"
    inner = {"code": "internal_error", "message": "KeyError: 'somebody'", "param": None}
    assert told(json.dumps(inner)) == {"code": "internal_error", "message": general, "param": None}
    for damaged in ("", "{", "[]", "null"):
        assert told(damaged) == {"code": "training_failed", "message": general, "param": None}
    folder.clear_verdict()
    assert folder.error() is None


def test_half_an_adapter_of_a_killed_trainer_is_not_taken_for_one(
    fine_tuning: Callable[..., Any], manifest: Callable[..., bytes]
) -> None:
    queueing = fine_tuning(jobs=False)
    job = queueing.create()
    # What a trainer leaves that is killed, with its service, while it writes its adapter.
    export = queueing.run_dir(job.id) / "export"
    export.mkdir()
    (export / "adapter_config.json").write_text("{}")
    running = fine_tuning(data=queueing.data)
    assert running.wait(job.id).status == "succeeded"
    assert len(running.starts(job.id)) == 1
    assert (export / "adapter_model.safetensors").is_file()


def test_a_job_that_another_process_took_starts_no_second_trainer(
    fine_tuning: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, wait_until: Callable[..., None],
    is_alive: Callable[[int], bool],
) -> None:  # fmt: skip
    queueing = fine_tuning(jobs=False)
    job = queueing.create(steps=200, pause=0.05)
    store = queueing.service.app.state.store
    started: list[Any] = []
    start = process.start

    def start_late(*arguments: Any, **options: Any) -> Any:
        # Between the last look at the lease and the start, the job becomes another process's.
        with store.write() as connection:
            connection.exec_driver_sql("UPDATE jobs SET lease_number = 99, lease_until = 9e9")
        started.append(start(*arguments, **options))
        return started[-1]

    monkeypatch.setattr(process, "start", start_late)
    running = fine_tuning(data=queueing.data)
    wait_until(lambda: started != [] and not is_alive(started[0].pid))
    assert running.job(job.id).status == "queued"

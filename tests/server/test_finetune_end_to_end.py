"""The whole of it, nothing replaced: a running service, the openai client, the real trainer, and kills in between."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from emollama.checkpoint import ASSETS
from train.run_dir import read_metrics

openai = pytest.importorskip("openai")

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
TEXTS = {
    "boredom": (
        "Nothing ever happens here.",
        "I have seen this twice.",
        "The same slides again.",
        "And so on, and so on.",
    ),
    "happiness": ("That is wonderful news.", "What a lovely surprise!", "I am so glad you came.", "We did it!"),
}


class Service:
    """``emollama serve`` in a process of its own, which may be killed and started again on the same data."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        environment = os.environ | {
            "OMP_NUM_THREADS": "1",
            "EMOLLAMA_PORT": str(self.port),
            "EMOLLAMA_DATA_DIR": str(self.folder),
            "EMOLLAMA_JOB_LEASE_SECONDS": "3",
            "EMOLLAMA_JOB_POLL_SECONDS": "0.1",
            "EMOLLAMA_ORG": "acme",
        }
        with (self.folder.parent / "server.log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "emollama.cli", "serve"], cwd=ROOT, env=environment, stdout=log, stderr=log
            )
        wait_for(self.is_ready, seconds=90)

    def is_ready(self) -> bool:
        try:
            return httpx.get(f"{self.url}/ready").status_code == 200
        except httpx.TransportError:
            return False

    def kill(self, number: int = signal.SIGKILL) -> None:
        if self.process is not None:
            self.process.send_signal(number)
            self.process.wait(60)

    @property
    def client(self) -> Any:
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key="unused")


def wait_for(condition: Callable[[], Any], *, seconds: float) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    service = Service(tmp_path / "data")
    service.start()
    yield service
    service.kill(signal.SIGTERM)


def write_bundle(path: Path) -> Path:
    with zipfile.ZipFile(path, "w") as bundle:
        bundle.write(ASSETS / "sample" / "sample.mp4", "clips/sample.mp4")
        lines = [{"id": "clip", "clip": "clips/sample.mp4", "start": 0.0, "end": 3.0, "label": "happiness"}]
        for label, texts in TEXTS.items():
            lines += [
                {"id": f"{label}-{n}", "clip": None, "transcript": t, "label": label} for n, t in enumerate(texts)
            ]
        bundle.writestr("manifest.jsonl", "".join(json.dumps(line) + "\n" for line in lines))
    return path


def submit(service: Service, bundle: Path) -> Any:
    with bundle.open("rb") as file:
        uploaded = service.client.files.create(file=file, purpose="fine-tune")
    method = {"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 20, "batch_size": 4}}}
    return service.client.fine_tuning.jobs.create(
        model="nano", training_file=uploaded.id, suffix="bored", seed=5, method=method
    )


def finish(service: Service, job: Any) -> Any:
    def ended() -> bool:
        return service.client.fine_tuning.jobs.retrieve(job.id).status in ("succeeded", "failed", "cancelled")

    wait_for(ended, seconds=300)
    return service.client.fine_tuning.jobs.retrieve(job.id)


def losses(service: Service, job: Any) -> dict[int, float]:
    lines = read_metrics(service.folder / "jobs" / job.id)
    return {line["step"]: line["loss"] for line in lines if line["event"] == "step"}


def test_a_job_survives_kills_of_trainer_and_service_and_its_model_answers(service: Service, tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "bored.zip")
    undisturbed = finish(service, submit(service, bundle))
    assert undisturbed.status == "succeeded", undisturbed.error

    job = submit(service, bundle)
    run = service.folder / "jobs" / job.id
    wait_for(lambda: (run / "checkpoints" / "last").exists(), seconds=120)
    trainer = json.loads((run / "trainer.json").read_text())["pid"]
    os.kill(trainer, signal.SIGKILL)
    wait_for(lambda: "resume" in (run / "metrics.jsonl").read_text(), seconds=120)
    service.kill()
    service.start()
    done = finish(service, job)
    assert done.status == "succeeded", done.error
    expected, found = losses(service, undisturbed), losses(service, job)
    assert found.keys() == expected.keys()
    assert found == pytest.approx(expected, abs=1e-4)

    with (ASSETS / "sample" / "sample.mp4").open("rb") as clip:
        answer = httpx.post(
            f"{service.url}/analyze",
            files={"file": ("sample.mp4", clip)},
            data={"model": done.fine_tuned_model},
            timeout=60,
        ).json()
    assert set(answer["emotion"]["scores"]) == set(TEXTS)
    assert answer["adapter"] == done.fine_tuned_model
    assert len(answer["rationale"].split()) >= 20
    listed = {model.id: model for model in service.client.models.list()}
    assert listed[done.fine_tuned_model].parent == "nano"

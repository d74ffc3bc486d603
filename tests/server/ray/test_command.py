"""`emollama serve --ray` as it is started by hand: nano on every kind of route, SIGTERM under load, nothing left."""

from __future__ import annotations

import base64
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from emollama.checkpoint import ASSETS

pytestmark = [pytest.mark.ray, pytest.mark.slow]

CLIP = ASSETS / "sample" / "sample.mp4"
WORDS = "I am so happy, this is wonderful news!"
ADMIN = {"Authorization": f"Bearer {'k' * 32}"}
NUM_CLIENTS = 8


@pytest.fixture(scope="module")
def process(free_port: Callable[[], int], tmp_path_factory: Any) -> Iterator[tuple[Any, str]]:
    """The process of the command, and its address."""
    port, log = free_port(), tmp_path_factory.mktemp("log") / "stderr"
    with log.open("wb") as stderr:
        running = subprocess.Popen(
            [sys.executable, "-m", "emollama.cli", "serve", "--ray", "--port", str(port)],
            env={
                **os.environ, "EMOLLAMA_DATA_DIR": str(tmp_path_factory.mktemp("data")), "OMP_NUM_THREADS": "1",
                "EMOLLAMA_ADAPTER_ROOT": str(ASSETS / "nano"), "EMOLLAMA_RAY_ENCODERS_MAX": "1",
                "EMOLLAMA_RAY_DECODER_MAX": "1", "EMOLLAMA_ADMIN_KEY": "k" * 32,
                "EMOLLAMA_MAX_SECONDS": "8",
            },
            stdout=subprocess.DEVNULL, stderr=stderr,
        )  # fmt: skip
        children: list[psutil.Process] = []
        try:
            yield running, f"http://127.0.0.1:{port}"
        finally:
            if running.poll() is None:
                children = psutil.Process(running.pid).children(recursive=True)
                running.kill()
                running.wait()
            for child in children:
                if child.is_running():
                    child.kill()


@pytest.fixture(scope="module")
def client(process: tuple[Any, str], wait_until: Callable[..., None]) -> Iterator[httpx.Client]:
    running, url = process

    def is_ready() -> bool:
        assert running.poll() is None
        try:
            return httpx.get(f"{url}/ready", timeout=30).status_code == 200
        except httpx.TransportError:
            time.sleep(0.05)
            return False

    wait_until(is_ready, seconds=200)
    with httpx.Client(base_url=url, timeout=200) as client:
        yield client


def analyze(client: httpx.Client, **fields: Any) -> Any:
    answer = client.post("/analyze", files={"file": ("a.mp4", CLIP.read_bytes())}, data=fields)
    assert answer.status_code == 200, answer.text
    return answer.json()


def question(text: str, **options: Any) -> dict[str, Any]:
    url = f"data:video/mp4;base64,{base64.b64encode(CLIP.read_bytes()).decode()}"
    content = [{"type": "video_url", "video_url": {"url": url}}, {"type": "text", "text": text}]
    return {"model": "nano", "messages": [{"role": "user", "content": content}], **options}


def test_a_clip_is_analysed_at_once_and_in_stages(client: httpx.Client) -> None:
    answer = analyze(client, transcript=WORDS)
    assert answer["emotion"]["label"] == "happiness"
    assert set(answer["timings_ms"]) == {"decode", "faces", "encoders", "prefill", "decode_text", "total"}
    files = {"file": ("a.mp4", CLIP.read_bytes())}
    with client.stream("POST", "/analyze?stream=true", files=files, data={"transcript": WORDS}) as told:
        names = [line.removeprefix("event: ") for line in told.iter_lines() if line.startswith("event: ")]
    assert names[:3] == ["decoded", "faces", "label"]
    assert names[-1] == "done"
    refused = client.post("/analyze", files={"file": ("a.mp4", b"%PDF-1.7")})
    assert (refused.status_code, refused.json()["error"]["code"]) == (415, "unsupported_media")


def test_a_clip_is_analysed_later(client: httpx.Client, wait_until: Callable[..., None]) -> None:
    answer = client.post("/v1/analyses", files={"file": ("a.mp4", CLIP.read_bytes())}, data={"transcript": WORDS})
    assert answer.status_code == 202, answer.text
    place = f"/v1/analyses/{answer.json()['id']}"
    wait_until(lambda: client.get(place).json()["status"] == "succeeded", seconds=100)
    document = client.get(place).json()
    assert document["result"]["emotion"] == analyze(client, transcript=WORDS)["emotion"]
    assert client.get("/v1/analyses").json()["data"][0]["id"] == document["id"]
    assert client.delete(place).json()["deleted"]
    assert client.get(place).status_code == 404


def test_a_clip_that_is_too_long_for_one_route_is_read_in_windows_by_another(
    client: httpx.Client, media: Any, tmp_path: Path, wait_until: Callable[..., None]
) -> None:
    sound = media.wav(tmp_path / "long.wav", seconds=9.0).read_bytes()
    refused = client.post("/analyze", files={"file": ("a.wav", sound)})
    assert (refused.status_code, refused.json()["error"]["code"]) == (422, "media_limit_exceeded")
    assert "POST /v1/analyses takes" in refused.json()["error"]["message"]
    place = f"/v1/analyses/{client.post('/v1/analyses', files={'file': ('a.wav', sound)}).json()['id']}"
    wait_until(lambda: client.get(place).json()["status"] == "succeeded", seconds=100)
    result = client.get(place).json()["result"]
    assert (result["kind"], len(result["windows"])) == ("long_clip", 1)


def test_a_clip_is_chatted_about(client: httpx.Client) -> None:
    whole = client.post("/v1/chat/completions", json=question("Why?")).json()
    said = whole["choices"][0]["message"]["content"]
    assert said
    with client.stream("POST", "/v1/chat/completions", json=question("Why?", stream=True)) as told:
        chunks = [json.loads(line[6:]) for line in told.iter_lines() if line.startswith("data: {")]
    assert "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks) == said


def test_an_adapter_comes_and_goes(client: httpx.Client) -> None:
    named = {"lora_name": "mine", "lora_path": "adapter"}
    assert client.post("/v1/load_lora_adapter", json=named, headers=ADMIN).status_code == 200
    assert {"nano", "mine"} <= {each["id"] for each in client.get("/v1/models").json()["data"]}
    assert analyze(client, model="mine")["adapter"] == "mine"
    assert client.post("/v1/unload_lora_adapter", json={"lora_name": "mine"}, headers=ADMIN).status_code == 200
    assert client.get("/v1/models/mine").status_code == 404


def test_files_and_jobs_are_the_doors(client: httpx.Client, manifest: Callable[..., bytes]) -> None:
    sent = {"file": ("train.jsonl", manifest()), "purpose": (None, "fine-tune")}
    file = client.post("/v1/files", files=sent).json()
    assert client.get(f"/v1/files/{file['id']}/content").content == manifest()
    job = client.post("/v1/fine_tuning/jobs", json={"model": "nano", "training_file": file["id"]}).json()
    assert client.post(f"/v1/fine_tuning/jobs/{job['id']}/cancel").json()["status"] == "cancelled"
    assert client.delete(f"/v1/files/{file['id']}").json()["deleted"]
    assert "emollama_" in metrics(client)


def test_sigterm_answers_what_was_accepted_and_leaves_nothing(
    process: tuple[Any, str], client: httpx.Client, wait_until: Callable[..., None]
) -> None:
    """The last test of the module: the process is gone afterwards."""
    running, _ = process
    children = psutil.Process(running.pid).children(recursive=True)
    assert any("ServeReplica:" in "".join(each.cmdline()) for each in children if each.is_running())
    answers: list[int] = []

    def ask() -> None:
        sent = client.post("/analyze", files={"file": ("a.mp4", CLIP.read_bytes())}, data={"transcript": WORDS})
        answers.append(sent.status_code)

    def places() -> float:
        wanted = ("emollama_requests_running ", "emollama_requests_waiting ")
        return sum(float(line.split()[1]) for line in metrics(client).splitlines() if line.startswith(wanted))

    asking = [threading.Thread(target=ask) for _ in range(NUM_CLIENTS)]
    for thread in asking:
        thread.start()
    wait_until(lambda: len(answers) + places() >= NUM_CLIENTS)
    assert len(answers) < NUM_CLIENTS, "there is nothing left to drain"
    running.send_signal(signal.SIGTERM)
    for thread in asking:
        thread.join(100)
    assert answers == [200] * NUM_CLIENTS
    assert running.wait(100) == 0
    wait_until(lambda: not [each for each in children if each.is_running()], seconds=60)


def metrics(client: httpx.Client) -> str:
    return client.get("/metrics", headers=ADMIN).text

"""The service behind a real server: sockets, refused uploads that are still on their way, clients that leave."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from server.schemas.analysis import AnalysisOut

HEAD = b'--B\r\nContent-Disposition: form-data; name="file"; filename="a.mp4"\r\n\r\n'
TAIL = b"\r\n--B--\r\n"
FORM = {"content-type": "multipart/form-data; boundary=B"}


def test_a_clip_over_a_real_connection(live: Any) -> None:
    s = live()
    with httpx.Client(base_url=s.url) as client:
        for _ in range(2):
            response = client.post("/analyze", files={"file": ("a.mp4", b"clip")})
            assert response.status_code == 200
            assert "connection" not in response.headers
    assert s.uploads() == []


def test_an_oversized_body_without_a_length_is_refused_in_mid_stream(live: Any) -> None:
    s = live(max_upload_mb=1)
    sent = 0

    def body() -> Iterator[bytes]:
        nonlocal sent
        yield HEAD
        for _ in range(16 * 1024):
            sent += 65536
            yield b"x" * 65536

    response = httpx.post(f"{s.url}/analyze", content=body(), headers=FORM, timeout=30)
    assert response.status_code == 413
    assert response.json()["error"]["code"] == "file_too_large"
    assert response.headers["connection"] == "close"
    assert s.uploads() == []


def test_an_oversized_length_is_refused_before_the_body(live: Any) -> None:
    s = live(max_upload_mb=1)
    with socket.create_connection(("127.0.0.1", s.port), timeout=20) as connection:
        connection.sendall(
            b"POST /analyze HTTP/1.1\r\nHost: x\r\nContent-Type: multipart/form-data; boundary=B\r\n"
            b"Content-Length: 900000000\r\nExpect: 100-continue\r\n\r\n"
        )
        answer = b""
        while chunk := connection.recv(65536):
            answer += chunk
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b"100 Continue" not in answer
    assert json.loads(answer.split(b"\r\n\r\n", 1)[1])["error"]["code"] == "file_too_large"


def test_a_refused_upload_that_fits_in_the_buffers_gets_its_answer(live: Any) -> None:
    s = live(max_upload_mb=1)
    response = httpx.post(f"{s.url}/analyze", files={"file": ("a.mp4", b"x" * (3 * 1024 * 1024))}, timeout=30)
    assert response.status_code == 413


def test_a_client_that_leaves_in_mid_upload_leaves_nothing(live: Any, wait_until: Any) -> None:
    s = live()
    connection = http.client.HTTPConnection("127.0.0.1", s.port, timeout=20)
    connection.putrequest("POST", "/analyze")
    connection.putheader("Content-Type", FORM["content-type"])
    connection.putheader("Content-Length", "1000000")
    connection.endheaders()
    connection.send(HEAD + b"x" * 100_000)
    wait_until(lambda: len(s.uploads()) == 1)
    connection.close()
    wait_until(lambda: s.uploads() == [])
    assert s.analyzer.calls == []


def test_a_client_that_leaves_during_the_analysis_stops_it(live: Any, analyzer_type: Any, wait_until: Any) -> None:
    s = live(analyzer_type(hold=True))
    connection = http.client.HTTPConnection("127.0.0.1", s.port, timeout=20)
    connection.request("POST", "/analyze", body=HEAD + b"clip" + TAIL, headers=FORM)
    wait_until(s.analyzer.started.is_set)
    assert len(s.uploads()) == 1
    connection.close()
    wait_until(s.analyzer.was_cancelled.is_set)
    wait_until(lambda: s.uploads() == [])
    s.analyzer.release.set()
    assert httpx.post(f"{s.url}/analyze", files={"file": ("a.mp4", b"clip")}).status_code == 200


def start_process(tmp_path: Path, *arguments: str) -> tuple[subprocess.Popen[bytes], str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, "-c", "from server.cli import app; app()", "--port", str(port), *arguments],
        env={**os.environ, "EMOLLAMA_TEMP_DIR": str(tmp_path), "OMP_NUM_THREADS": "1"},
        stderr=subprocess.PIPE,
    )
    url = f"http://127.0.0.1:{port}"
    end = time.monotonic() + 300
    while time.monotonic() < end and process.poll() is None:
        try:
            assert httpx.get(f"{url}/health", timeout=60).status_code == 200
        except httpx.TransportError:
            time.sleep(0.05)
        else:
            return process, url
    process.kill()
    raise AssertionError(f"the service did not start: {process.communicate()[1].decode()}")


def stop_process(process: subprocess.Popen[bytes]) -> list[dict[str, Any]]:
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=300)
    return [json.loads(line) for line in errors.decode().splitlines() if line]


def test_a_process_with_an_unknown_model_lives_says_so_and_stops_cleanly(tmp_path: Path) -> None:
    process, url = start_process(tmp_path, "--model", "no-such-model")
    end = time.monotonic() + 300
    while (answer := httpx.get(f"{url}/ready", timeout=60)).json()["error"][
        "code"
    ] == "not_ready" and time.monotonic() < end:
        time.sleep(0.1)
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "model_load_failed")
    refused = httpx.post(f"{url}/analyze", files={"file": ("a.mp4", b"clip")}, timeout=60)
    assert refused.json()["error"]["code"] == "model_load_failed"
    lines = stop_process(process)
    assert process.returncode in (0, -signal.SIGTERM)
    assert list(tmp_path.iterdir()) == []
    assert any(line["message"] == "model could not be loaded" for line in lines)
    assert any(line["message"] == "request" and line["status"] == 503 for line in lines)


def has_nano() -> bool:
    folder = Path(__file__).resolve().parents[2] / "emollama/assets/nano"
    names = ("backbone/model.safetensors", "projectors.safetensors", "face.safetensors", "voice.safetensors")
    return all((folder / name).is_file() for name in (*names, "calibration.json"))


@pytest.mark.skipif(not has_nano(), reason="nano's weights are not here")
def test_nano_answers_over_http(tmp_path: Path, media: Any) -> None:
    clip = media.video(tmp_path / "clip.mp4")
    process, url = start_process(tmp_path / "uploads")
    try:
        end = time.monotonic() + 300
        while httpx.get(f"{url}/ready", timeout=60).status_code != 200 and time.monotonic() < end:
            time.sleep(0.1)
        with clip.open("rb") as file:
            response = httpx.post(
                f"{url}/analyze",
                files={"file": ("clip.mp4", file)},
                data={"transcript": "I am so happy, this is wonderful news!"},
                timeout=300,
            )
        assert response.status_code == 200, response.text
        answer = AnalysisOut.model_validate(response.json())
        assert answer.model == "nano"
        assert answer.modalities.text.used
        assert sum(answer.emotion.scores.values()) == pytest.approx(1, abs=1e-4)
        wrong = httpx.post(f"{url}/analyze", files={"file": ("notes.pdf", b"%PDF-1.7 no clip")}, timeout=60)
        assert (wrong.status_code, wrong.json()["error"]["code"]) == (415, "unsupported_media")
    finally:
        stop_process(process)
    assert list((tmp_path / "uploads").iterdir()) == []

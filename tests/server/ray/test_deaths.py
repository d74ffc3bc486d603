"""Replicas and a node are killed under load from sixteen clients: every request is answered, and rightly."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

pytestmark = [pytest.mark.ray, pytest.mark.slow]

NUM_CLIENTS = 16
WORDS = ("I am so happy, this is wonderful news!", "Leave me alone, I hate all of this.", "My dog died last night.")


class TwoNodes:
    """The process of `two_nodes`, and what it logs."""

    def __init__(self, port: int, log: Path) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self._log, self._stderr = log, log.open("wb")
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("two_nodes.py"))],
            env={
                **os.environ, "EMOLLAMA_PORT": str(port), "EMOLLAMA_JOBS": "false", "OMP_NUM_THREADS": "1",
                "EMOLLAMA_MAX_SECONDS": "20", "RAY_USAGE_STATS_ENABLED": "0",
            },
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=self._stderr,
        )  # fmt: skip

    def is_ready(self) -> bool:
        assert self._process.poll() is None, self._log.read_text()
        try:
            return httpx.get(f"{self.url}/ready", timeout=30).status_code == 200
        except httpx.TransportError:
            return False

    def replicas(self, part: str) -> list[psutil.Process]:
        """The processes of a deployment, oldest first."""
        found = []
        for process in psutil.Process(self._process.pid).children(recursive=True):
            try:
                if f"ServeReplica:emollama-{part}" in process.name() + " ".join(process.cmdline()):
                    found.append(process)
            except psutil.Error:  # it has just ended
                continue
        return sorted(found, key=lambda process: process.create_time())

    def kill_node(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(b"\n")
        self._process.stdin.flush()

    def num_lost(self, call: str = "") -> int:
        """Calls that the door made again, of all kinds or of one."""
        lines = self._log.read_text().splitlines()
        return sum("a call was lost" in line and call in line for line in lines)

    def close(self) -> None:
        children = psutil.Process(self._process.pid).children(recursive=True)
        self._process.kill()
        self._process.communicate()
        self._stderr.close()
        for child in children:
            try:
                child.kill()
            except psutil.NoSuchProcess:
                continue


class Load:
    """Sixteen clients that send one clip after the other with one of three sentences, until they are told to stop."""

    def __init__(self, url: str, clip: bytes) -> None:
        self.answers: list[tuple[str, int, str]] = []
        self._url, self._clip = url, clip
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=(number,)) for number in range(NUM_CLIENTS)]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def _ask(self, number: int) -> None:
        with httpx.Client(base_url=self._url, timeout=200) as client:
            while not self._over.is_set():
                words = WORDS[(number + len(self.answers)) % len(WORDS)]
                try:
                    answer = client.post("/analyze", files={"file": ("a.mp4", self._clip)}, data={"transcript": words})
                    told = json.dumps([answer.json().get(key) for key in ("emotion", "rationale", "error")])
                    self.answers.append((words, answer.status_code, told))
                except httpx.HTTPError as exc:
                    self.answers.append((words, 0, repr(exc)))


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: Any, free_port: Callable[[], int], wait_until: Callable[..., None]) -> Iterator[TwoNodes]:
    two_nodes = TwoNodes(free_port(), tmp_path_factory.mktemp("two-nodes") / "log")
    try:
        wait_until(two_nodes.is_ready, seconds=200)
        yield two_nodes
    finally:
        two_nodes.close()


def under_load(
    cluster: TwoNodes,
    clip: Path,
    kill: Callable[[], None],
    wait_until: Callable[..., None],
    is_over: Callable[[], bool],
) -> None:
    """Kill while sixteen clients ask, go on until it has been felt, and look at every answer."""
    load = Load(cluster.url, clip.read_bytes())
    try:
        wait_until(lambda: len(load.answers) >= 2 * NUM_CLIENTS, seconds=200)
        lost, answered = cluster.num_lost(), len(load.answers)
        kill()
        wait_until(lambda: is_over() and len(load.answers) >= answered + 4 * NUM_CLIENTS, seconds=200)
    finally:
        load.stop()
    failed = [(status, told) for _, status, told in load.answers if status != 200]
    assert failed == []
    assert cluster.num_lost() > lost, "nothing was being worked on where it was killed"
    # Whoever answered, and whether at the first attempt, makes no difference.
    assert {len({told for words, _, told in load.answers if words == asked}) for asked in WORDS} == {1}


def test_replicas_are_killed(cluster: TwoNodes, media: Any, tmp_path: Path, wait_until: Any) -> None:
    clip = media.video(tmp_path / "a.mp4")
    victims = [cluster.replicas(part)[0] for part in ("encoders", "decoder")]

    def kill() -> None:
        for victim in victims:
            os.kill(victim.pid, signal.SIGKILL)

    def are_replaced() -> bool:
        return all(len(cluster.replicas(part)) == 2 for part in ("encoders", "decoder"))

    under_load(cluster, clip, kill, wait_until, are_replaced)


def test_a_long_clip_is_read_while_replicas_are_killed(
    cluster: TwoNodes, media: Any, long_video: Callable[..., Path], tmp_path: Path, wait_until: Any
) -> None:
    """Beside the sixteen clients; what the killed replicas had done of it before is not done again."""
    long, clip = long_video(tmp_path / "long.mp4", seconds=305.0), media.video(tmp_path / "a.mp4")
    subtitles = "WEBVTT\n\n"
    for index in range(10):
        at = f"00:0{index // 2}:{30 * (index % 2):02d}"
        subtitles += f"{at}.000 --> {at}.900\n{WORDS[index % 3]}\n\n"
    client = httpx.Client(base_url=cluster.url, timeout=200)

    def begin() -> str:
        answer = client.post(
            "/v1/analyses", files={"file": ("a.mp4", long.read_bytes())}, data={"transcript": subtitles}
        )
        return f"/v1/analyses/{answer.json()['id']}"

    def result(place: str) -> dict[str, Any]:
        wait_until(lambda: client.get(place).json()["status"] in ("succeeded", "failed"), seconds=200)
        found = client.get(place).json()
        assert found["status"] == "succeeded", found["error"]
        return {key: value for key, value in found["result"].items() if key not in ("id", "created", "timings_ms")}

    with client:
        undisturbed = result(begin())
        assert len(undisturbed["windows"]) == 11
        assert len({window["emotion"]["label"] for window in undisturbed["windows"]}) > 1
        victims = [cluster.replicas(part)[0] for part in ("encoders", "decoder")]
        read, places = cluster.num_lost("read_window"), []

        def kill() -> None:
            places.append(begin())
            wait_until(lambda: client.get(places[0]).json()["progress"] > 0.2, seconds=100)
            for victim in victims:
                os.kill(victim.pid, signal.SIGKILL)

        under_load(cluster, clip, kill, wait_until, lambda: client.get(places[0]).json()["status"] != "running")
        assert result(places[0]) == undisturbed
        assert cluster.num_lost("read_window") <= read + 1, "a window was judged again that was judged"


def test_a_node_is_killed(cluster: TwoNodes, media: Any, tmp_path: Path, wait_until: Any) -> None:
    clip = media.video(tmp_path / "a.mp4")
    before = {process.pid for part in ("encoders", "decoder") for process in cluster.replicas(part)}

    def is_gone() -> bool:
        return any(not psutil.pid_exists(pid) for pid in before)

    under_load(cluster, clip, cluster.kill_node, wait_until, is_gone)

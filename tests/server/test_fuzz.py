"""A thousand damaged and lying files over HTTP: each gets an answer that is not a fault, and nothing is left."""

from __future__ import annotations

import io
import random
import struct
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from server.app import create_app
from server.media_worker import IS_SUPPORTED, MediaPool
from server.settings import Settings

pytestmark = [
    pytest.mark.slow,
    pytest.mark.anyio,
    pytest.mark.skipif(not IS_SUPPORTED, reason="processes have no limits on this system"),
]

NUM_FILES = 1000
REFUSALS = {400, 413, 415, 422}
EXTREMES = (0, 1, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 0x00FFFFFF)


def mutated(content: bytes, chance: random.Random) -> bytes:
    """Cut, flip bits, write lengths that lie into the head, repeat or blank a stretch, or append what is not asked."""
    data = bytearray(content)
    for _ in range(chance.randint(1, 3)):
        at, kind = chance.randrange(len(data)), chance.randrange(6)
        if kind == 0:
            del data[max(16, at) :]
        elif kind == 1:
            for _ in range(chance.randint(1, 64)):
                data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        elif kind == 2:
            place = chance.randrange(4, min(2048, len(data) - 4))
            data[place : place + 4] = struct.pack(chance.choice("><") + "I", chance.choice(EXTREMES))
        elif kind == 3:
            stretch = data[at : at + chance.randint(1, 4096)]
            data[at:at] = stretch * chance.randint(1, 8)
        elif kind == 4:
            data[at : at + 512] = bytes(len(data[at : at + 512]))
        else:
            data += chance.randbytes(chance.randint(1, 4096))
    return bytes(data)


def png_of(width: int, height: int, body: bytes) -> bytes:
    """A PNG that declares this size; ``body`` is its compressed picture."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def bombs(media: Any) -> Iterator[tuple[str, bytes]]:
    """Files that are small to send and dear to decode."""
    packer = zlib.compressobj(9)
    zeros = b"".join(packer.compress(bytes(1 << 20)) for _ in range(300)) + packer.flush()
    yield "a picture of 30,000 x 30,000", png_of(30_000, 30_000, zeros)
    yield "a picture of 2^31 x 2^31", png_of(2**31 - 1, 2**31 - 1, zeros[:1000])
    grey = np.full((16, 16, 3), 90, np.uint8)
    frames = media.video(io.BytesIO(), format="mp4", images=lambda index: grey, seconds=10.0, fps=1000)
    yield "10,000 frames", frames.getvalue()
    frame = media.image(io.BytesIO(), format="jpg").getvalue()
    yield "10,000 pictures joined by commas", b",".join([frame] * 10_000)[: 20 << 20]
    hour = media.wav(io.BytesIO(), format="flac", samples=np.zeros(3600 * 8000, np.float32), sample_rate=8000)
    yield "an hour of silence", hour.getvalue()


@pytest.fixture
async def served(tmp_path: Path, analysis: Any) -> Any:
    """A client of a service that decodes for real, its analyses, its processes and its folder of uploads."""

    class Analyzer:
        def analyze(self, source: Any, **options: Any) -> Any:
            assert np.isfinite(source.seconds)
            return analysis

    pool = MediaPool(2)
    app = create_app(Settings(temp_dir=tmp_path, max_upload_mb=30), Analyzer(), decoder=pool)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://test") as client,
    ):
        yield client
        left = [path for path in tmp_path.glob("emollama-server-*/*") if path.name != "lock"]
        assert left == []
        assert len(pool.pids()) == 2, "every process is back, or replaced"


async def test_mutated_files_are_answered_without_a_fault(served: Any, media: Any) -> None:
    chance = random.Random(20)
    seeds = [
        *(media.video(io.BytesIO(), format=kind, audio=1.0).getvalue() for kind in ("mp4", "mkv", "avi", "webm")),
        media.video(io.BytesIO(), format="gif").getvalue(),
        *(media.wav(io.BytesIO(), format=kind).getvalue() for kind in ("wav", "mp3", "flac", "ogg")),
        *(media.image(io.BytesIO(), format=kind).getvalue() for kind in ("jpg", "png", "webp")),
    ]
    statuses: dict[int, int] = {}
    for number in range(NUM_FILES):
        content = mutated(seeds[number % len(seeds)], chance)
        began = time.monotonic()
        answer = await served.post("/analyze", files={"file": (f"{number}.bin", content)})
        assert time.monotonic() - began < 90, f"file {number} took too long"
        assert answer.status_code == 200 or answer.status_code in REFUSALS, (number, answer.text)
        statuses[answer.status_code] = statuses.get(answer.status_code, 0) + 1
    # Damage is survived where it can be, and refused where it cannot.
    assert statuses.get(200, 0) > NUM_FILES // 10
    assert sum(statuses.get(status, 0) for status in REFUSALS) > NUM_FILES // 10


async def test_bombs_are_refused_before_they_cost_anything(served: Any, media: Any) -> None:
    await served.post("/analyze", files={"file": ("warm.wav", media.wav(io.BytesIO(), format="wav").getvalue())})
    for name, content in bombs(media):
        began = time.monotonic()
        answer = await served.post("/analyze", files={"file": ("bomb", content)})
        seconds = time.monotonic() - began
        if name == "10,000 pictures joined by commas":
            assert answer.status_code == 200, "the first is read, and nothing behind it"
        else:
            assert (answer.status_code, answer.json()["error"]["code"]) == (422, "media_limit_exceeded"), name
        assert seconds < 20, name  # a second or less on an idle machine; a bomb that went off takes minutes

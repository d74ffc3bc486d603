"""Clips that are analysed at the same time are answered as each is alone: nothing of one gets into another."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import httpx
import pytest

import emollama
from eval.bench_serve import beginning_of, started_service

SAMPLE = Path(emollama.__file__).parent / "assets" / "sample" / "sample.mp4"
WORDS = ("", "That is wonderful news!", "I cannot bear this any longer.", "The train leaves at nine.")


async def ask(client: httpx.AsyncClient, clip: bytes, words: str) -> dict[str, Any]:
    reply = await client.post("/analyze", files={"file": ("a.mp4", clip)}, data={"transcript": words})
    assert reply.status_code == 200, reply.text
    return {name: value for name, value in reply.json().items() if name not in ("id", "created", "timings_ms")}


async def both_ways(url: str) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    asked = [(beginning_of(SAMPLE, seconds=seconds), words) for seconds in (1.0, 2.5, 4.0, 6.0) for words in WORDS]
    async with httpx.AsyncClient(base_url=url, timeout=120) as client:
        alone = [await ask(client, *each) for each in asked]
        together = await asyncio.gather(*(ask(client, *each) for each in asked))
    return alone, list(together)


@pytest.mark.slow
def test_sixteen_clips_at_once_are_answered_as_each_is_alone() -> None:
    with started_service("nano", places=32) as service:
        alone, together = asyncio.run(both_ways(service.url))
    assert len({each["rationale"] for each in alone}) > 8  # they differ, so a mix-up would be seen
    for one, other in zip(alone, together, strict=True):
        scores, others = one["emotion"].pop("scores"), other["emotion"].pop("scores")
        assert others == pytest.approx(scores, abs=1e-5)
        for answer in (one, other):
            answer["emotion"]["confidence"] = round(answer["emotion"]["confidence"], 4)
        assert (other["emotion"], other["rationale"]) == (one["emotion"], one["rationale"])
        assert other["faces"] == one["faces"]

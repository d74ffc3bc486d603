"""A large preset behind a cluster: both halves of it answer as the whole does here. No cluster is started."""

from __future__ import annotations

import dataclasses
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from emollama.analyze import Analyzer
from emollama.checkpoint import ASSETS
from emollama.conversation import ReplyOptions, conversation_of
from emollama.errors import CheckpointError, InputError
from emollama.media import MediaLimits, read_clip
from emollama.stages import Done
from emollama.types import Clip
from server.media_worker import InProcess
from server.ray.minds import Minds
from server.ray.plan import Plan
from server.ray.senses import Perception, load_senses
from server.ray.wire import Inquiry, Model, Wish

WORDS = "I could do this all day."


def never() -> bool:
    return False


@pytest.fixture(scope="module")
def folder(tiny_preset: Callable[[str], Path]) -> Path:
    return tiny_preset("emollama-8b")


@pytest.fixture(scope="module")
def clip() -> Clip:
    whole = read_clip(ASSETS / "sample" / "sample.mp4")
    assert whole.frames is not None
    assert whole.audio is not None
    kept = whole.frames.times < 1.0
    frames = dataclasses.replace(whole.frames, images=whole.frames.images[kept], times=whole.frames.times[kept])
    audio = dataclasses.replace(whole.audio, samples=whole.audio.samples[:16_000])
    return dataclasses.replace(whole, seconds=1.0, frames=frames, audio=audio)


@pytest.fixture(scope="module")
def perception(folder: Path, clip: Clip) -> Perception:
    """What the encoders send on, after its way from one machine to another."""
    senses = load_senses(Plan(model=str(folder)))
    told = senses.perceive(clip, name="a.mp4", limits=MediaLimits(), decoding=InProcess(), cancelled=never)
    *_, last = told
    assert isinstance(last, Perception)
    sent = pickle.dumps(last)
    assert len(sent) < 200_000
    again = pickle.loads(sent)
    assert isinstance(again, Perception)
    return again


def told(analysis: Any) -> dict[str, Any]:
    document = analysis.to_json_dict()
    return {name: value for name, value in document.items() if name not in ("id", "created", "timings_ms")}


@pytest.mark.parametrize("engine", ["lean", "paged"])
def test_a_clip_gets_the_same_answer_in_two_halves(
    folder: Path, clip: Clip, perception: Perception, engine: str
) -> None:
    minds, whole = Minds(Plan(model=str(folder), engine=engine)), Analyzer.load(folder, engine=engine)
    model = Model(base=str(folder))
    *_, done = minds.analyze(model, perception, Wish(name="a.mp4", transcript=WORDS), never)
    assert isinstance(done, Done)
    assert told(done.analysis) == told(whole.analyze(clip, name="a.mp4", transcript=WORDS))
    assert done.analysis.modalities.visual.frames == 5 or done.analysis.modalities.visual.frames > 1
    assert set(done.analysis.emotion.scores) == {"happy", "sad", "fed up"}
    minds.check()
    (facts,) = minds.read(model, perception, Wish(name="a.mp4"), never)
    # the door drew the seed; an engine that takes none must not refuse its own service
    drawn = ReplyOptions(temperature=0.5, seed=7, max_tokens=8)
    inquiry = Inquiry(question="Why?", turns=(), options=drawn, is_seed_drawn=True)
    asked, *said = minds.converse(model, perception, Wish(name="a.mp4"), facts.state, inquiry, never)
    reading = conversation_of(whole).read(clip, name="a.mp4")
    assert facts.num_tokens == reading.num_tokens
    assert asked.num_tokens > facts.num_tokens
    assert said[-1].finish in ("stop", "length")
    for each in (minds._base, whole):
        if engine == "paged":
            each.parts.engine.replies.close()  # type: ignore[attr-defined]


def test_adapters_on_a_preset_answer_by_their_names(folder: Path, tmp_path: Path) -> None:
    """Its projectors are the adapter here; another preset's are refused."""
    minds = Minds(Plan(model=str(folder)))
    assert minds._parts(folder).labels == ("happy", "sad", "fed up")
    document = json.loads((folder / "emollama.json").read_text())
    for name in ("projectors.safetensors", "emollama.json"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    (tmp_path / "emollama.json").write_text(json.dumps({**document, "base": "emotion-llama-7b"}))
    with pytest.raises(CheckpointError, match="is another model"):
        minds._parts(tmp_path)


def test_an_engine_that_a_model_does_not_have_is_told_at_the_start() -> None:
    with pytest.raises(InputError, match="allowed for this model: auto, lean"):
        Minds(Plan(model="nano", engine="paged"))

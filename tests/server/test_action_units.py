"""A model folder with tuned heads answers by them over time, through HTTP and as the wire's schema has it."""

from __future__ import annotations

import json
from pathlib import Path

import httpx
import numpy as np
import pytest

import emollama
from emollama.abaw.heads import Plan, TunedHeads
from emollama.analyze import Analyzer
from emollama.encoders.frame_head import FrameHead
from emollama.errors import CheckpointError
from emollama.labels import ABAW_UNITS
from server.app import create_app
from server.schemas.analysis import AnalysisOut
from server.settings import Settings

ASSETS = Path(emollama.__file__).parent / "assets"


@pytest.mark.parametrize("has_head", [True, False])
def test_analyses_tell_action_units_where_the_loaded_model_reads_them(has_head, tmp_path):
    for part in (ASSETS / "nano").iterdir():
        (tmp_path / part.name).symlink_to(part)
    if has_head:
        weight = np.random.default_rng(0).normal(scale=0.2, size=(12, 256)).astype(np.float32)
        FrameHead(
            task="au", reads="embeddings", weights=(weight,), biases=(np.zeros(12, np.float32),), thresholds=(0.5,) * 12
        ).save(tmp_path / "face.au.safetensors")
    analyzer = Analyzer.load(tmp_path)
    answer = analyzer.analyze(ASSETS / "sample" / "sample.mp4").to_json_dict()
    document = AnalysisOut.model_validate_json(json.dumps(answer, allow_nan=False))
    assert document.timeline
    for segment in document.timeline:
        assert segment.valence is not None
        assert tuple(segment.action_units) == (ABAW_UNITS if has_head else ())
        assert all(0.0 <= value <= 1.0 for value in segment.action_units.values())
    if has_head:  # they are read off the face, so they change with it
        first, *others = (segment.action_units for segment in document.timeline)
        assert any(other != first for other in others)


def heads(task: str, reads: str, width: int, *, bias: list[float], plan: Plan) -> TunedHeads:
    """Heads that say what their biases say, whatever the face."""
    weight = np.zeros((len(bias), width), np.float32)
    thresholds = plan.thresholds if task == "au" else ()
    face = FrameHead(
        task=task, reads=reads, weights=(weight,), biases=(np.array(bias, np.float32),), thresholds=thresholds
    )
    return TunedHeads(task=task, face=face, plan=plan)


@pytest.mark.anyio
async def test_a_service_answers_by_the_heads_beside_its_face_model(tmp_path):
    model = tmp_path / "model"
    model.mkdir()
    for part in (ASSETS / "nano").iterdir():
        (model / part.name).symlink_to(part)
    heads("va", "scores", 10, bias=[0.5, -1.0], plan=Plan(width=3)).save(model / "face.heads" / "va")
    thresholds = (0.4, 0.6, *[0.5] * 10)
    heads("au", "embeddings", 256, bias=[0.0] * 12, plan=Plan(width=1, thresholds=thresholds)).save(
        model / "face.heads" / "au"
    )
    app = create_app(Settings(temp_dir=tmp_path / "uploads"), Analyzer.load(model))
    async with app.router.lifespan_context(app):
        transport = httpx.ASGITransport(app=app)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            clip = (ASSETS / "sample" / "sample.mp4").read_bytes()
            answer = await client.post("/analyze", files={"file": ("sample.mp4", clip, "video/mp4")})
    assert answer.status_code == 200, answer.text
    document = answer.json()
    assert document["timeline"]
    for segment in document["timeline"]:
        assert segment["valence"] == pytest.approx(np.tanh(0.5), abs=1e-4)
        assert segment["arousal"] == pytest.approx(np.tanh(-1.0), abs=1e-4)
        assert segment["active_units"] == ["AU1"]  # 0.5 exceeds its threshold alone
        assert set(segment["action_units"].values()) == {0.5}
    assert document["valence"] == pytest.approx(np.tanh(0.5), abs=1e-4)
    assert document["affect_source"] == "face"


def test_a_folder_with_heads_of_another_model_is_not_loaded(tmp_path):
    for part in (ASSETS / "nano").iterdir():
        (tmp_path / part.name).symlink_to(part)
    heads("va", "scores", 8, bias=[0.0, 0.0], plan=Plan()).save(tmp_path / "face.heads" / "va")
    with pytest.raises(CheckpointError, match="the heads for va beside face model nano-face read 8 numbers"):
        Analyzer.load(tmp_path)

"""A model folder with a head for action units answers with them over time, and the answer fits the wire's schema."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import emollama
from emollama.analyze import Analyzer
from emollama.encoders.frame_head import FrameHead
from emollama.labels import ABAW_UNITS
from server.schemas.analysis import AnalysisOut

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

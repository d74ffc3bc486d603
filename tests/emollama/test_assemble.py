"""A model folder becomes an analyzer: the bridge to the runtime, and what a wrong folder says."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import emollama
from emollama.assemble import RuntimeEngine, load_parts
from emollama.backbones.lean import LeanLlama
from emollama.backbones.llama import build_llama, save_llama
from emollama.calibration import Calibration
from emollama.checkpoint import ASSETS
from emollama.config import LlamaShape
from emollama.encoders.face import FACE_MODELS, FaceEncoder
from emollama.encoders.voice import VoiceEncoder
from emollama.errors import CheckpointError, InputError, UnknownNameError
from emollama.parts import PromptRow, Query
from emollama.projectors import build_projectors
from emollama.prompt import Renderer
from emollama.runtime import Runtime
from emollama.tensors import write_tensors

TOKENIZER = ASSETS / "nano" / "tokenizer.json"
SHAPE = LlamaShape(
    vocab_size=64, hidden_size=32, intermediate_size=48, num_layers=2, num_heads=4, num_kv_heads=2, max_positions=128,
    tie_embeddings=True,
)  # fmt: skip


@pytest.fixture(scope="module")
def engine() -> RuntimeEngine:
    lean = LeanLlama.from_tensors(SHAPE, build_llama(SHAPE, seed=0).state_dict())
    torch.manual_seed(0)
    projectors = build_projectors({"face": 6}, 32, None)
    return RuntimeEngine(Runtime(lean, dict(projectors.items()), {"face": 60}))


def rows() -> list[PromptRow]:
    tokens = np.random.default_rng(0).normal(size=(2, 6)).astype(np.float32)
    return [PromptRow(ids=[1, 60, 60, 5], features={"face": tokens}), PromptRow(ids=[1, 5, 6, 7, 8, 9])]


def test_scores_are_the_summed_log_likelihoods_of_the_options_after_the_marker(engine):
    queries = [
        Query(marker=[10], options=[[20], [21, 22, 23], [21, 24]]),
        Query(marker=[11, 12], options=[[30], [31]]),
        Query(marker=[10], options=[[20], [40, 41]]),
    ]
    together = engine.score(engine.prefill(rows()), queries)
    assert [table.shape for table in together] == [(2, 3), (2, 2), (2, 2)]
    for index, row in enumerate(rows()):
        for query, table in zip(queries, together, strict=True):
            marked = engine.runtime.prefill([(row.ids + list(query.marker), row.features)])
            alone = engine.runtime.label_scores(marked, query.options)[0].numpy()
            np.testing.assert_allclose(table[index], alone, atol=1e-4)
    assert together[0][0, 0] == together[2][0, 0]


def test_an_empty_option_is_an_input_error(engine):
    with pytest.raises(InputError, match="1 or more tokens"):
        engine.score(engine.prefill(rows()), [Query(marker=[10], options=[[]])])


def test_generation_continues_the_first_row_and_keeps_off_banned_tokens(engine):
    prefix = engine.prefill(rows())
    options = {"stop_id": 2, "max_new_tokens": 8, "temperature": 0.0, "seed": 0}
    free = list(engine.generate(prefix, [10, 11], banned=frozenset(), **options))
    assert free == list(engine.generate(prefix, [10, 11], banned=frozenset(), **options))
    assert 0 < len(free) <= 8
    kept = list(engine.generate(prefix, [10, 11], banned=frozenset(free), **options))
    assert not set(kept) & set(free)


def make_folder(folder: Path) -> Path:
    """A whole model of tiny random weights in nano's layout."""
    folder.mkdir()
    shutil.copy(TOKENIZER, folder / "tokenizer.json")
    renderer = Renderer.load(folder / "tokenizer.json")
    shape = LlamaShape(
        vocab_size=renderer.tokenizer.get_vocab_size(), hidden_size=32, intermediate_size=48, num_layers=2, num_heads=4,
        num_kv_heads=2, max_positions=1024, tie_embeddings=True,
    )  # fmt: skip
    save_llama(build_llama(shape, seed=0), folder / "backbone", shape=shape)
    face, voice = FaceEncoder.build(next(iter(FACE_MODELS))), VoiceEncoder.build()
    face.save(folder / "face.safetensors")
    voice.save(folder / "voice.safetensors")
    projectors = build_projectors({"face": face.token_width, "voice": voice.token_width}, 32, None)
    write_tensors(folder / "projectors.safetensors", projectors.state_dict())
    (folder / "calibration.json").write_text(json.dumps(Calibration().to_json_dict()))
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return make_folder(tmp_path_factory.mktemp("models") / "tiny")


def test_a_folder_of_random_weights_answers_a_clip_with_a_checked_rationale(folder, media, tmp_path):
    analyzer = emollama.load(folder)
    path = media.video(tmp_path / "clip.mp4", seconds=1.0)
    found = analyzer.analyze(path, transcript="I never thought that this would happen to me.")
    assert found.model == "tiny"
    assert found.adapter is None
    assert sum(found.emotion.scores.values()) == pytest.approx(1.0)
    assert found.rationale.startswith(("The person appears", "At most"))
    assert found.affect.source == "words"
    assert not found.modalities.visual.used
    json.dumps(found.to_json_dict(), allow_nan=False)


def test_a_folder_that_is_no_adapter_is_named(folder, tmp_path):
    with pytest.raises(CheckpointError, match="not an adapter folder"):
        load_parts(folder, adapter=tmp_path)


def test_unknown_models_and_devices_are_named():
    with pytest.raises(UnknownNameError, match="nano"):
        load_parts("mano")
    with pytest.raises(CheckpointError, match="emollama-8b"):
        load_parts("emollama-8b")
    for device in ("quantum", "meta", *([] if torch.cuda.is_available() else ["cuda"])):
        with pytest.raises(InputError, match="device"):
            load_parts("nano", device=device)

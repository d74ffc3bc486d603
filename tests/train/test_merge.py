"""Merging: the whole model answers as base and adapter did, another base is refused, a failure leaves nothing."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from typer.testing import CliRunner

from emollama.adapter import AdapterInfo, base_digest
from emollama.analyze import Analyzer
from emollama.assemble import load_parts
from emollama.backbones.lean import LeanLlama
from emollama.backbones.llama import build_llama, load_llama, save_llama
from emollama.backbones.lora import attach_lora, save_lora
from emollama.backbones.merge import merge_backbone
from emollama.checkpoint import load_assets, verify_manifest
from emollama.config import LORA_TARGETS, LlamaShape, LoraSettings
from emollama.errors import CheckpointError, InputError
from emollama.parts import PromptRow, Query
from emollama.tensors import read_tensors, write_json, write_tensors
from train.merge import app, merge

LABELS = ("happiness", "boredom", "fear")
SHAPE = LlamaShape(vocab_size=61, hidden_size=64, intermediate_size=128, num_layers=3, num_heads=4, num_kv_heads=2)


def random_adapter(backbone: torch.nn.Module, folder: Path, *, size: float) -> None:
    model = attach_lora(backbone, LoraSettings(rank=4, alpha=8.0, dropout=0.0, targets=LORA_TARGETS), seed=1)
    torch.manual_seed(2)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.normal_(std=size)
    save_lora(model, folder)


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter on nano with projectors of its own, as training exports it."""
    folder = tmp_path_factory.mktemp("bored") / "ft"
    assets = load_assets("nano")
    random_adapter(load_llama(assets.backbone), folder, size=0.05)
    projectors = read_tensors(assets.projectors, dtype=torch.float32)
    write_tensors(folder / "projectors.safetensors", {name: 1.1 * value for name, value in projectors.items()})
    digest = base_digest(assets.backbone, assets.tokenizer)
    AdapterInfo(base="nano", base_sha256=digest, labels=LABELS, answers="own", recipe="debug").save(folder)
    (folder / "ADAPTER_CARD.md").write_text("# Adapter\n\nBored clips.\n")
    return folder


@pytest.fixture(scope="module")
def merged(adapter: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return merge(adapter, tmp_path_factory.mktemp("merged") / "deep" / "bored")


def test_the_merged_model_scores_and_writes_as_base_and_adapter_do(adapter: Path, merged: Path) -> None:
    both, one = load_parts("nano", adapter=adapter), load_parts(merged)
    rng = np.random.default_rng(0)
    renderer = both.renderer
    row = PromptRow(
        ids=renderer.prefix(face_tokens=3, voice_tokens=1, transcript="I have seen all of this before"),
        features={
            "face": rng.normal(size=(3, both.face.token_width)).astype(np.float32),  # type: ignore[attr-defined]
            "voice": rng.normal(size=(1, both.voice.token_width)).astype(np.float32),  # type: ignore[attr-defined]
        },
    )
    query = Query(marker=[renderer.token_id("<|label|>")], options=renderer.label_ids([*LABELS, "sadness"]))
    found = []
    for parts in (both, one):
        prefix = parts.engine.prefill([row])
        tokens = parts.engine.generate(
            prefix, [renderer.token_id("<|user|>")], stop_id=renderer.stop_id, max_new_tokens=24, temperature=0.0,
            seed=0, banned=frozenset(),
        )  # fmt: skip
        found.append((parts.engine.score(prefix, [query])[0], list(tokens)))
    assert np.allclose(found[0][0], found[1][0], atol=1e-5)
    assert found[0][1] == found[1][1]
    assert (one.labels, one.answers, one.adapter) == (LABELS, "own", None)
    plain = load_parts("nano")
    assert not np.allclose(plain.engine.score(plain.engine.prefill([row]), [query])[0], found[0][0], atol=0.1)


def test_an_analysis_is_the_same_with_the_whole_model(adapter: Path, merged: Path) -> None:
    words = "I have been waiting here for three hours and nothing happens"
    both = Analyzer.load("nano", adapter=adapter).analyze(None, transcript=words, labels=LABELS)
    one = Analyzer.load(merged).analyze(None, transcript=words, labels=LABELS)
    assert one.emotion.label == both.emotion.label
    assert one.emotion.scores == pytest.approx(dict(both.emotion.scores), abs=1e-5)
    assert one.rationale == both.rationale
    assert one.model == "bored"


def test_the_folder_is_whole_and_says_what_it_is(adapter: Path, merged: Path) -> None:
    assert verify_manifest(merged) >= 9
    assert not list(merged.parent.glob(".*"))
    assert load_assets(merged).adapter is None
    assert "Bored clips." in (merged / "MODEL_CARD.md").read_text()
    assert read_tensors(merged / "backbone" / "model.safetensors")["model.norm.weight"].dtype == torch.float32


def test_nothing_is_overwritten_and_another_base_is_refused_by_name(
    adapter: Path, merged: Path, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="is there already"):
        merge(adapter, merged)
    with pytest.raises(CheckpointError, match="trained on 'nano' with the sha256"):
        merge(adapter, tmp_path / "again", base=str(merged))
    with pytest.raises(InputError, match="base is 'smaug'"):
        merge(adapter, tmp_path / "again", base="smaug")
    with pytest.raises(InputError, match="allowed: auto, float32"):
        merge(adapter, tmp_path / "again", dtype="int4")
    with pytest.raises(CheckpointError, match=r"adapter_config\.json is missing"):
        merge(tmp_path, tmp_path / "again")
    assert list(tmp_path.iterdir()) == []


def backbone_folder(folder: Path, *, dtype: torch.dtype = torch.float32) -> Path:
    """A backbone as a large preset's is published: in two shards with an index, its tokenizer beside it."""
    save_llama(build_llama(SHAPE, seed=0), folder, shape=SHAPE, dtype=dtype)
    tensors = read_tensors(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(tensors)
    where = {}
    for index, part in enumerate((names[::2], names[1::2]), start=1):
        file = f"model-{index:05d}-of-00002.safetensors"
        save_file({name: tensors[name] for name in part}, folder / file)
        where |= dict.fromkeys(part, file)
    write_json(folder / "model.safetensors.index.json", {"metadata": {}, "weight_map": where})
    (folder / "tokenizer.json").write_text("{}")
    return folder


def large_adapter(folder: Path, base: Path) -> Path:
    random_adapter(build_llama(SHAPE, seed=0), folder, size=0.2)
    info = AdapterInfo(base="emollama-8b", base_sha256=base_digest(base, base / "tokenizer.json"), labels=LABELS)
    info.save(folder)
    write_tensors(folder / "projectors.safetensors", {"face.proj.weight": torch.ones(2, 2)})
    return folder


def test_a_backbone_in_shards_is_merged_shard_by_shard(tmp_path: Path) -> None:
    base = backbone_folder(tmp_path / "llama")
    adapter = large_adapter(tmp_path / "ft", base)
    with pytest.raises(InputError, match="'emollama-8b', whose backbone does not come with the package"):
        merge(adapter, tmp_path / "out")
    out = merge(adapter, tmp_path / "out", base=str(base))
    assert {path.name for path in out.iterdir()} == {
        "MODEL_CARD.md", "backbone", "emollama.json", "projectors.safetensors", "sha256.json"
    }  # fmt: skip
    assert (out / "backbone" / "tokenizer.json").is_file()
    ids = torch.tensor([[1, 5, 9, 13]])
    lean = LeanLlama.load(base, adapter=adapter)
    cache = lean.new_cache(rows=1, capacity=4)
    wanted = lean.logits(lean.extend(cache, [lean.embed(ids[0])]))
    with torch.no_grad():
        assert torch.allclose(load_llama(out / "backbone")(ids).logits[:, -1], wanted, atol=1e-4)


def test_sixteen_bits_stay_sixteen_when_they_are_asked_for(tmp_path: Path) -> None:
    base = backbone_folder(tmp_path / "llama", dtype=torch.bfloat16)
    adapter = large_adapter(tmp_path / "ft", base)
    merge_backbone(base, adapter, tmp_path / "kept")
    assert {tensor.dtype for tensor in read_tensors(tmp_path / "kept" / "model.safetensors.index.json").values()} == {
        torch.bfloat16
    }
    assert json.loads((tmp_path / "kept" / "config.json").read_text())["dtype"] == "bfloat16"


@pytest.mark.parametrize(
    ("change", "words"),
    [("missing", r"1 missing: model\.norm\.weight"), ("packed", "packed weights"), ("shape", "the adapter has")],
)
def test_a_base_that_is_damaged_or_quantised_is_refused_and_nothing_stays(
    tmp_path: Path, change: str, words: str
) -> None:
    base = tmp_path / "llama"
    shape = SHAPE if change != "shape" else dataclasses.replace(SHAPE, intermediate_size=96)
    save_llama(build_llama(shape, seed=0), base, shape=shape, dtype=torch.float32)
    if change == "shape":
        write_json(base / "config.json", SHAPE.to_hf_dict())
    tensors = read_tensors(base / "model.safetensors")
    if change == "missing":
        del tensors["model.norm.weight"]
    elif change == "packed":
        tensors["model.layers.0.mlp.up_proj.weight.absmax"] = torch.zeros(4, dtype=torch.uint8)
    write_tensors(base / "model.safetensors", tensors)
    (base / "tokenizer.json").write_text("{}")
    adapter = large_adapter(tmp_path / "ft", base)
    with pytest.raises(CheckpointError, match=words):
        merge(adapter, tmp_path / "out", base=str(base))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ft", "llama"]


def test_the_command_merges_and_reports_errors(adapter: Path, tmp_path: Path) -> None:
    done = CliRunner().invoke(app, [str(adapter), str(tmp_path / "out"), "--dtype", "bfloat16"])
    assert done.exit_code == 0, done.output
    assert (tmp_path / "out" / "sha256.json").is_file()
    wrong = CliRunner().invoke(app, [str(adapter), str(tmp_path / "out")])
    assert wrong.exit_code == 2
    assert "is there already" in wrong.output

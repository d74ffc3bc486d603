"""LLaMA folders, PEFT folders and merging: strict, and the same numbers after a round trip."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from emollama.backbones import BACKBONES, backbone_loader
from emollama.backbones.llama import build_llama, load_llama, resize_vocabulary, save_llama
from emollama.backbones.lora import attach_lora, load_lora, merge_lora, read_adapter_config, save_lora
from emollama.config import LlamaShape, LoraSettings
from emollama.errors import CheckpointError, InputError, UnknownNameError

SHAPE = LlamaShape(
    vocab_size=61, hidden_size=32, intermediate_size=48, num_layers=2, num_heads=4, num_kv_heads=2, head_dim=8,
    tie_embeddings=True,
)  # fmt: skip
LLAMA3 = dataclasses.replace(
    SHAPE,
    tie_embeddings=False,
    rope_theta=500_000.0,
    max_positions=512,
    eos_token_ids=(2, 3),
    rope_scaling={
        "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64,
    },
)  # fmt: skip
IDS = torch.tensor([[1, 5, 9, 13, 2]])


def randomise_lora(model: torch.nn.Module) -> None:
    torch.manual_seed(5)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.normal_(std=0.2)


def adapter_folder(folder: Path, settings: LoraSettings | None = None) -> Path:
    model = attach_lora(build_llama(SHAPE, seed=0), settings or LoraSettings(rank=2, alpha=8.0))
    randomise_lora(model)
    save_lora(model, folder)
    return folder


@pytest.mark.parametrize("shape", [SHAPE, LLAMA3], ids=["tied", "llama3"])
def test_a_saved_backbone_loads_with_the_same_logits(tmp_path: Path, shape: LlamaShape) -> None:
    from transformers import LlamaForCausalLM

    model = build_llama(shape, seed=3).eval()
    save_llama(model, tmp_path, shape=shape, dtype=torch.float32)
    wanted = model(IDS).logits
    assert torch.allclose(load_llama(tmp_path)(IDS).logits, wanted, atol=1e-6)
    assert torch.allclose(LlamaForCausalLM.from_pretrained(tmp_path)(IDS).logits, wanted, atol=1e-6)
    again = LlamaShape.load(tmp_path)
    assert again.to_hf_dict() == shape.to_hf_dict()


def test_a_seed_makes_the_same_weights_and_leaves_the_generator_alone() -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    first, second = build_llama(SHAPE, seed=3), build_llama(SHAPE, seed=3)
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("drop", "1 missing: model.norm.weight"),
        ("add", "1 unexpected: extra"),
        ("shape", "wrong shape: model.norm.weight is"),
    ],
)
def test_a_backbone_that_does_not_fit_is_refused_by_name(tmp_path: Path, change: str, words: str) -> None:
    save_llama(build_llama(SHAPE, seed=3), tmp_path, shape=SHAPE)
    tensors = load_file(tmp_path / "model.safetensors")
    if change == "drop":
        del tensors["model.norm.weight"]
    elif change == "add":
        tensors["extra"] = torch.zeros(1)
    else:
        tensors["model.norm.weight"] = torch.zeros(3)
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=words):
        load_llama(tmp_path)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"model_type": "gpt2"}, "allowed: 'llama'"),
        ({"attention_bias": True}, "without biases"),
        ({"hidden_act": "relu"}, "hidden_act"),
        ({"rope_parameters": {"rope_type": "yarn"}}, "rope type is 'yarn'"),
    ],
)
def test_an_architecture_that_is_not_computed_is_refused(change: dict, words: str) -> None:
    with pytest.raises(CheckpointError, match=words):
        LlamaShape.from_hf_dict({**SHAPE.to_hf_dict(), **change})


def test_the_config_of_transformers_4_is_read_too() -> None:
    old = {key: value for key, value in SHAPE.to_hf_dict().items() if key not in ("rope_parameters", "head_dim")}
    assert LlamaShape.from_hf_dict({**old, "rope_theta": 777.0}).rope_theta == 777.0
    scaled = LlamaShape.from_hf_dict({**old, "rope_theta": 5e5, "rope_scaling": dict(LLAMA3.rope_scaling or {})})
    assert scaled.rope_scaling is not None
    assert scaled.rope_scaling["factor"] == 8.0


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"num_kv_heads": 3}, "num_kv_heads"),
        ({"hidden_size": 30, "head_dim": None}, "hidden_size"),
        ({"num_layers": 0}, "num_layers"),
        ({"head_dim": 7}, "head_dim"),
        ({"rope_scaling": {"rope_type": "linear"}}, "rope_scaling"),
    ],
)
def test_sizes_are_checked_once(change: dict, field: str) -> None:
    with pytest.raises(InputError) as error:
        dataclasses.replace(SHAPE, **change)
    assert error.value.field == field


def test_vocabulary_grows_with_mean_rows() -> None:
    model = build_llama(SHAPE, seed=3)
    mean = model.get_input_embeddings().weight.detach().mean(0)
    resize_vocabulary(model, 64)
    assert torch.allclose(model.get_input_embeddings().weight[61:], mean.expand(3, -1))


def test_an_adapter_survives_saving_and_merges_to_the_same_logits(tmp_path: Path) -> None:
    model = attach_lora(build_llama(SHAPE, seed=0), LoraSettings(rank=2, alpha=8.0, dropout=0.0), seed=4)
    randomise_lora(model)
    save_lora(model, tmp_path)
    wanted = model.eval()(IDS).logits
    loaded = load_lora(build_llama(SHAPE, seed=0), tmp_path).eval()
    assert torch.allclose(loaded(IDS).logits, wanted, atol=1e-6)
    assert not any(parameter.requires_grad for parameter in loaded.parameters())
    assert torch.allclose(merge_lora(loaded)(IDS).logits, wanted, atol=1e-5)
    assert not torch.allclose(build_llama(SHAPE, seed=0).eval()(IDS).logits, wanted, atol=1e-3)
    assert {path.name for path in tmp_path.iterdir()} == {"adapter_model.safetensors", "adapter_config.json"}


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # peft's, against transformers 5.23
def test_peft_itself_reads_the_folder(tmp_path: Path) -> None:
    from peft import PeftModel

    folder = adapter_folder(tmp_path)
    theirs = PeftModel.from_pretrained(build_llama(SHAPE, seed=0), folder).eval()
    assert torch.allclose(
        theirs(IDS).logits, load_lora(build_llama(SHAPE, seed=0), folder).eval()(IDS).logits, atol=1e-6
    )


def test_a_trainable_adapter_can_go_on_learning(tmp_path: Path) -> None:
    model = load_lora(build_llama(SHAPE, seed=0), adapter_folder(tmp_path), trainable=True)
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trained
    assert all("lora_" in name for name in trained)


@pytest.mark.parametrize("change", ["drop", "add"])
def test_a_half_adapter_is_refused(tmp_path: Path, change: str) -> None:
    folder = adapter_folder(tmp_path)
    tensors = load_file(folder / "adapter_model.safetensors")
    name = sorted(tensors)[0]
    if change == "drop":
        del tensors[name]
    else:
        tensors[name.replace("layers.0", "layers.7")] = tensors[name].clone()
    save_file(tensors, folder / "adapter_model.safetensors")
    with pytest.raises(CheckpointError, match="missing" if change == "drop" else "unexpected"):
        load_lora(build_llama(SHAPE, seed=0), folder)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"use_dora": True}, "use_dora"),
        ({"bias": "all"}, "bias"),
        ({"peft_type": "IA3"}, "IA3"),
        ({"target_modules": "all-linear"}, "target_modules"),
    ],
)
def test_an_adapter_of_another_kind_is_refused(tmp_path: Path, change: dict, words: str) -> None:
    folder = adapter_folder(tmp_path)
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(CheckpointError, match=words):
        read_adapter_config(folder)


def test_a_folder_without_an_adapter_says_so(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"adapter_config\.json is missing"):
        read_adapter_config(tmp_path)


@pytest.mark.parametrize("change", [{"rank": 0}, {"alpha": 0.0}, {"dropout": 1.0}, {"targets": ("lm_head",)}])
def test_lora_settings_are_checked(change: dict) -> None:
    with pytest.raises(InputError):
        LoraSettings(**change)


def test_backbones_are_found_by_name() -> None:
    assert backbone_loader("transformers") is load_llama
    assert all(callable(backbone_loader(name)) for name in BACKBONES if name != "quantized")
    with pytest.raises(UnknownNameError, match="lean"):
        backbone_loader("mamba")

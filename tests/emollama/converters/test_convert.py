"""Checkpoints with upstream's key names become folders that load strictly; what does not fit is refused by name."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from emollama.adapter import AdapterInfo, base_digest
from emollama.analyze import Analyzer
from emollama.backbones.lora import load_lora
from emollama.chat_prompt import ChatRenderer
from emollama.cli import app
from emollama.converters.emotion_llama import QUESTION, convert_emotion_llama
from emollama.converters.hubert import convert_hubert
from emollama.converters.vision import convert_eva, convert_face_mae, convert_video_mae
from emollama.encoders.eva import EVA_G
from emollama.encoders.face_mae import MAE_LARGE
from emollama.encoders.hubert import HubertEncoder
from emollama.encoders.video_mae import VIDEO_MAE_LARGE
from emollama.encoders.vit import VisionTransformer, load_vit, shrink
from emollama.errors import CheckpointError, InputError
from emollama.presets import assemble_model, build_debug_backbone, build_encoders
from emollama.types import Audio, Message

Tensors = dict[str, torch.Tensor]
WIDTH, RANK = 32, 2  # of the debug build: backbone and every encoder are 32 wide
BASE = "llama_model.base_model.model.model.layers"


def upstream() -> Tensors:
    """The trained part of an upstream checkpoint at debug size, in upstream's names."""
    generator = torch.Generator().manual_seed(7)

    def new(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    tensors: Tensors = {}
    for layer in range(2):
        for target in ("q_proj", "v_proj"):
            tensors[f"{BASE}.{layer}.self_attn.{target}.lora_A.weight"] = new(RANK, WIDTH)
            tensors[f"{BASE}.{layer}.self_attn.{target}.lora_B.weight"] = new(WIDTH, RANK)
        tensors[f"{BASE}.{layer}.self_attn.rotary_emb.inv_freq"] = new(4)
    widths = {"llama_proj": 4 * 32, "cls_tk_llama_proj": 32} | {f"feats_llama_proj{i}": 32 for i in (1, 2, 3)}
    for name, width in widths.items():
        tensors |= {f"{name}.weight": new(WIDTH, width), f"{name}.bias": new(WIDTH)}
    tensors |= {"attention.feats_prep.0.3.weight": new(3, 3), "attention.fc_out.bias": new(6)}
    return tensors


def save(path: Path, tensors: Tensors, **beside: Any) -> Path:
    torch.save({"model": tensors, "optimizer": {"state": {}}, "epoch": 3, **beside}, path)
    return path


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return save(tmp_path / "checkpoint_3.pth", upstream())


def test_the_command_writes_a_folder_and_accounts_for_every_key(file: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    said = CliRunner().invoke(
        app, ["convert", "emotion-llama", str(file), str(out), "--debug", "--layout", "upstream-eval", "--keys"],
        env={"COLUMNS": "200"},
    )  # fmt: skip
    assert said.exit_code == 0, said.output
    report = json.loads((out / "conversion.json").read_text("utf-8"))
    fates = {key["key"]: key["fate"] for key in report["keys"]}
    assert set(fates) == set(upstream())
    dropped = {key for key, fate in fates.items() if fate == "dropped"}
    assert dropped == {key for key in upstream() if "inv_freq" in key or key.startswith("attention.")}
    assert report["groups"]["LoRA"] == {"fate": "kept", "keys": 8, "parameters": 8 * RANK * WIDTH}
    assert report["source"]["sha256"] in said.output
    assert report["not_read"] == ["optimizer", "epoch"]
    assert "attention.fc_out.bias" in said.output
    info = AdapterInfo.load(out)
    assert info is not None
    assert (info.layout, info.question) == ("upstream-eval", QUESTION)
    again = CliRunner().invoke(app, ["convert", "emotion-llama", str(file), str(out), "--debug"])
    assert again.exit_code == 2
    assert "exists already" in again.output


def test_converted_embeddings_are_those_of_the_published_formulas(file: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    convert_emotion_llama(file, out, debug=True)
    config, _, tokenizer = build_encoders("emotion-llama-7b", debug=True)
    chat = ChatRenderer(tokenizer, template="emotion-llama", streams=config.streams)
    backbone = load_lora(build_debug_backbone(config), out)
    model = assemble_model(config, backbone, placeholder_ids=chat.placeholder_ids)
    model.load_projectors(out / "projectors.safetensors")

    source, rng = upstream(), np.random.default_rng(1)
    grid = rng.standard_normal((32, 32, 32)).astype(np.float32)  # rows, columns, width
    vectors = {name: rng.standard_normal(32).astype(np.float32) for name in ("face", "temporal", "audio", "cls")}
    features = {"patches": np.stack([grid[r, c : c + 4].reshape(-1) for r in range(32) for c in range(0, 32, 4)])}
    features |= {name: vector[None] for name, vector in vectors.items()}
    # the slow reference: four neighbours of one row, then one matrix product a token, in upstream's order
    expected = []
    for row in range(32):
        for column in range(0, 32, 4):
            joined = torch.from_numpy(np.concatenate([grid[row, column + k] for k in range(4)]))
            expected.append(source["llama_proj.weight"] @ joined + source["llama_proj.bias"])
    projections = {f"feats_llama_proj{i + 1}": name for i, name in enumerate(("face", "temporal", "audio"))}
    for theirs, ours in (projections | {"cls_tk_llama_proj": "cls"}).items():
        expected.append(source[f"{theirs}.weight"] @ torch.from_numpy(vectors[ours]) + source[f"{theirs}.bias"])
    assert len(expected) == 260
    places = set(chat.placeholder_ids.values())
    for layout in ("train", "upstream-eval"):
        ids = chat.prompt(
            [Message(role="user", content="Which emotion?")],
            counts={name: len(tokens) for name, tokens in features.items()},
            task="emotion",
            layout=layout,  # type: ignore[arg-type]
        )
        from emollama.model import ModelBatch

        batch = ModelBatch(
            input_ids=torch.tensor([ids]), features={n: [torch.from_numpy(t)] for n, t in features.items()}
        )
        with torch.inference_mode():
            rows = model.embed(batch)[0]
        words = backbone.get_input_embeddings().weight
        at = 0
        for index, token in enumerate(ids):
            wanted = words[token]
            if token in places:
                wanted, at = expected[at], at + 1
            assert torch.allclose(rows[index], wanted, atol=1e-4), (layout, index)
        assert at == 260
    # LoRA, too, is the file's: W + alpha / rank * B @ A on the first layer's q
    base = f"{BASE}.0.self_attn.q_proj"
    plain = build_debug_backbone(config).model.layers[0].self_attn.q_proj.weight
    moved = plain + config.lora.alpha / RANK * source[f"{base}.lora_B.weight"] @ source[f"{base}.lora_A.weight"]
    merged = backbone.merge_and_unload().model.layers[0].self_attn.q_proj.weight
    assert torch.allclose(merged, moved, atol=1e-4)


def _rename(tensors: Tensors) -> None:
    tensors["llama_projection.weight"] = tensors.pop("llama_proj.weight")


DAMAGE: dict[str, tuple[Callable[[Tensors], Any], str]] = {
    "missing": (lambda t: t.pop(f"{BASE}.1.self_attn.v_proj.lora_B.weight"), r"1\.self_attn\.v_proj\.lora_B.*missing"),
    "renamed": (_rename, r"llama_projection\.weight: no key.*llama_proj\.weight: missing"),
    "extra": (lambda t: t.update({"head.weight": torch.zeros(1)}), r"head\.weight: no key"),
    "layer": (lambda t: t.update({f"{BASE}.2.self_attn.q_proj.lora_A.weight": torch.zeros(2, 32)}), "layers.2.*no key"),
    "dead-alike": (lambda t: t.update({"attention.fc_new.bias": torch.zeros(1)}), r"attention\.fc_new\.bias: no key"),
    "shape": (lambda t: t.update({"llama_proj.bias": torch.zeros(31)}), r"llama_proj\.bias: shape \[31\], .*\[32\]"),
    "dtype": (lambda t: t.update({"llama_proj.bias": torch.zeros(32, dtype=torch.int8)}), r"llama_proj\.bias: int8"),
    "nan": (lambda t: t["cls_tk_llama_proj.bias"].fill_(float("nan")), r"cls_tk_llama_proj\.bias.*not finite"),
    "ln": (lambda t: t.update({"ln_vision.weight": torch.full((32,), 2.0)}), r"ln_vision\.weight: is not the identity"),
}


@pytest.mark.parametrize("damage", sorted(DAMAGE))
def test_what_does_not_fit_is_refused_by_name_and_nothing_is_written(damage: str, tmp_path: Path) -> None:
    harm, said = DAMAGE[damage]
    tensors = upstream()
    harm(tensors)
    path = save(tmp_path / "c.pth", tensors)
    with pytest.raises(CheckpointError, match=said):
        convert_emotion_llama(path, tmp_path / "out", debug=True)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["c.pth"]


class Harmful:
    def __reduce__(self) -> Any:
        return (print, ("run",))


def test_files_that_need_more_than_tensors_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = save(tmp_path / "c.pth", upstream(), config=Harmful())
    with pytest.raises(CheckpointError, match="could run code"):
        convert_emotion_llama(path, tmp_path / "out", debug=True)
    assert capsys.readouterr().out == ""
    path.write_bytes(b"not a checkpoint")
    with pytest.raises(CheckpointError, match=r"refused|damaged"):
        convert_emotion_llama(path, tmp_path / "out", debug=True)
    with pytest.raises(CheckpointError, match="nothing expects: spare"):
        convert_emotion_llama(save(path, upstream(), spare=1), tmp_path / "out", debug=True)
    with pytest.raises(InputError, match="upstream-eval"):
        convert_emotion_llama(path, tmp_path / "out", layout="mine", debug=True)


def test_the_folder_answers_in_the_layout_and_words_it_records(file: Path, tmp_path: Path) -> None:
    prompts = {}
    for layout in ("train", "upstream-eval"):
        convert_emotion_llama(file, tmp_path / layout, layout=layout, debug=True)
        analyzer = Analyzer.load(tmp_path / layout)
        assert analyzer.labels[0] == "happy"
        renderer: Any = analyzer.parts.renderer
        prompts[layout] = renderer.prefix(analyzer.labels, counts={"audio": 1}, transcript=None)
        assert "represents: happy, sad" in renderer.tokenizer.decode(prompts[layout])
        assert analyzer.analyze(None, transcript="I am fine.").emotion.scores
    begin = renderer.chat.tokenizer.find("<s>")
    assert {name: ids.count(begin) for name, ids in prompts.items()} == {"train": 1, "upstream-eval": 2}


def test_vision_checkpoints_load_strictly(tmp_path: Path) -> None:
    eva = dict(VisionTransformer(shrink(EVA_G, image_size=56)).state_dict())
    torch.save({**eva, "blocks.2.norm1.weight": torch.ones(32), "head.bias": torch.zeros(1)}, tmp_path / "eva.pth")
    convert_eva(tmp_path / "eva.pth", tmp_path / "eva", debug=True)
    assert torch.equal(load_vit(tmp_path / "eva", shrink(EVA_G, image_size=56)).cls_token, eva["cls_token"])
    mae_shape = shrink(MAE_LARGE, image_size=32)
    mae = dict(VisionTransformer(mae_shape).state_dict())
    save(tmp_path / "mae.pth", {**mae, "decoder_blocks.0.norm1.weight": torch.ones(1), "mask_token": torch.ones(1)})
    convert_face_mae(tmp_path / "mae.pth", tmp_path / "mae", debug=True)
    assert torch.equal(load_vit(tmp_path / "mae", mae_shape).pos_embed, mae["pos_embed"])
    video_shape = shrink(VIDEO_MAE_LARGE, image_size=32)
    video = {f"encoder.{name}": tensor for name, tensor in VisionTransformer(video_shape).state_dict().items()}
    spare = {"encoder.norm.weight": torch.ones(32), "decoder.head.bias": torch.ones(1)}
    save(tmp_path / "video.pth", {**video, **spare})
    convert_video_mae(tmp_path / "video.pth", tmp_path / "video", debug=True)
    load_vit(tmp_path / "video", video_shape)
    del video["encoder.blocks.1.attn.q_bias"]
    save(tmp_path / "video.pth", {**video, "encoder.spare": torch.ones(1)})
    with pytest.raises(CheckpointError, match=r"encoder\.spare: no key.*encoder\.blocks\.1\.attn\.q_bias: missing"):
        convert_video_mae(tmp_path / "video.pth", tmp_path / "video2", debug=True)


def test_an_encoder_in_an_older_file_becomes_weights_of_its_own(tmp_path: Path) -> None:
    shape = shrink(EVA_G, image_size=56)
    eva = {name: tensor.clone() for name, tensor in VisionTransformer(shape).state_dict().items()}
    older = upstream() | {f"visual_encoder.{name}": tensor for name, tensor in eva.items()}
    older |= {"ln_vision.weight": torch.ones(32), "ln_vision.bias": torch.zeros(32)}
    report = convert_emotion_llama(save(tmp_path / "c.pth", older), tmp_path / "out", debug=True)
    fates = {key.key: key.fate for key in report.keys}
    assert set(fates) == set(older)
    assert fates["visual_encoder.cls_token"] == "kept"
    assert fates["ln_vision.bias"] == "confirmed"
    loaded = load_vit(tmp_path / "out" / "weights" / "eva-clip-g", shape)
    assert all(torch.equal(tensor, eva[name]) for name, tensor in loaded.state_dict().items())
    convert_emotion_llama(save(tmp_path / "n.pth", upstream()), tmp_path / "newer", debug=True)
    assert not (tmp_path / "newer" / "weights").exists()
    for name, harm, said in (
        ("torn", lambda t: t.pop("visual_encoder.blocks.1.attn.q_bias"), r"visual_encoder\.blocks\.1.*q_bias: missing"),
        (
            "strange",
            lambda t: t.update({"visual_encoder.head.bias": torch.ones(1)}),
            r"visual_encoder\.head\.bias: no key",
        ),
        (
            "gain",
            lambda t: t.update({"ln_vision.weight": torch.full((32,), 0.5)}),
            r"ln_vision\.weight: is not the ident",
        ),
    ):
        spoilt = dict(older)
        harm(spoilt)
        with pytest.raises(CheckpointError, match=said):
            convert_emotion_llama(save(tmp_path / f"{name}.pth", spoilt), tmp_path / name, debug=True)
        assert not (tmp_path / name).exists()


def backbone_folder(folder: Path, **changes: Any) -> Path:
    """The files that tell a base: its configuration and tokenizer, and a stand-in for its weights."""
    from safetensors.torch import save_file

    from emollama.config import EMOTION_LLAMA_7B

    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(EMOTION_LLAMA_7B.backbone.to_hf_dict() | changes), "utf-8")
    (folder / "tokenizer.json").write_text("{}", "utf-8")
    save_file({"any": torch.ones(1)}, folder / "model.safetensors")
    return folder


def test_a_backbone_of_another_size_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    other = backbone_folder(tmp_path / "llama-2-13b", hidden_size=5120, num_attention_heads=40, num_key_value_heads=40)
    said = CliRunner().invoke(
        app, ["convert", "emotion-llama", str(tmp_path / "none.pth"), str(tmp_path / "out"), "--backbone", str(other)]
    )
    assert said.exit_code == 2
    assert "hidden_size 5120" in said.output
    with pytest.raises(CheckpointError, match="there is no"):
        convert_emotion_llama(tmp_path / "none.pth", tmp_path / "out", backbone=tmp_path / "absent")
    with pytest.raises(InputError, match="picture is 'last'; allowed: first, peak"):
        convert_emotion_llama(tmp_path / "none.pth", tmp_path / "out", picture="last", debug=True)
    refused = CliRunner().invoke(app, ["convert", "eva-clip-g", "a", "b", "--picture", "peak"])
    assert "belong to emotion-llama" in refused.output
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_file_of_full_size_converts_on_its_backbone_with_the_published_counts(tmp_path: Path) -> None:
    """Every tensor has its published shape, and one number that all its places share, so that the file stays small."""
    wanted = {f"{BASE}.{layer}.self_attn.{target}.lora_A.weight": (64, 4096)
              for layer in range(32) for target in ("q_proj", "v_proj")}  # fmt: skip
    wanted |= {name.replace("lora_A", "lora_B"): (4096, 64) for name in wanted}
    wanted |= {"llama_proj.weight": (4096, 5632), "cls_tk_llama_proj.weight": (4096, 1408)}
    wanted |= {f"feats_llama_proj{i}.weight": (4096, 1024) for i in (1, 2, 3)}
    wanted |= {name.replace("weight", "bias"): (4096,) for name in wanted if name.endswith("proj.weight")}
    wanted |= {f"feats_llama_proj{i}.bias": (4096,) for i in (1, 2, 3)}
    file = save(tmp_path / "full.pth", {name: torch.full((), 0.5).expand(*shape) for name, shape in wanted.items()})
    backbone = backbone_folder(tmp_path / "llama-2-7b-chat")
    said = CliRunner().invoke(
        app,
        [
            "convert",
            "emotion-llama",
            str(file),
            str(tmp_path / "out"),
            "--backbone",
            str(backbone),
            "--picture",
            "peak",
        ],
        env={"COLUMNS": "200"},
    )
    assert said.exit_code == 0, said.output
    groups = json.loads((tmp_path / "out" / "conversion.json").read_text("utf-8"))["groups"]
    assert groups["LoRA"] == {"fate": "kept", "keys": 128, "parameters": 33_554_432}
    assert {name: group["parameters"] for name, group in groups.items() if name != "LoRA"} == {
        "llama_proj -> patches": 23_072_768, "cls_tk_llama_proj -> cls": 5_771_264,
        "feats_llama_proj1 -> face": 4_198_400, "feats_llama_proj2 -> temporal": 4_198_400,
        "feats_llama_proj3 -> audio": 4_198_400,
    }  # fmt: skip
    assert "33,554,432" in said.output
    info = AdapterInfo.load(tmp_path / "out")
    assert info is not None
    assert info.base_sha256 == base_digest(backbone, backbone / "tokenizer.json")
    assert info.picture == "peak"


def test_a_hubert_in_either_spelling_becomes_a_folder_that_loads(tmp_path: Path) -> None:
    encoder = HubertEncoder.build(debug=True)
    state = {name: tensor.clone() for name, tensor in encoder.model.state_dict().items()}
    old = {
        name.replace(".parametrizations.weight.original0", ".weight_g").replace(
            ".parametrizations.weight.original1", ".weight_v"
        ): tensor
        for name, tensor in state.items()
    }
    assert set(old) != set(state)
    sound = Audio(samples=np.random.default_rng(5).normal(size=20_000).astype(np.float32))
    for name, tensors in {
        "old": old,
        "new": state,
        "tuned": {f"hubert.{n}": t for n, t in old.items()} | {"lm_head.weight": torch.zeros(2, 32)},
    }.items():
        folder = tmp_path / f"published-{name}"
        folder.mkdir()
        torch.save(tensors, folder / "pytorch_model.bin")
        (folder / "config.json").write_text(encoder.model.config.to_json_string(), "utf-8")
        said = CliRunner().invoke(app, ["convert", "hubert", str(folder / "pytorch_model.bin"), str(tmp_path / name)])
        assert said.exit_code == 0, said.output
        loaded = HubertEncoder.load(tmp_path / name)
        assert np.allclose(loaded.encode(sound)["audio"], encoder.encode(sound)["audio"], atol=1e-6)
    folder = tmp_path / "published-old"
    torch.save({n: t for n, t in old.items() if "weight_g" not in n} | {"spare": torch.ones(1)}, folder / "m.bin")
    with pytest.raises(CheckpointError, match=r"spare: no key.*pos_conv_embed.*original0: missing"):
        convert_hubert(folder / "m.bin", tmp_path / "torn")
    (folder / "config.json").write_text('{"model_type": "wav2vec2"}', "utf-8")
    with pytest.raises(CheckpointError, match="allowed: 'hubert'"):
        convert_hubert(folder / "pytorch_model.bin", tmp_path / "torn")
    (folder / "config.json").unlink()
    with pytest.raises(CheckpointError, match="says the sizes"):
        convert_hubert(folder / "pytorch_model.bin", tmp_path / "torn")
    assert not (tmp_path / "torn").exists()

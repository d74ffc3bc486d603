"""The named face models have the published sizes, inputs and outputs; units are read where a model has them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from emollama.encoders.ddamfn import DEAD, Ddamfn, upstream_name
from emollama.encoders.face import FaceEncoder, FaceModel, preprocess
from emollama.encoders.face_models import FACE_MODELS, FaceModelConfig
from emollama.encoders.frame_head import FrameHead
from emollama.encoders.mobilefacenet import MobileFaceNet
from emollama.errors import CheckpointError, InputError
from emollama.labels import ABAW_UNITS, AFFECTNET_8, HSEMOTION_8

# Of the models as published: EfficientNet (Tan and Le, 2019) without its 1,000 classes, MobileViTv2-1.5 likewise,
# MobileFaceNet-0.45G, and DDAMFN, whose paper says 4.11 million with eight classes.
PARAMETERS = {
    "enet_b0_8_va_mtl": 4_007_548 + 1280 * 10 + 10,
    "enet_b2_8": 7_700_994 + 1408 * 8 + 8,
    "mobilevit_va_mtl": 9_825_753 + 768 * 10 + 10,
    "mbf_va_mtl": 2_059_520 + 512 * 10 + 10,
    "ddamfnet_8": 4_102_408 + 512 * 8 + 8,
}
WIDTHS = {"enet_b0_8_va_mtl": 1280, "enet_b2_8": 1408, "mobilevit_va_mtl": 768, "mbf_va_mtl": 512, "ddamfnet_8": 512}


@pytest.mark.parametrize("name", PARAMETERS)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # timm's own imports
def test_a_model_has_the_published_number_of_parameters_and_width(name):
    with torch.device("meta"):
        model = FaceModel(FACE_MODELS[name])
        size = FACE_MODELS[name].size
        output = model.eval()(torch.empty(2, 3, size, size))
    assert sum(p.numel() for p in model.parameters()) == PARAMETERS[name]
    assert output.embedding.shape == (2, WIDTHS[name])
    assert output.logits.shape == (2, 8)
    assert (output.affect is not None) == FACE_MODELS[name].has_affect


def test_convolutions_of_the_two_small_networks_cost_what_is_published():
    def multiplications(network: torch.nn.Module) -> int:
        total = 0

        def count(module, _, output):
            nonlocal total
            total += output.numel() * module.weight[0].numel()

        for module in network.modules():
            if isinstance(module, torch.nn.Conv2d):
                module.register_forward_hook(count)
        network.eval()(torch.empty(1, 3, 112, 112, device="meta"))
        return total

    with torch.device("meta"):
        assert multiplications(MobileFaceNet()) == pytest.approx(0.44e9, rel=0.01)  # "mobilefacenet-0.45G"
        assert multiplications(Ddamfn()) == pytest.approx(0.545e9, rel=0.02)  # the paper's 551 M with additions


def test_a_head_of_ddamfn_gates_by_what_both_directions_say():
    torch.manual_seed(0)
    network = Ddamfn().eval()
    x = torch.randn(1, 512, 7, 7)
    head = network.heads[0]
    across, down = head.across(x), head.down(x)  # one column and one row
    assert (across.shape, down.shape) == ((1, 512, 7, 1), (1, 512, 1, 7))
    gate = head(x)
    # the gate is a product of a column and a row, so every 2x2 minor vanishes
    minors = gate[..., 1:, 1:] * gate[..., :-1, :-1] - gate[..., 1:, :-1] * gate[..., :-1, 1:]
    assert minors.abs().max() < 1e-5
    both = torch.maximum(network.heads[0](x), network.heads[1](x))
    network.stem = torch.nn.Identity()
    torch.testing.assert_close(network(x), network.pool(x * both).flatten(1))


def test_every_name_of_the_public_ddamfn_code_has_a_place_or_is_known_to_be_dead():
    ours = set(Ddamfn().state_dict())
    for theirs, mine in {
        "features.0.prelu.weight": "stem.0.prelu.weight",
        "features.2.conv_dw.mixed_depthwise_conv.1.weight": "stem.2.mixed.1.weight",
        "features.3.model.8.CA.conv3.bias": "stem.3.8.attention.conv3.bias",
        "features.7.model.5.project.bn.running_var": "stem.7.5.project.bn.running_var",
        "cat_head1.CoordAtt.Linear_w.conv.weight": "heads.1.down.conv.weight",
        "cat_head0.CoordAtt.bn1.weight": "heads.0.bn1.weight",
        "Linear.conv.weight": "pool.conv.weight",
    }.items():
        assert upstream_name(theirs) == mine
        assert mine in ours
        assert not DEAD.fullmatch(theirs)
    assert DEAD.fullmatch("features.3.model.0.conv_dw.prelu.weight")
    assert DEAD.fullmatch("cat_head0.CoordAtt.Linear.conv.weight")
    assert not DEAD.fullmatch("features.8.bn.weight")


def test_pictures_are_made_into_what_each_model_was_trained_on():
    red = np.zeros((1, 30, 20, 3), np.uint8)
    red[..., 0] = 255
    for name, expected in {
        "enet_b2_8": [(1 - 0.485) / 0.229, -0.456 / 0.224, -0.406 / 0.225],
        "ddamfnet_8": [(1 - 0.485) / 0.229, -0.456 / 0.224, -0.406 / 0.225],
        "mbf_va_mtl": [1.0, -1.0, -1.0],
    }.items():
        pictures = preprocess(red, FACE_MODELS[name])
        assert pictures.shape == (1, 3, FACE_MODELS[name].size, FACE_MODELS[name].size)
        assert pictures[0, :, 5, 7].tolist() == pytest.approx(expected, abs=1e-5)  # red comes first


def test_orders_of_outputs():
    assert {c.size for n, c in FACE_MODELS.items() if n.startswith(("mbf", "ddamf"))} == {112}
    for name, config in FACE_MODELS.items():
        if name != "nano-face":
            order = AFFECTNET_8 if name.startswith("ddamfn_affectnet") else HSEMOTION_8
            assert config.labels == (order if "_8" in name or "mtl" in name else tuple(
                label for label in order if label != "contempt"
            ))  # fmt: skip
            assert config.has_affect == name.endswith("_mtl")


def test_a_network_for_one_size_refuses_another():
    with pytest.raises(InputError, match="size is 224; allowed with ddamfn: 112"):
        replace(FACE_MODELS["ddamfnet_8"], size=224)


def faces(count: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (count, 20, 20, 3), np.uint8)


def test_a_model_with_outputs_for_action_units_reads_them_over_time(tmp_path):
    torch.manual_seed(0)
    config = replace(FaceModelConfig().at_debug_size(), action_units=("AU4", "AU12"))
    encoder = FaceEncoder(FaceModel(config), name="multi", flip=False)
    encoder.save(tmp_path / "face.safetensors")
    times = np.arange(3) * 0.5
    readings, features = FaceEncoder.load(tmp_path / "face.safetensors", flip=False).read(faces(3), times, 0)
    assert readings.action_units == ("AU4", "AU12")
    output = encoder.model(preprocess(faces(3), config))
    assert readings.units == pytest.approx(output.units.sigmoid().detach().numpy(), abs=2e-3)
    assert readings.valence == pytest.approx(output.affect[:, 0].detach().numpy(), abs=2e-3)
    assert features.tokens.shape[1] == 16 + 8  # units are readings, not tokens


def unit_head(width: int) -> FrameHead:
    weight = np.random.default_rng(1).normal(size=(12, width)).astype(np.float32)
    return FrameHead(
        task="au", reads="embeddings", weights=(weight,), biases=(np.zeros(12, np.float32),), thresholds=(0.5,) * 12
    )


def test_a_head_for_action_units_beside_a_model_is_taken_along(tmp_path):
    torch.manual_seed(0)
    encoder = FaceEncoder(FaceModel(FaceModelConfig().at_debug_size()), name="small", flip=False)
    encoder.save(tmp_path / "face.safetensors")
    assert FaceEncoder.load(tmp_path / "face.safetensors").embed(faces(2)).units.shape == (2, 0)
    head = unit_head(16)
    head.save(tmp_path / "face.au.safetensors")
    loaded = FaceEncoder.load(tmp_path / "face.safetensors", flip=False)
    readings, _ = loaded.read(faces(4), np.arange(4.0), 7)
    assert readings.action_units == ABAW_UNITS
    assert readings.units == pytest.approx(head(loaded.embed(faces(4)).embedding), abs=1e-6)


def test_a_head_that_does_not_fit_is_refused(tmp_path):
    encoder = FaceEncoder(FaceModel(FaceModelConfig().at_debug_size()), name="small")
    encoder.save(tmp_path / "face.safetensors")
    unit_head(20).save(tmp_path / "face.au.safetensors")
    with pytest.raises(CheckpointError, match="reads 20 numbers; the model's embeddings have 16"):
        FaceEncoder.load(tmp_path / "face.safetensors")

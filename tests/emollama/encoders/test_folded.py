"""The folded face network says what the network says, whatever the pictures' size and number."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from emollama.checkpoint import load_assets
from emollama.encoders.face import FaceEncoder, ResidualNet
from emollama.encoders.folded import FoldedNet, toom_cook


def lived_in(net: nn.Module) -> nn.Module:
    """Give the norms statistics and gains that are not those of a fresh network."""
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.3)
            nn.init.normal_(module.running_mean, std=0.3)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
    return net.eval()


@pytest.fixture(scope="module")
def net() -> ResidualNet:
    torch.manual_seed(0)
    wide = lived_in(ResidualNet(widths=(8, 128, 160), depths=(1, 2, 2)))
    assert isinstance(wide, ResidualNet)
    return wide


@torch.inference_mode()
@pytest.mark.parametrize("size", [24, 20, 17])  # minimal filtering in both wide stages, in one of them, in none
def test_the_folded_network_says_the_same(net: ResidualNet, size: int) -> None:
    pictures: Tensor = torch.randn(3, 1, size, size)
    folded = FoldedNet(net)
    expected = net(pictures)
    assert expected.abs().max() > 0.1
    torch.testing.assert_close(folded(pictures), expected, rtol=1e-4, atol=1e-4)
    # and alone what it says in a batch
    torch.testing.assert_close(folded(pictures[1:2]), folded(pictures)[1:2], rtol=1e-5, atol=1e-5)


def test_a_minimal_filter_slides_the_taps() -> None:
    draw = np.random.default_rng(0)
    gather, filters, spread = toom_cook(3, 3, (0.0, 1.0, -1.0, 2.0))
    taps, inputs = draw.standard_normal(3), draw.standard_normal(5)
    outputs = gather @ ((filters @ taps) * (spread @ inputs))
    assert outputs == pytest.approx([taps @ inputs[i : i + 3] for i in range(3)], abs=1e-12)


def test_the_shipped_face_model_answers_with_the_folded_network() -> None:
    encoder = FaceEncoder.load(load_assets("nano").face)
    plain = FaceEncoder(encoder.model, name="plain")
    crops = np.random.default_rng(1).integers(0, 255, (3, 12, 12, 3), np.uint8).repeat(8, axis=1).repeat(8, axis=2)
    one, other = encoder.embed(crops), plain.embed(crops)
    assert encoder._backbone is not plain._backbone
    assert one.log_probabilities == pytest.approx(other.log_probabilities, abs=1e-4)
    assert one.va == pytest.approx(other.va, abs=1e-5)

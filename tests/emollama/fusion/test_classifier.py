import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from emollama.errors import CheckpointError, InputError
from emollama.fusion.classifier import FusionClassifier, FusionConfig, FusionNet
from emollama.fusion.utterances import Utterances

WIDTHS = {"face": 4, "voice": 3, "words": 5}


def clips(count: int = 6, *, seed: int = 0) -> Utterances:
    random = np.random.default_rng(seed)
    return Utterances(
        names=tuple(f"c{n}" for n in range(count)),
        features={name: 10 * random.normal(size=(count, width)).astype(np.float32) for name, width in WIDTHS.items()},
        labels=("sad",) * count,
        groups=("s",) * count,
    )


def classifier(attention: str = "softmax", *, members: int = 1) -> FusionClassifier:
    nets = []
    for seed in range(members):
        torch.manual_seed(seed)
        config = FusionConfig(labels=("happy", "sad"), widths=WIDTHS, attention=attention, hidden=8)  # type: ignore[arg-type]
        net = FusionNet(config)
        net.standardise_by(clips())
        nets.append(net)
    return FusionClassifier(nets)


@pytest.mark.parametrize("attention", ["votes", "softmax", "joint"])
def test_an_absent_modality_counts_for_nothing_whatever_stood_there(attention: str) -> None:
    model, whole = classifier(attention), clips()
    other = clips(seed=5)
    mixed = Utterances(
        names=whole.names, features={**whole.features, "voice": other.features["voice"]}, labels=whole.labels,
        groups=whole.groups,
    )  # fmt: skip
    assert not np.allclose(model.probabilities(whole), model.probabilities(mixed))
    np.testing.assert_array_equal(
        model.probabilities(whole.without("voice")), model.probabilities(mixed.without("voice"))
    )


@pytest.mark.parametrize("attention", ["votes", "softmax", "joint"])
def test_a_clip_is_answered_alike_alone_and_among_others_with_any_subset(attention: str) -> None:
    model, whole = classifier(attention), clips()
    for absent in ((), ("face",), ("face", "words"), ("voice", "words")):
        told = model.probabilities(whole.without(*absent))
        np.testing.assert_allclose(told.sum(1), 1.0, atol=1e-9)
        np.testing.assert_allclose(told[2:3], model.probabilities(whole.take([2]).without(*absent)), atol=1e-6)


def test_the_order_of_a_tables_modalities_does_not_matter() -> None:
    whole = clips().without("words")
    turned = Utterances(
        names=whole.names, features=dict(reversed(whole.features.items())), labels=whole.labels, groups=whole.groups
    )
    np.testing.assert_array_equal(classifier().probabilities(whole), classifier().probabilities(turned))


def test_members_are_averaged_as_probabilities() -> None:
    model = classifier(members=3)
    each = model.member_probabilities(clips())
    assert each.shape == (3, 6, 2)
    np.testing.assert_allclose(model.probabilities(clips()), each.mean(0))


def test_it_comes_back_from_its_folder_with_the_same_answers(tmp_path: Path) -> None:
    model = classifier(members=2)
    model.save(tmp_path)
    back = FusionClassifier.load(tmp_path)
    assert back.labels == ("happy", "sad")
    np.testing.assert_array_equal(back.probabilities(clips()), model.probabilities(clips()))


def test_a_folder_that_does_not_fit_is_refused_by_the_key(tmp_path: Path) -> None:
    classifier().save(tmp_path)
    path = tmp_path / "fusion.safetensors"
    tensors = load_file(path)
    save_file({**tensors, "members.0.more": torch.zeros(1)}, path)
    with pytest.raises(CheckpointError, match=r"members\.0\.more"):
        FusionClassifier.load(tmp_path)
    save_file({name: tensor for name, tensor in tensors.items() if name != "members.0.leave.bias"}, path)
    with pytest.raises(CheckpointError, match=r"members\.0\.leave\.bias"):
        FusionClassifier.load(tmp_path)
    save_file(tensors, path)
    document = json.loads((tmp_path / "fusion.json").read_text())
    (tmp_path / "fusion.json").write_text(json.dumps({**document, "attention": "none"}))
    with pytest.raises(CheckpointError, match="attention"):
        FusionClassifier.load(tmp_path)
    (tmp_path / "fusion.json").unlink()
    with pytest.raises(CheckpointError, match="emollama train fusion"):
        FusionClassifier.load(tmp_path)


def test_clips_that_it_cannot_answer_are_told() -> None:
    with pytest.raises(InputError, match="'c0' has no modality"):
        classifier().probabilities(clips().without("face", "voice", "words"))
    narrow = Utterances(names=("a",), features={"face": np.zeros((1, 4), np.float32)}, labels=(None,), groups=("a",))
    with pytest.raises(InputError, match="widths"):
        classifier().probabilities(narrow)


def test_inputs_are_standardised_by_those_clips_that_have_the_modality() -> None:
    table = clips()
    table.features["face"][:2] = np.nan
    net = classifier().members[0]
    net.standardise_by(table)
    np.testing.assert_allclose(net.mean_face.numpy(), table.features["face"][2:].mean(0), rtol=1e-5)
    assert bool(torch.isfinite(net.scale_face).all())


def test_votes_add_up_so_that_one_more_modality_only_adds_its_own() -> None:
    model, whole = classifier("votes"), clips()
    net = model.members[0]
    features = {name: torch.from_numpy(rows) for name, rows in whole.features.items()}

    def logits(*silent: str) -> torch.Tensor:
        return net(features, torch.from_numpy(whole.without(*silent).present))

    alone = [logits(*(other for other in WIDTHS if other != name)) for name in WIDTHS]
    torch.testing.assert_close(logits(), sum(alone))
    torch.testing.assert_close(logits("voice"), alone[0] + alone[2])

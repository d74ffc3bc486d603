"""The recipe ``fusion``: two steps from a table to a folder that answers, and what modality dropout drops."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from emollama.errors import DatasetError, InputError
from emollama.fusion.classifier import FusionClassifier
from emollama.fusion.utterances import Utterances
from train.cli import app
from train.config import override
from train.recipes import load_recipe
from train.recipes.fusion import FusionOptions, FusionTask, disagreement, drop_modalities


def table(count: int = 20, *, prefix: str = "c") -> Utterances:
    """Both modalities say the class; every fifth clip has no voice, the last one no label."""
    random = np.random.default_rng(len(prefix))
    sign = np.where(np.arange(count) % 2, 1.0, -1.0)[:, None]
    voice = (sign + 0.1 * random.normal(size=(count, 3))).astype(np.float32)
    voice[::5] = np.nan
    labels: list[str | None] = ["sad" if n % 2 else "happy" for n in range(count)]
    return Utterances(
        names=tuple(f"{prefix}{n}" for n in range(count)),
        features={"face": (sign + 0.1 * random.normal(size=(count, 4))).astype(np.float32), "voice": voice},
        labels=(*labels[:-1], None),
        groups=tuple(f"{prefix}{n}" for n in range(count)),
    )


def test_the_recipe_trains_two_steps_and_what_it_exports_answers(tmp_path: Path) -> None:
    table().save(tmp_path / "train.safetensors")
    table(11, prefix="vv").take(range(10)).save(tmp_path / "valid.safetensors")
    arguments = ["fusion", f"task.table={tmp_path}/train.safetensors", f"task.valid_table={tmp_path}/valid.safetensors"]
    done = CliRunner().invoke(app, [*arguments, "batch_size=8", "max_steps=2", f"run_dir={tmp_path / 'run'}"])
    assert done.exit_code == 0, done.output
    assert "2 steps" in done.output
    assert "macro_f1_without_voice" in done.output
    classifier = FusionClassifier.load(tmp_path / "run" / "export")
    assert classifier.labels == ("happy", "sad")
    assert classifier.probabilities(table().without("voice")).shape == (20, 2)


def test_enough_steps_learn_it_from_either_modality(tmp_path: Path) -> None:
    from train.loop import run

    config = override(load_recipe("fusion"), [f"run_dir={tmp_path / 'run'}", "epochs=25", "batch_size=8"])
    result = run(config, FusionTask(config, config.task, table(), valid=table(11, prefix="vv").take(range(10))))
    assert result.metrics["macro_f1"] == 1.0
    assert result.metrics["macro_f1_without_face"] == 1.0
    assert result.metrics["macro_f1_without_voice"] == 1.0


def test_every_clip_keeps_a_modality_that_it_has_and_the_chance_is_the_one_asked_for() -> None:
    present = torch.ones(4000, 3, dtype=torch.bool)
    present[:1000, 0] = False
    kept = drop_modalities(present, 0.5, generator=torch.Generator().manual_seed(0))
    assert bool(kept.any(1).all())
    assert not bool(kept[:1000, 0].any())
    # of three, each is kept by chance 1/2, or is the one that stays when all three would go: 1/2 + 1/8 * 1/3
    assert kept[1000:].float().mean().item() == pytest.approx(0.5 + 1 / 24, abs=0.02)
    assert torch.equal(drop_modalities(present, 0.0, generator=torch.Generator()), present)


def test_the_other_scheme_takes_one_modality_and_never_the_last() -> None:
    present = torch.ones(4000, 3, dtype=torch.bool)
    present[:1000, 1:] = False
    kept = drop_modalities(present, 0.75, scheme="one", generator=torch.Generator().manual_seed(0))
    assert torch.equal(kept[:1000], present[:1000])
    assert set(kept[1000:].sum(1).tolist()) == {2, 3}
    assert (kept[1000:].sum(1) == 2).float().mean().item() == pytest.approx(0.75, abs=0.03)
    assert kept[1000:].float().mean(0).tolist() == pytest.approx([0.75] * 3, abs=0.03)


def test_the_same_batch_comes_again_for_the_same_seed_and_epoch_and_weights_scale_the_loss() -> None:
    config = override(load_recipe("fusion"), ["batch_size=8", "task.consistency=0"])
    weights = [1.0] * 10 + [0.0] * 10
    task = FusionTask(config, config.task, table(), weights=weights)
    first, again = task.batches(epoch=0, seed=3), task.batches(epoch=0, seed=3)
    assert len(first) == 3
    assert torch.equal(first[2].present, list(again)[2].present)
    assert not torch.equal(first[0].targets, task.batches(epoch=1, seed=3)[0].targets)
    model = task.build_model().eval()
    batch = next(each for each in first if 0 < each.weights.sum() < len(each.weights))
    loss, _ = task.loss(model, batch)
    counted = batch.weights > 0
    features = {name: rows[counted] for name, rows in batch.features.items()}
    answers = (model(features, present[counted]) for present in (batch.whole, batch.present))
    both = [torch.nn.functional.cross_entropy(logits, batch.targets[counted]).item() for logits in answers]
    assert loss.item() == pytest.approx(sum(both) / 2, abs=1e-5)


def losses(*overrides: str) -> tuple[float, torch.Tensor]:
    """The loss of one batch, and how far apart its whole answers and those of what was left are."""
    config = override(load_recipe("fusion"), ["batch_size=20", *overrides])
    task = FusionTask(config, config.task, table())
    torch.manual_seed(0)
    model, batch = task.build_model().eval(), task.batches(epoch=0, seed=1)[0]
    apart = disagreement(model(batch.features, batch.whole), model(batch.features, batch.present))
    return task.loss(model, batch)[0].item(), apart.detach()


def test_the_answer_of_what_is_left_and_the_whole_one_are_drawn_together() -> None:
    plain, apart = losses("task.consistency=0")
    drawn, _ = losses("task.consistency=0.5")
    assert 0.0 < (apart == 0).float().mean().item() < 1.0  # clips that lost nothing add nothing
    assert drawn - plain == pytest.approx(0.5 * apart.mean().item(), abs=1e-5)
    undropped, apart = losses("task.consistency=0.5", "task.modality_dropout=0")
    assert apart.abs().max().item() == 0.0
    assert undropped == losses("task.consistency=0", "task.modality_dropout=0")[0]


def test_neither_of_two_answers_is_taught_by_its_own_gradient() -> None:
    first, second = (torch.randn(4, 3, generator=torch.Generator().manual_seed(n)).requires_grad_() for n in (0, 1))
    disagreement(first, second).sum().backward()
    # the gradient of KL(teacher || student) by the student's logits is student - teacher
    torch.testing.assert_close(first.grad, first.softmax(1).detach() - second.softmax(1).detach())
    torch.testing.assert_close(second.grad, second.softmax(1).detach() - first.softmax(1).detach())


def test_what_it_cannot_learn_from_is_told() -> None:
    config = load_recipe("fusion")
    with pytest.raises(InputError, match=r"task\.table=FILE"):
        config.task.build(config)
    with pytest.raises(InputError, match="modality_dropout is 1"):
        FusionOptions(modality_dropout=1.0)
    with pytest.raises(InputError, match="consistency is -1"):
        FusionOptions(consistency=-1.0)
    with pytest.raises(DatasetError, match="no labelled clip"):
        FusionTask(config, config.task, table().with_labels([None] * 20))
    with pytest.raises(DatasetError, match="'sad'; allowed: happy"):
        FusionTask(config, FusionOptions(labels=("happy",)), table())
    with pytest.raises(DatasetError, match="without any modality"):
        FusionTask(config, config.task, table().without("face"))

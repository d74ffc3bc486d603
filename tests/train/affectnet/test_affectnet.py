"""AffectNet's two stages on miniatures of both releases: losses by hand, what is held back, what a stage changes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file
from typer.testing import CliRunner

from emollama.datasets.record import Record
from emollama.encoders.face import FaceEncoder, FaceModel, preprocess
from emollama.encoders.face_models import FACE_MODELS, FaceModelConfig
from emollama.encoders.onnx_face import load_face
from emollama.errors import CheckpointError, DatasetError, InputError
from emollama.labels import AFFECTNET_8, HSEMOTION_8
from train.abaw.losses import class_weights
from train.affectnet.losses import affect_loss, concordance, face_loss, smoothed_loss
from train.affectnet.options import AffectNetOptions
from train.affectnet.pictures import Decoder, Faces
from train.cli import app
from train.config import override
from train.face_start import find_start, load_start
from train.recipes import load_recipe

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # timm's own imports


def write_affectnet(root: Path, *, per_class: int = 3, contempt: bool = True) -> Path:
    """The release of 2021: a picture of one colour for each class; one picture has no valence."""
    generator = np.random.default_rng(0)
    for split, count in (("train", per_class), ("val", 2)):
        images, annotations = (root / f"{split}_set" / name for name in ("images", "annotations"))
        images.mkdir(parents=True)
        annotations.mkdir()
        for number in range(8 * count):
            code = number % 8
            if code == 7 and not contempt:
                continue
            picture = generator.integers(0, 60, (40, 50, 3), np.uint8) + np.uint8(20 * code)
            Image.fromarray(picture).save(images / f"{number}.jpg")
            values = {"exp": str(code), "val": "-2" if number == 9 else f"{code / 8 - 0.4:.2f}", "aro": "0.3"}
            for name, value in values.items():
                np.save(annotations / f"{number}_{name}.npy", np.array(value))
    return root


def write_tables(root: Path) -> Path:
    """The release of 2017: the face is in a box of a larger picture; outside of it everything is white."""
    pictures = root / "Manually_Annotated_Images" / "1"
    pictures.mkdir(parents=True)
    rows = []
    for number in range(16):
        page = np.full((60, 80, 3), 255, np.uint8)
        page[10:50, 20:60] = 20 * (number % 8)
        Image.fromarray(page).save(pictures / f"{number}.png")
        rows.append(f"1/{number}.png,20,10,40,40,1;2,{number % 8},0.{number % 8},-0.{number % 7}")
    for name in ("training", "validation"):
        (root / f"{name}.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    return root


# ---- losses -------------------------------------------------------------------------------------------------------


def test_class_weights_are_the_published_ones():
    counts = torch.tensor([24882, 3750, 3803, 6378, 134415, 74874, 25459, 14090])  # AffectNet, in alphabetical order
    published = [5.402, 35.844, 35.345, 21.075, 1.0, 1.795, 5.280, 9.540]
    assert class_weights(counts).tolist() == pytest.approx(published, abs=1e-3)


def test_concordance_has_deviations_without_bias():
    generator = np.random.default_rng(1)
    truth, found = generator.normal(size=(5, 2)), generator.normal(size=(5, 2))
    expected = []
    for x, y in zip(truth.T, found.T, strict=True):
        r, sx, sy = np.corrcoef(x, y)[0, 1], x.std(ddof=1), y.std(ddof=1)
        expected.append(2 * r * sx * sy / (sx**2 + sy**2 + (x.mean() - y.mean()) ** 2))
    assert concordance(torch.tensor(found), torch.tensor(truth)).tolist() == pytest.approx(expected, abs=1e-9)


def test_the_loss_of_a_multi_task_model_is_weighted_entropy_and_both_concordances():
    torch.manual_seed(0)
    logits, affect, truth = torch.randn(6, 8), torch.randn(6, 2), torch.rand(6, 2)
    classes, weights = torch.tensor([0, 1, 2, 3, 4, 4]), torch.rand(8) + 0.5
    rows = torch.tensor([-logits.log_softmax(1)[i, c] * weights[c] for i, c in enumerate(classes)])
    entropy = rows.sum() / weights[classes].sum()  # torch's weighted mean
    expected = entropy + ((1 - concordance(affect, truth)) / 2).sum()
    found = face_loss(logits, affect, classes=classes, affect_truth=truth, weights=weights)
    assert float(found) == pytest.approx(float(expected), abs=1e-6)
    # rows without valence and arousal count for their expression alone
    unknown = truth.clone()
    unknown[4:] = torch.nan
    expected = entropy + ((1 - concordance(affect[:4], truth[:4])) / 2).sum()
    found = face_loss(logits, affect, classes=classes, affect_truth=unknown, weights=weights)
    assert float(found) == pytest.approx(float(expected), abs=1e-6)
    assert float(affect_loss(affect, torch.full((6, 2), torch.nan))) == 0.0


def test_without_valence_weights_multiply_every_term_of_the_smoothed_label():
    torch.manual_seed(0)
    logits, classes, weights = torch.randn(3, 4), torch.tensor([2, 0, 3]), torch.tensor([1.0, 2.0, 3.0, 4.0])
    soft = 0.9 * F.one_hot(classes, 4) + 0.1 / 4
    expected = np.mean([sum(-w * s * p for w, s, p in zip(weights, soft[i], logits.log_softmax(1)[i], strict=True))
                        for i in range(3)])  # fmt: skip
    assert float(smoothed_loss(logits, classes, weights)) == pytest.approx(float(expected), abs=1e-6)


# ---- pictures -----------------------------------------------------------------------------------------------------


def test_the_box_is_cut_out_as_it_is_and_squashed(tmp_path):
    data = write_tables(tmp_path)
    config = replace(FaceModelConfig(), size=24, colour="imagenet")
    decode = Decoder(config, workers=2)
    file = data / "Manually_Annotated_Images" / "1" / "5.png"
    inside = preprocess(np.full((1, 40, 40, 3), 100, np.uint8), config)
    assert torch.allclose(decode([Record(id="5", file=file, meta={"box": (20, 10, 40, 40)})]), inside)
    beyond = Record(id="5", file=file, meta={"box": (-5, -5, 10, 10)})  # held to the picture
    assert torch.allclose(decode([beyond]), preprocess(np.full((1, 5, 5, 3), 255, np.uint8), config), atol=1e-5)
    with pytest.raises(DatasetError, match=r"5\.png: the box \(90, 0, 4, 4\) is outside of its 80x60 pixels"):
        decode([Record(id="5", file=file, meta={"box": (90, 0, 4, 4)})])
    (tmp_path / "broken.jpg").write_bytes(b"no picture")
    with pytest.raises(DatasetError, match=r"broken\.jpg cannot be read as a picture"):
        decode([Record(id="b", file=tmp_path / "broken.jpg")])


def test_what_is_held_back_is_balanced_and_depends_on_names_and_seed_alone():
    counts = {"anger": 40, "contempt": 9, "fear": 100}
    records = [Record(id=f"{label}{n}", label=label) for label, count in counts.items() for n in range(count)]
    faces = Faces.of(records, labels=HSEMOTION_8)
    learned, held = faces.held_back(5, seed=0)
    assert torch.bincount(held.classes, minlength=8).tolist() == [4, 1, 0, 5, 0, 0, 0, 0]
    assert len(learned) + len(held) == len(records)
    assert not {r.id for r in learned.records} & {r.id for r in held.records}
    mixed = Faces.of(records[::-1], labels=HSEMOTION_8)
    assert {r.id for r in mixed.held_back(5, seed=0)[1].records} == {r.id for r in held.records}
    assert {r.id for r in mixed.held_back(5, seed=1)[1].records} != {r.id for r in held.records}
    assert len(faces.held_back(0, seed=0)[1]) == 0


# ---- the two stages -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A face recogniser: a backbone without a head that means anything."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("start") / "other.safetensors"
    FaceEncoder.build("enet_b0_8", debug=True).save(path, dtype=torch.float32)
    return path


def train(recipe: str, data: Path, folder: Path, *changes: str) -> Path:
    """Train two steps on a small network; return the export."""
    arguments = [recipe, f"task.data={data}", "task.debug=true", "task.workers=1", "batch_size=8", "max_steps=2"]
    done = CliRunner().invoke(app, [*arguments, f"run_dir={folder}", *changes])
    assert done.exit_code == 0, done.output
    assert "2 steps" in done.output
    return folder / "export"


def test_the_head_learns_first_and_then_the_whole_network(tmp_path, start):
    data = write_affectnet(tmp_path / "data")
    first = train("hsemotion_stage1", data, tmp_path / "1", f"task.start={start}")
    second = train("hsemotion_stage2", data, tmp_path / "2", f"task.start={first}")
    before = load_file(start)
    after = [load_file(folder / "enet_b0_8_va_mtl.safetensors") for folder in (first, second)]
    backbone = [name for name in before if name.startswith("backbone.")]
    assert all(torch.equal(before[name], after[0][name]) for name in backbone)  # statistics of batch norms, too
    assert not torch.equal(after[0]["backbone.conv_stem.weight"], after[1]["backbone.conv_stem.weight"])
    assert after[0]["head.weight"].shape == (10, 1280)
    # one rate's two steps apart: the second stage went on from the first one's head
    assert (after[0]["head.weight"] - after[1]["head.weight"]).abs().max() < 2.5e-4
    encoder = FaceEncoder.load(second / "enet_b0_8_va_mtl.safetensors", flip=False)
    assert encoder.config.labels == HSEMOTION_8
    report = json.loads((second / "report.json").read_text())
    assert report["pictures"] == {"learned": 16, "held": 8, "reported": 16}
    assert report["chosen_on"] == "held"
    assert {"accuracy", "accuracy_7", "valence_ccc", "valence_rmse", "arousal_mae"} <= report["reported"].keys()
    # what is told is what the exported model answers
    val = data / "val_set" / "images"
    read = [encoder.embed(np.array(Image.open(val / f"{n}.jpg"))[None]) for n in range(16)]
    right = [HSEMOTION_8[int(r.log_probabilities.argmax())] == AFFECTNET_8[n % 8] for n, r in enumerate(read)]
    assert report["reported"]["accuracy"] == pytest.approx(np.mean(right))


@pytest.mark.parametrize(
    "model",
    [
        "enet_b0_7",
        pytest.param("enet_b2_8", marks=pytest.mark.slow),
        pytest.param("mobilevit_va_mtl", marks=pytest.mark.slow),
        "mbf_va_mtl",
        pytest.param("ddamfnet_8_mtl", marks=pytest.mark.slow),
        pytest.param("ddamfn_affectnet_7", marks=pytest.mark.slow),
    ],
)
def test_every_backbone_trains_two_steps_on_the_tables_of_2017(model, tmp_path):
    changes = (f"task.model={model}", "task.start=random", "task.held_per_class=0", "batch_size=4")
    export = train("hsemotion_stage2", write_tables(tmp_path / "data"), tmp_path / "run", *changes)
    encoder = load_face(export / f"{model}.safetensors")
    assert encoder.config.labels == FACE_MODELS[model].labels
    report = json.loads((export / "report.json").read_text())
    seven = "contempt" not in FACE_MODELS[model].labels
    assert report["pictures"]["reported"] == (14 if seven else 16)
    assert report["chosen_on"] == "reported"
    assert ("accuracy_7" in report["reported"]) == (not seven)
    assert ("valence_ccc" in report["reported"]) == FACE_MODELS[model].has_affect


def test_an_accuracy_of_seven_classes_leaves_contempt_out_of_answers_and_pictures(tmp_path, start):
    data = write_affectnet(tmp_path / "data")
    changes = [f"task.data={data}", f"task.start={start}", "task.debug=true", "task.workers=1", "batch_size=8"]
    config = override(load_recipe("hsemotion_stage1"), changes)
    task = config.task.build(config)
    model = task.build_model().eval()
    truth = task.reported.classes
    logits = F.one_hot(truth, 8).float().numpy()
    logits[0], logits[1] = 0.0, 0.0
    logits[0, [1, int(truth[0])]] = 2.0, 1.0  # contempt first, the truth second
    logits[1, 2 if int(truth[1]) != 2 else 3] = 1.0
    task._read = lambda model, faces: (logits, None)
    found = task.figures(model, task.reported)
    assert found["accuracy"] == pytest.approx(14 / 16)
    assert found["accuracy_7"] == pytest.approx(13 / 14)
    assert "valence_ccc" not in found


# ---- what a run begins with ---------------------------------------------------------------------------------------


def test_a_start_that_does_not_fit_is_refused_by_name(tmp_path, start):
    model = FaceModel(FACE_MODELS["enet_b0_8_va_mtl"].at_debug_size())
    assert load_start(model, start) is False  # other outputs: its head stays where it is
    assert load_start(FaceModel(FACE_MODELS["enet_b0_8"].at_debug_size()), start) is True
    with pytest.raises(CheckpointError, match=r"does not fit backbone mobilefacenet: it lacks backbone\."):
        load_start(FaceModel(FACE_MODELS["mbf_va_mtl"]), start)
    with pytest.raises(CheckpointError, match=r"holds none of enet_b0_8_va_mtl\.safetensors, face\.safetensors"):
        find_start(tmp_path, model="enet_b0_8_va_mtl")


def test_options_out_of_range_are_told():
    config = load_recipe("hsemotion_stage1")
    with pytest.raises(InputError, match=r"task\.data is empty"):
        config.task.build(config)
    for wrong, message in (
        ({"model": "enet_b9"}, "unknown face model"),
        ({"trains": "tail"}, "trains is 'tail'; allowed: head, all"),
        ({"trains": "head", "start": "random"}, "start is 'random'"),
        ({"held_per_class": 0, "reported": ""}, "nothing chooses the epoch"),
        ({"workers": 0}, "workers 0; allowed"),
    ):
        with pytest.raises(InputError, match=message):
            replace(AffectNetOptions(), **wrong)
    assert (config.sam_rho, config.weight_decay, config.schedule, config.batch_size) == (0.05, 0.0, "constant", 48)
    stages = [load_recipe(f"hsemotion_stage{n}") for n in (1, 2)]
    assert [(c.epochs, c.learning_rate) for c in stages] == [(3, 1e-3), (6, 1e-4)]

"""Folders in Aff-Wild2's layout through all five tasks to submission files, whose rows are checked."""

from __future__ import annotations

import csv

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from emollama.abaw.answers import COMPOUND_COLUMNS, TO_ABAW
from emollama.datasets import aff_wild2, cexpr, frame_scores, vidmimic
from emollama.datasets.frame_scores import FrameScores
from emollama.encoders.face import FaceEncoder
from emollama.encoders.frame_head import FrameHead, statistics
from emollama.errors import CheckpointError, DatasetError, InputError
from emollama.labels import ABAW_8, HSEMOTION_8
from eval.cli import app
from eval.submissions.answers import submit
from eval.submissions.formats import write_clips, write_frames
from eval.submissions.frame_lists import read_clips, read_frames

FACES = {"1-30-1280x720": [2, 3, 6], "7-60_left": [1, 4], "7-60_right": [3], "dark": []}
LAST = {"1-30-1280x720": 8, "7-60_left": 5, "7-60_right": 4, "dark": 3}


def logits(*names: str, affect: tuple[float, float] = (0.0, 0.0)) -> np.ndarray:
    return np.array([*(4.0 * (name in names) for name in HSEMOTION_8), *affect], np.float32)


@pytest.fixture
def readings() -> dict[str, FrameScores]:
    rng = np.random.default_rng(3)
    return {
        video: FrameScores(
            video=video,
            frames=np.array(frames, np.int64),
            scores=rng.normal(size=(len(frames), 10)).astype(np.float32),
            embeddings=rng.normal(size=(len(frames), 6)).astype(np.float32),
        )
        for video, frames in FACES.items()
    }


@pytest.fixture
def wanted(tmp_path):
    path = tmp_path / "list.txt"
    rows = [f"{video}/{n:05d}.jpg," for video, last in LAST.items() for n in range(1, last + 1)]
    path.write_text("\n".join(["image_location,Neutral", *rows]) + "\n")
    return path


def head(task: str, *, reads: str = "embeddings", inputs: int = 6, **options) -> FrameHead:
    rng = np.random.default_rng(5)
    outputs = {"expr": 8, "va": 2, "au": 12, "emi": 6}[task]
    return FrameHead(
        task=task, reads=reads, weights=(rng.normal(size=(7, inputs)), rng.normal(size=(outputs, 7))),
        biases=(rng.normal(size=7), rng.normal(size=outputs)), **options,
    )  # fmt: skip


def rows_of(path):
    with path.open(newline="") as file:
        return list(csv.reader(file))


def test_the_orders_of_labels_are_the_published_ones() -> None:
    assert TO_ABAW == (5, 0, 2, 3, 4, 6, 7, 1)
    assert COMPOUND_COLUMNS == ((3, 7), (4, 7), (6, 7), (2, 7), (0, 7), (6, 3), (6, 0))


@pytest.mark.parametrize("task", ["expr", "va", "au", "ce"])
def test_every_listed_frame_has_a_row(task, readings, wanted, tmp_path) -> None:
    trained = head("au", thresholds=(0.5,) * 12, half_width=1) if task == "au" else None
    done = submit(tmp_path / "out.txt", task, readings, wanted, head=trained)
    header, *rows = rows_of(tmp_path / "out.txt")
    expected = {"ce": list(cexpr.HEADER[1:])} | {name: list(aff_wild2.HEADERS[name]) for name in ("expr", "va", "au")}
    assert header == ["image_location", *expected[task]]
    assert [row[0] for row in rows] == [f"{v}/{n:05d}.jpg" for v, last in LAST.items() for n in range(1, last + 1)]
    assert done.rows == len(rows) == 20
    assert done.faceless == ("dark",)
    assert {len(row) for row in rows} == {{"expr": 2, "va": 3, "au": 13, "ce": 2}[task]}
    for row in rows:
        values = [float(cell) for cell in row[1:]]
        low, high = {"expr": (0, 7), "va": (-1, 1), "au": (0, 1), "ce": (0, 6)}[task]
        assert all(low <= value <= high for value in values)
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_zero_shot_expression_and_affect_are_interpolated_over_missing_faces(wanted, tmp_path) -> None:
    path = tmp_path / "frames.txt"
    path.write_text("".join(f"a/{n:05d}.jpg\n" for n in range(1, 7)))
    scores = np.stack([logits("fear", affect=(0.0, 2.0)), logits("contempt", affect=(0.8, -0.4))])
    given = {"a": FrameScores(video="a", frames=np.array([2, 4]), scores=scores)}
    submit(tmp_path / "va.txt", "va", given, path)
    assert [row[1:] for row in rows_of(tmp_path / "va.txt")[1:]] == [
        ["0.000000", "1.000000"], ["0.000000", "1.000000"], ["0.400000", "0.300000"],
        ["0.800000", "-0.400000"], ["0.800000", "-0.400000"], ["0.800000", "-0.400000"],
    ]  # fmt: skip
    submit(tmp_path / "expr.txt", "expr", given, path)
    found = [ABAW_8[int(row[1])] for row in rows_of(tmp_path / "expr.txt")[1:]]
    assert found[:2] == ["fear"] * 2
    assert found[3:] == ["other"] * 3


def test_a_compound_is_taken_from_the_face_that_shows_it_most(tmp_path) -> None:
    path = tmp_path / "frames.txt"
    path.write_text("01/00001.jpg\n")
    faces = np.stack([logits("neutral"), logits("happiness", "surprise"), logits("neutral")])
    given = {"01": FrameScores(video="01", frames=np.array([1, 1, 1]), scores=faces)}
    submit(tmp_path / "ce.txt", "ce", given, path)
    assert rows_of(tmp_path / "ce.txt")[1] == ["01/00001.jpg", "1"]  # happily surprised
    with pytest.raises(InputError, match="several faces"):
        submit(tmp_path / "expr.txt", "expr", given, path)
    assert not (tmp_path / "expr.txt").exists()


def test_smoothing_is_the_heads_own_unless_it_is_said(readings, wanted, tmp_path) -> None:
    for name, width, told in (("own", 4, None), ("said", 0, 4), ("none", 0, None)):
        submit(tmp_path / name, "va", readings, wanted, head=head("va", half_width=width), half_width=told)
    assert (tmp_path / "own").read_bytes() == (tmp_path / "said").read_bytes()
    assert (tmp_path / "own").read_bytes() != (tmp_path / "none").read_bytes()


def test_a_sure_pretrained_model_overrules_the_head_but_not_by_contempt(tmp_path) -> None:
    path = tmp_path / "frames.txt"
    path.write_text("a/00001.jpg\na/00002.jpg\na/00003.jpg\n")
    scores = np.stack([logits("anger"), logits(), logits("contempt")])
    given = {"a": FrameScores(video="a", frames=np.arange(1, 4), scores=scores)}
    always_sad = FrameHead(
        task="expr", reads="scores", weights=(np.zeros((8, 10)),), biases=(np.eye(8)[ABAW_8.index("sadness")],)
    )
    submit(tmp_path / "out", "expr", given, path, head=always_sad, trust=0.7)
    assert [ABAW_8[int(row[1])] for row in rows_of(tmp_path / "out")[1:]] == ["anger", "sadness", "sadness"]


def test_intensities_have_a_row_a_clip(readings, tmp_path) -> None:
    path = tmp_path / "test_split.csv"
    path.write_text("Filename\n" + "".join(f"{name}\n" for name in FACES))
    trained = head("emi", inputs=24)
    submit(tmp_path / "emi.csv", "emi", readings, path, head=trained)
    header, *rows = rows_of(tmp_path / "emi.csv")
    assert header == ["Filename", *vidmimic.INTENSITIES]
    assert [row[0] for row in rows] == list(FACES)
    first = readings["7-60_left"].embeddings[:1].astype(float)  # every fifth of two frames
    stat = np.concatenate([first[0], np.zeros(6), first[0], first[0]])
    np.testing.assert_allclose(statistics(readings["7-60_left"].embeddings), stat)
    np.testing.assert_allclose([float(x) for x in rows[1][1:]], trained(stat[None])[0], atol=1e-6)
    np.testing.assert_allclose(  # nobody's face was found: the mean of the others
        [float(x) for x in rows[3][1:]], np.mean([[float(x) for x in row[1:]] for row in rows[:3]], axis=0), atol=1e-6
    )


def test_a_head_survives_its_file_and_a_damaged_one_is_refused(tmp_path) -> None:
    trained = head("au", thresholds=tuple(np.linspace(0.1, 0.9, 12).tolist()), half_width=5)
    trained.save(tmp_path / "au.safetensors")
    loaded = FrameHead.load(tmp_path / "au.safetensors")
    features = np.random.default_rng(0).normal(size=(4, 6))
    np.testing.assert_allclose(loaded(features), trained(features), atol=1e-6)
    assert (loaded.half_width, loaded.thresholds) == (5, trained.thresholds)
    (tmp_path / "au.json").write_text("{}")
    with pytest.raises(CheckpointError, match="damaged"):
        FrameHead.load(tmp_path / "au.safetensors")


def test_mer_submissions_hold_only_mers_labels(tmp_path) -> None:
    answers = {"sample_1": np.array("happy"), "sample_2": np.array("worried")}
    assert write_clips(tmp_path / "mer.csv", "mer", tuple(answers), answers) == 2
    assert (tmp_path / "mer.csv").read_text() == "name,discrete\nsample_1,happy\nsample_2,worried\n"
    with pytest.raises(InputError, match="sample_1: answer 'joy'"):
        write_clips(tmp_path / "bad.csv", "mer", ("sample_1",), {"sample_1": np.array("joy")})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mer.csv"]


def test_a_failed_write_leaves_the_older_file(tmp_path) -> None:
    path = tmp_path / "out.txt"
    path.write_text("older")
    with pytest.raises(InputError, match=r"a/00002\.jpg: answer 9"):
        write_frames(path, "expr", {"a": (1, 2)}, {"a": np.array([1, 9])})
    with pytest.raises(InputError, match="video a has 1 answers"):
        write_frames(path, "expr", {"a": (1, 2)}, {"a": np.array([1])})
    assert path.read_text() == "older"
    assert [file.name for file in tmp_path.iterdir()] == ["out.txt"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a/00001.jpg\na/00001.jpg\n", ":2: frame .* twice"),
        ("a/1.jpg\n", ":1: 'a/1.jpg'"),
        ("a/00000.jpg\n", ":1:"),
        ("a/00001.jpg\n\na/00002.jpg\n", ":2 has no name"),
        ("image_location,Neutral\n", "names no frame"),
    ],
)
def test_lists_are_read_strictly(text, message, tmp_path) -> None:
    path = tmp_path / "list.txt"
    path.write_text(text)
    with pytest.raises(DatasetError, match=message):
        read_frames(path)


def test_lists_of_clips_are_read_strictly(tmp_path) -> None:
    path = tmp_path / "list.csv"
    path.write_text("Filename\n00001\n00002\n00001\n")
    with pytest.raises(DatasetError, match=r":4: clip '00001' is there twice"):
        read_clips(path)


def test_from_crops_to_a_submission_by_the_command_line(tmp_path) -> None:
    FaceEncoder.build("nano-face", debug=True).save(tmp_path / "face.safetensors")
    rng = np.random.default_rng(1)
    for video, frames in {"a_left": [1, 3], "a_right": [2]}.items():
        (tmp_path / "cropped" / video).mkdir(parents=True)
        for number in frames:
            picture = rng.integers(0, 255, (20 + number, 24, 3), dtype=np.uint8)
            Image.fromarray(picture).save(tmp_path / "cropped" / video / f"{number:05d}.jpg")
    (tmp_path / "list.txt").write_text("a_left/00001.jpg\na_left/00002.jpg\na_right/00009.jpg\n")
    runner = CliRunner()
    crops = [str(tmp_path / name) for name in ("face.safetensors", "cropped", "scores")]
    result = runner.invoke(app, ["read-crops", *crops])
    assert result.exit_code == 0, result.output
    assert frame_scores.read(tmp_path / "scores")["a_left"].frames.tolist() == [1, 3]
    where = ["--scores", crops[2], "--list", str(tmp_path / "list.txt"), "--output", str(tmp_path / "out.txt")]
    result = runner.invoke(app, ["submit", "expr", *where])
    assert result.exit_code == 0, result.output
    assert [row[0] for row in rows_of(tmp_path / "out.txt")[1:]] == [
        "a_left/00001.jpg",
        "a_left/00002.jpg",
        "a_right/00009.jpg",
    ]
    refused = runner.invoke(app, ["submit", "au", *where])
    assert refused.exit_code == 2
    assert "au wants a trained head" in refused.output

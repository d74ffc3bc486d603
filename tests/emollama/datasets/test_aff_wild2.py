"""ABAW's annotations: frames without annotation are dropped, every other frame is kept, long videos are cut."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from emollama.datasets import aff_wild2, cexpr
from emollama.errors import DatasetError

EXPR = "EXPR_Recognition_Challenge/Validation_Set"
HEADER = "Neutral,Anger,Disgust,Fear,Happiness,Sadness,Surprise,Other"


def write(path: Path, *lines: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_rows_without_annotation_are_dropped_and_the_others_keep_their_number(tmp_path: Path) -> None:
    expr = write(tmp_path / "a.txt", HEADER, "-1", "0", "-1", "7")
    assert aff_wild2.read_annotation(expr, "expr") == {2: "neutral", 4: "other"}
    va = write(tmp_path / "b.txt", "valence,arousal", "-5,-5", "-1,1", "0.5,-5", "-5.0,0.1", "0.25,-0.125")
    assert aff_wild2.read_annotation(va, "va") == {
        2: {"valence": -1.0, "arousal": 1.0},
        5: {"valence": 0.25, "arousal": -0.125},
    }
    flags = [1, 0, 0, 1, 1, 0, 1, 0, 0, 0, 1, 0]
    rows = [",".join(map(str, flags)), ",".join(["-1"] * 12), ",".join(map(str, [-1, *flags[1:]]))]
    au = write(tmp_path / "c.txt", "AU1,AU2,AU4,AU6,AU7,AU10,AU12,AU15,AU23,AU24,AU25,AU26", *rows)
    assert aff_wild2.read_annotation(au, "au") == {1: flags}


@pytest.mark.parametrize(
    ("challenge", "lines", "said"),
    [
        ("expr", ["0", "1"], r"a\.txt:1: header '0'; expected: Neutral,Anger"),
        ("expr", [HEADER, "8"], r"a\.txt:2: '8'; allowed: 0 to 7, or -1"),
        ("expr", [HEADER, "0", "", "1"], r"a\.txt:3 is empty; expected: a row for every frame"),
        ("expr", [HEADER, "-5"], r"a\.txt:2: '-5'"),
        ("va", ["arousal,valence", "0,0"], r"header 'arousal,valence'; expected: valence,arousal"),
        ("va", ["valence,arousal", "0.5"], r"a\.txt:2: '0\.5'; expected: two numbers"),
        ("va", ["valence,arousal", "0,1.2"], r"allowed: -1 to 1, or -5"),
        ("va", ["valence,arousal", "0,nan"], r"allowed: -1 to 1, or -5"),
        ("au", [",".join(aff_wild2.ACTION_UNITS), "0,1"], r"a\.txt:2: '0,1'; expected: 12 of 0, 1 or -1"),
        ("au", [",".join(aff_wild2.ACTION_UNITS), ",".join(["2"] * 12)], r"expected: 12 of 0, 1 or -1"),
    ],
)
def test_what_is_no_annotation(tmp_path: Path, challenge: Any, lines: list[str], said: str) -> None:
    with pytest.raises(DatasetError, match=said):
        aff_wild2.read_annotation(write(tmp_path / "a.txt", *lines), challenge)


def test_a_long_video_is_cut_and_no_frame_is_lost(tmp_path: Path, media: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aff_wild2, "STRETCH_SECONDS", 1.0)
    (tmp_path / "videos").mkdir()
    media.video(tmp_path / "videos" / "v.mp4", fps=10, seconds=3.2, width=32, height=32)
    labels = [str(place % 8) for place in range(32)]
    write(tmp_path / EXPR / "v.txt", HEADER, *labels[:10], *["-1"] * 10, *labels[20:])
    stretches = list(aff_wild2.read(tmp_path, "expr"))
    # 20 to 30 would be one of its own; its two last frames join it. The second holds no annotated frame.
    assert [(s.id, len(s.frames), s.start, s.end) for s in stretches] == [
        ("v#00001", 10, 0.0, 1.0),
        ("v#00021", 12, 2.0, 3.2),
    ]
    assert stretches[0].frames[0] == "v/00001.jpg"
    assert stretches[1].frames[-1] == "v/00032.jpg"
    assert stretches[1].times == tuple((number - 21) / 10 for number in range(21, 33))
    assert stretches[1].seconds == pytest.approx(1.2)


def test_a_row_more_than_the_video_has_frames_can_still_be_answered(tmp_path: Path, media: Any) -> None:
    from emollama.media import read_clip

    (tmp_path / "batch1").mkdir()
    media.video(tmp_path / "batch1" / "v.mp4", fps=10, seconds=0.5, width=32, height=32)
    write(tmp_path / EXPR / "v.txt", HEADER, *"012345")
    (stretch,) = aff_wild2.read(tmp_path, "expr")
    assert len(stretch.frames) == 6
    assert stretch.file is not None
    assert read_clip(stretch.file, start=stretch.start, end=stretch.end).frames is not None


def test_one_of_two_people_is_read_from_the_crops(tmp_path: Path, media: Any) -> None:
    (tmp_path / "batch1").mkdir()
    media.video(tmp_path / "batch1" / "two.mp4", fps=10, seconds=0.4, width=32, height=32)
    write(tmp_path / EXPR / "two_left.txt", HEADER, "4", "4", "5")
    (stretch,) = aff_wild2.read(tmp_path, "expr")
    assert stretch.file == tmp_path / "batch1" / "two.mp4"  # no crops: the video of both has to do
    folder = tmp_path / "cropped_aligned" / "two_left"
    folder.mkdir(parents=True)
    with pytest.raises(DatasetError, match="two_left holds no picture"):
        list(aff_wild2.read(tmp_path, "expr"))
    media.image(folder / "00003.jpg")
    media.image(folder / "00009.jpg")
    (stretch,) = aff_wild2.read(tmp_path, "expr")
    assert stretch.file is None
    assert stretch.crops == {2 / 30: folder / "00003.jpg"}
    assert stretch.frames == ("two_left/00001.jpg", "two_left/00002.jpg", "two_left/00003.jpg")  # faceless ones too
    (folder / "00003.jpg").unlink()
    (stretch,) = aff_wild2.read(tmp_path, "expr")
    assert stretch.crops == {0.0: folder / "00009.jpg"}  # the nearest there is


def test_a_video_that_is_nowhere(tmp_path: Path) -> None:
    write(tmp_path / EXPR / "lost.txt", HEADER, "0")
    with pytest.raises(DatasetError, match=r"lost\.txt: neither a video called lost .*cropped_aligned/lost"):
        list(aff_wild2.read(tmp_path, "expr"))
    with pytest.raises(DatasetError, match=r"none of .*AU_Detection_Challenge.*is there"):
        list(aff_wild2.read(tmp_path, "au"))


def test_the_folder_of_earlier_editions(tmp_path: Path, media: Any) -> None:
    write(tmp_path / "5th_ABAW_Annotations" / "EXPR_Classification_Challenge" / "Validation_Set" / "v.txt", HEADER, "2")
    (tmp_path / "batch1").mkdir()
    media.video(tmp_path / "batch1" / "v.mp4", fps=10, seconds=0.2, width=32, height=32)
    assert [stretch.values for stretch in aff_wild2.read(tmp_path, "expr")] == [("disgust",)]


CE_HEADER = ",".join(cexpr.HEADER)


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ([HEADER, "01/00001.jpg,0"], r"labels\.txt:1: header"),
        ([CE_HEADER, "00001.jpg,0"], r"labels\.txt:2: '00001\.jpg'; expected: video and frame"),
        ([CE_HEADER, "01/00001.jpg,7"], r"labels\.txt:2: '7'; allowed: 0 to 6, or -1"),
        ([CE_HEADER, "01/00001.jpg,0", "01/00001.jpg,1"], r"labels\.txt:3: frame '01/00001\.jpg' is there twice"),
        ([CE_HEADER, "01/00001.jpg,-1"], "holds no labelled frame"),
    ],
)
def test_a_truth_of_compound_expressions_that_is_wrong(tmp_path: Path, lines: list[str], said: str) -> None:
    write(tmp_path / "labels.txt", *lines)
    with pytest.raises(DatasetError, match=said):
        list(cexpr.read(tmp_path))

"""DFEW's published folders, in miniature."""

from __future__ import annotations

import pytest
from openpyxl import Workbook

from emollama.errors import DatasetError
from emollama.importers import load_importer

import_dfew = load_importer("dfew")
COLUMNS = ["order", "1happy", "2sad", "3neutral", "4angry", "5surprise", "6disgust", "7fear", "annotation", "label"]


def release(folder, clip, *, votes=((1, 7, 0, 2, 0, 1, 0, 0), (2, 0, 0, 0, 3, 0, 0, 7), (3, 0, 8, 2, 0, 0, 0, 0))):
    for number in (1, 2, 3):
        clip(folder, f"Clip/original/{number}.mp4")
        clip(folder, f"Clip/clip_224x224_avi/{number:05d}.avi")
        clip(folder, f"Clip/clip_224x224/{number:05d}/1.jpg")
    for split, text in (("train", "video_name,label\n1,1\n00002,7\n"), ("test", "video_name,label\n3,2\n")):
        path = folder / "EmoLabel_DataSplit" / f"{split}(single-labeled)" / "set_1.csv"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    if votes:
        book = Workbook()
        book.active.append(COLUMNS)
        for row in votes:
            book.active.append([*row, "x", 0])
        (folder / "Annotation").mkdir(exist_ok=True)
        book.save(folder / "Annotation" / "annotation.xlsx")
    return folder


def test_a_fold_with_its_votes(tmp_path, clip, round_trip) -> None:
    samples = round_trip(tmp_path, import_dfew(release(tmp_path, clip)))
    assert [(s.id, s.clip, s.label, s.split) for s in samples] == [
        ("00001", "Clip/original/1.mp4", "happy", "train"),
        ("00002", "Clip/original/2.mp4", "fear", "train"),
        ("00003", "Clip/original/3.mp4", "sad", "test"),
    ]
    assert samples[0].distribution == {"happy": 0.7, "neutral": 0.2, "surprise": 0.1}
    assert samples[1].top_label == "fear"


def test_cropped_clips_and_no_votes(tmp_path, clip, round_trip) -> None:
    folder = release(tmp_path, clip, votes=())
    samples = round_trip(
        folder / "Clip" / "clip_224x224_avi", import_dfew(folder, media=folder / "Clip/clip_224x224_avi")
    )
    assert [(s.clip, s.distribution) for s in samples] == [
        ("00001.avi", None), ("00002.avi", None), ("00003.avi", None),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("video_name,label\n1,8\n", r"set_1\.csv:2: label: '8'; allowed: 1 happy, .*7 fear"),
        ("video_name,label\none,1\n", r"set_1\.csv:2: video_name: 'one' is not a number"),
        ("video_name,label\n9,1\n", r"set_1\.csv:2: video_name: no clip 00009 below"),
        ("video_name,label\n1,1\n3,2\n", r"test\(single-labeled\).set_1\.csv:2: video_name: '3' stands already at"),
        ("video_name,label\n1,2\n", r"set_1\.csv:2: label: 'sad', but most votes of clip 1 .*'happy'"),
        ("name,label\n1,2\n", r"set_1\.csv:1: no column video_name"),
    ],
)
def test_what_is_wrong_is_said_with_file_and_line(tmp_path, clip, text, wanted) -> None:
    folder = release(tmp_path, clip)
    (folder / "EmoLabel_DataSplit" / "train(single-labeled)" / "set_1.csv").write_text(text)
    with pytest.raises(DatasetError, match=wanted):
        list(import_dfew(folder))


def test_wrong_votes_folds_and_folders(tmp_path, clip) -> None:
    folder = release(tmp_path, clip, votes=((1, 7, 0, 2, 0, 1, "many", 0),))
    with pytest.raises(DatasetError, match=r"annotation\.xlsx:2: .*'many'.*a number of votes in each column"):
        list(import_dfew(folder))
    (folder / "Annotation" / "annotation.xlsx").write_bytes(b"not a sheet")
    with pytest.raises(DatasetError, match="is not an Excel sheet"):
        list(import_dfew(folder))
    with pytest.raises(DatasetError, match="fold is 6; allowed: 1 to 5"):
        list(import_dfew(folder, fold=6))
    with pytest.raises(DatasetError, match="holds none of Clip/original"):
        list(import_dfew(tmp_path / "Annotation"))
    with pytest.raises(DatasetError, match=r"set_2\.csv does not exist"):
        list(import_dfew(release(tmp_path, clip), fold=2))

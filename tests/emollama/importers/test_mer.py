"""The layouts of MER2023, 2024 and 2025, in miniature."""

from __future__ import annotations

import pytest

from emollama.errors import DatasetError
from emollama.importers import load_importer

import_mer = load_importer("mer")


def test_2023(tmp_path, clip, round_trip) -> None:
    for name in ("sample_00000001", "sample_00000007"):
        clip(tmp_path, f"train/{name}.avi")
    (tmp_path / "train-label.csv").write_text(
        "name,discrete,valence\nsample_00000001,worried,-2.5\nsample_00000007,happy,-10\n"
    )
    samples = round_trip(tmp_path, import_mer(tmp_path))
    assert [s.to_json_dict() for s in samples] == [
        {"id": "sample_00000001", "clip": "train/sample_00000001.avi", "label": "worried", "valence": -0.5},
        {"id": "sample_00000007", "clip": "train/sample_00000007.avi", "label": "happy"},
    ]


def test_2024_with_its_transcription(tmp_path, clip, round_trip) -> None:
    for number in (1, 2):
        clip(tmp_path, f"video-labeled/samplenew_0000000{number}.mp4")
    (tmp_path / "label-disdim.csv").write_text(
        "name,discrete,valence\nsamplenew_00000001,angry,-4\nsamplenew_00000002,sad,\n"
    )
    (tmp_path / "label-transcription.csv").write_text(
        "name,chinese,english\nsamplenew_00000001,你来了,You came\nsamplenew_00000002,,Alone\n", encoding="utf-8-sig"
    )
    first, second = round_trip(tmp_path, import_mer(tmp_path))
    assert (first.label, first.valence, first.transcript, first.language) == ("angry", -0.8, "你来了", "zh")
    assert (second.valence, second.transcript, second.language) == (None, "Alone", "en")
    first, _ = import_mer(tmp_path, language="en")
    assert (first.transcript, first.language) == ("You came", "en")


def test_2025_tracks(tmp_path, clip, round_trip) -> None:
    for name in ("samplenew3_1", "samplenew3_2"):
        clip(tmp_path, f"video/{name}.mp4")
        clip(tmp_path, f"audio/{name}.wav")
    (tmp_path / "subtitle_chieng.csv").write_text(
        "name,chinese,english\nsamplenew3_1,走吧,Let us go\n", encoding="utf-8"
    )
    (tmp_path / "track1_train_disdim.csv").write_text("name,discrete,valence\nsamplenew3_1,neutral,0\n")
    (tmp_path / "track2_train_ovmerd.csv").write_text(
        "name,openset\nsamplenew3_1,\"['calm', 'at ease']\"\nsamplenew3_2,\"[bored,tired]\"\n"
    )
    (tmp_path / "track3_train_ovmerd.csv").write_text('name,reason\nsamplenew3_2,"He yawns, slowly."\n')
    (one,) = round_trip(tmp_path, import_mer(tmp_path / "track1_train_disdim.csv"))
    assert (one.clip, one.label, one.valence, one.transcript) == ("video/samplenew3_1.mp4", "neutral", 0.0, "走吧")
    first, second = round_trip(tmp_path, import_mer(tmp_path / "track2_train_ovmerd.csv"))
    assert (first.open_vocabulary, second.open_vocabulary) == (("calm", "at ease"), ("bored", "tired"))
    assert first.label is None
    (three,) = round_trip(tmp_path, import_mer(tmp_path / "track3_train_ovmerd.csv"))
    assert [m.content for m in three.messages or ()][-1] == "He yawns, slowly."
    with pytest.raises(DatasetError, match=r"holds track1_train_disdim\.csv, .*give the path of one"):
        list(import_mer(tmp_path))


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("name,discrete,valence\ns1,happy,much\n", r"train-label\.csv:2: valence: 'much' is not a finite number"),
        ("name,discrete,valence\ns1,happy,6\n", r"train-label\.csv:2: valence: 6 is outside -5 to 5 .*valence_limit"),
        ("name,discrete\ns1,happy\n,sad\n", r"train-label\.csv:3: name: empty"),
        ("name,discrete\ns1,happy\ns9,sad\n", r"train-label\.csv:3: name: no clip called 's9'"),
        ("name,discrete\ns1,happy\ns1,sad\n", r"train-label\.csv:3: id: 's1' stands already in line 2"),
        ("discrete\nhappy\n", r"train-label\.csv:1: no column name or names; found: discrete"),
        ("name,mood\ns1,happy\n", r"train-label\.csv:1: no column discrete, valence, openset or reason"),
    ],
)
def test_what_is_wrong_is_said_with_file_and_line(tmp_path, clip, text, wanted) -> None:
    clip(tmp_path, "train/s1.mp4")
    (tmp_path / "train-label.csv").write_text(text)
    with pytest.raises(DatasetError, match=wanted):
        list(import_mer(tmp_path))


def test_wrong_subtitles(tmp_path, clip) -> None:
    clip(tmp_path, "train/s1.mp4")
    (tmp_path / "train-label.csv").write_text("name,discrete\ns1,happy\n")
    (tmp_path / "subtitle_chieng.csv").write_text("name,chinese\ns1,a\ns1,b\n")
    with pytest.raises(DatasetError, match=r"subtitle_chieng\.csv:3: name: 's1' stands on an earlier line"):
        list(import_mer(tmp_path))
    (tmp_path / "subtitle_chieng.csv").write_text("name,klingon\ns1,a\n")
    with pytest.raises(DatasetError, match="no column of words; allowed: chinese, english"):
        list(import_mer(tmp_path))

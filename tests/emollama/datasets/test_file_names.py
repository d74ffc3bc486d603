"""File names that carry the labels: what is right is read, what is wrong is named by its position."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from emollama.datasets import cremad, emodb, iemocap, ravdess
from emollama.errors import DatasetError


def test_the_numbers_of_ravdess() -> None:
    assert ravdess.parse_name("03-01-06-01-02-01-12") == (3, 1, 6, 1, 2, 1, 12)
    assert ravdess.LABELS[6 - 1] == "fearful"
    assert (ravdess.LABELS[0], ravdess.LABELS[7]) == ("neutral", "surprised")


@pytest.mark.parametrize(
    ("stem", "said"),
    [
        ("03-01-06-01-02-01", "6 numbers between dashes; expected: 7"),
        ("04-01-06-01-02-01-12", r"position 1 \(modality\) is '04'; allowed: 01 to 03"),
        ("03-03-06-01-02-01-12", r"position 2 \(vocal channel\) is '03'"),
        ("03-01-09-01-02-01-12", r"position 3 \(emotion\) is '09'; allowed: 01 to 08"),
        ("03-01-06-00-02-01-12", r"position 4 \(intensity\) is '00'"),
        ("03-01-01-02-02-01-12", "neutral has no strong intensity"),
        ("03-01-06-01-xx-01-12", r"position 5 \(statement\) is 'xx'"),
        ("03-01-06-01-02-3-12", r"position 6 \(repetition\) is '3'"),
        ("03-01-06-01-02-01-25", r"position 7 \(actor\) is '25'; allowed: 01 to 24"),
        ("03-01-06-01-02-01-١٢", r"position 7 \(actor\)"),
    ],
)
def test_a_wrong_name_in_ravdess(stem: str, said: str) -> None:
    with pytest.raises(DatasetError, match=said):
        ravdess.parse_name(stem)


def test_a_recording_in_another_actors_folder(tmp_path: Path, media: Any) -> None:
    (tmp_path / "Actor_02").mkdir()
    media.wav(tmp_path / "Actor_02" / "03-01-06-01-02-01-12.wav", seconds=0.1)
    with pytest.raises(DatasetError, match=r"position 7 \(actor\) does not agree with the folder Actor_02"):
        ravdess.read(tmp_path)


def test_the_fullest_file_of_a_performance_is_taken(tmp_path: Path, media: Any) -> None:
    folder = tmp_path / "Actor_12"
    folder.mkdir()
    media.video(folder / "02-01-06-01-02-01-12.mp4", seconds=0.2)
    assert ravdess.read(tmp_path)[0].file == folder / "02-01-06-01-02-01-12.mp4"  # picture alone is better than nothing
    media.wav(folder / "03-01-06-01-02-01-12.wav", seconds=0.1)
    (found,) = ravdess.read(tmp_path)
    assert found.file == folder / "03-01-06-01-02-01-12.wav"
    assert found.id == "01-06-01-02-01-12"
    media.video(folder / "01-01-06-01-02-01-12.mp4", seconds=0.2, audio=0.2)
    assert ravdess.read(tmp_path)[0].file == folder / "01-01-06-01-02-01-12.mp4"
    with pytest.raises(DatasetError, match=r"holds nothing to judge; expected: .*vocal channel 02 \(song\)"):
        ravdess.read(tmp_path, split="song")
    with pytest.raises(DatasetError, match="there is no split 'test'; allowed: speech, song"):
        ravdess.read(tmp_path, split="test")


def test_the_fields_of_cremad() -> None:
    assert cremad.parse_name("1001_DFA_ANG_XX") == ("1001", "DFA", "ANG", "XX")
    assert cremad.parse_name("1040_ITH_SAD_X")[3] == "X"  # as one file is published


@pytest.mark.parametrize(
    ("stem", "said"),
    [
        ("1001_DFA_ANG", "has 3 fields between underscores; expected: 4"),
        ("1092_DFA_ANG_XX", r"position 1 \(actor\) is '1092'; allowed: 1001 to 1091"),
        ("1001_ABC_ANG_XX", r"position 2 \(sentence\) is 'ABC'"),
        ("1001_DFA_SUR_XX", r"position 3 \(emotion\) is 'SUR'; allowed: ANG, DIS, FEA, HAP, NEU, SAD"),
        ("1001_DFA_ANG_99", r"position 4 \(level\) is '99'"),
        ("1001_DFA_ang_XX", r"position 3 \(emotion\) is 'ang'"),
    ],
)
def test_a_wrong_name_in_cremad(stem: str, said: str) -> None:
    with pytest.raises(DatasetError, match=said):
        cremad.parse_name(stem)


@pytest.mark.parametrize(
    ("name", "speaker"),
    [
        ("Ses01F_impro01_F000", "Ses01_F"),
        ("Ses05F_impro01_M003", "Ses05_M"),  # the marked actor is F, the one who speaks M
        ("Ses03M_impro05a_M014", "Ses03_M"),
        ("Ses05M_script01_1b_F012", "Ses05_F"),
        ("Ses02M_script03_2_FXX0", "Ses02_F"),
    ],
)
def test_the_turns_of_iemocap(name: str, speaker: str) -> None:
    assert iemocap.parse_turn(name, where="x.txt:1") == (speaker[3:5], speaker)


@pytest.mark.parametrize("name", ["Ses06F_impro01_F000", "Ses01X_impro01_F000", "Ses01F_impro01_000", "Ses01F_F000"])
def test_a_wrong_turn_in_iemocap(name: str) -> None:
    with pytest.raises(DatasetError, match=rf"x\.txt:3: turn '{name}'; expected: .*Ses05F_impro01_M003"):
        iemocap.parse_turn(name, where="x.txt:3")


@pytest.mark.parametrize(
    ("stem", "said"),
    [
        ("03a01W", "has 6 characters; expected: 7"),
        ("04a01Wa", r"position 1 to 2 \(speaker\) is '04'; allowed: 03, 08"),
        ("03a03Wa", r"position 3 to 5 \(sentence\) is 'a03'"),
        ("03a01Xa", r"position 6 \(emotion\) is 'X'; allowed: W, L, E, A, F, T, N"),
        ("03a01W1", r"position 7 \(version\) is '1'"),
    ],
)
def test_a_wrong_name_in_emodb(stem: str, said: str) -> None:
    with pytest.raises(DatasetError, match=said):
        emodb.parse_name(stem)


def test_the_release_of_emodb_is_read_from_its_files(tmp_path: Path, media: Any) -> None:
    folder = tmp_path / "wav"
    folder.mkdir()
    with pytest.raises(DatasetError, match=r"holds no recording; expected: files such as 03a01Wa\.wav"):
        emodb.read(tmp_path)
    for stem in ("16b10Tb", "03a01Wa", "12a05Ld"):
        media.wav(folder / f"{stem}.wav", seconds=0.2)
    found = emodb.read(tmp_path)
    assert [(one.name, one.speaker, one.sentence, one.emotion) for one in found] == [
        ("03a01Wa", "03", "a01", "anger"),
        ("16b10Tb", "16", "b10", "sadness"),
    ]
    assert found[0].audio.seconds == pytest.approx(0.2, abs=0.02)
    assert len(emodb.read(tmp_path, with_boredom=True)) == 3


@pytest.mark.parametrize("read", [ravdess.read, cremad.read, iemocap.read])
def test_what_is_missing_is_said_with_where_it_is_had(read: Callable[[Path], Any], tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"expected: .*the set is to be had at https?://"):
        read(tmp_path / "absent")

"""Readers of published layouts, where they go wrong: missing clips, folds, pools beyond the labels, empty words."""

from __future__ import annotations

import importlib
import io
import json
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from emollama.datasets import DATASETS, affectnet, iemocap, mafw, meld, mer, multiple_choice, vidmimic
from emollama.errors import DatasetError


def write(path: Path, *lines: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")


@pytest.mark.parametrize("name", DATASETS)
def test_every_registered_reader_is_there(name: str) -> None:
    module = importlib.import_module(DATASETS[name])
    assert module.__doc__
    assert any(hasattr(module, reader) for reader in ("read", "load", "read_closed"))


# ---- MELD ---------------------------------------------------------------------------------------------------------

MELD_HEADER = "Sr No.,Utterance,Speaker,Emotion,Sentiment,Dialogue_ID,Utterance_ID"


def test_melds_missing_clips(tmp_path: Path) -> None:
    # The copy with a folder of its own for each split.
    rows = [f"{number},Hi,Ross,joy,positive,{dialogue},7" for number, dialogue in enumerate((109, 110, 111))]
    write(tmp_path / "dev" / "dev_sent_emo.csv", MELD_HEADER, *rows)
    clips = tmp_path / "dev" / "dev_splits_complete"
    touch(clips / "dia109_utt7.mp4", clips / "dia111_utt7.mp4")
    found = meld.read(tmp_path, split="dev")
    assert [record.file for record in found] == [clips / "dia109_utt7.mp4", None, clips / "dia111_utt7.mp4"]
    assert found[1].meta["clip"] == "missing or broken in the release"
    (clips / "dia111_utt7.mp4").unlink()
    with pytest.raises(DatasetError, match=r"lacks the clips of 1 of 3 turns: dia111_utt7; .*declare-lab/MELD"):
        meld.read(tmp_path, split="dev")


def test_melds_broken_clip_is_not_opened(tmp_path: Path) -> None:
    write(tmp_path / "train_sent_emo.csv", MELD_HEADER, "1,Hi,Ross,joy,positive,125,3")
    touch(tmp_path / "train_splits" / "dia125_utt3.mp4")
    assert [record.file for record in meld.read(tmp_path, split="train")] == [None]


def test_a_dialogue_of_one_split_is_not_that_of_another(tmp_path: Path) -> None:
    groups = []
    for split, folder in meld.CLIP_FOLDERS.items():
        write(tmp_path / f"{split}_sent_emo.csv", MELD_HEADER, "1,Hi,Ross,joy,positive,0,0")
        touch(tmp_path / folder / "dia0_utt0.mp4")
        groups += [record.group for record in meld.read(tmp_path, split=split)]
    assert len(set(groups)) == 3


def test_a_turn_with_another_emotion(tmp_path: Path) -> None:
    write(tmp_path / "test_sent_emo.csv", MELD_HEADER, "1,Hi,Ross,love,positive,0,0")
    touch(tmp_path / "output_repeated_splits_test" / "dia0_utt0.mp4")
    with pytest.raises(DatasetError, match=r"test_sent_emo\.csv:2: Emotion 'love'; allowed: anger, joy"):
        meld.read(tmp_path)


# ---- IEMOCAP ------------------------------------------------------------------------------------------------------


def session(root: Path, number: int, *codes: str, words: bool = True) -> None:
    dialogue = f"Ses0{number}M_script01_1"
    folder = root / f"Session{number}"
    lines = [
        f"[{place}.1000 - {place}.9000]\t{dialogue}_F{place:03d}\t{code}\t[2.5000, 3.5000, 2.0000]"
        for place, code in enumerate(codes)
    ]
    write(folder / "dialog" / "EmoEvaluation" / f"{dialogue}.txt", "% header", *lines)
    if words:
        write(folder / "dialog" / "transcriptions" / f"{dialogue}.txt", f"{dialogue}_F000 [000.1-000.9]: Oh?")
    touch(*(folder / "sentences" / "wav" / dialogue / f"{dialogue}_F{place:03d}.wav" for place in range(len(codes))))


def test_excited_is_happy_in_four_classes_and_itself_in_six(tmp_path: Path) -> None:
    for number in range(1, 6):
        session(tmp_path, number, *iemocap.CODES)
    four = iemocap.read(tmp_path, split="all")
    assert len(four) == 5 * 5
    assert [record.label for record in four[:5]] == ["neutral", "happy", "sad", "angry", "happy"]
    assert {record.group for record in four} == {f"Ses0{number}_F" for number in range(1, 6)}
    assert [record.id[:5] for record in iemocap.read(tmp_path, split="session2")] == ["Ses02"] * 5
    six = iemocap.read(tmp_path, split="session5", scheme="six")
    assert [record.label for record in six] == ["neutral", "happy", "sad", "angry", "excited", "frustrated"]
    assert (six[0].transcript, six[1].transcript) == ("Oh?", None)
    assert (six[0].valence, six[0].arousal) == (2.5, 3.5)


def test_a_line_of_iemocap_that_is_wrong(tmp_path: Path) -> None:
    session(tmp_path, 5, "neu", "joy")
    with pytest.raises(DatasetError, match=r"Ses05M_script01_1\.txt:3: .*the label one of neu, hap"):
        iemocap.read(tmp_path)


def test_files_of_iemocap_that_are_missing(tmp_path: Path) -> None:
    session(tmp_path, 5, "neu", words=False)
    with pytest.raises(DatasetError, match=r"transcriptions/Ses05M_script01_1\.txt is not there"):
        iemocap.read(tmp_path)
    session(tmp_path, 5, "neu")
    wav = next(tmp_path.rglob("*.wav"))
    wav.unlink()
    with pytest.raises(DatasetError, match=rf"{wav.name} is not there; expected: the sound of each turn"):
        iemocap.read(tmp_path)


# ---- folds --------------------------------------------------------------------------------------------------------


def test_the_folds_of_mafw(tmp_path: Path) -> None:
    for fold in range(1, 6):
        write(tmp_path / mafw.LISTS / f"set_{fold}" / "test.txt", f"0000{fold}.mp4 sadness")
        touch(tmp_path / "clips" / f"0000{fold}.mp4")
    assert [record.id for record in mafw.read(tmp_path, split="fold3")] == ["00003"]
    assert len(mafw.read(tmp_path)) == 5
    write(tmp_path / mafw.LISTS / "set_5" / "test.txt", "00001.mp4 sadness")
    with pytest.raises(DatasetError, match="'00001' is there twice"):
        mafw.read(tmp_path)
    write(tmp_path / mafw.LISTS / "set_5" / "test.txt", "00005.mp4 joy")
    with pytest.raises(DatasetError, match=r"set_5/test\.txt:1: label 'joy'; allowed: anger"):
        mafw.read(tmp_path)


# ---- MER ----------------------------------------------------------------------------------------------------------


def read_semi(root: Path) -> tuple[Any, ...]:
    return mer.read_closed(root, mer.MER2024, part="test1", folders=("video-unlabeled", "video"))


def test_only_labelled_clips_of_the_pool_are_judged(tmp_path: Path) -> None:
    touch(*(tmp_path / "video-unlabeled" / f"s_{number}.mp4" for number in range(4)))
    write(tmp_path / "test1-label.csv", "name,discrete", "s_2,happy", "s_0,worried")
    write(tmp_path / "subtitle_chieng.csv", "name,chinese,english", "s_2,,Well", "s_0,,", "s_3,好,Good")
    found = read_semi(tmp_path)
    assert [(record.id, record.label) for record in found] == [("s_2", "happy"), ("s_0", "worried")]
    # The Chinese cell is empty: the translation is taken, and said to be English. Both empty: no words at all.
    assert [(record.transcript, record.language) for record in found] == [("Well", "en"), (None, None)]


def test_labels_of_mer_that_are_wrong(tmp_path: Path) -> None:
    touch(tmp_path / "video" / "s.mp4")
    write(tmp_path / "test1-label.csv", "name,discrete", "s,happiness")
    with pytest.raises(DatasetError, match=r"test1-label\.csv:2: 's' is labelled 'happiness'; allowed: neutral, angry"):
        read_semi(tmp_path)
    write(tmp_path / "test1-label.csv", "name,discrete", "t,happy")
    with pytest.raises(DatasetError, match=r"no clip called 't' below .*video; the set is to be had at"):
        read_semi(tmp_path)
    write(tmp_path / "test1-label.csv", "name,discrete,valence", "s,happy,-10")
    assert read_semi(tmp_path)[0].valence is None
    with pytest.raises(DatasetError, match="'s' has no valence; this track scores it"):
        mer.read_closed(tmp_path, mer.MER2024, part="test1", folders=("video",), with_valence=True)
    write(tmp_path / "test1-label.csv", "name,discrete,valence", "s,happy,7")
    with pytest.raises(DatasetError, match=r"test1-label\.csv:2: valence 7; allowed: -5 to 5"):
        read_semi(tmp_path)


def test_the_processed_form_of_merbench(tmp_path: Path) -> None:
    touch(tmp_path / "video" / "a.mp4", tmp_path / "video" / "b.avi")
    corpus = {"a": {"emo": "happy", "val": 2.5}, "b": {"emo": np.int64(4), "val": np.float64(-10.0)}}
    np.savez_compressed(tmp_path / "label-6way.npz", test1_corpus=np.array(corpus, dtype=object))
    found = read_semi(tmp_path)
    assert [(record.id, record.label, record.valence) for record in found] == [
        ("a", "happy", 2.5),
        ("b", "worried", None),
    ]
    assert found[1].file == tmp_path / "video" / "b.avi"
    with pytest.raises(DatasetError, match=r"there is no test2_corpus; it holds test1_corpus\.npy"):
        mer.read_closed(tmp_path, mer.MER2024, part="test2", folders=("video",))


class Evil:
    """Would make a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def test_a_label_file_that_would_run_code_runs_none(tmp_path: Path) -> None:
    touch(tmp_path / "video" / "a.mp4")
    victim = tmp_path / "ran"
    content = io.BytesIO()
    np.lib.format.write_array_header_1_0(content, {"descr": "|O", "fortran_order": False, "shape": ()})
    pickle.dump({"a": Evil(victim)}, content)
    with zipfile.ZipFile(tmp_path / "label-6way.npz", "w") as archive:
        archive.writestr("test1_corpus.npy", content.getvalue())
    with pytest.raises(DatasetError, match="cannot be read as a label file: it asks for "):
        read_semi(tmp_path)
    assert not victim.exists()


def test_open_words_must_be_there(tmp_path: Path) -> None:
    touch(tmp_path / "video" / "a.mp4")
    write(tmp_path / "check-openset.csv", "name,openset", "a,[]")
    with pytest.raises(DatasetError, match=r"check-openset\.csv:2: openset is '\[\]'; expected: a list such as"):
        mer.read_open(tmp_path, mer.MER2024, table="check-openset.csv", folders=("video",))


# ---- faces and mimics ---------------------------------------------------------------------------------------------


def picture(root: Path, number: int, code: str, *, valence: str = "0.5") -> None:
    touch(root / "val_set" / "images" / f"{number}.jpg")
    folder = root / "val_set" / "annotations"
    folder.mkdir(parents=True, exist_ok=True)
    for name, value in (("exp", code), ("val", valence), ("aro", "0.1")):
        np.save(folder / f"{number}_{name}.npy", np.array(value))


def test_pictures_of_affectnet(tmp_path: Path) -> None:
    picture(tmp_path, 10, "6")
    picture(tmp_path, 9, "0", valence="-2")
    assert [(r.id, r.label, r.valence) for r in affectnet.read(tmp_path)] == [
        ("9", "neutral", None),
        ("10", "anger", 0.5),
    ]
    picture(tmp_path, 11, "8")  # none of the eight, in the older release's numbering
    with pytest.raises(DatasetError, match=r"11_exp\.npy: 8; allowed: 0 neutral, 1 happiness"):
        affectnet.read(tmp_path)
    picture(tmp_path, 11, "1", valence="1.5")
    with pytest.raises(DatasetError, match=r"11_val\.npy: 1\.5; allowed: -1 to 1, -2 for none"):
        affectnet.read(tmp_path)
    np.save(tmp_path / "val_set" / "annotations" / "11_val.npy", np.array({}, dtype=object), allow_pickle=True)
    with pytest.raises(DatasetError, match=r"11_val\.npy does not hold one number"):
        affectnet.read(tmp_path)


def test_tables_of_affectnet(tmp_path: Path) -> None:
    """The release of 2017: tables with boxes; the validation table comes without names of its columns."""
    lists, images = tmp_path / "Manually_Annotated_file_lists", tmp_path / "Manually_Annotated_Images"
    for name in ("a", "b", "c"):
        touch(images / "689" / f"{name}.jpg")
    rows = ("689/a.jpg,10,20,30,40,1;2,6,-0.5,0.25", "689/b.jpg,0,0,8,9,1;2,9,-2,-2", "689/c.jpg,1,2,8,9,1;2,0,-2,-2")
    write(lists / "validation.csv", *rows)
    write(lists / "training.csv", ",".join(affectnet.COLUMNS), rows[0])
    first, second = affectnet.read(tmp_path)
    assert (first.id, first.label, first.valence, first.arousal) == ("689/a.jpg", "anger", -0.5, 0.25)
    assert first.meta["box"] == (10, 20, 30, 40)
    assert (second.id, second.label, second.valence) == ("689/c.jpg", "neutral", None)  # nobody is sure of b
    assert len(affectnet.read(tmp_path, split="train")) == 1
    for bad, message in (
        ("689/a.jpg,10,20,0,40,1;2,6,0,0", r"validation\.csv:1: the box is \(10, 20, 0, 40\); allowed: a width"),
        ("689/a.jpg,10,20,30,40,1;2,11,0,0", r"validation\.csv:1: expression is 11; allowed: 0 neutral"),
        ("689/a.jpg,10,20,30,40,1;2,6,3,0", r"validation\.csv:1: valence: 3; allowed: -1 to 1"),
        ("689/a.jpg,10,20,30,40,1;2,six,0,0", r"validation\.csv:1: expression is 'six'; allowed: a number"),
        ("689/d.jpg,10,20,30,40,1;2,6,0,0", r"d\.jpg is not there; expected: the picture of .*validation\.csv:1"),
        ("689/a.jpg,6", r"validation\.csv:1 has 2 columns; expected: subDirectory_filePath, face_x"),
    ):
        write(lists / "validation.csv", bad)
        with pytest.raises(DatasetError, match=message):
            affectnet.read(tmp_path)


def test_mimics(tmp_path: Path) -> None:
    header = ",".join(("Filename", *vidmimic.INTENSITIES))
    touch(tmp_path / "raw" / "00001.mp4")
    write(tmp_path / "valid_split.csv", header, "00001,0,0.5,1,0,0,0.1")
    (record,) = vidmimic.read(tmp_path)
    assert record.meta["intensities"]["Amusement"] == 0.5
    write(tmp_path / "valid_split.csv", header, "00001,0,0.5,1,,0,0.1")
    with pytest.raises(DatasetError, match=r"valid_split\.csv:2: Empathic Pain is ''; allowed: 0 to 1"):
        vidmimic.read(tmp_path)
    write(tmp_path / "valid_split.csv", header, "00002,0,0.5,1,0,0,0.1")
    with pytest.raises(DatasetError, match="no video called '00002'"):
        vidmimic.read(tmp_path)


# ---- multiple choice ----------------------------------------------------------------------------------------------

ROW: dict[str, Any] = {"question": "How?", "choices": ["happy", "sad"], "answer": "B", "transcript": "Hm."}


def test_answers_by_letter_or_text(tmp_path: Path) -> None:
    rows = [ROW, {**ROW, "answer": "happy"}, {**ROW, "choices": ["B", "A"], "answer": "A"}, {**ROW, "answer": " a "}]
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(rows), encoding="utf-8")
    found = multiple_choice.read(path)
    assert [question.answer for question in found] == ["B", "A", "B", "A"]  # a choice's own text wins over a letter
    assert [question.id for question in found] == ["1", "2", "3", "4"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"answer": "C"}, r"questions\.jsonl:1: answer 'C'; expected: a letter A to B"),
        ({"answer": None}, "answer None"),
        ({"answer": 1}, "answer 1; expected"),
        ({"choices": ["happy"]}, "expected: 2 to 8 texts"),
        ({"choices": ["happy", "happy"]}, "none twice"),
        ({"choices": {"B": "x", "A": "y"}}, "expected: A, B and on, in order"),
        ({"question": ""}, "question is missing or empty"),
        ({"transcript": None}, "neither clip nor transcript"),
        ({"clip": "../x.mp4"}, "leads out of the folder"),
        ({"clip": "x.mp4"}, r"x\.mp4 is not there; expected: the clip of"),
        ({"asnwer": "B"}, "field 'asnwer' is not known; allowed: answer"),
        ({"question": 3}, "question is 3; expected: text"),
    ],
)
def test_questions_that_are_wrong(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    write(tmp_path / "questions.jsonl", json.dumps({**ROW, **change}))
    with pytest.raises(DatasetError, match=said):
        multiple_choice.read(tmp_path)


def test_a_question_that_is_there_twice(tmp_path: Path) -> None:
    write(tmp_path / "questions.jsonl", *[json.dumps({**ROW, "id": "q"})] * 2)
    with pytest.raises(DatasetError, match="id 'q' of row 2 is that of row 1"):
        multiple_choice.read(tmp_path)
    write(tmp_path / "questions.jsonl", "{")
    with pytest.raises(DatasetError, match=r"questions\.jsonl is not JSON in UTF-8"):
        multiple_choice.read(tmp_path)

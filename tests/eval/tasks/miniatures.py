"""Miniatures of the data sets: a few tiny files in each set's own folder layout, and what a task must find in them.

`MINIATURES` has one for every registered task. A builder writes into an empty folder; every clip it makes is another
one, so that none can be taken for another.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

Build = Callable[[Path, Any], None]


@dataclass(frozen=True, kw_only=True)
class Expected:
    """One item: ``clip`` is the file's path below the folder, None for words alone or a clip that is made."""

    id: str
    gold: Any
    clip: str | None = None
    group: str | None = None
    transcript: str | None = None


@dataclass(frozen=True, kw_only=True)
class Miniature:
    build: Build
    expected: Mapping[str, Sequence[Expected]]  # split -> items


class Studio:
    """Makes media of which no two are the same."""

    def __init__(self, root: Path, media: Any) -> None:
        self.root, self.media, self._made = root, media, 0

    def _next(self, name: str) -> tuple[Path, float]:
        self._made += 1
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path, 150.0 + 10 * self._made

    def video(self, *names: str, fps: int = 10, frames: int = 4) -> None:
        for name in names:
            path, hz = self._next(name)
            seconds = frames / fps
            self.media.video(path, fps=fps, seconds=seconds, width=32, height=32, audio=self.media.tone(seconds, hz=hz))

    def wav(self, *names: str) -> None:
        for name in names:
            path, hz = self._next(name)
            self.media.wav(path, samples=self.media.tone(0.3, hz=hz))

    def picture(self, *names: str, side: int = 32) -> None:
        for name in names:
            path, hz = self._next(name)
            self.media.image(path, image=self.media.scene(int(hz) % 30, width=side, height=side))

    def text(self, name: str, *lines: str) -> None:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")


# ---- MER ----------------------------------------------------------------------------------------------------------


def mer2023(root: Path, media: Any) -> None:
    """The release: a folder and a table for each test set; test3's folder holds a clip that has no label."""
    studio = Studio(root, media)
    studio.video("test1/sample_1.mp4", "test1/sample_2.mp4", "test2/sample_3.avi", "test2/sample_4.mp4")
    studio.video("test3/sample_5.mp4", "test3/sample_6.mp4", "test3/samplenew_7.mp4")
    studio.text("test1-label.csv", "name,discrete,valence", "sample_1,happy,2.3", "sample_2,angry,-3.7")
    studio.text("test2-label.csv", "name,discrete,valence", "sample_3,neutral,0", "sample_4,worried,-1.1")
    studio.text("test3-label.csv", "name,discrete,valence", "sample_5,sad,-10", "sample_6,surprise,-10")
    studio.text(
        "transcription-engchi-polish.csv",
        "name,chinese,english",
        "sample_1,太好了,Great",
        "sample_2,,",
        "sample_5,唉,Alas",
    )


def mer2024(root: Path, media: Any) -> None:
    """The pool holds more clips than the label files name."""
    studio = Studio(root, media)
    pool = "video-unlabeled-with-test2noise"
    studio.video(*(f"{pool}/sample_{number}.mp4" for number in range(1, 6)))
    studio.text("test1-label.csv", "name,discrete", "sample_2,happy", "sample_1,sad")
    studio.text("test2-label.csv", "name,discrete", "sample_4,neutral", "sample_5,angry")
    studio.text("label-transcription.csv", "name,chinese", "sample_1,我走了", "sample_4,")


def mer2024_ov(root: Path, media: Any) -> None:
    studio = Studio(root, media)
    studio.video("video-labeled/sample_1.mp4", "video-labeled/sample_2.mp4", "video-labeled/sample_3.mp4")
    studio.text(
        "ov_store/check-openset.csv", "name,openset", "sample_1,\"['happy', 'at ease']\"", "sample_3,\"['worried']\""
    )


def mer2025(root: Path, media: Any) -> None:
    studio = Studio(root, media)
    studio.video("video/a_1.mp4", "video/a_2.mp4", "video/a_3.mp4")
    studio.text("track2_test.csv", "name,openset", "a_1,\"['happy','low']\"", "a_2,\"['blue']\"")
    studio.text("track2_train_ovmerd.csv", "name,openset", "a_3,\"['mild']\"")
    studio.text("subtitle_chieng.csv", "name,chinese,english", "a_1,你好,Hello", "a_2,,")


def ovmerd(root: Path, media: Any) -> None:
    studio = Studio(root, media)
    studio.video("video/o_1.mp4", "video/o_2.mp4")
    studio.text("ovlabel.csv", "name,openset", "o_1,\"['happy', 'merry']\"", "o_2,\"['blue']\"")
    studio.text("subtitle_eng.csv", "name,english", "o_1,Hello", "o_2,")


def emer(root: Path, media: Any) -> None:
    studio = Studio(root, media)
    studio.video("video/sample_1.mp4", "video/sample_2.mp4")
    studio.text(
        "gt-eng.csv",
        "names,emotions,subtitles,reasons",
        "sample_1,\"['happy', 'relieved']\",At last.,The corners of the mouth rise.",
        "sample_2,\"['sad']\",,The gaze is down.",
    )


# ---- film clips ---------------------------------------------------------------------------------------------------

DFEW_TEST = {1: ((1, 1), (2, 5)), 2: ((3, 2),), 3: ((4, 3),), 4: ((5, 4),), 5: ((6, 7),)}
DFEW_LABELS = ("happy", "sad", "neutral", "angry", "surprise", "disgust", "fear")


def dfew(root: Path, media: Any) -> None:
    """Five folds: what one fold tests, the others train on."""
    studio = Studio(root, media)
    studio.video(*(f"Clip/original/{number}.mp4" for number in range(1, 7)))
    everything = [row for rows in DFEW_TEST.values() for row in rows]
    for fold, rows in DFEW_TEST.items():
        rest = [row for row in everything if row not in rows]
        for kind, chosen in (("test", rows), ("train", rest)):
            lines = [f"{number},{label}" for number, label in chosen]
            studio.text(f"EmoLabel_DataSplit/{kind}(single-labeled)/set_{fold}.csv", "video_name,label", *lines)


def _dfew_expected(*folds: int) -> list[Expected]:
    rows = [row for fold in folds for row in DFEW_TEST[fold]]
    return [
        Expected(id=f"{number:05d}", gold=DFEW_LABELS[label - 1], clip=f"Clip/original/{number}.mp4")
        for number, label in rows
    ]


def mafw(root: Path, media: Any) -> None:
    studio = Studio(root, media)
    studio.video(*(f"data/clips/{number:05d}.mp4" for number in range(1, 6)))
    for fold, label in enumerate(("anger", "helplessness", "neutral", "contempt", "anxiety"), start=1):
        folder = f"Train & Test Set/single/no_caption/set_{fold}"
        studio.text(f"{folder}/test.txt", f"{fold:05d}.mp4 {label}")
        studio.text(f"{folder}/train.txt", "00001.mp4 anger")


def meld(root: Path, media: Any) -> None:
    """The development split lacks the one clip that the release lacks."""
    studio = Studio(root, media)
    header = "Sr No.,Utterance,Speaker,Emotion,Sentiment,Dialogue_ID,Utterance_ID,Season,Episode,StartTime,EndTime"
    times = '8,21,"00:16:16,059","00:16:21,731"'
    studio.text(
        "test_sent_emo.csv", header,
        f'1,"Why do all you\'re coffee mugs have numbers, on the bottom?",Mark,surprise,positive,0,0,{times}',
        f"2,Oh. That\'s so Monica,Rachel,joy,positive,0,1,{times}",
        f"3,No!,Joey,neutral,neutral,1,0,{times}",
    )  # fmt: skip
    studio.video(*(f"output_repeated_splits_test/{name}.mp4" for name in ("dia0_utt0", "dia0_utt1", "dia1_utt0")))
    studio.video("output_repeated_splits_test/final_videos_testdia0_utt0.mp4")
    studio.text(
        "dev_sent_emo.csv", header,
        f"1,Hi,Ross,sadness,negative,110,6,{times}", f"2,Bye,Ross,anger,negative,110,7,{times}",
    )  # fmt: skip
    studio.video("dev_splits_complete/dia110_utt6.mp4")


# ---- acted speech -------------------------------------------------------------------------------------------------


def iemocap(root: Path, media: Any) -> None:
    studio = Studio(root, media)
    for session in "45":
        dialogue = f"Ses0{session}F_impro01"
        turns = ("M000", "hap"), ("F000", "exc"), ("M001", "neu"), ("F001", "fru"), ("M002", "xxx"), ("F002", "ang")
        lines, words = ["% [START_TIME - END_TIME] TURN_NAME EMOTION [V, A, D]", ""], []
        for place, (turn, code) in enumerate(turns):
            start = f"{place}.2000 - {place}.9000"
            lines += [f"[{start}]\t{dialogue}_{turn}\t{code}\t[2.5000, 3.0000, 2.5000]", "C-E2:\tNeutral;\t()", ""]
            words.append(f"{dialogue}_{turn} [00{place}.2000-00{place}.9000]: {'' if place == 2 else 'Right, ' + turn}")
        studio.text(f"Session{session}/dialog/EmoEvaluation/{dialogue}.txt", *lines)
        studio.text(f"Session{session}/dialog/transcriptions/{dialogue}.txt", *words, "M: (laughs)")
        studio.wav(*(f"Session{session}/sentences/wav/{dialogue}/{dialogue}_{turn}.wav" for turn, _ in turns))


def _turn(session: int, turn: str, gold: str, *, words: bool = True) -> Expected:
    dialogue = f"Ses0{session}F_impro01"
    return Expected(
        id=f"{dialogue}_{turn}",
        gold=gold,
        clip=f"Session{session}/sentences/wav/{dialogue}/{dialogue}_{turn}.wav",
        group=f"Ses0{session}_{turn[0]}",
        transcript=f"Right, {turn}" if words else None,
    )


def cremad(root: Path, media: Any) -> None:
    studio = Studio(root, media)
    studio.wav(*(f"AudioWAV/{name}.wav" for name in ("1001_DFA_ANG_XX", "1002_IEO_HAP_HI", "1040_ITH_SAD_X")))
    studio.video("VideoMP4/1001_DFA_ANG_XX.mp4")


def ravdess(root: Path, media: Any) -> None:
    """The first performance is there three times, the third has sound alone, the last one is sung."""
    studio = Studio(root, media)
    video, audio = "Video_Speech_Actor_01/Actor_01", "Audio_Speech_Actors_01-24"
    studio.video(f"{video}/01-01-05-02-01-01-01.mp4", f"{video}/02-01-05-02-01-01-01.mp4")
    studio.wav(f"{audio}/Actor_01/03-01-05-02-01-01-01.wav", f"{audio}/Actor_02/03-01-01-01-02-01-02.wav")
    studio.wav("Audio_Song_Actors_01-24/Actor_02/03-02-04-01-01-02-02.wav")


# ---- faces --------------------------------------------------------------------------------------------------------


def affectnet(root: Path, media: Any) -> None:
    """Values are stored as text, as the release stores them."""
    studio = Studio(root, media)
    for number, code, valence, arousal in ((0, "1", "0.75", "0.2"), (2, "7", "-2", "-2"), (10, "0", "0.0", "0.0")):
        studio.picture(f"val_set/images/{number}.jpg")
        folder = root / "val_set" / "annotations"
        folder.mkdir(exist_ok=True)
        for name, value in (("exp", code), ("val", valence), ("aro", arousal)):
            np.save(folder / f"{number}_{name}.npy", np.array(value))


ABAW = "6th_ABAW_Annotations"


def abaw(root: Path, media: Any) -> None:
    """A video with a frame that is not annotated, and one of two people, of whom frame 2 has no crop."""
    studio = Studio(root, media)
    studio.video("batch1/12-24-1920x1080.mp4", fps=10, frames=5)
    studio.video("batch2/pair.mp4", fps=10, frames=4)
    studio.picture("cropped_aligned/pair_left/00001.jpg", "cropped_aligned/pair_left/00003.jpg", side=112)
    expr = f"{ABAW}/EXPR_Recognition_Challenge/Validation_Set"
    header = "Neutral,Anger,Disgust,Fear,Happiness,Sadness,Surprise,Other"
    studio.text(f"{expr}/12-24-1920x1080.txt", header, "0", "4", "-1", "7", "4")
    studio.text(f"{expr}/pair_left.txt", header, "5", "5", "-1")
    va = f"{ABAW}/VA_Estimation_Challenge/Validation_Set"
    studio.text(f"{va}/12-24-1920x1080.txt", "valence,arousal", "0.5,0.1", "-5,-5", "-0.25,0.3", "-5.0,0.2", "0,-0.1")
    studio.text(f"{va}/pair_left.txt", "valence,arousal", "-0.5,0.4", "0.1,0.2", "-5,-5")
    au = f"{ABAW}/AU_Detection_Challenge/Validation_Set"
    units = "AU1,AU2,AU4,AU6,AU7,AU10,AU12,AU15,AU23,AU24,AU25,AU26"
    known, other, half = "0,0,0,1,1,0,1,0,0,0,1,0", "1,1,0,0,0,0,0,1,1,1,0,1", "0,0,1,1,1,-1,1,0,0,0,1,0"
    studio.text(f"{au}/12-24-1920x1080.txt", units, known, half, other, "-1," * 11 + "-1", known)
    studio.text(f"{au}/pair_left.txt", units, other, known)


def _series(name: str, rows: Sequence[tuple[int, Any]], *, fps: float, clip: str | None, first: int = 1) -> Expected:
    return Expected(
        id=f"{name}#{first:05d}",
        gold={
            "frames": [f"{name}/{number:05d}.jpg" for number, _ in rows],
            "times": [(number - first) / fps for number, _ in rows],
            "values": [value for _, value in rows],
        },
        clip=clip,
        group=name,
    )


def _abaw_expected(one: Sequence[tuple[int, Any]], two: Sequence[tuple[int, Any]]) -> dict[str, list[Expected]]:
    video = "12-24-1920x1080"
    return {
        "validation": [
            _series(video, one, fps=10.0, clip=f"batch1/{video}.mp4"),
            _series("pair_left", two, fps=30.0, clip=None),
        ]
    }


def _flags(text: str) -> list[int]:
    return [int(flag) for flag in text]


def _affect(valence: float, arousal: float) -> dict[str, float]:
    return {"valence": valence, "arousal": arousal}


def cexpr(root: Path, media: Any) -> None:
    studio = Studio(root, media)
    studio.video("videos/01.mp4", fps=10, frames=4)
    header = (
        "image_location,Fearfully_Surprised,Happily_Surprised,Sadly_Surprised,Disgustedly_Surprised,"
        "Angrily_Surprised,Sadly_Fearful,Sadly_Angry"
    )
    studio.text("labels.txt", header, "01/00001.jpg,1", "01/00002.jpg,-1", "01/00003.jpg,6")


def vidmimic(root: Path, media: Any) -> None:
    studio = Studio(root, media)
    studio.video(*(f"raw/0000{number}.mp4" for number in range(4)))
    header = "Filename,Admiration,Amusement,Determination,Empathic Pain,Excitement,Joy"
    rows = ("00001,0.333,0.0,0.5,0.25,1.0,0.2", "00002,0.1,0.4,0.2,0.0,0.3,0.7", "00003,0,1,0.9,0.6,0.1,0.5")
    studio.text("valid_split.csv", header, *rows)
    studio.text("train_split.csv", header, "00000,0,0,0,0,0,0")


_EMI = ("Admiration", "Amusement", "Determination", "Empathic Pain", "Excitement", "Joy")


def emobench_m(root: Path, media: Any) -> None:
    studio = Studio(root, media)
    studio.video("clips/a.mp4", "clips/b.mp4")
    rows = [
        {
            "id": "q1", "question": "How does he feel?", "choices": ["happy", "sad"], "answer": "sad",
            "clip": "clips/a.mp4",
        },
        {
            "id": "q2", "question": "Why does she laugh?", "choices": {"A": "a joke", "B": "fear", "C": "habit"},
            "answer": "c", "clip": "clips/b.mp4", "transcript": "Well, ha.", "language": "en", "group": "film 2",
        },
        {"id": "q3", "question": "Is it meant?", "choices": ["yes", "no"], "answer": "A", "transcript": "Sure."},
    ]  # fmt: skip
    studio.text("questions.jsonl", *(json.dumps(row) for row in rows))


# ---- the sets that come as Parquet --------------------------------------------------------------------------------


def _parquet(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist([dict(row) for row in rows]), path)


def ferplus(root: Path, media: Any) -> None:
    """The third picture has no majority, the fourth is no face."""
    from PIL import Image

    rows = []
    for index, votes in enumerate(([0, 9, 1], [7, 0, 3], [5, 5, 0], [0, 0, 0, 0, 0, 0, 0, 0, 0, 10])):
        buffer = io.BytesIO()
        Image.fromarray(np.full((48, 48), 40 * index, np.uint8)).save(buffer, "png")
        rows.append({"name": f"p{index}", "png": buffer.getvalue(), "votes": (votes + [0] * 10)[:10]})
    _parquet(root / "faces" / "ferplus-valid.parquet", rows)


def emodb(root: Path, media: Any) -> None:
    rows = []
    for name, speaker, emotion, hz in (("03a01Wa", "03", "anger", 200.0), ("08a01Na", "08", "neutral", 120.0)):
        buffer = io.BytesIO()
        media.wav(buffer, samples=media.tone(0.3, hz=hz), format="flac")
        rows.append(
            {
                "name": name, "speaker": speaker, "sex": "male", "sentence": "a01", "emotion": emotion,
                "sample_rate": 16_000, "seconds": 0.3, "flac": buffer.getvalue(),
            }
        )  # fmt: skip
    _parquet(root / "speech" / "emodb.parquet", rows)


def goemotions(root: Path, media: Any) -> None:
    rows = [
        {"id": "a", "text": "great!", "labels": ["joy"]},
        {"id": "b", "text": "go away, thanks", "labels": ["anger", "gratitude"]},
    ]
    _parquet(root / "text" / "goemotions-dev.parquet", rows)


def emobank(root: Path, media: Any) -> None:
    rows = [
        {"id": "e1", "split": "dev", "text": "I love it.", "v": 4.5, "a": 4.0, "d": 3.0},
        {"id": "e2", "split": "dev", "text": "He died.", "v": 1.0, "a": 3.0, "d": 3.0},
        {"id": "e3", "split": "train", "text": "Nine.", "v": 3.0, "a": 3.0, "d": 3.0},
    ]
    _parquet(root / "text" / "emobank.parquet", rows)


def xed(root: Path, media: Any) -> None:
    """Lines with one of the classes, with two, with one that is no class, and with none."""
    rows = [
        {"text": "Get out!", "labels": ["anger"]},
        {"text": "Oh!", "labels": ["fear", "surprise"]},
        {"text": "Soon.", "labels": ["anticipation"]},
        {"text": "At nine.", "labels": []},
        {"text": "Great, soon.", "labels": ["joy", "anticipation"]},
    ]
    _parquet(root / "text" / "xed-en.parquet", rows)


# ---- word lists ---------------------------------------------------------------------------------------------------


def wheel_lists(folder: Path) -> Path:
    """Write emotion wheels of five sectors, five times the same; every word is its own form and has one synonym."""
    import openpyxl

    def sheet(name: str, rows: Sequence[Sequence[str | None]]) -> None:
        book = openpyxl.Workbook()
        for row in rows:
            book.active.append(list(row))
        book.save(folder / name)

    for number in range(1, 6):
        rows = [("Happy", "Glad", "Merry"), (None, "Joy", "Mild"), ("Sad", "Low", "Blue"), ("Angry", "Mad", "Cross")]
        rows += [("Surprise", "Amazed", "Stunned"), ("Neutral", "Calm", "Even")]
        sheet(f"wheel{number}.xlsx", [("level1", "level2", "level3"), *rows])
    words = sorted({word.lower() for row in rows for word in row if word})
    header = [f"{kind}_run{run}" for run in range(1, 9) for kind in ("word", "synonym")]
    sheet("synonym.xlsx", [header, *([word, f"{word}ish"] * 8 for word in words)])
    (folder / "format.csv").write_text("\n".join(["name,format", *(f"{word},{word}ly" for word in words)]), "utf-8")
    return folder


# ---- what must be found -------------------------------------------------------------------------------------------


def _gold(label: str, valence: float) -> dict[str, Any]:
    return {"label": label, "valence": valence}


_CLOSED: Mapping[str, Miniature] = {
    "mer2023_multi": Miniature(
        build=mer2023,
        expected={
            "test1": (
                Expected(id="sample_1", gold=_gold("happy", 2.3), clip="test1/sample_1.mp4", transcript="太好了"),
                Expected(id="sample_2", gold=_gold("angry", -3.7), clip="test1/sample_2.mp4"),
            )
        },
    ),
    "mer2023_noise": Miniature(
        build=mer2023,
        expected={
            "test2": (
                Expected(id="sample_3", gold=_gold("neutral", 0.0), clip="test2/sample_3.avi"),
                Expected(id="sample_4", gold=_gold("worried", -1.1), clip="test2/sample_4.mp4"),
            )
        },
    ),
    "mer2023_semi": Miniature(
        build=mer2023,
        expected={
            "test3": (
                Expected(id="sample_5", gold="sad", clip="test3/sample_5.mp4", transcript="唉"),
                Expected(id="sample_6", gold="surprise", clip="test3/sample_6.mp4"),
            )
        },
    ),
    "mer2024_semi": Miniature(
        build=mer2024,
        expected={
            "test1": (
                Expected(id="sample_2", gold="happy", clip="video-unlabeled-with-test2noise/sample_2.mp4"),
                Expected(
                    id="sample_1",
                    gold="sad",
                    clip="video-unlabeled-with-test2noise/sample_1.mp4",
                    transcript="我走了",
                ),
            )
        },
    ),
    "mer2024_noise": Miniature(
        build=mer2024,
        expected={
            "test2": (
                Expected(id="sample_4", gold="neutral", clip="video-unlabeled-with-test2noise/sample_4.mp4"),
                Expected(id="sample_5", gold="angry", clip="video-unlabeled-with-test2noise/sample_5.mp4"),
            )
        },
    ),
    "mer2024_ov": Miniature(
        build=mer2024_ov,
        expected={
            "test": (
                Expected(id="sample_1", gold=["happy", "at ease"], clip="video-labeled/sample_1.mp4"),
                Expected(id="sample_3", gold=["worried"], clip="video-labeled/sample_3.mp4"),
            )
        },
    ),
    "mer2025_fg": Miniature(
        build=mer2025,
        expected={
            "test": (
                Expected(id="a_1", gold=["happy", "low"], clip="video/a_1.mp4", transcript="你好"),
                Expected(id="a_2", gold=["blue"], clip="video/a_2.mp4"),
            ),
            "ovmerd": (Expected(id="a_3", gold=["mild"], clip="video/a_3.mp4"),),
        },
    ),
    "emer": Miniature(
        build=emer,
        expected={
            "english": (
                Expected(id="sample_1", gold=["happy", "relieved"], clip="video/sample_1.mp4", transcript="At last."),
                Expected(id="sample_2", gold=["sad"], clip="video/sample_2.mp4"),
            )
        },
    ),
    "dfew": Miniature(
        build=dfew,
        expected={
            "all": _dfew_expected(1, 2, 3, 4, 5),
            **{f"fold{fold}": _dfew_expected(fold) for fold in DFEW_TEST},
        },
    ),
    "mafw": Miniature(
        build=mafw,
        expected={
            "all": [
                Expected(id=f"{fold:05d}", gold=label, clip=f"data/clips/{fold:05d}.mp4")
                for fold, label in enumerate(("anger", "helplessness", "neutral", "contempt", "anxiety"), start=1)
            ],
            "fold2": (Expected(id="00002", gold="helplessness", clip="data/clips/00002.mp4"),),
        },
    ),
    "meld": Miniature(
        build=meld,
        expected={
            "test": (
                Expected(
                    id="dia0_utt0",
                    gold="surprise",
                    clip="output_repeated_splits_test/dia0_utt0.mp4",
                    group="test/dia0",
                    transcript="Why do all you're coffee mugs have numbers, on the bottom?",
                ),
                Expected(
                    id="dia0_utt1",
                    gold="joy",
                    clip="output_repeated_splits_test/dia0_utt1.mp4",
                    group="test/dia0",
                    transcript="Oh. That's so Monica",
                ),
                Expected(
                    id="dia1_utt0",
                    gold="neutral",
                    clip="output_repeated_splits_test/dia1_utt0.mp4",
                    group="test/dia1",
                    transcript="No!",
                ),
            ),
            "dev": (
                Expected(
                    id="dia110_utt6",
                    gold="sadness",
                    clip="dev_splits_complete/dia110_utt6.mp4",
                    group="dev/dia110",
                    transcript="Hi",
                ),
                Expected(id="dia110_utt7", gold="anger", group="dev/dia110", transcript="Bye"),
            ),
        },
    ),
    "iemocap": Miniature(
        build=iemocap,
        expected={
            f"session{session}": (
                _turn(session, "M000", "happy"),
                _turn(session, "F000", "happy"),
                _turn(session, "M001", "neutral", words=False),
                _turn(session, "F002", "angry"),
            )
            for session in (4, 5)
        },
    ),
    "iemocap6": Miniature(
        build=iemocap,
        expected={
            "session5": (
                _turn(5, "M000", "happy"),
                _turn(5, "F000", "excited"),
                _turn(5, "M001", "neutral", words=False),
                _turn(5, "F001", "frustrated"),
                _turn(5, "F002", "angry"),
            )
        },
    ),
    "cremad": Miniature(
        build=cremad,
        expected={
            "all": (
                Expected(id="1001_DFA_ANG_XX", gold="anger", clip="VideoMP4/1001_DFA_ANG_XX.mp4", group="1001"),
                Expected(id="1002_IEO_HAP_HI", gold="happiness", clip="AudioWAV/1002_IEO_HAP_HI.wav", group="1002"),
                Expected(id="1040_ITH_SAD_X", gold="sadness", clip="AudioWAV/1040_ITH_SAD_X.wav", group="1040"),
            )
        },
    ),
    "ravdess": Miniature(
        build=ravdess,
        expected={
            "speech": (
                Expected(
                    id="01-05-02-01-01-01",
                    gold="angry",
                    clip="Video_Speech_Actor_01/Actor_01/01-01-05-02-01-01-01.mp4",
                    group="01",
                ),
                Expected(
                    id="01-01-01-02-01-02",
                    gold="neutral",
                    clip="Audio_Speech_Actors_01-24/Actor_02/03-01-01-01-02-01-02.wav",
                    group="02",
                ),
            ),
            "song": (
                Expected(
                    id="02-04-01-01-02-02",
                    gold="sad",
                    clip="Audio_Song_Actors_01-24/Actor_02/03-02-04-01-01-02-02.wav",
                    group="02",
                ),
            ),
        },
    ),
    "affectnet": Miniature(
        build=affectnet,
        expected={
            "val": (
                Expected(id="0", gold="happiness", clip="val_set/images/0.jpg"),
                Expected(id="2", gold="contempt", clip="val_set/images/2.jpg"),
                Expected(id="10", gold="neutral", clip="val_set/images/10.jpg"),
            )
        },
    ),
    "abaw_expr": Miniature(
        build=abaw,
        expected=_abaw_expected(
            [(1, "neutral"), (2, "happiness"), (4, "other"), (5, "happiness")], [(1, "sadness"), (2, "sadness")]
        ),
    ),
    "abaw_va": Miniature(
        build=abaw,
        expected=_abaw_expected(
            [(1, _affect(0.5, 0.1)), (3, _affect(-0.25, 0.3)), (5, _affect(0.0, -0.1))],
            [(1, _affect(-0.5, 0.4)), (2, _affect(0.1, 0.2))],
        ),
    ),
    "abaw_au": Miniature(
        build=abaw,
        expected=_abaw_expected(
            [(1, _flags("000110100010")), (3, _flags("110000011101")), (5, _flags("000110100010"))],
            [(1, _flags("110000011101")), (2, _flags("000110100010"))],
        ),
    ),
    "abaw_ce": Miniature(
        build=cexpr,
        expected={
            "test": [_series("01", [(1, "happily surprised"), (3, "sadly angry")], fps=10.0, clip="videos/01.mp4")]
        },
    ),
    "abaw_emi": Miniature(
        build=vidmimic,
        expected={
            "valid": (
                Expected(
                    id="00001",
                    gold=dict(zip(_EMI, (0.333, 0.0, 0.5, 0.25, 1.0, 0.2), strict=True)),
                    clip="raw/00001.mp4",
                ),
                Expected(
                    id="00002", gold=dict(zip(_EMI, (0.1, 0.4, 0.2, 0.0, 0.3, 0.7), strict=True)), clip="raw/00002.mp4"
                ),
                Expected(
                    id="00003", gold=dict(zip(_EMI, (0.0, 1.0, 0.9, 0.6, 0.1, 0.5), strict=True)), clip="raw/00003.mp4"
                ),
            )
        },
    ),
    "emobench_m": Miniature(
        build=emobench_m,
        expected={
            "test": (
                Expected(id="q1", gold="B", clip="clips/a.mp4", group="clips/a.mp4"),
                Expected(id="q2", gold="C", clip="clips/b.mp4", group="film 2", transcript="Well, ha."),
                Expected(id="q3", gold="A", transcript="Sure."),
            )
        },
    ),
    "ferplus": Miniature(
        build=ferplus, expected={"valid": (Expected(id="p0", gold="happiness"), Expected(id="p1", gold="neutral"))}
    ),
    "emodb": Miniature(
        build=emodb,
        expected={
            "all": (
                Expected(id="03a01Wa", gold="anger", group="03"),
                Expected(id="08a01Na", gold="neutral", group="08"),
            )
        },
    ),
    "goemotions": Miniature(
        build=goemotions,
        expected={
            "dev": (
                Expected(id="a", gold=["joy"], transcript="great!"),
                Expected(id="b", gold=["anger", "gratitude"], transcript="go away, thanks"),
            )
        },
    ),
    "emobank": Miniature(
        build=emobank,
        expected={
            "dev": (
                Expected(id="e1", gold={"valence": 0.75, "arousal": 0.5}, transcript="I love it."),
                Expected(id="e2", gold={"valence": -1.0, "arousal": 0.0}, transcript="He died."),
            )
        },
    ),
    "xed": Miniature(
        build=xed,
        expected={
            "all": (
                Expected(id="line-00000", gold="anger", transcript="Get out!"),
                Expected(id="line-00003", gold="neutral", transcript="At nine."),
            )
        },
    ),
    "ovmerd": Miniature(
        build=ovmerd,
        expected={
            "test": (
                Expected(id="o_1", gold=["happy", "merry"], clip="video/o_1.mp4", transcript="Hello"),
                Expected(id="o_2", gold=["blue"], clip="video/o_2.mp4"),
            )
        },
    ),
}


def _with_bare_labels(name: str, split: str) -> Miniature:
    """Return a miniature for the task that asks for words about the same clips."""
    bare = [
        replace(wanted, gold=wanted.gold["label"] if isinstance(wanted.gold, Mapping) else wanted.gold)
        for wanted in _CLOSED[name].expected[split]
    ]
    return Miniature(build=_CLOSED[name].build, expected={split: bare})


MINIATURES: Mapping[str, Miniature] = {
    **_CLOSED,
    "unibench_mer2023": _with_bare_labels("mer2023_multi", "test1"),
    "unibench_mer2024": _with_bare_labels("mer2024_semi", "test1"),
    "unibench_meld": _with_bare_labels("meld", "test"),
    "unibench_iemocap": _with_bare_labels("iemocap", "session5"),
}

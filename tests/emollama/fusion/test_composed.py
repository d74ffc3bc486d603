"""Composed clips: which items may meet, and that no item stands on two sides."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
from PIL import Image

from emollama.datasets.emodb import FOLDS
from emollama.errors import InputError
from emollama.fusion.composed import ComposedSets, compose, pool
from emollama.fusion.nano_vectors import NanoVectors
from emollama.fusion.utterances import Utterances
from emollama.labels import EMODB_6, FERPLUS_VOTES
from emollama.types import Box, Clip, FaceTrack, Transcript

SPEAKERS = [speaker for fold in FOLDS for speaker in fold]


def items(modality: str, side: str, count: int, *, width: int, groups: list[str] | None = None) -> Utterances:
    names = tuple(f"{modality}-{side}-{n}" for n in range(count * len(EMODB_6)))
    return Utterances(
        names=names,
        features={modality: np.arange(len(names), dtype=np.float32)[:, None].repeat(width, 1)},
        labels=tuple(label for label in EMODB_6 for _ in range(count)),
        groups=names if groups is None else tuple(groups[n % len(groups)] for n in range(len(names))),
    )


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    vectors = NanoVectors()
    for modality, side, table in (
        ("face", "train", items("face", "train", 20, width=4)),
        ("face", "valid", items("face", "valid", 5, width=4)),
        ("words", "train", items("words", "train", 30, width=3)),
        ("words", "valid", items("words", "valid", 7, width=3)),
        ("voice", "train", items("voice", "train", 16, width=2, groups=SPEAKERS)),
    ):
        table.save(tmp_path / f"{modality}-{side}-{vectors.version(modality)}.safetensors")
    return tmp_path


def items_of(clips: Utterances) -> set[str]:
    return {item for name in clips.names for item in name.partition(":")[2].split("+")}


def draw(cache: Path, **options: int) -> ComposedSets:
    return compose(Path("/nowhere"), cache, per_class=20, valid_per_class=15, **{"seed": 1, **options})


def test_no_item_stands_in_two_of_labelled_rest_and_validation(cache: Path) -> None:
    sets = draw(cache)
    assert (len(sets.labelled), len(sets.rest), len(sets.valid)) == (36, 84, 90)
    labelled, rest, valid = (items_of(part) for part in (sets.labelled, sets.rest, sets.valid))
    assert labelled.isdisjoint(rest)
    assert valid.isdisjoint(labelled | rest)
    assert sets.held_out == FOLDS[1]
    assert set(sets.valid.groups) == set(FOLDS[1])
    assert set(FOLDS[1]).isdisjoint(sets.labelled.groups + sets.rest.groups)


def test_a_clips_items_bear_its_emotion_and_their_own_vectors(cache: Path) -> None:
    sets = draw(cache)
    for clips in (sets.labelled, sets.valid):
        assert clips.modalities == ("face", "voice", "words")
        for row, name in enumerate(clips.names):
            for item in name.partition(":")[2].split("+"):
                modality, side, number = item.split("-")
                per_class = {"face": {"train": 20, "valid": 5}, "words": {"train": 30, "valid": 7}}
                count = per_class.get(modality, {"train": 16})[side]
                assert clips.labels[row] == EMODB_6[int(number) // count]
                assert clips.features[modality][row, 0] == float(number)


def test_items_are_used_evenly_and_a_seed_draws_the_same_again(cache: Path) -> None:
    sets = draw(cache)
    faces = [name.partition(":")[2].split("+")[0] for name in sets.valid.names]
    assert {faces.count(face) for face in set(faces)} == {3}  # five pictures of a class in fifteen clips
    assert draw(cache).valid.names == sets.valid.names
    assert draw(cache, seed=2).valid.names != sets.valid.names
    with pytest.raises(InputError, match="labelled_share"):
        compose(Path("/nowhere"), cache, seed=0, labelled_share=1.0)


def test_voices_are_standardised_by_their_speaker_when_that_is_asked_for(cache: Path) -> None:
    sets = compose(Path("/nowhere"), cache, seed=1, per_class=40, valid_per_class=40, by_speaker=True)
    for speaker in FOLDS[1]:
        own = {
            name.partition(":")[2].split("+")[1]: value[0]
            for name, value, group in zip(
                sets.valid.names, sets.valid.features["voice"], sets.valid.groups, strict=True
            )
            if group == speaker
        }
        assert np.mean(list(own.values())) == pytest.approx(0.0, abs=1e-5)
        assert np.std(list(own.values())) == pytest.approx(1.0, abs=1e-4)


def test_items_come_from_the_raw_sets_once_and_only_where_people_agree(tmp_path: Path) -> None:
    data = tmp_path / "data"
    (data / "faces").mkdir(parents=True)
    (data / "text").mkdir()
    votes = [[0] * len(FERPLUS_VOTES) for _ in range(3)]
    votes[0][FERPLUS_VOTES.index("anger")] = 9
    votes[1][FERPLUS_VOTES.index("contempt")] = 9
    for column in ("anger", "fear", "sadness", "neutral"):
        votes[2][FERPLUS_VOTES.index(column)] = 2
    buffer = io.BytesIO()
    Image.fromarray(np.arange(48 * 48, dtype=np.uint8).reshape(48, 48)).save(buffer, "png")
    table = {"name": ["angry", "contempt", "split"], "png": [buffer.getvalue()] * 3, "votes": votes}
    parquet.write_table(pa.table(table), data / "faces" / "ferplus-valid.parquet")
    comments = {
        "train": [("1", "Thanks a lot!", ["gratitude"])],
        "dev": [
            ("2", "thanks  a lot!", ["gratitude"]),
            ("3", "I miss her.", ["sadness"]),
            ("4", "Ugh", ["anger", "joy"]),
        ],
    }
    for split, rows in comments.items():
        columns = {name: [row[n] for row in rows] for n, name in enumerate(("id", "text", "labels"))}
        parquet.write_table(pa.table(columns), data / "text" / f"goemotions-{split}.parquet")
    vectors, cache = NanoVectors(), tmp_path / "cache"
    faces = pool(data, cache, "face", "valid", vectors=vectors)
    assert (faces.names, faces.labels) == (("angry",), ("anger",))
    words = pool(data, cache, "words", "valid", vectors=vectors)
    assert (words.names, words.labels) == (("3",), ("sadness",))  # the other one stands in the training set, too
    np.testing.assert_allclose(words.features["words"][0], vectors.words("I miss her."), atol=1e-6)
    np.testing.assert_array_equal(
        pool(tmp_path, cache, "face", "valid", vectors=vectors).features["face"], faces.features["face"]
    )


def test_a_clips_vectors_are_of_what_it_has() -> None:
    crops = np.full((3, 48, 48, 3), 90, np.uint8)
    box = Box(x=0, y=0, width=48, height=48)
    track = FaceTrack(track_id=0, times=np.arange(3.0), boxes=(box,) * 3, crops=crops, share=1.0, is_main=True)
    vectors = NanoVectors()
    clip = Clip(name="c", seconds=3.0, tracks=(track,), transcript=Transcript(text="I am so happy"))
    read = vectors.read(clip)
    assert set(read) == {"face", "words"}
    np.testing.assert_allclose(read["face"], vectors.each_face(crops[:1])[0], atol=1e-5)
    assert vectors.read(Clip(name="c", seconds=0.0)) == {}

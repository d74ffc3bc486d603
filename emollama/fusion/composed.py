"""Composed clips: a face of FER+, an utterance of EmoDB and a comment of GoEmotions that bear the same emotion.

No public set here pairs a face with a voice or with words; a composed clip joins one of each, and is no more than that.
Training clips are made of the sets' training parts, validation clips of parts that nano's encoders were not trained on
(FER+ and GoEmotions validation) and, by the seed, of two speakers who are left out of the training clips (the voice
is read by measured functionals alone: no network has heard anybody). A picture counts where at least half of its votes
agree, a comment where it has one Ekman class. The classes have the same number of clips; an item may stand in several
clips of its side, never on both. The training clips come in two sets without a common item: ``labelled``, of a share of
each class's items, and the rest, so that hiding labels hides what was labelled.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from emollama.datasets import emodb, ferplus, goemotions
from emollama.errors import InputError
from emollama.fusion.nano_vectors import MODALITIES, NanoVectors
from emollama.fusion.utterances import Utterances
from emollama.labels import EMODB_6, NANO_LABELS

Side = Literal["train", "valid"]
Random = np.random.Generator
Pools = Mapping[str, Utterances]  # modality -> its single items
ITEMS_PER_CLASS = 300  # of pictures and of comments, on the training side; more would only take longer to read
_AGREEING = 0.5


@dataclass(frozen=True, kw_only=True)
class ComposedSets:
    """``labelled`` and ``rest`` are the training clips, ``valid`` what is scored; no item stands in two of them."""

    labelled: Utterances
    rest: Utterances
    valid: Utterances
    held_out: tuple[str, ...]


def compose(
    data: Path,
    cache: Path,
    *,
    seed: int,
    per_class: int = 100,
    labelled_share: float = 0.3,
    valid_per_class: int = 100,
    by_speaker: bool = False,
    vectors: NanoVectors | None = None,
) -> ComposedSets:
    """Draw the clips of a seed; the vectors of single items are read once and kept in ``cache``.

    ``by_speaker`` standardises each voice by all recordings of its speaker, without their labels, as is customary where
    it is known who speaks; on either side alike.
    """
    if not 0.0 < labelled_share < 1.0:
        raise InputError(f"labelled_share is {labelled_share}; allowed: between 0 and 1", field="labelled_share")
    made = vectors or NanoVectors()
    held_out = emodb.FOLDS[seed % len(emodb.FOLDS)]
    random = np.random.default_rng(seed)
    pools: dict[Side, dict[str, Utterances]] = {"train": {}, "valid": {}}
    voices = pool(data, cache, "voice", "train", vectors=made)
    voices = _standardised_by_speaker(voices) if by_speaker else voices
    is_held = np.isin(voices.groups, held_out)
    pools["train"]["voice"] = voices.take(np.flatnonzero(~is_held))
    pools["valid"]["voice"] = voices.take(np.flatnonzero(is_held))
    sides: tuple[Side, ...] = ("train", "valid")
    for side in sides:
        for modality in ("face", "words"):
            pools[side][modality] = pool(data, cache, modality, side, vectors=made)
    first: dict[str, Utterances] = {}
    second: dict[str, Utterances] = {}
    for modality in MODALITIES:
        first[modality], second[modality] = _divide(pools["train"][modality], labelled_share, random)
    num_labelled = round(per_class * labelled_share)
    return ComposedSets(
        labelled=join(first, num_labelled, random, prefix="labelled"),
        rest=join(second, per_class - num_labelled, random, prefix="rest"),
        valid=join(pools["valid"], valid_per_class, random, prefix="valid"),
        held_out=held_out,
    )


def join(pools: Pools, per_class: int, random: Random, *, prefix: str) -> Utterances:
    """Return ``per_class`` clips of each emotion; every item of a class is used as often as any other.

    A clip is named ``PREFIX-NUMBER:FACE+VOICE+WORDS`` by its items, and grouped by its speaker.
    """
    pools = {modality: pools[modality] for modality in MODALITIES}
    columns: dict[str, list[np.ndarray]] = {modality: [] for modality in pools}
    for label in EMODB_6:
        for modality, items in pools.items():
            rows = np.flatnonzero(np.array(items.labels) == label)
            if not len(rows):
                raise InputError(f"{modality} has no item of {label}; allowed: one or more", field="pools")
            turns = -(-per_class // len(rows))
            columns[modality].append(np.concatenate([random.permutation(rows) for _ in range(turns)])[:per_class])
    picked = {modality: np.concatenate(parts) for modality, parts in columns.items()}
    count = per_class * len(EMODB_6)
    names = [
        f"{prefix}-{n:04d}:" + "+".join(items.names[picked[modality][n]] for modality, items in pools.items())
        for n in range(count)
    ]
    return Utterances(
        names=tuple(names),
        features={modality: items.features[modality][picked[modality]] for modality, items in pools.items()},
        labels=tuple(label for label in EMODB_6 for _ in range(per_class)),
        groups=tuple(pools["voice"].groups[row] for row in picked["voice"]),
    )


def _standardised_by_speaker(voices: Utterances) -> Utterances:
    rows, speakers = voices.features["voice"].copy(), np.array(voices.groups)
    for speaker in set(voices.groups):
        own = rows[speakers == speaker]
        rows[speakers == speaker] = (own - own.mean(0)) / (own.std(0) + 1e-6)
    return Utterances(names=voices.names, features={"voice": rows}, labels=voices.labels, groups=voices.groups)


def _divide(items: Utterances, share: float, random: Random) -> tuple[Utterances, Utterances]:
    """Split the items of each class by ``share``, at least one on either side."""
    first: list[int] = []
    for label in EMODB_6:
        rows = random.permutation(np.flatnonzero(np.array(items.labels) == label))
        first += rows[: min(max(1, round(share * len(rows))), len(rows) - 1)].tolist()
    chosen = set(first)
    return items.take(first), items.take([row for row in range(len(items)) if row not in chosen])


# ---- single items ----------------------------------------------------------------------------------------------------


def pool(data: Path, cache: Path, modality: str, side: Side, *, vectors: NanoVectors) -> Utterances:
    """Return the items of one modality with their vectors; made when they are not in the cache for these weights."""
    path = cache / f"{modality}-{side}-{vectors.version(modality)}.safetensors"
    if not path.is_file():
        makers = {"face": _faces, "voice": _voices, "words": _comments}
        makers[modality](data, side, vectors).save(path)
    return Utterances.load(path)


def _faces(data: Path, side: Side, vectors: NanoVectors) -> Utterances:
    pictures = ferplus.load(data, side)
    agree = pictures.targets.max(1) >= _AGREEING
    labels = np.array([NANO_LABELS[column] for column in pictures.targets.argmax(1)])
    rows = _some(np.where(agree, labels, ""), side)
    crops = np.repeat(pictures.images[rows][..., None], 3, axis=3)
    return Utterances(
        names=tuple(pictures.names[row] for row in rows),
        features={"face": vectors.each_face(crops)},
        labels=tuple(labels[rows].tolist()),
        groups=tuple(pictures.names[row] for row in rows),
    )


def _comments(data: Path, side: Side, vectors: NanoVectors) -> Utterances:
    train = goemotions.read(data, split="train")
    comments = train if side == "train" else goemotions.read(data, split="dev")
    known = {_plain(comment.text) for comment in train} if side == "valid" else set()  # short comments come twice
    labels = np.array([c.ekman[0] if len(c.ekman) == 1 and _plain(c.text) not in known else "" for c in comments])
    read = [(row, vectors.words(comments[row].text)) for row in _some(labels, side).tolist()]
    kept = [(row, vector) for row, vector in read if vector is not None]
    return Utterances(
        names=tuple(comments[row].id for row, _ in kept),
        features={"words": np.stack([vector for _, vector in kept])},
        labels=tuple(str(labels[row]) for row, _ in kept),
        groups=tuple(comments[row].id for row, _ in kept),
    )


def _voices(data: Path, side: Side, vectors: NanoVectors) -> Utterances:
    read = [(utterance, vectors.voice(utterance.audio)) for utterance in emodb.iterate(data)]
    kept = [(utterance, vector) for utterance, vector in read if vector is not None]
    return Utterances(
        names=tuple(utterance.name for utterance, _ in kept),
        features={"voice": np.stack([vector for _, vector in kept])},
        labels=tuple(utterance.emotion for utterance, _ in kept),
        groups=tuple(utterance.speaker for utterance, _ in kept),
    )


def _plain(text: str) -> str:
    return " ".join(text.lower().split())


def _some(labels: np.ndarray, side: Side) -> np.ndarray:
    """Return the rows of the six emotions; on either side at most `ITEMS_PER_CLASS`, always the same ones."""
    random = np.random.default_rng(0)
    rows = [random.permutation(np.flatnonzero(labels == label))[:ITEMS_PER_CLASS] for label in EMODB_6]
    return np.sort(np.concatenate(rows))

"""Spoiled words: a share of them is missing, as a recogniser leaves them out."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from random import Random
from typing import Any, ClassVar

from emollama.types import Clip, Modality, Transcript, TranscriptSegment
from eval.corruptions.corruption import Noises, changed, places, read_number, untouched


@dataclass(frozen=True, kw_only=True)
class WordDeletion:
    """A share of the transcript's words is deleted, rounded to whole words; with none left there is no transcript."""

    modality: ClassVar[Modality] = "text"
    levels: ClassVar[tuple[str, ...]] = ("0.1", "0.3")
    unit: ClassVar[str] = "of the words missing"

    def check(self, level: str) -> None:
        read_number(level, name="words", low=0.0, high=1.0)

    def draw(self, level: str, random: Random, noises: Noises | None) -> dict[str, Any]:
        return {"seed": random.randrange(2**32), "share": float(level)}

    def apply(self, clip: Clip, drawn: Mapping[str, Any], noises: Noises | None) -> Clip:
        if clip.transcript is None:
            return untouched(clip, "the clip has no words")
        return changed(clip, "words", drawn, transcript=delete_words(clip.transcript, drawn))


def delete_words(transcript: Transcript, drawn: Mapping[str, Any]) -> Transcript | None:
    """Return a transcript without the drawn words, ``None`` when none is left. Segments are kept where they hold the
    same words as the text; else only the text is."""
    words = transcript.text.split()
    gone = set(places(len(words), round(float(drawn["share"]) * len(words)), int(drawn["seed"])))
    kept = " ".join(word for index, word in enumerate(words) if index not in gone)
    if not kept:
        return None
    segments: list[TranscriptSegment] = []
    if [word for segment in transcript.segments for word in segment.text.split()] == words:
        index = 0
        for segment in transcript.segments:
            inside = segment.text.split()
            left = [word for place, word in enumerate(inside, start=index) if place not in gone]
            index += len(inside)
            if left:
                segments.append(dataclasses.replace(segment, text=" ".join(left)))
    return dataclasses.replace(transcript, text=kept, segments=tuple(segments))

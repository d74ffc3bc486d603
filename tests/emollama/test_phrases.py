"""The instruction grammar: answers speak only of what the cues hold, in the length the house asks for."""

from __future__ import annotations

import json
import re
from random import Random

import pytest

from emollama.phrases import KINDS, ask, supported_answers
from emollama.prompt import Cues, Slots, label_word
from train.builders.cues import random_cues

DRAWS = 400
MENTIONS = {"face": r"\bface\b", "voice": r"\bvoice\b", "words": r"\b(words|transcript)\b"}


def draws(kind: str) -> list[tuple[Cues, str]]:
    rng = Random(kind)
    out = []
    for _ in range(DRAWS):
        cues = random_cues(rng)
        out.append((cues, Slots.of(cues).fill(ask(cues, rng, kind=kind)[2])))
    return out


@pytest.mark.parametrize("kind", KINDS)
def test_every_slot_of_an_answer_is_measured(kind: str) -> None:
    assert not [text for _, text in draws(kind) if re.search(r"<[tq]\d", text)]


def test_a_rationale_names_its_label_first_and_has_30_to_80_words() -> None:
    lengths = []
    for cues, text in draws("why"):
        first = text.split(". ")[0]
        assert f"appears {Slots.of(cues).fill(label_word(cues.label))}" in first
        assert 2 <= len(re.findall(r"[.!?](?:\s|$)", re.sub(r"\d\.\d", "0", text))) <= 4
        lengths.append(len(text.split()))
    assert min(lengths) >= 30
    assert sorted(lengths)[int(0.99 * DRAWS)] <= 80


def test_an_absent_modality_is_only_ever_called_absent() -> None:
    for kind in ("why", "agreement", "how_strong", "when", "face", "voice"):
        for cues, text in draws(kind):
            for source in cues.absent:
                claims = re.sub(r"no (face|voice|transcript) to (look at|listen to|read)", "", text)
                claims = claims.replace("With only words", "")
                assert not re.search(MENTIONS[source], claims), (kind, source, text)


def test_json_answers_parse_and_name_what_was_used() -> None:
    for cues, text in draws("as_json"):
        document = json.loads(text)
        assert document["used"] == [source for source, there in cues.present.items() if there]
        assert document["absent"] == list(cues.absent)


def test_an_answer_in_one_word_is_one_label() -> None:
    known = {"a", "full"}
    assert all(len(text.split()) == 1 or text.split()[0].lower() in known | {"struck"} for _, text in draws("one_word"))


def test_supported_answers_are_different_fixed_and_free_of_unmeasured_slots() -> None:
    cues = random_cues(Random(2))
    answers = supported_answers(cues, kinds=("why", "face"), count=12)
    assert answers == supported_answers(cues, kinds=("why", "face"), count=12)
    assert len(set(answers)) == len(answers) > 12
    assert not [text for text in answers if re.search(r"<[tq]\d", Slots.of(cues).fill(text))]

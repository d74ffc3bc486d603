from __future__ import annotations

import pytest

from eval.emotion_words import Hedging, find_words, hedging, sentences


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("The person appears happy, then mad and scared.", ("happiness", "anger", "fear")),
        ("There is no sign of anger, but some sadness.", ("sadness",)),
        ("She isn't afraid; she looks curious.", ("curiosity",)),
        ("Not only angry but also disgusted.", ("anger", "disgust")),
        ("No anger, fear or disgust, and the voice sounds bored.", ("boredom",)),
        ("Neither sad nor surprised.", ()),
        ("None of the words help. He would love to know; caring people do.", ()),
        ("An unhappy-looking room, and a saddened dog.", ()),
        ("Grief-stricken, then relieved.", ("grief", "relief")),
        ("", ()),
    ],
)
def test_words_that_are_named_and_not_denied(text: str, words: tuple[str, ...]) -> None:
    assert find_words(text) == words


def test_further_words_are_given() -> None:
    text = "He seems at ease, even wistful, though tense."
    assert find_words(text) == ()
    assert find_words(text, ["at ease", "wistful"]) == ("at ease", "wistful")
    assert find_words(text, {"tense": "nervous", "wistful": "sad"}) == ("sadness", "nervous")


def test_sentences_do_not_end_at_decimals() -> None:
    text = "The face brightens from 0.5 s to 2.4 s. “I won!” she says. So it appears happy."
    assert sentences(text) == ["The face brightens from 0.5 s to 2.4 s.", "“I won!” she says.", "So it appears happy."]
    assert sentences("  ") == []


@pytest.mark.parametrize(
    ("text", "hedged", "flat"),
    [
        ("The person appears sad.", 1, 0),
        ("The person is sad.", 0, 1),
        ("He's angry, and she seems afraid.", 1, 1),
        ("They are probably surprised.", 1, 0),
        ("She feels joy.", 0, 1),
        ("The person is not angry.", 0, 0),
        ("The face is sad.", 0, 0),
        ("The person is in a kitchen, which is a sad place.", 0, 0),
    ],
)
def test_what_appears_and_what_is(text: str, hedged: int, flat: int) -> None:
    assert hedging(text) == Hedging(hedged=hedged, flat=flat)

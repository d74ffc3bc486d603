from __future__ import annotations

import pytest

from eval.choices import find_choice

CHOICES = ("She is happy", "She is sad", "She is angry", "A change of mood")


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("B", "B"),
        ("b", "B"),
        (" (b) ", "B"),
        ("**B**", "B"),
        ("B.", "B"),
        ("[C]", "C"),
        ("B) because she frowns", "B"),
        ("(b) because she frowns", "B"),
        ("B. She is sad", "B"),
        ("B: She is sad.", "B"),
        ("B - She is sad", "B"),
        ("B) and a smile says so", "B"),
        ("The answer is B", "B"),
        ("The answer is B.", "B"),
        ("The correct answer is (B), since she frowns.", "B"),
        ("Answer: **B**", "B"),
        ("I choose option C because the voice is loud.", "C"),
        ("She frowns and sighs, so it is not A.\n\nAnswer: B", "B"),
        ("The answer is A", "A"),
    ],
)
def test_answers_that_name_one_choice(text: str, letter: str) -> None:
    assert find_choice(text) == letter
    assert find_choice(text, CHOICES) == letter


@pytest.mark.parametrize(
    "text",
    [
        "",
        "A happy person",
        "A person smiles, so she is happy.",
        "I think she is sad",
        "The answer is a smile",
        "A or B",
        "A, B",
        "A/B",
        "B) or C)",
        "(B) and (C), I think",
        "A. B",
        "The answer is A or B.",
        "The answer is A and B.",
        "Answer: A. No, the answer is B.",
        "Both of them",
        "None of the above",
        "3",
        "BC",
    ],
)
def test_what_names_none_or_two_is_not_guessed(text: str) -> None:
    assert find_choice(text) is None
    assert find_choice(text, CHOICES) is None


def test_texts_of_choices() -> None:
    assert find_choice("she is angry.", CHOICES) == "C"
    assert find_choice("A change of mood", CHOICES) == "D"
    assert find_choice("She is", CHOICES) is None
    assert find_choice("sad", ("sad", "sad")) is None, "two choices with one text"
    assert find_choice("E", CHOICES) is None, "there are four"
    assert find_choice("E") == "E"
    assert find_choice("A. She is sad", CHOICES) is None, "the letter of one choice and the text of another"
    assert find_choice("A. She is sad") == "A"

from collections.abc import Callable

import pytest

from train.builders.merr.checks import description_problems, explanation_problems, objective_problems, tidy
from train.builders.merr.observation import Observation
from train.builders.merr.rules import RulesFile

Seen = Callable[..., Observation]
PAD = " It stays so from the start to the end, and nothing else in the clip speaks against this reading of it at all."


def test_a_good_explanation_passes(seen: Seen, rules: RulesFile, good: str) -> None:
    assert explanation_problems(good, seen(), rules) == []


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("The person appears sad.", "4 words; allowed: 30 to 80"),
        ("The person appears sad." + " so" * 80, "84 words"),
        ("The person appears angry. At 1.2 s the face looks plainly sorrowful." + PAD, "appears angry, not sad"),
        (
            "At 1.2 s the face looks plainly sorrowful, and this weighs most of all here." + PAD,
            "does not state the label",
        ),
        ("The person is sad. The person appears sad; at 1.2 s the face shows sorrow." + PAD, "says what the person is"),
        (
            "The person appears sad; the person feels sad because at 1.2 s the face drops." + PAD,
            "what the person feels",
        ),
        ("The person appears sad. At 3.3 s the face looks plainly sorrowful and stays." + PAD, "3.3 s, which was not"),
        ("The person appears sad. The face is sorrowful and the voice trembles softly." + PAD, "of the voice, which"),
        ("The person appears sad and says “leave me be”, with a face that droops low." + PAD, "“leave me be”"),
        (
            "The person appears sad. She lowers the gaze at 1.2 s and the face droops now." + PAD,
            "speaks of sex ('She')",
        ),
        (
            "The person appears sad. The young person lowers the gaze and the face droops." + PAD,
            "speaks of age ('young')",
        ),
        ("The person appears sad, a sign of depression, as the face droops low at 1.2 s." + PAD, "speaks of health"),
        (
            "The person appears sad, as AU15 and AU04 are active in the face here at 1.2 s." + PAD,
            "action unit by its code",
        ),
        ("**Answer:** the person appears sad, with a face that droops low here at 1.2 s." + PAD, "holds markup"),
        ("As an AI I cannot tell, but the person appears sad since the face droops low." + PAD, "is no answer"),
        ("The person appears sad. The face looks happy at 1.2 s, which is quite strange." + PAD, "face appears happy"),
    ],
)
def test_what_is_wrong_is_said(seen: Seen, rules: RulesFile, text: str, said: str) -> None:
    assert any(said in problem for problem in explanation_problems(text, seen(), rules)), explanation_problems(
        text, seen(), rules
    )


def test_words_may_be_quoted_as_they_were_said(seen: Seen, rules: RulesFile) -> None:
    clip = seen(words=("She never came back, and it hurts.", "sadness"))
    text = (
        "The person appears sad. The words “never came back” point there, and at 1.2 s the face looks sorrowful." + PAD
    )
    assert explanation_problems(text, clip, rules) == []
    # the person's own words may hold what an explanation may not say
    assert explanation_problems(text.replace("never came back", "She never came back"), clip, rules) == []
    assert explanation_problems(text.replace("never came back", "always came back"), clip, rules) != []


def test_action_units_may_speak_for_the_face(seen: Seen, rules: RulesFile) -> None:
    text = "The person appears happy. At 1.2 s the face looks happy, as the corners of the mouth are pulled up." + PAD
    units = {"AU06": (2.0, True), "AU12": (2.0, True)}
    assert explanation_problems(text, seen(label="happy", face="sadness"), rules) != []
    assert explanation_problems(text, seen(label="happy", face="sadness", units=units), rules) == []
    assert explanation_problems(text, seen(label="happy", face=None, units=units), rules) == []


def test_an_answer_is_tidied() -> None:
    assert tidy('```text\nThe person\n  says "no".\n```') == "The person says “no”."
    assert tidy("<think>Is it sad?\nYes.</think>\n\nThe person appears sad.") == "The person appears sad."
    assert tidy("so it is sad</think>The person appears sad.") == "The person appears sad."
    assert tidy('"The person appears sad."') == "The person appears sad."
    assert tidy('"No" and "yes"') == "“No” and “yes”"


def test_descriptions_of_the_picture_and_of_the_clip(seen: Seen, rules: RulesFile) -> None:
    assert objective_problems("a person at a desk, one hand over the mouth", rules) == []
    assert "emotion 'sad'" in objective_problems("a sad person at a desk", rules)[0]
    assert "sex" in objective_problems("a woman at a desk", rules)[0]
    assert "50 words" in objective_problems("word " * 50, rules)[0]
    assert description_problems("The brows are knitted.", seen(), rules) == []
    assert description_problems("The person appears sad.", seen(), rules) != []
    assert description_problems(" ", seen(), rules) == ["It is empty."]

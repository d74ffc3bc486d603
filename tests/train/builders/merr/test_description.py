import dataclasses
import json
from collections.abc import Callable

from emollama.prompt import FaceCue
from train.builders.merr import prompts
from train.builders.merr.checks import description_problems
from train.builders.merr.description import coarse, course, generator, tone, visual_expression
from train.builders.merr.observation import Observation
from train.builders.merr.rules import RulesFile

Seen = Callable[..., Observation]


def describe(clip: Observation, rules: RulesFile, *, seed: int = 0, objective: str | None = None) -> str:
    known = rules.rules
    return coarse(
        clip,
        objective=objective,
        expression=visual_expression(clip, known, generator(seed, "a", "face")),
        course=course(clip, known, generator(seed, "a", "course")),
        tone=tone(clip, known, generator(seed, "a", "tone")),
        rng=generator(seed, "a", "coarse"),
    )


def test_a_description_says_what_there_is_and_nothing_else(seen: Seen, rules: RulesFile) -> None:
    for seed in range(20):
        face = describe(seen(), rules, seed=seed)
        assert "1.2 s" in face
        assert "voice" not in face
        assert "“" not in face
        assert description_problems(face, seen(), rules) == []
        full = describe(seen(voice="sadness", words=("It hurts.", "sadness")), rules, seed=seed, objective="a desk")
        assert "a desk" in full
        assert "0.5 s to 3.0 s" in full
        assert "“It hurts.”" in full


def test_texts_vary_with_the_seed_and_with_nothing_else(seen: Seen, rules: RulesFile) -> None:
    texts = [describe(seen(voice="sadness"), rules, seed=seed) for seed in range(12)]
    assert texts == [describe(seen(voice="sadness"), rules, seed=seed) for seed in range(12)]
    assert len(set(texts)) > 6


def test_action_units_are_named_by_strength(seen: Seen, rules: RulesFile) -> None:
    units = {"AU12": (2.6, True), "AU06": (0.9, True), "AU04": (0.3, False), "AU28": (None, True), "AU45": (5.0, True)}
    piece = visual_expression(seen(units=units), rules.rules, generator(0, "a", "face"))
    assert piece is not None
    assert piece.of == ("AU12", "AU06", "AU28")
    strong, slight, present = piece.text.replace(" and ", ", ").split(", ")
    levels = {level.name: level.words for level in rules.rules.intensity.levels}
    assert any(word in strong for word in levels["strong"])
    assert any(word in slight for word in levels["slight"])
    assert not any(word in present for words in levels.values() for word in words)
    shorter = visual_expression(seen(units=units), rules.rules, generator(0, "a", "face"), most=1)
    assert shorter is not None
    assert shorter.text == strong


def test_a_mouth_that_talks_is_not_described_as_open(seen: Seen, rules: RulesFile) -> None:
    units = {"AU25": (3.0, True), "AU04": (1.0, True)}
    silent = visual_expression(seen(units=units), rules.rules, generator(0, "a", "face"))
    talking = visual_expression(seen(units=units, voice="anger"), rules.rules, generator(0, "a", "face"))
    assert silent is not None
    assert talking is not None
    assert (silent.of, talking.of) == (("AU25", "AU04"), ("AU04",))


def test_what_the_face_shows_at_other_times_is_said(seen: Seen, rules: RulesFile) -> None:
    clip = seen()
    later = FaceCue(start=4.0, end=7.5, label="happiness", strength="medium")
    changed = dataclasses.replace(clip, cues=dataclasses.replace(clip.cues, face=(*clip.cues.face, later)))
    piece = course(changed, rules.rules, generator(0, "a", "course"))
    assert piece is not None
    assert piece.of == ("happiness",)
    assert piece.text.startswith("from 4.0 s to 7.5 s ")
    assert course(clip, rules.rules, generator(0, "a", "course")) is None


def test_questions_take_nothing_absent_for_granted() -> None:
    assert all("voice" not in question for question in prompts.fine_questions({"face"}))
    assert all("face" not in question for question in prompts.coarse_questions({"voice"}))
    assert len(prompts.coarse_questions({"face", "voice", "words"})) > len(prompts.coarse_questions({"words"})) >= 3


def test_the_prompt_holds_the_facts_and_names_what_is_missing(seen: Seen) -> None:
    clip = seen(words=("It {hurts}.", "sadness"))
    lines = prompts.facts(clip, objective=None, expression="the face looks sad", course=None, tone=None)
    prompt = prompts.explain(clip, lines)
    text = str(prompt.messages[-1]["content"])
    assert "the face looks sad" in text
    assert "“It {hurts}.”" in text
    assert "no voice" in text
    assert "no words" not in text
    assert "“the person appears sad”" in text
    assert prompt.num_characters == sum(len(m["content"]) for m in prompt.messages)


def test_an_observation_survives_its_json(seen: Seen) -> None:
    clip = seen(voice="anger", words=("Go away.", "anger"), units={"AU04": (2.0, True), "AU28": (None, False)})
    assert Observation.from_json_dict(json.loads(json.dumps(clip.to_json_dict()))) == clip

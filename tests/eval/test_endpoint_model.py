"""An endpoint as the model of a run: what it is sent, how its replies are read, and what it may not do."""

from __future__ import annotations

import base64
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from emollama.endpoint import EndpointUnusableError
from emollama.errors import InputError
from emollama.media import read_clip
from emollama.types import Audio, Clip, Frames, Transcript
from eval.ask import Given, give, keep
from eval.clip_parts import media_parts
from eval.endpoint_model import EndpointModel
from eval.run import EvalOptions, evaluate
from eval.score_tasks import INTENSITIES
from eval.scoring import ScoreSettings
from eval.task import Item
from tests.eval.toy import toy_items, toy_task


@pytest.fixture
def opened(endpoint: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("OPENAI_API_KEY", "secret-key")
    model = EndpointModel.open(endpoint.url, "fake-1", cache=tmp_path / "answers")
    yield model
    model.close()


def words(**fields: Any) -> Given:
    return give(Item(**{"id": "w", "gold": "x", "transcript": 'She said "no"', **fields}))


INTENSE = "{" + ", ".join(f'"{name}": 0.5' for name in INTENSITIES) + "}"


@pytest.mark.parametrize(
    ("score", "asks", "reply", "expected"),
    [
        ("iemocap", "label", "Happy.", "happy"),
        ("iemocap", "label", '```json\n{"label": "sadness"}\n```', "sad"),
        ("iemocap", "label", "I cannot tell.", None),
        ("iemocap", "label", "happy or sad", None),
        ("mer2023_multi", "label", '{"label": "happy", "valence": 0.5}', {"label": "happy", "valence": 2.5}),
        ("mer2023_multi", "label", '{"label": "happy", "valence": 7}', None),
        ("mer2023_multi", "label", "happy", None),
        ("goemotions", "labels", '["sad", "angry", "sad"]', ["sad", "angry"]),
        ("goemotions", "labels", "happy, sad", ["happy", "sad"]),
        ("goemotions", "labels", '["sad", "peckish"]', None),
        ("abaw_emi", "labels", INTENSE, dict.fromkeys(INTENSITIES, 0.5)),
        ("abaw_emi", "labels", '{"Joy": 1}', None),
        ("emer", "open", '["at ease", "happy"]', ["at ease", "happy"]),
        ("emer", "open", "I would say that the person is rather happy, I think.", None),
        ("abaw_va", "affect", 'So: {"valence": -0.5, "arousal": 0.25}', {"valence": -0.5, "arousal": 0.25}),
        ("abaw_va", "affect", '{"valence": true, "arousal": 0.25}', None),
        ("emobench_m", "choice", "(b) because", "B"),
        ("emobench_m", "choice", "The answer is C.", "C"),
        ("emobench_m", "choice", "second thing", "B"),
        ("emobench_m", "choice", "Z", None),
        ("emobench_m", "choice", "Both of them", None),
        ("emer", "rationale", "The person appears sad.", {"text": "The person appears sad.", "labels": ["sad"]}),
    ],
)
def test_replies_are_read_or_said_to_be_unparseable(
    opened: EndpointModel,
    endpoint: Any,
    completion: Callable[..., Any],
    score: str,
    asks: str,
    reply: str,
    expected: Any,
) -> None:
    endpoint.reply = lambda body, number: (200, {}, completion(reply))
    labels = INTENSITIES if score == "abaw_emi" else ("happy", "sad", "angry")
    choices = ("first thing", "second thing", "third thing") if asks == "choice" else ()
    meta = {"valence_limit": 5.0} if score == "mer2023_multi" else {}
    answer = opened.answer(words(choices=choices, meta=meta), toy_task(score=score, asks=asks, labels=labels))
    assert answer.prediction == expected
    assert answer.unparseable == (expected is None)
    assert answer.text == reply


def test_the_question_names_the_labels_and_the_words_are_quoted(
    opened: EndpointModel, endpoint: Any, completion: Callable[..., Any]
) -> None:
    endpoint.reply = lambda body, number: (200, {}, completion("happy"))
    opened.answer(words(), toy_task())
    (body,) = endpoint.bodies
    assert body["temperature"] == 0.0
    (part,) = body["messages"][0]["content"]
    assert '"She said \\"no\\""' in part["text"]
    assert "Which one?" in part["text"]
    assert "happy, sad, neutral, angry" in part["text"]
    opened.answer(words(choices=("yes", "no"), question="Did she?"), toy_task(score="emobench_m", asks="choice"))
    assert "Did she?\nA. yes\nB. no" in endpoint.bodies[1]["messages"][0]["content"][0]["text"]


def test_a_run_through_an_endpoint_counts_what_cannot_be_read(
    opened: EndpointModel, endpoint: Any, completion: Callable[..., Any], tmp_path: Path
) -> None:
    def reply(body: dict[str, Any], number: int) -> tuple[int, dict[str, str], Any]:
        if number == 2:
            return 400, {}, {"error": {"message": "clip too long"}}
        return 200, {}, completion("happy" if number % 2 else "who knows")

    endpoint.reply = reply
    items = [replace(item, load=None) for item in toy_items(4)]
    task = toy_task(items=lambda data, split: items, modalities=("text",))
    options = EvalOptions(score=ScoreSettings(num_resamples=10))
    # the words of the four items differ, so that no answer comes from the cache
    document = evaluate(task, opened, tmp_path, tmp_path / "run", options).document
    assert (document["counts"]["failed"], document["counts"]["unparseable"]) == (1, 1)
    assert "clip too long" in document["errors"][0]["error"]
    assert document["model"] == "fake-1"
    assert "secret-key" not in "".join(
        path.read_text() for path in (tmp_path / "run").iterdir() if path.is_file()
    ) + "".join(path.read_text() for path in (tmp_path / "answers").rglob("*.json"))


def test_an_endpoint_that_answers_nobody_stops_the_run(opened: EndpointModel, endpoint: Any, tmp_path: Path) -> None:
    endpoint.reply = lambda body, number: (401, {}, {"error": {"message": "wrong key"}})
    with pytest.raises(EndpointUnusableError, match="wrong key"):
        evaluate(toy_task(), opened, tmp_path, tmp_path / "run", EvalOptions(score=ScoreSettings(num_resamples=10)))
    assert len(endpoint.bodies) == 1


def test_a_series_is_not_asked_of_an_endpoint(opened: EndpointModel) -> None:
    with pytest.raises(InputError, match="every frame"):
        opened.check(toy_task(score="abaw_va", asks="series"))


# ---- the clip inside the request ----------------------------------------------------------------------------------


def content(part: dict[str, Any]) -> tuple[str, bytes]:
    if part["type"] == "input_audio":
        return part["input_audio"]["format"], base64.b64decode(part["input_audio"]["data"])
    head, _, body = part[part["type"]]["url"].partition(",")
    return head, base64.b64decode(body)


def test_a_whole_file_is_sent_as_it_is(tmp_path: Path, media: Any) -> None:
    path = media.video(tmp_path / "a.mp4", seconds=1.0, audio=1.0)
    given = give(Item(id="a", gold="x", clip=path, transcript="hello"))
    (part,) = media_parts(given)
    assert content(part) == ("data:video/mp4;base64", path.read_bytes())
    assert media_parts(keep(given, ("visual", "audio"))) == [part]  # the words are not in the file
    picture = media.image(tmp_path / "b.jpg")
    (part,) = media_parts(give(Item(id="b", gold="x", clip=picture)))
    assert content(part) == ("data:image/jpeg;base64", picture.read_bytes())
    for name, form in (("c.wav", "wav"), ("d.mp3", "mp3")):
        sound = media.wav(tmp_path / name)
        (part,) = media_parts(give(Item(id="c", gold="x", clip=sound)))
        assert content(part) == (form, sound.read_bytes())
    sound = media.wav(tmp_path / "e.flac", seconds=0.5)
    (part,) = media_parts(give(Item(id="e", gold="x", clip=sound)))
    assert content(part)[0] == "wav"
    again = read_clip(content(part)[1]).audio
    assert again is not None
    assert again.seconds == pytest.approx(0.5, abs=0.01)


def test_what_was_dropped_is_not_in_what_is_sent(tmp_path: Path, media: Any) -> None:
    path = media.video(tmp_path / "a.mp4", seconds=2.0, audio=2.0)
    given = give(Item(id="a", gold="x", clip=path))
    (picture,) = media_parts(keep(given, ("visual",)))
    seen = read_clip(content(picture)[1])
    assert seen.audio is None
    assert seen.frames is not None
    assert given.clip.frames is not None
    assert len(seen.frames.times) == len(given.clip.frames.times)
    assert np.abs(seen.frames.images[0].astype(int) - given.clip.frames.images[0]).mean() < 12
    (sound,) = media_parts(keep(given, ("audio",)))
    assert content(sound)[0] == "wav"
    assert media_parts(keep(given, ("text",))) == []


def test_a_stretch_of_a_file_is_cut_out(tmp_path: Path, media: Any) -> None:
    path = media.video(tmp_path / "a.mp4", seconds=3.0, audio=3.0)
    (part,) = media_parts(give(Item(id="a", gold="x", clip=path, start=1.0, end=2.0)))
    sent = read_clip(content(part)[1])
    assert sent.seconds == pytest.approx(1.0, abs=0.25)
    assert sent.audio is not None


def test_a_still_and_a_sound_are_two_parts() -> None:
    clip = Clip(
        name="x",
        seconds=0.5,
        frames=Frames(images=np.full((1, 9, 7, 3), 200, np.uint8), times=np.zeros(1), source_fps=None, is_still=True),
        audio=Audio(samples=np.zeros(8000, np.float32)),
        transcript=Transcript(text="hi"),
    )
    parts = media_parts(Given(item=Item(id="x", gold="x"), clip=clip))
    assert [part["type"] for part in parts] == ["image_url", "input_audio"]
    picture = read_clip(content(parts[0])[1]).frames
    assert picture is not None
    assert (picture.images == 200).all()

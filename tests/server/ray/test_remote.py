"""nano behind a cluster answers as nano does here, whatever it is asked."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import psutil
import pytest

from emollama.checkpoint import ASSETS
from emollama.errors import CheckpointError, MediaError
from emollama.stages import Decoded, Done, FacesFound, Labelled, RationalePiece
from server.models import ModelSpec
from server.ray.door import Door
from server.ray.plan import Plan

pytestmark = [pytest.mark.ray, pytest.mark.slow]

WORDS = "I am so happy, this is wonderful news!"
SUBTITLES = "1\n00:00:00,500 --> 00:00:01,500\nI am so happy!\n\n2\n00:00:04,200 --> 00:00:05,000\nThis is awful.\n"
CLIP = ASSETS / "sample" / "sample.mp4"


@pytest.fixture(scope="module")
def here() -> Any:
    from emollama.analyze import Analyzer

    return Analyzer.load("nano")


@pytest.fixture(scope="module")
def there(ray_cluster: Any) -> Any:
    return ray_cluster.nano.load(ModelSpec(name="nano", base="nano"))


def told(analysis: Any) -> dict[str, Any]:
    """An answer without what differs from one time to the next."""
    document = analysis.to_json_dict()
    return {name: value for name, value in document.items() if name not in ("id", "created", "timings_ms")}


@pytest.mark.parametrize(
    "options",
    [
        {"transcript": WORDS},
        {"labels": "joy, anger, boredom", "timeline": False},
        {"transcript": "Das ist schön.", "language": "de"},
    ],
)
def test_a_clip_gets_the_same_answer(here: Any, there: Any, options: dict[str, Any]) -> None:
    answer = there.analyze(CLIP, name="a.mp4", **options)
    assert told(answer) == told(here.analyze(CLIP, name="a.mp4", **options))
    assert set(answer.timings_ms) == {"decode", "faces", "encoders", "prefill", "decode_text", "total"}
    assert answer.timings_ms["decode"] > 1  # where it was decoded, not where that was skipped


@pytest.mark.parametrize("options", [{"transcript": SUBTITLES}, {"labels": "joy, anger", "timeline": False}])
def test_a_clip_that_is_read_in_windows_gets_the_same_answer(here: Any, there: Any, options: dict[str, Any]) -> None:
    """Its face goes on over the windows, and keeps its number, wherever each window was looked at."""
    from emollama.long_clip import analyze_long

    shares: list[float] = []
    answer = analyze_long(there, CLIP, window_seconds=2, progress=shares.append, **options)
    mine = analyze_long(here, CLIP, window_seconds=2, **options)
    assert len(answer.windows) >= 3
    assert {window.track for window in answer.windows} == {0}
    assert told(answer) == told(mine)
    assert set(answer.whole.timings_ms) == set(mine.whole.timings_ms)
    assert answer.whole.timings_ms["faces"] > 1  # where they were followed
    assert len(shares) == len(answer.windows) + 1


def test_a_clip_that_is_read_in_windows_is_let_go_of(there: Any) -> None:
    from emollama.errors import CancelledError
    from emollama.long_clip import KeptWindow, analyze_long

    kept: list[KeptWindow] = []
    with pytest.raises(CancelledError):
        analyze_long(there, CLIP, window_seconds=2, keep=kept.append, cancelled=lambda: len(kept) == 1)
    assert len(kept) == 1


def test_sound_alone_words_alone_and_nothing(here: Any, there: Any, media: Any, tmp_path: Path) -> None:
    sound, still = media.wav(tmp_path / "a.wav"), media.video(tmp_path / "a.mp4")
    for source in (sound, still, sound.read_bytes()):
        assert told(there.analyze(source, name="x")) == told(here.analyze(source, name="x"))
    assert told(there.analyze(None, transcript=WORDS)) == told(here.analyze(None, transcript=WORDS))


def test_the_stages_come_in_their_order(here: Any, there: Any) -> None:
    events = list(there.stages(CLIP, name="a.mp4", transcript=WORDS))
    kinds = [type(event) for event in events]
    assert kinds[:3] == [Decoded, FacesFound, Labelled]
    assert set(kinds[3:-1]) == {RationalePiece}
    assert kinds[-1] is Done
    for ours, theirs in zip(list(here.stages(CLIP, name="a.mp4", transcript=WORDS))[:-1], events[:-1], strict=True):
        assert ours == theirs


def test_a_chat_gets_the_same_answers(here: Any, there: Any) -> None:
    from emollama.conversation import ReplyOptions, Turn, conversation_of

    def talk(conversation: Any) -> list[Any]:
        reading = conversation.read(CLIP, name="a.mp4", transcript=WORDS)
        said: list[Any] = [reading.num_tokens, reading.seen.warnings]
        for question, turns, options in (
            ("Why?", [], ReplyOptions()),
            ("And the voice?", [Turn(question="Why?", answer="The person smiles.")], ReplyOptions(count=2)),
            ("What do they feel?", [], ReplyOptions(temperature=0.9, seed=3, top_logprobs=2)),
        ):
            asked = conversation.ask(reading, question, turns=turns, options=options)
            said += [asked.num_tokens, asked.num_dropped]
            pieces = list(conversation.replies(asked, options))
            for index in range(options.count):
                said.append("".join(piece.text for piece in pieces if piece.index == index))
        return said

    assert talk(there.conversation) == talk(conversation_of(here))


def test_what_is_wrong_with_a_file_is_told_in_the_same_words(here: Any, there: Any) -> None:
    for content in (b"%PDF-1.7 no clip", CLIP.read_bytes()[:3000]):
        with pytest.raises(MediaError) as ours:
            here.analyze(content, name="a.mp4")
        with pytest.raises(type(ours.value)) as theirs:
            there.analyze(content, name="a.mp4")
        assert (str(theirs.value), theirs.value.field) == (str(ours.value), ours.value.field)


def test_an_adapter_comes_to_the_decoders_by_itself(here: Any, ray_cluster: Any, tmp_path: Path) -> None:
    """nano's own adapter under another name, from a folder that is gone by the time it is asked for."""
    folder = tmp_path / "mine"
    folder.mkdir()
    for file in (ASSETS / "nano" / "adapter").iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    analyzer = ray_cluster.nano.load(ModelSpec(name="ft:mine", base="nano", adapter=folder))
    for file in folder.iterdir():
        file.unlink()
    answer = analyzer.analyze(None, transcript=WORDS)
    assert answer.adapter == "ft:mine"
    assert answer.emotion == here.analyze(None, transcript=WORDS).emotion
    (folder / "adapter_config.json").write_text("{}")
    with pytest.raises(CheckpointError):
        ray_cluster.nano.load(ModelSpec(name="ft:broken", base="nano", adapter=folder))


def test_a_second_door_finds_the_deployments_and_leaves_them(ray_cluster: Any, there: Any) -> None:
    def replicas() -> set[int]:
        return {
            each.pid
            for each in psutil.Process().children(recursive=True)
            if "ServeReplica:nano-" in "".join(each.cmdline())
        }

    before = replicas()
    assert len(before) == 2
    second = Door(Plan(model="nano"), ray_cluster.settings("nano"))
    second.connect()
    assert second.load(ModelSpec(name="nano", base="nano")).analyze(None, transcript=WORDS).emotion.label
    second.close()
    assert replicas() == before
    other = dataclasses.replace(Plan(model="nano"), model="another")
    with pytest.raises(CheckpointError, match="give every door the same settings"):
        ray_cluster.nano.load(ModelSpec(name="another", base=other.model))

"""What a large preset says beside its label: words of its own, calibrated scores, and chat over either engine."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from emollama.analyze import Analyzer
from emollama.calibration import Calibration, SubsetCalibration
from emollama.conversation import AnswerForm, ReplyOptions, Turn, conversation_of
from emollama.errors import CheckpointError, InputError
from emollama.parse import parse_open_words
from emollama.preset_judge import PresetJudge

WORDS = "I could do this all day."


@pytest.fixture(scope="module")
def folder(tiny_preset: Callable[[str], Path]) -> Path:
    return tiny_preset("emollama-8b")


@pytest.fixture(scope="module")
def lean(folder: Path) -> Analyzer:
    return Analyzer.load(folder, engine="lean")


@pytest.fixture(scope="module")
def paged(folder: Path) -> Iterator[Analyzer]:
    made = Analyzer.load(folder, engine="paged")
    yield made
    made.parts.engine.replies.close()  # type: ignore[attr-defined]


# ---- words of its own --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("worried, a little hopeful", ("worried", "a little hopeful")),
        ("Tired; Bored.\n", ("tired", "bored")),
        ("- calm\n- at ease, and calm", ("calm", "at ease")),
        ("überrascht", ("überrascht",)),
        ("", ()),
        ("The person seems to be rather worried about it.", ()),
        ("worried, as the brows are drawn together here", ()),
        ("0.4, 0.8", ()),
        ("a, b, c, d, e, f, g, h, i", ()),
    ],
)
def test_a_list_of_words_is_read_and_anything_else_is_not(text: str, words: tuple[str, ...]) -> None:
    assert parse_open_words(text) == words


class Writing:
    """An engine whose every reply is one text; what it was asked is kept."""

    def __init__(self, engine: Any, ids: list[int]) -> None:
        self._engine, self._ids = engine, ids
        self.asked: list[list[int]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def prefill(self, rows: Any) -> Any:
        self.last = rows
        return self._engine.prefill(rows)

    def generate(self, prefix: Any, ids: Any, *, max_new_tokens: int, **_: Any) -> Iterator[int]:
        self.asked.append([*self.last[0].ids, *ids])
        yield from self._ids[:max_new_tokens]


@pytest.mark.parametrize(
    ("reply", "words"), [("hopeful, at ease", ("hopeful", "at ease")), ("hopeful, " * 20, ()), ("Yes 100%", ())]
)
def test_the_words_of_a_reply_become_the_open_vocabulary(
    lean: Analyzer, monkeypatch: pytest.MonkeyPatch, reply: str, words: tuple[str, ...]
) -> None:
    judge: Any = lean.parts.judge
    writing = Writing(lean.parts.engine, lean.parts.renderer.encode(reply))
    monkeypatch.setattr(judge, "engine", writing)
    seen = lean.understand(None, transcript=WORDS)
    assert seen.open_vocabulary == words
    chat = judge.renderer.chat
    asked = chat.decode(writing.asked[-1])
    assert "in a few words of your own" in asked
    assert WORDS in asked
    # who wants no sentences waits for no further question
    assert lean.understand(None, transcript=WORDS, quote=False).open_vocabulary == ()
    assert len(writing.asked) == 1


def test_both_engines_are_asked_for_words_alike(lean: Analyzer, paged: Analyzer) -> None:
    features = {"words": WORDS}
    for each in (lean, paged):
        assert isinstance(each.parts.judge, PresetJudge)
    judged = [each.judge(features, each.labels) for each in (lean, paged)]  # type: ignore[arg-type]
    said = [each.parts.judge.open_words(features, of) for each, of in zip((lean, paged), judged, strict=True)]  # type: ignore[union-attr]
    assert said[0] == said[1]


# ---- calibration -------------------------------------------------------------------------------------------------


def test_scores_are_calibrated_by_what_the_folder_says(folder: Path, lean: Analyzer, tmp_path: Path) -> None:
    warm = tmp_path / "warm"
    shutil.copytree(folder, warm)
    subsets = {"words": SubsetCalibration(temperature=4.0, bias={"fed up": 1.0})}
    calibration = Calibration(subsets=subsets, abstain_below=0.9, fitted_labels=3)
    (warm / "calibration.json").write_text(json.dumps(calibration.to_json_dict()))
    plain = lean.understand(None, transcript=WORDS, quote=False).emotion
    mild = Analyzer.load(warm).understand(None, transcript=WORDS, quote=False).emotion
    before, after = (np.log(list(emotion.scores.values())) for emotion in (plain, mild))
    wanted = before / 4.0 + np.array([0.0, 0.0, 1.0])
    assert after - after[0] == pytest.approx(wanted - wanted[0], abs=1e-6)
    assert mild.abstained
    (warm / "calibration.json").write_text("{}")
    with pytest.raises(CheckpointError, match="calibration is malformed"):
        Analyzer.load(warm)


# ---- chat --------------------------------------------------------------------------------------------------------


def test_a_chat_over_pages_says_what_one_over_our_own_runtime_says(lean: Analyzer, paged: Analyzer) -> None:
    turns = [Turn(question="What does the voice tell you?", answer="Nothing was heard.")]
    told = []
    for each in (lean, paged):
        talk = conversation_of(each)
        reading = talk.read(_words_only(each), transcript=WORDS)
        asked = talk.ask(reading, "And the words?", turns=turns)
        said = list(talk.replies(asked, ReplyOptions(max_tokens=24)))
        told.append((reading.num_tokens, asked.num_tokens, asked.num_dropped, said))
        assert reading.num_bytes > 16_384
    assert told[0] == told[1]
    assert "".join(piece.text for piece in told[1][3])


def test_a_json_object_is_one_also_where_sentences_are_free(lean: Analyzer) -> None:
    talk = conversation_of(lean)
    options = ReplyOptions(form=AnswerForm(kind="json_object"))
    asked = talk.ask(talk.read(_words_only(lean), transcript=WORDS), "What do they feel?", options=options)
    said = list(talk.replies(asked, options))
    document = json.loads("".join(piece.text for piece in said))
    assert document["emotion"]
    assert said[-1].finish == "stop"


def test_a_chat_over_pages_ends_when_nobody_waits_and_draws_when_asked(paged: Analyzer) -> None:
    talk = conversation_of(paged)
    reading = talk.read(_words_only(paged), transcript=WORDS)
    drawn = ReplyOptions(temperature=1.0, top_p=0.9, max_tokens=8, count=2)
    said = list(talk.replies(talk.ask(reading, "Why?", options=drawn), drawn))
    assert {piece.index for piece in said if piece.finish} == {0, 1}
    from emollama.errors import CancelledError

    with pytest.raises(CancelledError):
        list(talk.replies(talk.ask(reading, "Why?"), ReplyOptions(), cancelled=lambda: True))
    assert talk._engine.num_running + talk._engine.num_waiting == 0


@pytest.mark.parametrize(
    ("options", "field"),
    [
        (ReplyOptions(temperature=0.5, seed=1), "seed"),
        (ReplyOptions(top_logprobs=2), "logprobs"),
        (ReplyOptions(form=AnswerForm(kind="json_schema", schema={"type": "object"})), "response_format"),
        (ReplyOptions(form=AnswerForm(kind="json_object")), "response_format"),
    ],
)
def test_what_pages_cannot_do_is_refused_by_the_name_that_was_used(
    paged: Analyzer, options: ReplyOptions, field: str
) -> None:
    talk = conversation_of(paged)
    reading = talk.read(_words_only(paged), transcript=WORDS)
    with pytest.raises(InputError, match=f"{field} is set; this model's engine \\(paged\\) allows") as refused:
        talk.ask(reading, "Why?", options=options)
    assert refused.value.field == field


def _words_only(analyzer: Analyzer) -> Any:
    from emollama.types import Clip

    return Clip(name="a", seconds=1.0)

"""One clip of a batch by an analyzer: its stretch, its words, its language, and a clip that is too long."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from emollama.analyze import load
from emollama.batch.items import Item, prepare
from emollama.batch.labelling import Labeller, Labelling
from emollama.batch.run import run_batch
from emollama.batch.sources import read_source
from emollama.batch.workers import PoolSize, ProcessPool
from emollama.errors import CheckpointError
from emollama.types import Transcript

SAMPLE = Path(__file__).parents[3] / "emollama" / "assets" / "sample" / "sample.mp4"


@pytest.fixture(scope="module")
def nano():
    return load("nano")


def label(analyzer, item: Item, **options):
    outcome = Labeller(analyzer, Labelling(**options)).label(prepare(item))
    return outcome, json.loads(outcome.line)


def clip(**more) -> Item:
    return Item(index=0, id="one", clip="sample.mp4", path=str(SAMPLE), **more)


def test_a_line_holds_the_whole_answer_and_nothing_of_when_it_was_made(nano):
    words = Transcript(text="I am so happy!", source="given")
    outcome, line = label(nano, clip(transcript=words, language="de"), timelines="vtt")
    whole = nano.analyze(SAMPLE, transcript=Transcript(text="I am so happy!", language="de"))
    told = whole.to_json_dict()
    assert {name: line[name] for name in ("emotion", "rationale", "evidence", "timeline", "faces", "modalities")} == {
        name: told[name] for name in ("emotion", "rationale", "evidence", "timeline", "faces", "modalities")
    }
    assert line["transcript"]["language"] == "de"
    assert line["timings_ms"]["total"] >= line["timings_ms"]["decode"] > 0
    assert not {"created"} & set(line)
    assert line["id"] == "one"
    assert (outcome.timeline or "").startswith("WEBVTT")


def test_without_sentences_the_label_and_the_scores_are_the_same(nano):
    words = Transcript(text="I am so happy!", source="given")
    _, whole = label(nano, clip(transcript=words))
    outcome, brief = label(nano, clip(transcript=words), rationale=False, timelines="csv")
    for name in ("emotion", "valence", "arousal", "open_vocabulary", "modalities", "transcript", "warnings", "seconds"):
        assert brief[name] == whole[name], name
    assert brief["rationale"] is None
    assert set(brief) < set(whole)
    assert (outcome.timeline or "").startswith("start,end,track,label")


def test_a_stretch_is_read_alone(nano):
    _, whole = label(nano, clip(), rationale=False)
    _, part = label(nano, clip(start=0.5, end=1.25), rationale=False)
    assert part["start"] == 0.5
    assert part["seconds"] == pytest.approx(0.75, abs=0.15)
    assert part["seconds"] < whole["seconds"]
    _, beyond = label(nano, clip(start=1000.0))
    assert beyond["error"]["field"] == "start"


def test_words_alone_and_labels_of_ones_own(nano):
    item = Item(index=3, id="w", transcript=Transcript(text="I hate you!"))
    _, line = label(nano, item, labels=("angry", "calm"), rationale=False)
    assert line["emotion"]["label"] == "angry"
    assert set(line["emotion"]["scores"]) == {"angry", "calm"}
    assert (line["path"], line["sha256"], line["clip"]) == (None, None, "w")


def test_a_clip_over_the_limit_is_read_by_windows_or_is_an_error(nano, tmp_path, media):
    path = media.video(tmp_path / "long.mp4", seconds=6.0, fps=4, audio=6.0)
    item = Item(index=0, id="long", clip="long.mp4", path=str(path))
    _, refused = label(nano, item, max_seconds=4.0, long=False)
    assert refused["error"]["type"] == "MediaLimitError"
    assert "max_seconds" in refused["error"]["message"]
    outcome, line = label(nano, item, max_seconds=4.0, timelines="csv")
    assert line["seconds"] == pytest.approx(6.0, abs=0.3)
    assert [window["start"] for window in line["windows"]] == [0.0]
    assert line["sha256"] == prepare(item).sha256
    assert outcome.timeline is not None
    _, stretch = label(
        nano, Item(index=0, id="s", clip="long.mp4", path=str(path), start=1.0, end=3.0), max_seconds=4.0
    )
    assert "windows" not in stretch


def test_a_model_that_is_not_there_is_told_before_any_clip(tmp_path):
    with pytest.raises(CheckpointError, match="not an adapter folder"):
        Labelling(adapter=str(tmp_path)).load()


def test_nano_labels_a_folder_in_processes(tmp_path, media):
    (tmp_path / "clips").mkdir()
    for name in ("a.mp4", "b.mp4"):
        (tmp_path / "clips" / name).write_bytes(SAMPLE.read_bytes())
    media.wav(tmp_path / "clips" / "tone.wav")
    (tmp_path / "clips" / "a.txt").write_text("I am so happy!")
    (tmp_path / "clips" / "bad.mp4").write_text("no clip")
    labelling = Labelling(rationale=False)
    summary = run_batch(
        read_source(tmp_path / "clips"), tmp_path / "out", labelling,
        lambda: ProcessPool(labelling, PoolSize(processes=1)),
    )  # fmt: skip
    assert (summary.done, summary.failed, summary.ended) == (3, 1, "finished")
    lines = [json.loads(line) for line in (tmp_path / "out" / "results.jsonl").read_text().splitlines()]
    assert [(line["id"], line["modalities"]["text"]["used"]) for line in lines] == [
        ("a.mp4", True), ("b.mp4", False), ("tone.wav", False),
    ]  # fmt: skip
    assert lines[0]["emotion"]["scores"] != lines[1]["emotion"]["scores"]

"""A long clip from window to whole: what a person who reads the answer is told, and whether it is so."""

from __future__ import annotations

import csv
import io
import json
import re
import time

import numpy as np
import pytest

from emollama.errors import CancelledError, DeadlineError, InputError
from emollama.long_clip import analyze_long, reads_long_clips
from emollama.long_clip.analysis import WRITERS
from emollama.types import Transcript


def sad_then_happy(turn, *, x=30):
    return lambda t: [(1, "sadness" if t < turn else "happiness", x)]


def test_sadness_then_happiness_is_told_with_the_time_at_which_it_turns(painted, film):
    heard = []
    found = analyze_long(painted(), film(sad_then_happy(94.0), 130.0), window_seconds=10.0, progress=heard.append)
    assert [w.emotion.label for w in found.windows] == ["sadness"] * 9 + ["happiness"] * 4
    assert [(w.start, w.end) for w in found.windows] == [(10.0 * i, 10.0 * i + 10) for i in range(13)]
    (turn,) = found.turning_points
    assert (turn.before, turn.after, turn.found_in) == ("sadness", "happiness", "face")
    assert turn.time == pytest.approx(94.0, abs=0.5)
    assert found.course == "sadness until 1:34, then happiness"
    assert found.time_by_label == {"sadness": 90.0, "happiness": 40.0}
    assert found.whole.emotion.label == "sadness"
    assert sum(found.whole.emotion.scores.values()) == pytest.approx(1.0)
    assert found.whole.seconds == 130.0
    assert (found.whole.clip, found.sha256) == ("film.mp4", "ab")
    assert heard == sorted(heard)
    assert heard[-1] == 1.0
    assert all(0 <= share <= 1 for share in heard)
    assert set(found.whole.timings_ms) >= {"decode", "faces", "encoders", "prefill", "decode_text", "whole", "total"}


def test_times_in_the_sentences_were_read(painted, film):
    found = analyze_long(painted(), film(sad_then_happy(94.0), 130.0), window_seconds=10.0)
    assert "sad" in found.whole.rationale
    clocks = re.findall(r"\b(\d+):(\d\d)\b", found.whole.rationale)
    assert clocks
    borders = [border for item in found.whole.evidence["visual"] for border in (item.start, item.end)]
    for minutes, seconds in clocks:
        assert any(abs(60 * int(minutes) + int(seconds) - border) <= 0.6 for border in borders)
    last = found.windows[12]
    assert last.rationale is not None
    assert "2:00" in last.rationale
    assert [(item.start, item.supports) for item in last.evidence["visual"]] == [(120.0, "happiness")]
    assert analyze_long(painted(), film(sad_then_happy(5.0), 20.0), rationales=False).windows[0].rationale is None


def test_cut_into_windows_the_timeline_is_that_of_one_piece(painted, film):
    """Turns within windows, on a border, and beside one."""

    def scene(t):
        names = ["sadness", "happiness", "neutral", "anger", "surprise"]
        return [(1, names[int(np.searchsorted([13.0, 20.0, 31.5, 39.5], t, side="right"))], 30)]

    whole = painted().analyze(film(scene, 50.0, windows=None)).timeline
    cut = analyze_long(painted(), film(scene, 50.0), window_seconds=10.0).whole.timeline
    assert (
        [s.label for s in cut] == [s.label for s in whole] == ["sadness", "happiness", "neutral", "anger", "surprise"]
    )
    for mine, its in zip(cut, whole, strict=True):
        assert mine.start == pytest.approx(its.start, abs=0.3)
        assert mine.end == pytest.approx(its.end, abs=0.3)
        assert mine.track == its.track == 0
        for label, score in its.scores.items():
            assert mine.scores[label] == pytest.approx(score, abs=0.05)


def test_a_face_keeps_its_number_over_borders_and_another_place_is_another_face(painted, film):
    def scene(t):
        faces = [(1, "happiness", 5)] if t < 30 else [(1, "happiness", 65)]
        return [*faces, (2, "anger", 36)] if 15 <= t < 18 else faces

    found = analyze_long(painted(), film(scene, 50.0), window_seconds=10.0)
    assert [w.track for w in found.windows] == [0, 0, 0, 2, 2]
    assert {face.track: face.is_main for face in found.whole.faces} == {0: True, 1: False, 2: False}
    assert found.whole.faces[0].share == pytest.approx(0.6)
    assert "3 of 5 windows" in found.whole.faces[0].chosen_because
    assert {s.track for s in found.whole.timeline} == {0, 1, 2}
    assert any("nobody is recognised again" in warning for warning in found.whole.warnings)


def test_somebody_else_in_the_same_place_after_a_cut_is_somebody_else(painted, film):
    found = analyze_long(painted(), film(lambda t: [(1 if t < 20 else 4, "anger", 30)], 40.0), window_seconds=10.0)
    tracks = [w.track for w in found.windows]
    assert tracks[0] == tracks[1]
    assert tracks[2] == tracks[3]


def test_words_go_to_the_windows_in_which_they_are_said(painted, film):
    subtitles = (
        "1\n00:00:02,000 --> 00:00:04,000\nI hate this\n\n2\n00:00:09,000 --> 00:00:12,000\nall of it\n\n"
        "3\n00:00:33,000 --> 00:00:36,000\nwhat a wonderful day\n"
    )
    found = analyze_long(painted(), film(None, 40.0, sound=lambda start: 0.0), transcript=subtitles, window_seconds=10)
    assert [w.used for w in found.windows] == [("text",), ("text",), (), ("text",)]
    assert found.windows[0].emotion.label == "anger"
    assert "hate" in found.windows[0].evidence["text"][0].cue
    assert (found.windows[0].evidence["text"][0].start, found.windows[0].evidence["text"][0].end) == (2.0, 4.0)
    assert found.windows[3].emotion.label == "happiness"
    assert found.windows[2].emotion.label is None
    assert found.whole.transcript.text == "I hate this all of it what a wonderful day"
    assert found.whole.modalities.text.source == "given"
    assert len(found.chapters) == 2
    assert found.course.startswith("anger until 0:20, from 0:30 happiness")


def test_words_without_times_count_for_the_whole(painted, film):
    found = analyze_long(
        painted(), film(sad_then_happy(99.0), 40.0), transcript="such a wonderful day", window_seconds=10.0
    )
    assert [w.used for w in found.windows] == [("visual",)] * 4
    assert found.whole.transcript == Transcript(text="such a wonderful day")
    assert found.whole.emotion.scores["happiness"] > found.windows[0].emotion.scores["happiness"] + 0.1
    assert any("has no times" in warning for warning in found.whole.warnings)


def test_more_words_than_can_be_read_at_once_are_chosen_and_that_is_said(painted, film):
    lines = [f"{i}\n00:{i // 6:02d}:{i % 6}1,000 --> 00:{i // 6:02d}:{i % 6}8,000\n{'lost ' * 30}" for i in range(18)]
    found = analyze_long(painted(), film(None, 180.0), transcript="\n\n".join(lines), window_seconds=10.0)
    assert found.whole.emotion.label == "sadness"
    assert any(re.search(r"those of \d+ of 18 windows stand for all", warning) for warning in found.whole.warnings)


def test_a_recogniser_hears_every_window_and_is_loaded_once(painted, film, ears):
    analyzer = painted(recogniser=ears)
    for _ in range(2):
        found = analyze_long(analyzer, film(None, 30.0, sound=lambda start: 0.1), asr="ear", window_seconds=10.0)
    assert ears.loaded == ["ear"]
    assert found.whole.transcript.text == "a wonderful second 0 a wonderful second 10 a wonderful second 20"
    assert [s.start for s in found.whole.transcript.segments] == [0.0, 10.0, 20.0]
    assert found.whole.modalities.text.source == "asr"
    assert found.whole.modalities.audio.voiced_seconds == pytest.approx(30.0)
    assert found.windows[2].used == ("audio", "text")


def test_nothing_to_judge_is_said_and_nothing_claimed(painted, film):
    found = analyze_long(painted(), film(lambda t: [], 40.0, sound=lambda start: 0.0), window_seconds=10.0)
    assert found.whole.emotion.label is None
    assert found.whole.emotion.abstained
    assert set(found.whole.emotion.scores.values()) == {1 / 8}
    assert (found.chapters, found.turning_points, found.course, found.time_by_label) == ((), (), "", {})
    assert any("no face, no voice and no words" in warning for warning in found.whole.warnings)
    assert json.dumps(found.to_json_dict())


def test_stretches_without_anything_are_named(painted, film):
    found = analyze_long(
        painted(), film(lambda t: [] if 20 <= t < 40 else [(1, "fear", 30)], 60.0), window_seconds=10.0
    )
    assert [w.emotion.label for w in found.windows] == ["fear", "fear", None, None, "fear", "fear"]
    assert [(c.start, c.end) for c in found.chapters] == [(0.0, 20.0), (40.0, 60.0)]
    assert any("2 of 6 windows" in warning and "0:20, 0:30" in warning for warning in found.whole.warnings)


def test_the_callers_labels_are_the_answers(painted, film):
    found = analyze_long(painted(), film(sad_then_happy(20.0), 40.0), labels="sad,joyful", window_seconds=10.0)
    assert set(found.whole.emotion.scores) == {"sad", "joyful"}
    assert [w.emotion.label for w in found.windows] == ["sad", "sad", "joyful", "joyful"]
    assert found.course == "sad until 0:20, then joyful"
    assert {s.label for s in found.whole.timeline} == {"sad", "joyful"}
    with pytest.raises(InputError, match="labels"):
        analyze_long(painted(), film(None, 10.0), labels="one")


def test_who_gives_up_is_heard_and_a_deadline_is_held(painted, film):
    asked = []

    def cancelled():
        asked.append(1)
        return len(asked) > 12

    with pytest.raises(CancelledError):
        analyze_long(painted(), film(sad_then_happy(20.0), 60.0), cancelled=cancelled)
    assert len(asked) < 20
    with pytest.raises(DeadlineError):
        analyze_long(painted(), film(sad_then_happy(20.0), 60.0), deadline=time.monotonic() - 1)


def test_what_can_be_written(painted, film):
    found = analyze_long(painted(), film(sad_then_happy(20.0), 40.0), window_seconds=10.0)
    document = json.loads(json.dumps(found.to_json_dict()))
    ordinary = set(painted().analyze(film(sad_then_happy(20.0), 40.0, windows=None)).to_json_dict())
    assert ordinary < set(document)
    assert document["turning_points"][0]["time"] == pytest.approx(20.0, abs=0.5)
    assert document["windows"][0]["valence"] == -0.5
    assert "00:00:19,750 --> 00:00:40,000\nface 0: appears happy" in WRITERS["srt"](found)
    assert WRITERS["vtt"](found).startswith("WEBVTT")
    assert json.loads(WRITERS["json"](found))[0]["label"] == "sadness"
    rows = list(csv.DictReader(io.StringIO(WRITERS["windows.csv"](found))))
    assert [row["label"] for row in rows] == ["sadness", "sadness", "happiness", "happiness"]
    assert float(rows[3]["score_happiness"]) > 0.5


def test_without_a_timeline_only_the_main_face_is_read_and_the_rest_of_the_answer_is_the_same(painted, film):
    def scene(t):
        return [(1, "sadness" if t < 14 else "happiness", 5), *([(2, "anger", 60)] if t < 7 else [])]

    class Noting(type(painted().parts.face)):
        def read(self, crops, times, track_id, **options):
            read.add(track_id)
            return super().read(crops, times, track_id, **options)

    read = set()
    whole = analyze_long(painted(face=Noting()), film(scene, 30.0), window_seconds=10.0)
    assert read == {0, 1}
    assert {segment.track for segment in whole.whole.timeline} == {0, 1}
    read.clear()
    brief = analyze_long(painted(face=Noting()), film(scene, 30.0), window_seconds=10.0, timeline=False)
    assert read == {0}
    assert brief.whole.timeline == ()
    assert brief.whole.emotion == whole.whole.emotion
    assert (brief.windows, brief.chapters, brief.turning_points) == (
        whole.windows,
        whole.chapters,
        whole.turning_points,
    )
    assert brief.whole.faces == whole.whole.faces


def test_a_preset_that_looks_at_whole_clips_is_refused(painted, film):
    with pytest.raises(InputError, match="'painted' reads no long clips; nano does"):
        analyze_long(painted(senses=object()), film(sad_then_happy(5.0), 20.0))
    assert not reads_long_clips(painted(senses=object()))
    assert reads_long_clips(painted())
    assert not reads_long_clips(object())


def test_a_file_is_read_by_itself(painted, long_video, tmp_path):
    black = np.zeros((48, 96, 3), np.uint8)
    path = long_video(tmp_path / "a.mp4", seconds=25.0, audio_seconds=30.0, images=lambda index: black)
    found = analyze_long(painted(), path, window_seconds=10.0)
    assert [w.start for w in found.windows] == [0.0, 10.0, 20.0]
    assert [w.used for w in found.windows] == [("audio",)] * 3
    assert found.whole.clip == "a.mp4"
    assert found.whole.modalities.visual.frames == 50
    assert len(found.sha256) == 64

import csv
import io
import json
from dataclasses import replace

import numpy as np
import pytest

from emollama import timeline
from emollama.errors import InputError
from emollama.types import FaceReadings

LABELS = ("neutral", "happiness", "sadness")


def readings(path: str, *, fps: float = 10.0, times: np.ndarray | None = None, sure: float = 0.9) -> FaceReadings:
    """One letter a frame: n, h, s."""
    table = np.full((len(path), 3), (1 - sure) / 2)
    for row, letter in enumerate(path):
        table[row, "nhs".index(letter)] = sure
    return FaceReadings(
        track_id=4,
        times=np.arange(len(path)) / fps if times is None else times,
        labels=LABELS,
        probabilities=table,
        valence=np.linspace(-1, 1, len(path)),
        arousal=np.zeros(len(path)),
    )


def test_two_expressions_become_two_segments_with_their_boundary_where_it_changed():
    found = timeline.segments(readings("s" * 30 + "h" * 30))
    assert [s.label for s in found] == ["sadness", "happiness"]
    assert found[0].start == 0.0
    assert found[0].end == pytest.approx(3.0, abs=0.2)
    assert found[0].end == found[1].start
    assert found[1].end == pytest.approx(5.9)
    assert found[0].valence < 0 < found[1].valence
    assert found[0].track == 4
    assert sum(found[0].scores.values()) == pytest.approx(1.0, abs=1e-5)


def test_flicker_of_one_frame_is_not_a_segment():
    assert [s.label for s in timeline.segments(readings("n" * 15 + "h" + "n" * 15))] == ["neutral"]


def test_a_short_stretch_goes_to_a_neighbour_even_without_smoothing():
    options = timeline.TimelineOptions(half_window_seconds=0.0, min_seconds=0.4)
    found = timeline.segments(readings("n" * 10 + "hhh" + "s" * 10), options=options)
    assert [s.label for s in found] == ["neutral", "sadness"]
    whole = timeline.segments(readings("n" * 10 + "hhhhh" + "s" * 10), options=options)
    assert [s.label for s in whole] == ["neutral", "happiness", "sadness"]


def test_hysteresis_keeps_the_label_when_another_leads_by_less_than_the_margin():
    table = np.tile([0.45, 0.48, 0.07], (20, 1))
    table[:10] = [0.48, 0.45, 0.07]
    one = readings("n" * 20)
    close = FaceReadings(
        track_id=0, times=one.times, labels=LABELS, probabilities=table, valence=one.valence, arousal=one.arousal
    )
    assert len(timeline.segments(close)) == 1


def test_no_segment_covers_a_gap_in_which_the_face_was_not_seen():
    times = np.concatenate([np.arange(10) / 10, 5 + np.arange(10) / 10])
    found = timeline.segments(readings("h" * 20, times=times))
    assert [(s.start, s.end) for s in found] == [(0.0, 0.9), (5.0, 5.9)]


def test_a_still_picture_and_no_reading_at_all():
    (only,) = timeline.segments(readings("h"))
    assert (only.start, only.end, only.label) == (0.0, 0.0, "happiness")
    assert timeline.segments(readings("")) == ()
    assert timeline.smooth(np.zeros(0), np.zeros((0, 3)), half_window_seconds=1.0).shape == (0, 3)


def test_smoothing_is_the_mean_of_a_window_cut_at_the_ends():
    smoothed = timeline.smooth(np.arange(5.0), np.array([0.0, 0, 6, 0, 0])[:, None], half_window_seconds=1.0)
    assert smoothed[:, 0].tolist() == [0, 2, 2, 2, 0]


def test_the_timeline_answers_in_the_callers_words_where_the_readings_can():
    found = timeline.segments(readings("h" * 20), labels=("sad", "Joy"))
    assert found[0].label == "Joy"
    assert set(found[0].scores) == {"sad", "Joy"}
    own = timeline.segments(readings("h" * 20), labels=("happy", "boredom"))
    assert own[0].label == "happiness"


def test_writers_tell_the_same_times_and_labels():
    found = timeline.segments(readings("s" * 30 + "h" * 30))
    rows = json.loads(timeline.to_json(found))
    table = list(csv.DictReader(io.StringIO(timeline.to_csv(found))))
    assert [row["label"] for row in rows] == [row["label"] for row in table] == ["sadness", "happiness"]
    assert float(table[0]["end"]) == rows[0]["end"]
    assert float(table[1]["score_happiness"]) == rows[1]["scores"]["happiness"]
    srt, vtt = timeline.to_srt(found), timeline.to_vtt(found)
    assert srt.startswith("1\n00:00:00,000 --> 00:00:0")
    assert "face 4: appears sad (" in srt
    assert vtt.startswith("WEBVTT\n\n00:00:00.000 --> ")
    assert set(timeline.WRITERS) == {"json", "csv", "srt", "vtt"}


def test_options_out_of_range_name_the_field():
    with pytest.raises(InputError, match="min_seconds is -1"):
        timeline.TimelineOptions(min_seconds=-1)


def test_the_last_sample_stands_until_the_next_but_not_beyond_the_clip():
    read = readings("hhh", fps=5.0)
    assert timeline.segments(read, until=5.0)[-1].end == pytest.approx(0.6)
    assert timeline.segments(read, until=0.5)[-1].end == pytest.approx(0.5)
    assert timeline.segments(read)[-1].end == pytest.approx(0.4)


def test_units_are_means_over_their_segment_and_a_model_without_affect_says_nothing_of_it():
    read = readings("s" * 30 + "h" * 30)
    units = np.column_stack((np.repeat([0.1, 0.9], 30), np.full(60, 0.4)))
    sad, happy = timeline.segments(
        replace(
            read, action_units=("AU12", "AU4"), units=units, valence=np.full(60, np.nan), arousal=np.full(60, np.nan)
        ),
    )
    assert sad.action_units == pytest.approx({"AU12": 0.1, "AU4": 0.4}, abs=0.05)
    assert happy.action_units == pytest.approx({"AU12": 0.9, "AU4": 0.4}, abs=0.05)
    assert (sad.valence, sad.arousal) == (None, None)
    assert timeline.segments(read)[0].action_units == {}
    rows = list(csv.DictReader(io.StringIO(timeline.to_csv((sad, happy)))))
    assert float(rows[1]["unit_AU12"]) == happy.action_units["AU12"]
    assert rows[0]["valence"] == ""
    document = json.loads(timeline.to_json((sad, happy)))
    assert document[0]["valence"] is None
    assert document[1]["action_units"]["AU4"] == 0.4

"""What stands for a long clip: in proportion to how long it was seen, spread over the time, and nothing extreme."""

from __future__ import annotations

import numpy as np
import pytest

from emollama.long_clip.clock import clock, in_clock_times
from emollama.long_clip.pooling import FaceTokens, Moment, VoiceTokens, pooled_face, pooled_voice, representatives
from emollama.types import FaceReadings, VoiceReadings


def test_places_are_given_by_duration():
    moments = [Moment(label="sad" if i < 30 else "happy", weight=1.0) for i in range(40)]
    chosen = representatives(moments, 8)
    assert len(chosen) == 8
    assert [moments[i].label for i in chosen] == ["sad"] * 6 + ["happy"] * 2
    assert chosen == sorted(chosen)
    assert np.diff(chosen[:6]).max() <= 6  # spread over the sad stretch, not bunched in it


def test_the_nearest_to_the_mean_stands_for_a_part_not_the_extreme_one():
    vectors = [[0.0], [0.1], [9.0], [0.2], [-0.1]]
    moments = [Moment(label="sad", weight=1.0, vector=np.array(v)) for v in vectors]
    (chosen,) = representatives(moments, 1)
    assert chosen == 3


def test_few_moments_all_stay_and_rare_ones_get_no_place():
    assert representatives([Moment(label="a", weight=1.0)] * 3, 8) == [0, 1, 2]
    moments = [Moment(label="a", weight=100.0)] * 9 + [Moment(label="b", weight=1.0)]
    assert 9 not in representatives(moments, 4)


def test_an_hour_of_faces_is_as_many_tokens_as_one_window_has():
    def window(label, start):
        table = np.full((60, 2), 0.1)
        table[:, label] = 0.9
        readings = FaceReadings(
            track_id=0, times=start + np.arange(60) / 2, labels=("a", "b"), probabilities=table,
            valence=np.zeros(60), arousal=np.zeros(60),
        )  # fmt: skip
        return FaceTokens(tokens=np.full((8, 3), label, np.float32), readings=readings)

    windows = [window(0 if i < 90 else 1, 30.0 * i) for i in range(120)]
    tokens = pooled_face(windows)
    assert tokens.shape == (8, 3)
    assert tokens[:, 0].tolist() == [0.0] * 6 + [1.0] * 2
    assert pooled_face([]) is None


def test_voices_are_weighed_by_their_seconds():
    def window(value, seconds):
        readings = VoiceReadings(
            voiced_seconds=seconds, segments=(), labels=("a", "b"), probabilities=np.array([value, 1 - value])
        )
        return VoiceTokens(tokens=np.array([[value, 0.0]], np.float32), readings=readings)

    tokens, readings = pooled_voice([window(0.9, 30.0), window(0.1, 10.0)])
    assert tokens[0, 0] == pytest.approx(0.7)
    assert readings.voiced_seconds == 40.0
    assert readings.probabilities.sum() == pytest.approx(1.0)
    assert readings.probabilities[0] > 0.5
    assert pooled_voice([]) is None


@pytest.mark.parametrize(("seconds", "told"), [(0, "0:00"), (59.6, "1:00"), (760.2, "12:40"), (3723, "1:02:03")])
def test_a_clock(seconds, told):
    assert clock(seconds) == told


def test_seconds_in_sentences_become_clock_times_but_not_in_quotes():
    text = "From 36.8 s to 760.2 s it looks sad; the words “in 90 s it ends” say so."
    assert in_clock_times(text) == "From 36.8 s to 12:40 it looks sad; the words “in 90 s it ends” say so."

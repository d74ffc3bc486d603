from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from emollama.errors import DatasetError, InputError
from emollama.types import FaceReadings
from train.builders.merr.action_units import fired, read_openface
from train.builders.merr.peaks import PeakOptions, action_unit_peak, expression_peak
from train.builders.merr.rules import RulesFile

Openface = Callable[..., Path]


def test_peak_of_an_openface_file(tmp_path: Path, rules: RulesFile, openface: Openface) -> None:
    path = openface(tmp_path / "a.csv", active={"06": 2.0, "12": 3.0}, peak=1.5)
    units = read_openface(path, rules=rules.rules)
    peak = action_unit_peak(units, rules=rules.rules)
    assert peak is not None
    assert peak.time == pytest.approx(1.5, abs=0.02)
    assert peak.value == pytest.approx(5.0, abs=0.05)
    assert peak.reached
    assert peak.peaks == (pytest.approx(1.5, abs=0.02),)
    assert peak.what == "sum of AU12 + AU06"
    happy, *_ = fired(units.at(peak.index), rules.rules)
    assert (happy.emotion, happy.strength, happy.action_units) == ("happiness", "strong", ("AU06", "AU12"))
    assert units.at(peak.index)["AU28"] == (None, False)


def test_a_still_face_has_no_peak_and_fires_nothing(tmp_path: Path, rules: RulesFile, openface: Openface) -> None:
    units = read_openface(openface(tmp_path / "a.csv", active={"12": 0.5}), rules=rules.rules)
    peak = action_unit_peak(units, rules=rules.rules)
    assert peak is not None
    assert not peak.reached
    assert peak.peaks == ()
    assert fired(units.at(peak.index), rules.rules) == ()


def test_talking_does_not_make_the_peak(tmp_path: Path, rules: RulesFile, openface: Openface) -> None:
    talk = np.zeros(90)
    talk[60:80] = 4.0  # the jaw moves from 2.0 s to 2.7 s
    path = openface(tmp_path / "a.csv", active={"04": 2.0, "07": 2.0}, peak=0.8, more={"25": talk, "26": talk})
    units = read_openface(path, rules=rules.rules)
    loud = action_unit_peak(units, rules=rules.rules)
    quiet = action_unit_peak(units, rules=rules.rules, speech=[(1.9, 2.8)])
    assert loud is not None
    assert quiet is not None
    assert loud.time >= 2.0
    assert quiet.time == pytest.approx(0.8, abs=0.02)


def test_a_blink_is_not_an_expression(tmp_path: Path, rules: RulesFile, openface: Openface) -> None:
    blink = np.zeros(90)
    blink[10:14] = 5.0
    units = read_openface(
        openface(tmp_path / "a.csv", active={"01": 2.0}, peak=2.0, more={"45": blink}), rules=rules.rules
    )
    peak = action_unit_peak(units, rules=rules.rules)
    assert peak is not None
    assert peak.time == pytest.approx(2.0, abs=0.02)


def test_distance_joins_near_peaks(tmp_path: Path, rules: RulesFile, openface: Openface) -> None:
    wave = 1.0 + np.cos(np.arange(90) * 2 * np.pi / 10)  # a peak every ten frames
    units = read_openface(openface(tmp_path / "a.csv", active={}, more={"12": wave}), rules=rules.rules)
    near = action_unit_peak(units, rules=rules.rules, options=PeakOptions(distance_frames=1))
    far = action_unit_peak(units, rules=rules.rules, options=PeakOptions(distance_frames=20))
    assert near is not None
    assert far is not None
    assert len(near.peaks) > len(far.peaks) >= 3


def test_stretch_and_lost_frames(tmp_path: Path, rules: RulesFile, openface: Openface) -> None:
    path = openface(tmp_path / "a.csv", active={"12": 3.0}, peak=1.5)
    lines = path.read_text().splitlines()
    lost = [line.replace(", 0.98, 1, ", ", 0.98, 0, ") if 40 < i < 45 else line for i, line in enumerate(lines)]
    # a second face is seen in a few frames only
    lost += [line.replace(", 0, ", ", 1, ", 1) for line in lines[1:6]]
    path.write_text("\n".join(lost))
    units = read_openface(path, rules=rules.rules)
    assert len(units.times) == 86
    part = units.between(1.0, 2.0)
    peak = action_unit_peak(part, rules=rules.rules)
    assert part.times[0] == pytest.approx(0.0, abs=1e-6)
    assert peak is not None
    assert peak.time == pytest.approx(0.5, abs=0.02)
    assert action_unit_peak(units.between(10.0, None), rules=rules.rules) is None


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda s: s.replace(" timestamp", " time"), ":1: no column 'timestamp'"),
        (lambda s: s.replace("AU01_r", "AU99_r"), ":1: the rules do not know AU99"),
        (lambda s: s.replace(", 0.98, 1, 0.00", ", 0.98, 1, 7.00", 1), "AU01_r is 7; allowed: 0 to 5"),
        (lambda s: s.replace(", 0.98, 1, 0.00", ", 0.98, 1, nan", 1), ":2: AU01_r is 'nan'"),
        (lambda s: s.replace(", 0.98, 1, 0.00", ", 0.98, 1", 1), ":2: 39 cells; the header has 40"),
        (lambda s: s.replace(", 0.98, 1, ", ", 0.30, 1, "), "followed in no frame"),
        (lambda s: "frame, timestamp, success\n1, 0.0, 1\n", "no columns AUxx_r"),
        (lambda s: "", ":1: no column 'timestamp'"),
    ],
)
def test_a_wrong_file_is_named_with_its_line(
    tmp_path: Path, rules: RulesFile, openface: Openface, change: object, said: str
) -> None:
    path = openface(tmp_path / "a.csv", active={})
    path.write_text(change(path.read_text()))  # type: ignore[operator]
    with pytest.raises(DatasetError) as raised:
        read_openface(path, rules=rules.rules)
    assert said in str(raised.value)
    assert "a.csv" in str(raised.value)


def test_firing_follows_presence_and_intensity(rules: RulesFile) -> None:
    def names(**units: float) -> list[str]:
        reading = {code: (value, value >= 0.8) for code, value in units.items()}
        return [f.emotion for f in fired(reading, rules.rules)]

    sad = {"AU01": 1.0, "AU04": 1.0, "AU15": 1.0}
    assert "sadness" in names(**sad)
    assert "sadness" in names(**{**sad, "AU15": 0.5})  # two of three are present, mean 0.83
    assert "sadness" not in names(**{**sad, "AU04": 0.0, "AU15": 0.0})  # one of three
    assert "sadness" not in names(AU01=0.9, AU04=0.9, AU15=0.1)  # mean 0.63
    assert names(AU12=3.0) == []  # AU06 was not measured: half of a row is too little to tell
    assert "fear" not in names(AU20=3.0)


def _readings(labels: tuple[str, ...], rows: list[list[float]]) -> FaceReadings:
    table = np.array(rows)
    times = np.arange(len(rows)) * 0.2
    return FaceReadings(
        track_id=0, times=times, labels=labels, probabilities=table, valence=-table[:, 0], arousal=table[:, 0]
    )


def test_peak_without_action_units() -> None:
    rows = [[0.9, 0.1, 0.0]] * 10 + [[0.1, 0.8, 0.1]] * 5 + [[0.2, 0.0, 0.8]] * 10
    readings = _readings(("neutral", "happiness", "sadness"), rows)
    happy = expression_peak(readings, expressions=["happiness"])
    unknown = expression_peak(readings, expressions=["jealousy"])
    assert happy is not None
    assert unknown is not None
    assert 2.0 <= happy.time <= 2.8
    assert (happy.basis, happy.what, happy.reached) == ("expression", "probability of happiness", True)
    assert unknown.basis == "not_neutral"
    without_neutral = expression_peak(_readings(("a", "b"), [[0.1, 0.9]] * 5 + [[0.8, 0.2]]))
    assert without_neutral is not None
    assert (without_neutral.basis, without_neutral.index) == ("affect", 5)
    assert expression_peak(_empty()) is None


def _empty() -> FaceReadings:
    none = np.zeros(0)
    return FaceReadings(
        track_id=0, times=none, labels=("neutral",), probabilities=np.zeros((0, 1)), valence=none, arousal=none
    )


def test_options_are_checked() -> None:
    with pytest.raises(InputError, match="height is -1"):
        PeakOptions(height=-1.0)

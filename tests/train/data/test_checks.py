"""What the list of defects leaves out: softer findings, limits of labels, and the words of a report."""

from __future__ import annotations

from pathlib import Path

from emollama.media import MediaLimits
from train.data.clip_checks import ClipFacts, check_clips, probe_clip, probe_clips
from train.data.codes import CODES
from train.data.limits import DataLimits
from train.data.report import Findings
from train.data.row_checks import Facts, RowChecker
from train.data.set_checks import check_classes, check_labels, check_unused

LIMITS = DataLimits()


def codes(findings: Findings) -> list[str]:
    return [problem.code for problem in findings.report().problems]


def labelled(*labels: str, split: str = "train") -> list[Facts]:
    return [Facts(line=line, shares={name: 1.0}, split=split) for line, name in enumerate(labels, start=1)]


def test_more_labels_than_can_be_asked(tmp_path: Path) -> None:
    findings = Findings(file="m.jsonl")
    check_labels(labelled(*(f"label {n}" for n in range(64))), None, findings)
    assert codes(findings) == []
    check_labels(labelled(*(f"label {n}" for n in range(65))), None, findings)
    assert codes(findings) == ["too_many_labels"]


def test_two_names_of_one_emotion_are_two_spellings() -> None:
    findings = Findings(file="m.jsonl")
    check_labels(labelled("calm", "sad", "neutral", "sadness", "sad"), None, findings)
    assert [(p.code, p.line, p.remedy) for p in findings.report().problems] == [
        ("label_spelling", 3, "write 'calm' everywhere"),
        ("label_spelling", 4, "write 'sad' everywhere"),
    ]


def test_labels_are_held_against_a_set_in_any_case_and_not_twice() -> None:
    findings = Findings(file="m.jsonl")
    rows = [
        Facts(line=1, shares={"JOYY": 1.0}),
        Facts(line=2, shares={"joy": 0.5, "happy": 0.5}, shares_field="distribution"),
    ]
    check_labels(rows, ("JOY", "FEAR"), findings)
    assert [(p.code, p.field, p.remedy) for p in findings.report().problems] == [
        ("unknown_label", "label", "write 'JOY', or add 'JOYY' to the set"),
        ("label_spelling", "distribution", "write it in one way everywhere"),
    ]


def test_labels_that_no_sample_has_are_named_in_one_warning() -> None:
    findings = Findings(file="m.jsonl")
    rows = [*labelled(*["joy"] * 12, *["fear"] * 12), *labelled("Joy", split="valid")]
    check_unused(rows, ("JOY", "fear", "awe", "pride"), findings)
    assert [(p.code, p.severity, p.field, p.value) for p in findings.report().problems] == [
        ("label_without_sample", "warning", "labels", "awe, pride")
    ]


def test_few_samples_warn_and_no_validation_is_said() -> None:
    findings = Findings(file="m.jsonl")
    check_classes(labelled(*["joy"] * 12, *["fear"] * 9), None, LIMITS, findings)
    assert codes(findings) == ["no_valid_rows", "few_samples"]
    assert all(CODES[code].severity == "warning" for code in findings.counts)


def test_a_share_of_a_label_is_a_sample_of_it() -> None:
    rows = labelled(*["joy"] * 10, *["sad"] * 10) + labelled("joy", split="valid")
    rows += [Facts(line=99, shares={"joy": 0.7, "fear": 0.3})]
    findings = Findings(file="m.jsonl")
    check_classes(rows, None, LIMITS, findings)
    assert codes(findings) == []


def test_sound_that_is_silent_and_stretches_past_the_end() -> None:
    findings = Findings(file="m.jsonl")
    clips = {"a.wav": ClipFacts(seconds=2.0, sha256="a", has_sound=True, is_silent=True)}
    clips["b.mp4"] = ClipFacts(seconds=2.0, sha256="b", has_picture=True, has_sound=True, is_silent=True)
    rows = [
        Facts(line=1, clip="a.wav", words="Hello."),
        Facts(line=2, clip="b.mp4", start=1.0, end=2.2),
        Facts(line=3, clip="b.mp4", start=1.0, end=2.6),
        Facts(line=4, clip="b.mp4", start=2.0),
    ]
    check_clips(rows, clips, findings)
    assert [(p.code, p.line) for p in findings.report().problems] == [
        ("silent_clip", 1),
        ("end_past_end", 3),
        ("start_past_end", 4),
    ]


def test_values_only_the_format_itself_refuses() -> None:
    findings = Findings(file="m.jsonl")
    RowChecker(findings).check({"id": "a", "clip": " ", "label": "joy", "open_vocabulary": ["", "x"]}, 1)
    RowChecker(findings).check({"id": "a", "clip": "a.wav", "label": "joy", "language": 10**30}, 2)
    RowChecker(findings).check({"id": "a", "clip": "a.wav", "label": "joy", "meta": {"x": "\ud800"}}, 3)
    RowChecker(findings).check({"id": "a", "clip": "a.wav", "label": "joy", "meta": {"x": 10**400}}, 4)
    assert [(problem.code, problem.line) for problem in findings.report().problems] == [
        ("bad_value", 1),
        ("bad_value", 1),
        ("wrong_type", 2),
        ("control_characters", 3),
    ]


def test_a_report_escapes_what_a_terminal_must_not_receive() -> None:
    findings = Findings(file="m.jsonl")
    document = {"id": "a", "transcript": "x", "label": "joy", "\x1b[31mred": 1, "split": "\x1b]0;title\x07"}
    RowChecker(findings).check(document, 1)
    text = findings.report().to_text()
    assert "\x1b" not in text
    assert "\\u001b" in text


def test_real_media_of_each_kind(tmp_path: Path, media) -> None:
    media.video(tmp_path / "a.mp4", audio=1.0)
    media.wav(tmp_path / "b.mp3", seconds=0.5)
    media.image(tmp_path / "c.png")
    (tmp_path / "d.mp4").write_bytes((tmp_path / "a.mp4").read_bytes()[:900])
    facts = probe_clips(["a.mp4", "b.mp3", "c.png", "d.mp4", "x" * 300], tmp_path, limits=MediaLimits())
    assert (facts["a.mp4"].has_picture, facts["a.mp4"].has_sound, facts["a.mp4"].problem) == (True, True, None)
    assert abs(facts["a.mp4"].seconds - 1.0) < 0.1
    assert (facts["b.mp3"].has_picture, facts["b.mp3"].has_sound) == (False, True)
    assert (facts["c.png"].has_picture, facts["c.png"].seconds) == (True, 0.0)
    assert facts["d.mp4"].problem is not None
    assert facts["d.mp4"].problem[0] == "undecodable_clip"
    assert facts["x" * 300].problem is not None
    assert facts["x" * 300].problem[0] == "missing_clip"


def test_a_file_that_cannot_be_opened_is_unreadable(tmp_path: Path) -> None:
    facts = probe_clip(tmp_path / "gone.wav", MediaLimits())  # it was there a moment ago
    assert facts.problem is not None
    assert facts.problem[0] == "unreadable_clip"

"""Every defect is found, with its line and a remedy; sound data has none; nothing makes the check raise."""

from __future__ import annotations

import importlib.util
import json
import os
import random
import sys
import time
from pathlib import Path
from types import ModuleType

import pytest

from emollama.errors import DatasetError
from emollama.manifest import Sample, read_manifest
from emollama.media import MediaLimits
from train.data.clip_checks import ClipFacts
from train.data.codes import CODES
from train.data.limits import DataLimits
from train.data.report import Report
from train.data.validate import validate, validate_upload


def _load(name: str) -> ModuleType:
    """Import a neighbour: tests are no package."""
    spec = importlib.util.spec_from_file_location(f"data_{name}", Path(__file__).with_name(f"{name}.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


d = _load("defects")
LIMITS = DataLimits(few_samples_per_class=2)


def check(path: Path, folder: Path, **options: object) -> Report:
    """Check a manifest where it lies, and an archive as the service does."""
    options = {"limits": LIMITS, **options}
    if path.suffix == ".jsonl":
        return validate(path, **options)  # type: ignore[arg-type]
    return validate_upload(path, folder, **options)


def test_there_are_enough_defects() -> None:
    assert len(d.DEFECTS) >= 30
    assert d.DEFECTS.keys() == d.EXPECTED.keys()


def test_sound_data_has_no_problem(tmp_path: Path) -> None:
    report = validate(d.sound(tmp_path), limits=LIMITS)
    assert report.problems == ()
    assert report.ok
    assert report.summary is not None
    assert report.summary.to_json_dict() == {
        "num_samples": 8, "splits": {"train": 6, "valid": 2},
        "labels": {"train": {"boredom": 3, "joy": 3}, "valid": {"boredom": 1, "joy": 1}},
        "num_speakers": 4, "num_clips": 8, "clip_seconds": 3.2, "with_words": 0, "with_messages": 0,
    }  # fmt: skip


@pytest.mark.parametrize("name", d.DEFECTS)
def test_each_defect_is_found_with_its_line_and_a_remedy(tmp_path: Path, name: str) -> None:
    code, line = d.EXPECTED[name]
    report = check(d.DEFECTS[name](tmp_path / "made"), tmp_path / "data")
    assert not report.ok
    assert [(problem.code, problem.line) for problem in report.errors] == [(code, line)]
    (problem,) = report.errors
    assert problem.remedy
    assert problem.message
    text = report.to_text()
    assert problem.remedy in text
    assert (f"{problem.file}:{line}:" if line else f"{problem.file}:") in text
    json.dumps(report.to_json_dict(), allow_nan=False)
    assert not (tmp_path / "data").exists()  # of a refused upload nothing is left


@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        ("misspelled_field", "write 'label'"),
        ("dev_split", "write 'valid'"),
        ("label_outside_the_header", "write 'boredom', or add 'boredum' to the set"),
        ("another_spelling", "write 'joy' everywhere"),
    ],
)
def test_a_near_miss_is_named(tmp_path: Path, name: str, remedy: str) -> None:
    (problem,) = check(d.DEFECTS[name](tmp_path), tmp_path).errors
    assert problem.remedy == remedy


def test_all_problems_of_all_lines_come_in_one_pass(tmp_path: Path) -> None:
    rows = d.sound_rows()
    rows[0] |= {"valence": 3, "start": 2, "end": 1, "lable": "x"}
    rows[2] |= {"clip": "clips/no.wav", "messages": [{"role": "user", "content": ""}]}
    rows[4] |= {"split": "testing"}
    rows[5] |= {"id": "s0", "label": 7}
    rows[6] |= {"speaker": "anna"}
    report = validate(d.write_rows(tmp_path, rows), limits=LIMITS)
    assert [(p.line, p.field, p.code) for p in report.errors if p.line] == [
        (1, "lable", "unknown_field"),
        (1, "valence", "out_of_range"),
        (1, "end", "reversed_times"),
        (1, "start", "start_past_end"),
        (3, "messages.0.content", "empty_message"),
        (3, "messages", "no_answer"),
        (3, "clip", "missing_clip"),
        (5, "split", "unknown_split"),
        (6, "id", "duplicate_id"),
        (6, "label", "wrong_type"),
        (7, "speaker", "speaker_in_two_splits"),
    ]
    assert report.counts["out_of_range"] == 1


def test_labels_of_the_caller_go_before_the_headers(tmp_path: Path) -> None:
    path = d.write_rows(tmp_path, [{"manifest_version": 1, "labels": ["joy", "fear"]}, *d.sound_rows()])
    assert validate(path, limits=LIMITS).counts == {"unknown_label": 4, "label_without_sample": 1}
    assert validate(path, limits=LIMITS, labels=("happy", "bored")).counts == {}
    # Another word for a label of the set is the same label, as it is in training.
    assert validate(path, limits=LIMITS, labels=("joy", "Boredom ", "fear")).counts == {}


@pytest.mark.parametrize(
    ("header", "field", "code", "remedy"),
    [
        ({"licence": "CC0"}, "licence", "bad_header", "write 'license'"),
        ({"labels": ["joy"]}, "labels", "bad_header", CODES["bad_header"].remedy),
        ({"labels": ["joy", "boredom", "Bored"]}, "labels", "label_spelling", "keep one of them"),
        ({"manifest_version": "1"}, "manifest_version", "bad_header", "write the manifest anew in this version"),
    ],
)
def test_a_wrong_header(tmp_path: Path, header: dict[str, object], field: str, code: str, remedy: str) -> None:
    path = d.write_rows(tmp_path, [{"manifest_version": 1, **header}, *d.sound_rows()])
    assert [(p.line, p.field, p.code, p.remedy) for p in validate(path, limits=LIMITS).errors] == [
        (1, field, code, remedy)
    ]


def test_warnings_do_not_refuse(tmp_path: Path) -> None:
    path = d.sound(tmp_path)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n\r\n"))
    (tmp_path / "clips" / "s3.wav").write_bytes(d.wav()[:4000])
    report = validate(path)
    assert report.ok
    assert {problem.code for problem in report.problems} == {"byte_order_mark", "damaged_clip", "few_samples"}
    assert all(problem.severity == "warning" for problem in report.problems)


def test_links_may_not_lead_out(tmp_path: Path) -> None:
    path = d.sound(tmp_path / "data")
    outside = tmp_path / "outside.wav"
    outside.write_bytes(d.wav())
    for number, target in ((0, outside), (1, "s1.wav"), (2, "s3.wav")):
        clip = tmp_path / "data" / "clips" / f"s{number}.wav"
        clip.unlink()
        clip.symlink_to(target)
    report = validate(path, limits=LIMITS)
    assert [(p.code, p.line) for p in report.errors] == [("clip_outside", 1), ("missing_clip", 2), ("two_labels", 4)]


def test_limits_hold(tmp_path: Path) -> None:
    path = d.sound(tmp_path)
    report = validate(path, limits=DataLimits(media=MediaLimits(max_seconds=0.2), few_samples_per_class=2))
    assert report.counts == {"clip_over_limit": 8}
    report = validate(path, limits=DataLimits(max_rows=5, few_samples_per_class=2))
    assert [(p.code, p.line) for p in report.errors] == [("too_many_rows", 7)]
    report = validate(path, limits=DataLimits(max_listed=2), labels=("fear", "anger"))
    assert len(report.problems) == 2
    assert report.counts["unknown_label"] == 8
    assert "... and 6 more" in report.to_text()


def test_words_alone_can_leak_too(tmp_path: Path) -> None:
    rows = [
        {"id": str(index), "transcript": words, "label": label, "split": split}
        for index, (words, label, split) in enumerate(
            [
                ("Oh no.", "sad", "train"),
                ("Yes!", "glad", "train"),
                ("oh  no.", "sad", "valid"),
                ("Yes!", "glad", "train"),
            ]
        )
    ]
    rows += [{"id": "4", "transcript": "No.", "label": "sad"}]
    report = validate(d.write_rows(tmp_path, rows), limits=LIMITS)
    assert [(p.code, p.line) for p in report.problems] == [("clip_in_two_splits", 3), ("same_sample", 4)]


def test_a_clip_may_teach_several_dialogues_but_none_twice(tmp_path: Path) -> None:
    def row(number: int, answer: str) -> dict[str, object]:
        turns = [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": answer}]
        split = "valid" if number == 3 else "train"
        clip = "clips/s1.wav" if number == 3 else "clips/s0.wav"
        return {"id": str(number), "clip": clip, "messages": turns, "split": split}

    rows = [row(0, "A yawn."), row(1, "A flat voice."), row(2, "A yawn."), row(3, "A sigh.")]
    report = validate(d.write_rows(tmp_path, rows), limits=LIMITS)
    assert [(p.code, p.line) for p in report.problems] == [("same_sample", 3)]
    rows = [row(0, "A yawn."), row(1, "A flat voice."), row(2, "A flat voice."), row(3, "A sigh.")]
    (problem,) = validate(d.write_rows(tmp_path / "second", rows), limits=LIMITS).problems
    assert (problem.code, problem.line) == ("same_sample", 3)
    assert "line 2" in problem.message


def test_dialogues_need_no_labels(tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "A yawn\n\tin the voice. 🥱"}]
    rows = [
        {"id": f"s{n}", "clip": f"clips/s{n}.wav", "messages": turns, "split": "valid" if n else None} for n in (0, 1)
    ]
    assert validate(d.write_rows(tmp_path, rows), limits=LIMITS).problems == ()


def test_a_file_for_validation_is_held_against_the_one_that_is_trained_on(tmp_path: Path) -> None:
    training = validate(d.sound(tmp_path / "a"), limits=LIMITS, name="train.jsonl")
    rows = [{**row, "split": None, "label": "joy", "speaker": f"new {n}"} for n, row in enumerate(d.sound_rows()[:3])]
    rows[1] |= {"speaker": "ben", "clip": "clips/other.wav"}
    path = d.write_rows(tmp_path / "b", rows)
    (tmp_path / "b" / "clips" / "s0.wav").write_bytes(d.wav(hz=900.0))
    (tmp_path / "b" / "clips" / "other.wav").write_bytes(d.wav(hz=950.0))
    report = validate(path, limits=LIMITS, validates=training)
    assert [(p.code, p.line, p.message) for p in report.problems] == [
        ("speaker_in_two_splits", 2, "is trained on in train.jsonl, line 3"),
        ("clip_in_two_splits", 3, "is trained on in train.jsonl, line 3"),
    ]
    assert report.summary is not None
    assert report.summary.splits == {"valid": 3}
    # As in training: when rows are marked for validation, the others do not count.
    rows[0]["split"] = "valid"
    report = validate(d.write_rows(tmp_path / "b", rows), limits=LIMITS, validates=training)
    assert [(p.code, p.line) for p in report.problems] == [("clip_in_two_splits", 1)]


def test_a_check_can_be_stopped(tmp_path: Path) -> None:
    """A probe that raises ends the check, and the clips that were not begun are left alone."""
    begun: list[str] = []

    def probe(path: Path, limits: MediaLimits) -> ClipFacts:
        begun.append(path.name)
        if len(begun) > 1:
            time.sleep(0.3)  # in which the rest is called off
        raise InterruptedError

    with pytest.raises(InterruptedError):
        validate(d.sound(tmp_path), probe=probe, workers=1)
    assert len(begun) < 8


def test_progress_is_told_and_a_clip_is_opened_once(tmp_path: Path) -> None:
    rows = d.sound_rows()
    rows += [{**rows[0], "id": "again", "start": 0.1}, {**rows[0], "id": "outside", "clip": "../x.wav"}]
    opened: list[Path] = []
    told: list[tuple[int, int]] = []

    def probe(path: Path, limits: MediaLimits) -> ClipFacts:
        opened.append(path)
        return ClipFacts(seconds=1.0, sha256=path.name, has_sound=True)

    path = d.write_rows(tmp_path, rows)
    validate(path, limits=LIMITS, probe=probe, workers=3, progress=lambda done, total: told.append((done, total)))
    assert sorted(p.name for p in opened) == [f"s{n}.wav" for n in range(8)]
    assert told == [(n, 8) for n in range(9)]


def test_cost_is_told_with_the_callers_tokens(tmp_path: Path) -> None:
    path = d.with_row(tmp_path, 0, transcript="one two three", start=0.1, end=0.3)
    report = validate(path, limits=LIMITS, count_tokens=lambda text: len(text.split()), epochs=2, batch_size=3)
    assert report.cost is not None
    told = report.cost.to_json_dict()
    assert (told["train_samples"], told["valid_samples"], told["steps"]) == (6, 2, 4)
    assert (told["prompt_tokens"], told["answer_tokens"], told["trained_tokens"]) == (3, 6, 18)
    assert told["stretch_seconds"] == pytest.approx(3.0)
    assert told["encoding_seconds"] is None
    assert "4 steps (2 epochs of 6 samples, batches of 3), 18 tokens of text" in report.to_text()


def test_what_is_not_there_is_a_problem_and_no_crash(tmp_path: Path) -> None:
    assert validate(tmp_path / "no.jsonl").counts == {"manifest_missing": 1}
    assert validate(tmp_path).counts == {"manifest_missing": 1}
    assert validate_upload(tmp_path / "no.zip", tmp_path / "data").counts == {"bundle_unreadable": 1}


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read(tmp_path: Path) -> None:
    path = d.sound(tmp_path)
    (tmp_path / "clips" / "s0.wav").chmod(0)
    assert validate(path, limits=LIMITS).counts == {"unreadable_clip": 1}


JUNK = [
    None, True, 0, -1, 1.5, 10**400, "", " ", "x", "\x00", "\ud800", "../..", "/", "a" * 5000, [], [None], [[]], {},
    {"a": 1}, {"": 1}, {"x": None}, [{"role": "user"}], [{"role": 1, "content": []}], [{"content": "x"}],
    {"\ud800": 0.5}, 1e308,
]  # fmt: skip


@pytest.mark.parametrize("seed", range(6))
def test_nothing_makes_it_raise(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    fields = [*Sample.model_fields, "manifest_version", "lable", "\u202e"]
    rows = [
        {**d.sound_rows()[number % 8], **{rng.choice(fields): rng.choice(JUNK) for _ in range(rng.randint(0, 3))}}
        for number in range(60)
    ]
    lines: list[object] = []
    for row in rows:
        line = json.dumps(row).encode()
        if rng.random() < 0.1:
            line = bytes(byte if rng.random() > 0.02 else rng.randrange(256) for byte in line).replace(b"\n", b"")
        lines.append(line)
    path = d.write_rows(tmp_path, lines)
    report = validate(path, limits=LIMITS)
    report.to_text().encode("utf-8")
    json.dumps(report.to_json_dict(), allow_nan=False)
    assert not report.ok
    with pytest.raises(DatasetError):  # the strict reader agrees that something is wrong
        read_manifest(path)


@pytest.mark.parametrize("field", Sample.model_fields)
def test_what_passes_can_be_read_by_training(tmp_path: Path, field: str) -> None:
    """One field of one row is junk: whenever the strict reader refuses the file, so does the check."""
    path = d.sound(tmp_path)
    for value in JUNK:
        rows = d.sound_rows()
        rows[1][field] = value
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        report = validate(path, limits=LIMITS, probe=lambda path, limits: ClipFacts(seconds=1.0, sha256=path.name))
        try:
            read_manifest(path)
        except DatasetError:
            assert not report.ok, (field, value)


def test_every_code_is_tested() -> None:
    """Each code that refuses is among the defects, or asserted by name in this folder."""
    written = "".join(path.read_text(encoding="utf-8") for path in Path(__file__).parent.glob("test_*.py"))
    found = {code for code, _ in d.EXPECTED.values()}
    assert not [code for code in CODES if code not in found and f'"{code}"' not in written]

"""What can be said only of the whole set: its labels, its classes, and what stands on both sides of a split."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence

from emollama.labels import canonical
from train.data.clip_checks import ClipFacts
from train.data.limits import DataLimits
from train.data.report import Findings, Seen, Summary
from train.data.row_checks import Facts, did_you_mean

MAX_LABELS = 64


def check_labels(rows: Sequence[Facts], labels: Sequence[str] | None, findings: Findings) -> None:
    """Hold each label against the label set, or, when there is none, against the spelling that came first."""
    if labels is None:
        _check_spellings(rows, findings)
        return
    known = _by_meaning(labels)
    for row in rows:
        for name in row.shares:
            if canonical(name) not in known:
                near = did_you_mean(name, labels) or did_you_mean(canonical(name), known)
                near = known.get(canonical(near), near) if near is not None else None
                remedy = near and f"write {near!r}, or add {name!r} to the set"
                findings.add(
                    "unknown_label", f"{name!r} is not in the label set", line=row.line, field=row.shares_field,
                    value=name, allowed=", ".join(labels), remedy=remedy,
                )  # fmt: skip
        if len({canonical(name) for name in row.shares}) < len(row.shares):
            message = "has one emotion under two names"
            findings.add("label_spelling", message, line=row.line, field=row.shares_field, value=", ".join(row.shares))


def _check_spellings(rows: Sequence[Facts], findings: Findings) -> None:
    first: dict[str, tuple[str, int]] = {}
    for row in rows:
        for name in row.shares:
            spelling, line = first.setdefault(canonical(name), (name, row.line))
            if spelling != name:
                findings.add(
                    "label_spelling", f"{name!r} means the same as {spelling!r} in line {line}", line=row.line,
                    field=row.shares_field, value=name, remedy=f"write {spelling!r} everywhere",
                )  # fmt: skip
    if len(first) > MAX_LABELS:
        findings.add(
            "too_many_labels", f"there are {len(first)} labels", field="label", value=len(first),
            allowed=f"at most {MAX_LABELS}",
        )  # fmt: skip


def check_classes(rows: Sequence[Facts], labels: Sequence[str] | None, limits: DataLimits, findings: Findings) -> None:
    """Is there something to train on, more than one class, and enough of each? Labels outside the set do not count."""
    known = None if labels is None else {canonical(name) for name in labels}
    in_train = [row for row in rows if row.split == "train"]
    if rows and not in_train:
        splits = ", ".join(sorted({row.split for row in rows if row.split})) or "none that is known"
        findings.add(
            "no_train_rows", f"the samples' splits are: {splits}", field="split", value=splits, allowed="train"
        )
    elif in_train and not any(row.split == "valid" for row in rows):
        findings.add("no_valid_rows", "training will set a part of its samples apart for it", field="split")
    counts: Counter[str] = Counter()
    spelling: dict[str, str] = {}
    for row in in_train:
        if row.top_label is not None and (known is None or canonical(row.top_label) in known):
            counts[canonical(row.top_label)] += 1
    first_line: dict[str, int] = {}
    in_shares: set[str] = set()  # of the samples for training
    has_unknown = False
    for row in rows:
        for name in row.shares:
            key = canonical(name)
            if known is not None and key not in known:
                has_unknown = True
                continue
            spelling.setdefault(key, name)
            first_line.setdefault(key, row.line)
            if row.split == "train":
                in_shares.add(key)
    if counts and len(spelling) == 1 and not has_unknown:
        (only,) = spelling.values()
        findings.add("one_class", f"every label is {only!r}", field="label", value=only, allowed="2 labels or more")
    for key, name in spelling.items():
        if counts and key not in in_shares:
            message = f"{name!r} has no sample for training"
            findings.add("label_not_trained", message, line=first_line[key], field="label", value=name)
        elif counts[key] and counts[key] < limits.min_samples_per_class and len(counts) > 1:
            findings.add(
                "too_few_samples", f"{name!r} has {counts[key]} for training", field="label", value=name,
                allowed=f"{limits.min_samples_per_class} or more",
            )  # fmt: skip
        elif counts[key] and counts[key] < limits.few_samples_per_class and len(counts) > 1:
            findings.add("few_samples", f"{name!r} has {counts[key]} for training", field="label", value=name)


def check_unused(rows: Sequence[Facts], labels: Sequence[str], findings: Findings) -> None:
    """Name the labels of the manifest's header that no sample has."""
    used = {canonical(name) for row in rows for name in row.shares}
    unused = [name for key, name in _by_meaning(labels).items() if key not in used]
    if used and unused:
        findings.add(
            "label_without_sample", f"no sample has {', '.join(map(repr, unused))}", field="labels",
            value=", ".join(unused),
        )  # fmt: skip


def _by_meaning(labels: Sequence[str]) -> dict[str, str]:
    return {canonical(name): name for name in labels}


def content_key(row: Facts, clips: Mapping[str, ClipFacts]) -> str | None:
    """Return what identifies a sample's content: the clip's bytes, or its words when it has no clip."""
    if row.clip is not None:
        facts = clips.get(row.clip)
        return facts.sha256 if facts is not None else None
    if not row.words:
        return None
    return "words:" + hashlib.sha256(" ".join(row.words.lower().split()).encode("utf-8", "replace")).hexdigest()


def check_leaks(
    rows: Sequence[Facts], clips: Mapping[str, ClipFacts], findings: Findings, *, training: Seen | None = None
) -> None:
    """Nobody, and no clip, may be in training and in evaluation at once; and no content may have two labels.

    ``training`` is what another file trains on, when these rows are for validating it.
    """
    if training is not None:
        _check_against(training, rows, clips, findings)
    speakers: dict[str, dict[str, int]] = {}
    contents: dict[str, dict[str, int]] = {}
    stretches: dict[tuple[str, float | None, float | None, str], list[Facts]] = {}
    for row in rows:
        if row.split is None:
            continue
        if row.speaker is not None:
            _check_side(row, row.speaker, speakers, "speaker_in_two_splits", "speaker", findings)
        key = content_key(row, clips)
        if key is None:
            continue
        _check_side(row, key, contents, "clip_in_two_splits", "clip" if row.clip else "transcript", findings)
        others = stretches.setdefault((key, row.start, row.end, row.split), [])
        _check_same(row, others, findings)
        others.append(row)


def _check_same(row: Facts, others: Sequence[Facts], findings: Findings) -> None:
    """Hold a sample against earlier ones of the same content in its split; the first that it clashes with is told."""
    label = row.top_label
    for other in others:
        known = other.top_label
        if known is not None and label is not None and canonical(known) != canonical(label):
            message = f"is {label!r}, but line {other.line} says {known!r} of the same content"
            findings.add("two_labels", message, line=row.line, field="label", value=label)
            return
    for other in others:
        if _dialogue(other) == _dialogue(row):  # one clip may teach several dialogues
            field = "clip" if row.clip else "transcript"
            message = f"has the content of line {other.line}"
            findings.add("same_sample", message, line=row.line, field=field, value=row.clip)
            return


def _dialogue(row: Facts) -> object:
    """Return a row's turns, or whether it has any where they could not be read."""
    return row.sample.messages if row.sample is not None else row.has_messages


def _check_against(training: Seen, rows: Sequence[Facts], clips: Mapping[str, ClipFacts], findings: Findings) -> None:
    """Note each speaker and each content that the file for training holds too, once."""
    told: set[str] = set()
    for row in rows:
        for code, field, known, key, value in (
            ("speaker_in_two_splits", "speaker", training.speakers, row.speaker, row.speaker),
            ("clip_in_two_splits", "clip", training.contents, content_key(row, clips), row.clip or row.words),
        ):
            if key is not None and key in known and key not in told:
                told.add(key)
                message = f"is trained on in {training.file}, line {known[key]}"
                findings.add(code, message, line=row.line, field=field, value=value)


def trained_on(file: str, rows: Sequence[Facts], clips: Mapping[str, ClipFacts]) -> Seen:
    """Return who and what the rows for training hold."""
    speakers: dict[str, int] = {}
    contents: dict[str, int] = {}
    for row in rows:
        if row.split == "train":
            if row.speaker is not None:
                speakers.setdefault(row.speaker, row.line)
            key = content_key(row, clips)
            if key is not None:
                contents.setdefault(key, row.line)
    return Seen(file=file, speakers=speakers, contents=contents)


def _check_side(
    row: Facts, key: str, seen: dict[str, dict[str, int]], code: str, field: str, findings: Findings
) -> None:
    """Note a key that stands in train and in valid or test; once for each split that it is in."""
    assert row.split is not None
    lines = seen.setdefault(key, {})
    if row.split in lines:
        return
    others = lines if row.split == "train" else [split for split in lines if split == "train"]
    for other in others:
        value = row.speaker if field == "speaker" else row.clip if field == "clip" else row.words
        message = f"is in {row.split} here, and in {other} in line {lines[other]}"
        findings.add(code, message, line=row.line, field=field, value=value)
    lines[row.split] = row.line


def summarize(rows: Sequence[Facts], clips: Mapping[str, ClipFacts]) -> Summary:
    """Count what the rows hold."""
    splits: Counter[str] = Counter(row.split or "unknown" for row in rows)
    labels: dict[str, Counter[str]] = {}
    for row in rows:
        if row.top_label is not None:
            labels.setdefault(row.split or "unknown", Counter())[row.top_label] += 1
    order = [split for split in ("train", "valid", "test", "unknown") if split in splits]
    return Summary(
        num_samples=len(rows),
        splits={split: splits[split] for split in order},
        labels={split: dict(sorted(labels[split].items())) for split in order if split in labels},
        num_speakers=len({row.speaker for row in rows if row.speaker is not None}),
        num_clips=len({row.clip for row in rows if row.clip is not None}),
        clip_seconds=sum(facts.seconds for facts in clips.values()),
        with_words=sum(1 for row in rows if row.words),
        with_messages=sum(1 for row in rows if row.has_messages),
    )

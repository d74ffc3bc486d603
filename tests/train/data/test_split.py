"""The division: nobody and no clip on two sides, shares by label, the same outcome for the same seed."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from emollama.errors import DatasetError, InputError
from emollama.manifest import Manifest, ManifestHeader, Sample, read_manifest, write_manifest
from train.data.split import Shares, divide


def words(rows: list[tuple[str | None, str]]) -> Manifest:
    """Return a manifest of words alone, a row for each (speaker, label)."""
    samples = tuple(
        Sample(id=str(index), transcript=f"sentence {index}", label=label, speaker=speaker)
        for index, (speaker, label) in enumerate(rows)
    )
    return Manifest(path=Path("m.jsonl"), samples=samples)


def by_speaker(count: int, *, each: int = 12) -> Manifest:
    labels = ("joy", "fear", "anger")
    return words([(f"p{person}", labels[n % 3]) for person in range(count) for n in range(each)])


def test_nobody_is_on_two_sides_and_labels_keep_their_shares() -> None:
    division = divide(by_speaker(20), Shares(valid=0.2, test=0.1))
    where: dict[str | None, set[str | None]] = {}
    for sample in division.samples:
        where.setdefault(sample.speaker, set()).add(sample.split)
    assert all(len(splits) == 1 for splits in where.values())
    assert division.counts == {"train": 168, "valid": 48, "test": 24}
    assert division.labels["valid"] == {"anger": 16, "fear": 16, "joy": 16}
    assert division.speakers == {"train": 14, "valid": 4, "test": 2}
    assert division.grouped_by == "speaker"


def test_rare_labels_get_to_every_split_when_people_differ() -> None:
    """Half of the people never show the rare label; random people would often leave a split without it."""
    rows = [(f"p{n}", "joy") for n in range(40) for _ in range(5)]
    rows += [(f"p{n}", "fear") for n in range(0, 40, 4)]
    for seed in range(5):
        division = divide(words(rows), Shares(valid=0.2, test=0.2), seed=seed)
        assert {split: counts["fear"] for split, counts in division.labels.items()} == {
            "train": 6,
            "valid": 2,
            "test": 2,
        }
        assert {split: counts["joy"] for split, counts in division.labels.items()} == {
            "train": 120,
            "valid": 40,
            "test": 40,
        }


def test_without_speakers_each_content_is_its_own_group() -> None:
    division = divide(words([(None, ("joy", "fear")[n % 2]) for n in range(50)]), Shares(valid=0.1, test=0.1))
    assert (division.num_groups, division.grouped_by) == (50, "content")
    assert division.counts == {"train": 40, "valid": 5, "test": 5}


def test_one_content_stays_together_even_between_people(tmp_path: Path) -> None:
    for name, content in (("a", b"1"), ("b", b"1"), ("c", b"2"), ("d", b"3"), ("e", b"4")):
        (tmp_path / f"{name}.wav").write_bytes(content)
    samples = [
        Sample(id=name, clip=f"{name}.wav", speaker=speaker, label="joy")
        for name, speaker in (("a", "x"), ("b", "y"), ("c", "y"), ("d", "z"), ("e", None))
    ]
    write_manifest(tmp_path / "m.jsonl", samples)
    for seed in range(4):
        division = divide(read_manifest(tmp_path / "m.jsonl"), Shares(valid=0.4, test=0.0), seed=seed)
        split = {sample.id: sample.split for sample in division.samples}
        assert division.num_groups == 3
        assert split["a"] == split["b"] == split["c"]  # b has a's content and c's speaker


def test_the_seed_decides_and_nothing_else() -> None:
    manifest = by_speaker(12)
    splits = [[s.split for s in divide(manifest, Shares(), seed=seed).samples] for seed in (1, 1, 2)]
    assert splits[0] == splits[1]
    assert splits[0] != splits[2]


@pytest.mark.parametrize("count", [3, 4, 8])
def test_few_people_are_divided_and_every_split_gets_somebody(count: int) -> None:
    division = divide(by_speaker(count), Shares(valid=0.1, test=0.1))
    assert all(division.speakers.values())
    assert sum(division.speakers.values()) == count
    assert max(division.counts, key=lambda split: division.counts[split]) == "train"


def test_too_few_people_is_an_error() -> None:
    with pytest.raises(DatasetError, match=r"2 group\(s\) by speaker, and 3 splits are wanted; ask for fewer"):
        divide(by_speaker(2), Shares())
    assert divide(by_speaker(2), Shares(valid=0.3, test=0.0)).counts == {"train": 12, "valid": 12}


def test_large_people_do_not_overfill_a_small_split() -> None:
    rows = [("big", "joy")] * 100 + [(f"p{n}", "joy") for n in range(100)]
    counts = Counter(sample.split for sample in divide(words(rows), Shares(valid=0.1, test=0.1)).samples)
    assert counts == {"train": 160, "valid": 20, "test": 20}


@pytest.mark.parametrize(("valid", "test"), [(-0.1, 0.1), (1.0, 0.0), (0.5, 0.5), (0.0, 0.0)])
def test_shares_that_leave_nothing(valid: float, test: float) -> None:
    with pytest.raises(InputError, match="allowed"):
        Shares(valid=valid, test=test)


def test_a_clip_that_is_gone_is_named(tmp_path: Path) -> None:
    header = ManifestHeader(manifest_version=1)
    write_manifest(tmp_path / "m.jsonl", [Sample(id="a", clip="a.wav", label="joy")], header=header)
    with pytest.raises(DatasetError, match=r"clip 'a\.wav' of 'a' cannot be read"):
        divide(read_manifest(tmp_path / "m.jsonl"), Shares())

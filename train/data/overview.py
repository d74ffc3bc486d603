"""What a data set holds, counted by split, label and speaker; for a person or as JSON."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, get_args

from emollama.manifest import Manifest, Sample, Split
from train.data.cost import stretch_seconds

if TYPE_CHECKING:
    from rich.table import Table

_MOST_ROWS = 40  # of a table for a person; JSON holds all


def overview(manifest: Manifest, seconds: Mapping[str, float] | None) -> dict[str, Any]:
    """Count samples, speakers, dialogues, words and seconds; ``seconds`` is by the clip's path, None: not opened."""
    by_split = {split: manifest.of_split(split) for split in get_args(Split)}
    by_speaker: dict[str, list[Sample]] = {}
    for sample in manifest.samples:
        if sample.speaker:
            by_speaker.setdefault(sample.speaker, []).append(sample)
    by_label = {split: Counter(sample.top_label for sample in inside) for split, inside in by_split.items() if inside}
    return {
        "manifest": str(manifest.path),
        "name": manifest.header.name if manifest.header else None,
        "license": manifest.header.license if manifest.header else None,
        "num_samples": len(manifest.samples),
        "splits": {split: _counted(inside, seconds) for split, inside in by_split.items() if inside},
        "labels": {label: {split: counts[label] for split, counts in by_label.items()} for label in manifest.labels},
        "speakers": {
            name: _counted(theirs, seconds) | {"splits": sorted({sample.split or "train" for sample in theirs})}
            for name, theirs in sorted(by_speaker.items())
        },
    }


def _counted(samples: list[Sample] | tuple[Sample, ...], seconds: Mapping[str, float] | None) -> dict[str, Any]:
    spent = None
    if seconds is not None:
        spent = round(sum(stretch_seconds(s, seconds.get(s.clip, 0.0)) for s in samples if s.clip is not None), 3)
    return {
        "samples": len(samples),
        "clips": len({sample.clip for sample in samples if sample.clip}),
        "speakers": len({sample.speaker for sample in samples if sample.speaker}),
        "with_words": sum(1 for sample in samples if sample.transcript),
        "with_messages": sum(1 for sample in samples if sample.messages),
        "seconds": spent,
    }


def tables(found: Mapping[str, Any]) -> Iterator[Table]:
    """Yield the overview as tables: splits, labels, speakers."""
    from rich.table import Table
    from rich.text import Text

    table = Table("split", "samples", "clips", "speakers", "words", "dialogues", "seconds", box=None)
    for split, part in found["splits"].items():
        seconds = "-" if part["seconds"] is None else f"{part['seconds']:.1f}"
        cells = [part[key] for key in ("samples", "clips", "speakers", "with_words", "with_messages")]
        table.add_row(split, *(str(cell) for cell in cells), seconds)
    yield table
    if found["labels"]:
        table = Table("label", *found["splits"], box=None)
        for label, counts in list(found["labels"].items())[:_MOST_ROWS]:
            table.add_row(Text(label), *(str(counts[split]) for split in found["splits"]))
        yield table
    if found["speakers"]:
        table = Table("speaker", "samples", "seconds", "in", box=None)
        for name, part in list(found["speakers"].items())[:_MOST_ROWS]:
            seconds = "-" if part["seconds"] is None else f"{part['seconds']:.1f}"
            table.add_row(Text(name), str(part["samples"]), seconds, ", ".join(part["splits"]))
        hidden = len(found["speakers"]) - _MOST_ROWS
        if hidden > 0:
            table.add_row(f"... and {hidden} more", "", "", "")
        yield table

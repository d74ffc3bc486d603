"""The companions of a task: the analyzer is asked for rationales and forms on its items, and all figures collected.

An item that cannot be asked is counted as failed and stands in no figure.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from emollama.html_page import Section
from eval.ask import give
from eval.companions import Companions, Told, ask_all, collect
from eval.report_tables import number
from eval.run import ITEM_ERRORS, EvalOptions, read_items
from eval.task import EvalTask, Item

if TYPE_CHECKING:
    from emollama.analyze import Analyzer

FORMAT = "emollama-companions/1"
MOST_SHOWN = 20
MEANINGS: Mapping[str, str] = {
    "words": "words of a rationale",
    "sentences": "sentences of a rationale",
    "in_house_voice": "rationales of 30 to 80 words and 2 to 4 sentences",
    "hedged": "clauses about the person that say what appears, not what is",
    "claims": "checkable claims of a rationale",
    "evidence_agreement": "checkable claims that the readings bear out",
    "absent_modality_claimed": "rationales that speak of an absent modality",
    "label_precision": "named emotions that are true ones",
    "label_recall": "true emotions that are named",
    "label_f1": "overlap of named and true emotions, F1",
    "label_jaccard": "overlap of named and true emotions, Jaccard",
    "one_word": "one word when one was asked for",
    "json": "JSON with its keys when it was asked for",
    "consistency": "pairs of five phrasings that agree",
    "unanimous": "items on which all five phrasings agree",
    "phrasing_unreadable": "answers to the phrasings without a readable label",
    "kappa": "agreement of the phrasings beyond chance, Fleiss' kappa",
}


def run_companions(
    task: EvalTask,
    analyzer: Analyzer,
    data: Path,
    options: EvalOptions,
    *,
    model: str,
    progress: Callable[[int, int], object] | None = None,
) -> dict[str, Any]:
    """Ask the analyzer about a task's items and return the document of all figures; ``options`` choose the items."""
    items = read_items(task, data, options)
    labels = task.labels if task.asks in ("label", "labels") else None
    told: list[Told] = []
    failed: dict[str, str] = {}
    for place, item in enumerate(items, start=1):
        try:
            told.append(
                ask_all(analyzer, give(item).clip, id=item.id, labels=labels, gold=gold_words(item), group=item.group)
            )
        except ITEM_ERRORS as error:
            failed[item.id] = f"{type(error).__name__}: {' '.join(str(error).split())}"
        if progress is not None:
            progress(place, len(items))
    found = collect(told, num_resamples=options.score.num_resamples, seed=options.score.seed)
    return {
        "format": FORMAT,
        "task": task.name,
        "split": options.split or task.split,
        "model": model,
        "n": len(items),
        "failed": len(failed),
        "errors": dict(list(failed.items())[:MOST_SHOWN]),
        "bootstrap": {"resamples": options.score.num_resamples, "seed": options.score.seed, "level": 0.95},
        "figures": {name: vars(figure) for name, figure in found.figures.items()},
        "unsupported": _shown(found),
        "absent": {name: list(sources) for name, sources in list(found.absent.items())[:MOST_SHOWN]},
    }


def gold_words(item: Item) -> tuple[str, ...] | None:
    """Return an item's true emotion words, ``None`` where its truth is no word (numbers, flags, a letter)."""
    gold = item.gold
    if isinstance(gold, Mapping):
        gold = gold.get("label")
    if item.choices or not isinstance(gold, (str, Sequence)):
        return None
    words = (gold,) if isinstance(gold, str) else tuple(gold)
    return words if words and all(isinstance(word, str) for word in words) else None


def _shown(found: Companions) -> dict[str, list[dict[str, Any]]]:
    return {name: [vars(claim) for claim in claims] for name, claims in list(found.unsupported.items())[:MOST_SHOWN]}


def companion_section(document: Mapping[str, Any]) -> Section:
    """Return the figures as a table."""
    rows = []
    for name, meaning in MEANINGS.items():
        figure = document["figures"].get(name)
        if figure is not None:
            interval = "" if figure["low"] is None else f"[{number(figure['low'])}, {number(figure['high'])}]"
            rows.append((meaning, number(figure["value"]), interval, str(figure["n"])))
    return Section(
        key="companions",
        title=f"{document['task']}, {document['model']}: what needs no judge",
        header=("", "value", "95 % interval", "items"),
        rows=tuple(rows),
        text=f"{document['n']} items, {document['failed']} failed. This says whether a rationale keeps to what was "
        "read, not whether it is good.",
    )

"""What each round did: JSON for programs and Markdown for people.

Figures on the validation clips, the cross-validation fold by fold, and for each class how many pseudo-labels passed,
were taken and, where the truth is known after all (in a study), were right.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from emollama.fusion.utterances import Utterances
from emollama.tensors import write_json
from train.self_training.rounds import FoldScores, Round, score


def describe_rounds(
    rounds: Sequence[Round],
    unlabelled: Utterances,
    *,
    valid: Utterances | None = None,
    folds: Sequence[FoldScores] = (),
    truth: Mapping[str, str] | None = None,
) -> list[dict[str, Any]]:
    """Return a document for each round, of plain JSON types."""
    described = []
    for each in rounds:
        document: dict[str, Any] = {"round": each.number, "members": len(each.classifier.members)}
        if each.pseudo is not None:
            document["pseudo_labels"] = _describe_pseudo(each, unlabelled, truth)
        if valid is not None:
            document["validation"] = {"clips": len(valid), **_rounded(score(each.classifier, valid))}
        if folds:
            document["cross_validation"] = {
                "folds": len(folds),
                "macro_f1": mean_and_spread([fold.macro_f1[each.number] for fold in folds]),
                "waf": mean_and_spread([fold.waf[each.number] for fold in folds]),
                "pseudo_labels_in_training": [fold.chosen[each.number] for fold in folds],
                "pseudo_labels_in_validation": 0,  # a fold holds labelled clips alone; see `train.self_training.folds`
                "scored": [fold.scored for fold in folds],
            }
        described.append(document)
    return described


def _describe_pseudo(each: Round, unlabelled: Utterances, truth: Mapping[str, str] | None) -> dict[str, Any]:
    assert each.pseudo is not None
    pseudo, counts = each.pseudo, each.pseudo.counts()
    names = [unlabelled.names[row] for row in pseudo.rows]
    document: dict[str, Any] = {
        "of": len(unlabelled),
        "taken": len(names),
        "mean_confidence": round(float(pseudo.confidence.mean()), 4) if len(names) else None,
        "classes": {
            label: {
                "threshold": round(each.thresholds[label], 4),
                "passed": pseudo.passed[label],
                "taken": counts[label],
            }
            for label in pseudo.passed
        },
    }
    if truth is not None and names:
        right = [truth[name] == label for name, label in zip(names, pseudo.labels, strict=True)]
        document["right"] = round(sum(right) / len(right), 4)
    return document


def mean_and_spread(values: Sequence[float]) -> dict[str, Any]:
    """Return mean, standard deviation (of the sample) and the values themselves, rounded to four places."""
    spread = statistics.stdev(values) if len(values) > 1 else 0.0
    return {
        "mean": round(statistics.fmean(values), 4),
        "std": round(spread, 4),
        "values": [round(value, 4) for value in values],
    }


def write_report(folder: Path, document: Mapping[str, Any]) -> None:
    """Write ``report.json`` and ``report.md``; ``document["rounds"]`` is what `describe_rounds` returns."""
    write_json(folder / "report.json", document)
    (folder / "report.md").write_text(as_markdown(document), "utf-8")


def as_markdown(document: Mapping[str, Any]) -> str:
    """Return the report as one Markdown page: a table of the rounds, then one of the classes for each."""
    rounds = document["rounds"]
    scored = [name for name in ("validation", "cross_validation") if name in rounds[0]]
    heads = {"validation": "validation macro-F1 | WAF", "cross_validation": "cross-validation macro-F1 | WAF"}
    columns = ["round", "pseudo-labels", *(heads[name] for name in scored)]
    num_columns = " | ".join(columns).count("|") + 1
    lines = ["# Self-training", "", f"| {' | '.join(columns)} |", "|" + "---|" * num_columns]
    for each in rounds:
        pseudo = each.get("pseudo_labels")
        cells = [str(each["round"]), "none" if pseudo is None else f"{pseudo['taken']} of {pseudo['of']}"]
        if "validation" in scored:
            cells += [f"{each['validation']['macro_f1']:.4f}", f"{each['validation']['waf']:.4f}"]
        if "cross_validation" in scored:
            folds = each["cross_validation"]
            cells += [f"{folds[name]['mean']:.4f} ± {folds[name]['std']:.4f}" for name in ("macro_f1", "waf")]
        lines.append(f"| {' | '.join(cells)} |")
    for each in rounds:
        if (pseudo := each.get("pseudo_labels")) is not None:
            right = f", {pseudo['right']:.1%} of them right" if "right" in pseudo else ""
            lines += [
                "",
                f"## Round {each['round']}",
                "",
                f"{pseudo['taken']} of {pseudo['of']} clips taken{right}.",
                "",
            ]
            lines += ["| class | threshold | passed | taken |", "|---|---|---|---|"]
            lines += [
                f"| {label} | {row['threshold']:.2f} | {row['passed']} | {row['taken']} |"
                for label, row in pseudo["classes"].items()
            ]
    return "\n".join(lines) + "\n"


def _rounded(figures: Mapping[str, float]) -> dict[str, float]:
    return {name: round(value, 4) for name, value in figures.items()}

"""A run's result as tables of words and numbers, which the Markdown report, the HTML report and the terminal share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from emollama.html_page import Section

# Figures as people know them.
NAMES: Mapping[str, str] = {
    "waf": "WAF (weighted F1)", "weighted_f1": "weighted F1", "valence_ccc": "valence CCC",
    "arousal_ccc": "arousal CCC", "macro_f1": "macro F1", "micro_f1": "micro F1", "uar": "UAR (mean recall)",
    "war": "WAR (accuracy)", "war_of_answered": "WAR of what was answered", "ece": "calibration error (ECE)",
    "aurc": "area under risk-coverage", "ccc": "CCC", "pearson": "Pearson r", "mse": "mean squared error",
    "emoval": "WAF - 0.25 MSE", "au_f1": "AU F1", "exact_match": "exactly the right set", "score": "set score",
    "set_accuracy": "set accuracy", "set_recall": "set recall", "hit": "hit rate", "ew": "emotion wheel F",
    "ew_level1": "emotion wheel F, level 1", "ew_level2": "emotion wheel F, level 2",
}  # fmt: skip
# Figures of which less is better.
LOWER_IS_BETTER = frozenset({"ece", "aurc", "mse"})


def name_of(figure: str) -> str:
    return NAMES.get(figure, figure.replace("_", " "))


def number(value: float | None, digits: int = 4) -> str:
    return "not defined" if value is None else f"{value:.{digits}f}"


def with_interval(entry: Mapping[str, Any] | None) -> str:
    """``0.8123 [0.8001, 0.8240]``; without an interval the value alone."""
    if entry is None or entry.get("value") is None:
        return "not defined"
    if entry.get("low") is None or entry.get("high") is None:
        return number(entry["value"])
    return f"{number(entry['value'])} [{number(entry['low'])}, {number(entry['high'])}]"


def headline(document: Mapping[str, Any]) -> str:
    """``WAR (accuracy) 0.8123 [0.8001, 0.8240], n = 3180``."""
    primary = document["primary"]
    return f"{name_of(primary)} {with_interval(document['figures'].get(primary))}, n = {document['n']}"


def sections(document: Mapping[str, Any], environment: Mapping[str, Any]) -> list[Section]:
    """Return every table of a run, in the order of a reader's questions; what a run does not have is left out."""
    found = [_figures(document), _counts(document)]
    found += [section for section in (_published(document), _classes(document), _columns(document)) if section]
    found += [section for section in (_confusion(document), _reliability(document)) if section]
    found += [section for section in (_ablation(document), _robustness(document)) if section]
    found += [section for section in (_extra(document), _errors(document)) if section]
    found += [_latency(document), _origin(document, environment)]
    return found


def _figures(document: Mapping[str, Any]) -> Section:
    primary = document["primary"]
    ordered = sorted(document["figures"], key=lambda name: name != primary)
    rows = [
        (
            name_of(name) + (" — the official figure" if name == primary else ""),
            with_interval(document["figures"][name]),
        )
        for name in ordered
    ]
    kept = document.get("not_abstained")
    if kept is not None:
        rows.append((f"accuracy on the {kept['num_items']} items it did not abstain from", with_interval(kept)))
    drawn = document["bootstrap"]
    text = (
        f"In brackets: {drawn['level']:.0%} percentile interval, {drawn['resamples']} bootstrap resamples of "
        f"{drawn['num_units']} {_units(drawn['unit'])}, seed {drawn['seed']}."
    )
    return Section(key="figures", title="Figures", header=("figure", "value"), rows=tuple(rows), text=text)


def _units(unit: str) -> str:
    return {"clip": "items", "group": "groups (speakers or videos)"}.get(unit, f"{unit}s")


def _counts(document: Mapping[str, Any]) -> Section:
    said = {
        "items": "items asked",
        "failed": "failed (an error; counts as wrong)",
        "unparseable": "reply could not be read (counts as wrong)",
        "abstained": "model abstained (its likeliest answer is scored where it has one)",
        "without_answer": "without any answer (counts as wrong)",
    }
    rows = [(said.get(name, name.replace("_", " ")), str(count)) for name, count in document["counts"].items()]
    rows.append(("rows scored", str(document["n"])))
    rows += [(f"read as: {name}", str(count)) for name, count in document.get("read_as", {}).items()]
    return Section(key="counts", title="What was asked and answered", header=("", "number"), rows=tuple(rows))


def _published(document: Mapping[str, Any]) -> Section | None:
    if not document["published"]:
        return None
    primary = document["primary"]
    rows = [(f"this run: {document['model']}", name_of(primary), with_interval(document["figures"].get(primary)), "")]
    rows += [
        (figure["system"], name_of(figure["figure"]), f"{figure['value']:.4g}", _cited(figure))
        for figure in document["published"]
    ]
    text = "Others' figures, as they were reported; they hold for the split and the protocol of their source."
    header = ("system", "figure", "value", "source")
    return Section(key="published", title="Beside published figures", header=header, rows=tuple(rows), text=text)


def _cited(figure: Mapping[str, Any]) -> str:
    return figure["source"] + (f" ({figure['note']})" if figure.get("note") else "")


def _classes(document: Mapping[str, Any]) -> Section | None:
    parts = document.get("parts", {})
    if "f1" not in parts:
        return None
    support, recall = document.get("support", {}), parts.get("recall", {})
    header = ["class", *(["n"] if support else []), *(["recall"] if recall else []), "F1"]
    rows = [
        (
            name,
            *([str(support.get(name, ""))] if support else []),
            *([with_interval(recall.get(name))] if recall else []),
            with_interval(entry),
        )
        for name, entry in parts["f1"].items()
    ]
    return Section(key="classes", title="By class", header=tuple(header), rows=tuple(rows))


def _columns(document: Mapping[str, Any]) -> Section | None:
    rows = [
        (column, name_of(family), with_interval(entry))
        for family, parts in document.get("parts", {}).items()
        if family not in ("f1", "recall")
        for column, entry in parts.items()
    ]
    return (
        Section(key="columns", title="By column", header=("column", "figure", "value"), rows=tuple(rows))
        if rows
        else None
    )


def _confusion(document: Mapping[str, Any]) -> Section | None:
    table = document.get("confusion")
    if table is None:
        return None
    header = ("true \\ answered", *table["labels"], "no answer")
    rows = tuple(
        (label, *(str(count) for count in counts))
        for label, counts in zip(table["labels"], table["counts"], strict=True)
    )
    return Section(
        key="confusion", title="Confusion", header=header, rows=rows, text="Rows: the truth. Numbers of items."
    )


def _reliability(document: Mapping[str, Any]) -> Section | None:
    rows = [row for row in document.get("reliability", []) if row[2] > 0]
    if not rows:
        return None
    return Section(
        key="reliability",
        title="Reliability",
        header=("mean confidence", "share right", "items"),
        rows=tuple((number(row[0], 3), number(row[1], 3), str(int(row[2]))) for row in rows),
        text=f"How often an answer is right that the model is so sure of. Calibration error: "
        f"{with_interval(document['figures'].get('ece'))}.",
    )


def _ablation(document: Mapping[str, Any]) -> Section | None:
    if not document["ablation"]:
        return None
    primary = document["primary"]
    rows = [("everything", with_interval(document["figures"].get(primary)), "", "", "0")]
    for row in document["ablation"]:
        moved = row["difference"]
        difference = (
            "" if moved["difference"] is None
            else f"{moved['difference']:+.4f} [{moved['low']:+.4f}, {moved['high']:+.4f}]"
        )  # fmt: skip
        p_value = "" if moved["p_value"] is None else f"{moved['p_value']:.4f}"
        rows.append(
            (row["name"], with_interval(row["figures"].get(primary)), difference, p_value, str(row["without_answer"]))
        )
    return Section(
        key="ablation",
        title="Which modality carries it",
        header=("given", name_of(primary), "difference to everything", "p", "without answer"),
        rows=tuple(rows),
        text="A modality is dropped before the model sees the clip. Paired bootstrap and randomisation test over the "
        "same items.",
    )


def _robustness(document: Mapping[str, Any]) -> Section | None:
    swept = document.get("robustness")
    if swept is None:
        return None
    primary = document["primary"]
    rows = [("clean", "", with_interval(document["figures"].get(primary)), "", "", "", "")]
    for row in swept["rows"]:
        moved = row["difference"]
        difference, p_value = "", ""
        if moved["difference"] is not None:
            difference = f"{moved['difference']:+.4f} [{moved['low']:+.4f}, {moved['high']:+.4f}]"
        if moved["p_value"] is not None:
            p_value = f"{moved['p_value']:.4f}"
        condition = f"{row['corruption']} {row['level']} {row['unit']}"
        figure, counts = with_interval(row["figures"].get(primary)), (row["changed_answers"], row["without_modality"])
        rows.append((condition, row["modality"], figure, difference, p_value, *(str(count) for count in counts)))
    noise = f" Noise: {swept['noise']}." if swept["noise"] else ""
    return Section(
        key="robustness",
        title="When the clip gets worse",
        header=(
            "condition", "spoils", name_of(primary), "difference to clean", "p", "answers changed", "had none of it"
        ),
        rows=tuple(rows),
        text="The same items with one modality spoiled before the model sees them; all that was drawn is in "
        f"corruptions.csv (seed {swept['seed']}). Paired bootstrap and randomisation test.{noise}",
    )  # fmt: skip


def _extra(document: Mapping[str, Any]) -> Section | None:
    dropped = document["details"].get("dropped_words")
    if not dropped:
        return None
    rows = tuple(
        (side, str(found["num_words"]), str(found["num_dropped"]), ", ".join(found["most_frequent"]))
        for side, found in dropped.items()
    )
    header = ("side", "words", "outside the lists", "most frequent of them")
    return Section(key="words", title="Words outside the word lists", header=header, rows=rows)


def _errors(document: Mapping[str, Any]) -> Section | None:
    if not document["errors"]:
        return None
    rows = tuple((error["id"], error["error"]) for error in document["errors"])
    left = document["counts"]["failed"] - len(rows)
    text = f"and {left} more, in predictions.jsonl" if left else ""
    return Section(key="errors", title="What failed", header=("item", "error"), rows=rows, text=text)


def _latency(document: Mapping[str, Any]) -> Section:
    found = document["latency"]
    rows = (
        ("median", "" if found["median_seconds"] is None else f"{found['median_seconds']:.3f} s"),
        ("95th percentile", "" if found["p95_seconds"] is None else f"{found['p95_seconds']:.3f} s"),
    )
    text = f"Per item, reading the clip included, over {found['num_items']} items that did not fail."
    return Section(key="latency", title="Latency", header=("", "time"), rows=rows, text=text)


def _origin(document: Mapping[str, Any], environment: Mapping[str, Any]) -> Section:
    machine = environment.get("machine", {})
    versions = ", ".join(f"{name} {version}" for name, version in environment.get("versions", {}).items())
    weights = document["model_details"].get("weights_sha256")
    rows = [
        ("command", str(environment.get("command"))),
        ("date", str(environment.get("date"))),
        ("resumed", f"{len(environment.get('resumed', []))} times"),
        ("revision", str(environment.get("git_revision"))),
        ("model", document["model"] + (f", weights {weights[:16]}" if weights else "")),
        ("machine", f"{machine.get('cpu')}, {machine.get('usable_cores')} cores, {machine.get('system')}"),
        ("versions", versions),
        ("leaks looked for in", "; ".join(document["leaks"]["checked"]) or "nothing: no training data is known"),
        ("licence of the data", document["licence"] or "not said"),
        ("home of the data", document["home"] or "not said"),
        ("rules", document["source"]),
    ]
    return Section(key="origin", title="Where this comes from", header=("", ""), rows=tuple(rows))

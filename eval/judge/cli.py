"""``emollama judge``: figures and files that a language model judges, by any OpenAI-compatible endpoint.

Exit codes: 0 done, 1 the judge gave no figure, 2 bad input or an endpoint that cannot be used.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from emollama.errors import DatasetError, EmoLlamaError, InputError

if TYPE_CHECKING:
    from eval.judge import GroupedWords, Judge, OverlapResult, Pair

app = typer.Typer(help="Judge descriptions with a language model behind an endpoint.", add_completion=False)

Predictions = Annotated[Path, typer.Argument(help="CSV file of the predictions.")]
Gold = Annotated[Path, typer.Option(help="CSV file of the truth, the same columns.")]
BaseUrl = Annotated[
    str | None, typer.Option(help="The endpoint, e.g. http://localhost:8000/v1. Default: $OPENAI_BASE_URL.")
]
Model = Annotated[str, typer.Option(help="The model that judges, as the endpoint calls it.")]
Output = Annotated[Path, typer.Option(help="Where the result is written.")]
Cache = Annotated[Path, typer.Option(help="Folder of the answers; the same request is sent once.")]
Temperature = Annotated[float, typer.Option(help="0 for one verdict; above 0 with --repeats.")]
Repeats = Annotated[int, typer.Option(help="Judge everything so many times, each with a seed of its own.")]
Seed = Annotated[int, typer.Option(help="Seed of the first repeat, and of the intervals.")]
MaxTokens = Annotated[int, typer.Option(help="Longest reply; a model that thinks first wants more.")]
Workers = Annotated[int, typer.Option(help="Requests in flight.")]
Timeout = Annotated[float, typer.Option(help="Seconds to wait for a reply.")]
Share = Annotated[float, typer.Option(help="Share of the clips that may stay without a verdict.")]
JsonMode = Annotated[bool, typer.Option(help="Ask the endpoint for JSON output.")]
Body = Annotated[str | None, typer.Option(help="JSON object of fields that the endpoint wants besides.")]
DEFAULT_CACHE = Path("runs/judge-cache")


@app.command()
def overlap(
    predictions: Predictions,
    gold: Gold,
    model: Model,
    output: Output,
    figure: Annotated[str, typer.Option(help="clues or labels.")] = "clues",
    missing: Annotated[str, typer.Option(help="A clip without a prediction: error, or wrong (counts as 0).")] = "error",
    base_url: BaseUrl = None,
    cache: Cache = DEFAULT_CACHE,
    temperature: Temperature = 0.0,
    repeats: Repeats = 1,
    seed: Seed = 0,
    max_tokens: MaxTokens = 600,
    workers: Workers = 4,
    timeout: Timeout = 60.0,
    max_unjudged_share: Share = 0.05,
    json_mode: JsonMode = True,
    body: Body = None,
) -> None:
    """Overlap of two descriptions, 0 to 10 (columns name,reason)."""
    from eval.report import provenance, write_json

    with _errors():
        judged = _figure(figure)
        pairs = _pairs(predictions, gold, missing=missing)
        with _judge(
            base_url, model, cache, temperature=temperature, repeats=repeats, seed=seed, max_tokens=max_tokens,
            workers=workers, timeout=timeout, share=max_unjudged_share, json_mode=json_mode, body=body,
        ) as judge:  # fmt: skip
            result = judged(judge, pairs, seed=seed)
        files = {"predictions": _named(predictions), "gold": _named(gold)}
        write_json(output, {**result.to_json_dict(), "files": files, "origin": provenance()})
    _say_overlap(result, output)


@app.command()
def run(
    folder: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a finished `emollama eval` run.")],
    data: Annotated[Path, typer.Option(help="The raw data of its task, with the true descriptions.")],
    model: Model,
    figure: Annotated[str, typer.Option(help="clues or labels.")] = "clues",
    output: Annotated[
        Path | None, typer.Option(help="Where the result is written. Default: RUN/judged-....json")
    ] = None,
    base_url: BaseUrl = None,
    cache: Cache = DEFAULT_CACHE,
    temperature: Temperature = 0.0,
    repeats: Repeats = 1,
    seed: Seed = 0,
    max_tokens: MaxTokens = 600,
    workers: Workers = 4,
    timeout: Timeout = 60.0,
    max_unjudged_share: Share = 0.05,
    json_mode: JsonMode = True,
    body: Body = None,
) -> None:
    """Overlap of a run's rationales with the true descriptions of its task (emer)."""
    from eval.judge.runs import pairs_of_run
    from eval.report import provenance, write_json

    with _errors():
        judged = _figure(figure)
        pairs = pairs_of_run(folder, data)
        target = output or folder / f"judged-{figure}.json"
        with _judge(
            base_url, model, cache, temperature=temperature, repeats=repeats, seed=seed, max_tokens=max_tokens,
            workers=workers, timeout=timeout, share=max_unjudged_share, json_mode=json_mode, body=body,
        ) as judge:  # fmt: skip
            result = judged(judge, pairs, seed=seed)
        write_json(target, {**result.to_json_dict(), "run": folder.name, "origin": provenance()})
    _say_overlap(result, target)


@app.command()
def groups(
    predictions: Predictions,
    gold: Gold,
    model: Model,
    output: Output,
    base_url: BaseUrl = None,
    cache: Cache = DEFAULT_CACHE,
    temperature: Temperature = 0.0,
    seed: Seed = 0,
    max_tokens: MaxTokens = 1200,
    workers: Workers = 4,
    timeout: Timeout = 60.0,
    max_unjudged_share: Share = 0.05,
    json_mode: JsonMode = True,
    body: Body = None,
) -> None:
    """Synonym groups of each clip's words, for `emollama score mer2024_ov --synonyms` (columns name,labels)."""
    from emollama.metrics import parse_labels_2024
    from eval.judge import group_synonyms, write_groups

    with _errors():
        truth, given = _texts(gold, "labels"), _texts(predictions, "labels")
        if not set(truth) & set(given):
            raise DatasetError(f"{predictions} and {gold} have no name in common")

        def words(text: str) -> list[str]:
            return [] if text.lower() in ("abstain", "abstained", "unparseable") else parse_labels_2024(text)

        union = {name: [*words(text), *words(given.get(name, ""))] for name, text in truth.items()}
        with _judge(
            base_url, model, cache, temperature=temperature, repeats=1, seed=seed, max_tokens=max_tokens,
            workers=workers, timeout=timeout, share=max_unjudged_share, json_mode=json_mode, body=body,
        ) as judge:  # fmt: skip
            grouped = group_synonyms(judge, union)
        _write(write_groups, output, grouped)


@app.command()
def labels(
    descriptions: Annotated[Path, typer.Argument(help="CSV file of descriptions (columns name,reason).")],
    model: Model,
    output: Output,
    base_url: BaseUrl = None,
    cache: Cache = DEFAULT_CACHE,
    temperature: Temperature = 0.0,
    seed: Seed = 0,
    max_tokens: MaxTokens = 600,
    workers: Workers = 4,
    timeout: Timeout = 60.0,
    max_unjudged_share: Share = 0.05,
    json_mode: JsonMode = True,
    body: Body = None,
) -> None:
    """Emotion words of descriptions, as predictions for `emollama score` (columns name,labels)."""
    from eval.judge import extract_labels, write_labels

    with _errors():
        texts = _texts(descriptions, "text")
        with _judge(
            base_url, model, cache, temperature=temperature, repeats=1, seed=seed, max_tokens=max_tokens,
            workers=workers, timeout=timeout, share=max_unjudged_share, json_mode=json_mode, body=body,
        ) as judge:  # fmt: skip
            extracted = extract_labels(judge, texts)
        _write(write_labels, output, extracted)


@app.command()
def compare(
    first: Annotated[Path, typer.Argument(help="Result of one judge.")],
    second: Annotated[Path, typer.Argument(help="Result of another on the same clips.")],
) -> None:
    """How two judges agree on the same descriptions."""
    from rich.console import Console

    from eval.judge import OverlapResult, agreement
    from eval.report import flatten, print_rows

    with _errors():
        results = []
        for path in (first, second):
            try:
                results.append(OverlapResult.from_json_dict(json.loads(path.read_text(encoding="utf-8"))))
            except (OSError, ValueError) as error:
                raise DatasetError(f"{path} cannot be read as the result of a judge: {error}") from error
        found = agreement(*results)
        print_rows(Console(), f"{first.name} and {second.name}", flatten(vars(found)))


# ---- parts --------------------------------------------------------------------------------------------------------


@contextmanager
def _errors() -> Iterator[None]:
    from rich.console import Console

    try:
        yield
    except EmoLlamaError as error:
        Console(stderr=True, soft_wrap=True).print(f"error: {error}", style="red", markup=False, highlight=False)
        raise typer.Exit(2) from error


@contextmanager
def _judge(
    base_url: str | None, model: str, cache: Path, *, temperature: float, repeats: int, seed: int, max_tokens: int,
    workers: int, timeout: float, share: float, json_mode: bool, body: str | None,
) -> Iterator[Judge]:  # fmt: skip
    """Open the endpoint and close it again; the key comes from the environment."""
    import os

    from emollama.endpoint import BASE_URL_VARIABLE, AnswerCache, ChatEndpoint, EndpointOptions
    from eval.judge import Judge, JudgeOptions

    url = base_url or os.environ.get(BASE_URL_VARIABLE)
    if not url:
        raise InputError(f"name the endpoint with --base-url or {BASE_URL_VARIABLE}", field="base_url")
    try:
        extra = json.loads(body) if body is not None else {}
    except ValueError as error:
        raise InputError(f"body {body!r} is no JSON: {error}", field="body") from error
    if not isinstance(extra, dict):
        raise InputError(f"body {body!r} is no JSON object", field="body")
    options = EndpointOptions(
        base_url=url, model=model, temperature=temperature, max_tokens=max_tokens, seed=seed, body=extra,
        timeout_seconds=timeout,
    )  # fmt: skip
    asked = JudgeOptions(max_unjudged_share=share, json_mode=json_mode, repeats=repeats, workers=workers)
    endpoint = ChatEndpoint(options, cache=AnswerCache(cache))
    try:
        yield Judge(endpoint, asked)
    finally:
        endpoint.close()


def _figure(name: str) -> Callable[..., OverlapResult]:
    from eval.judge import clue_overlap, label_overlap

    judged = {"clues": clue_overlap, "labels": label_overlap}
    if name not in judged:
        raise InputError(f"figure {name!r} is not allowed; clues or labels", field="figure")
    return judged[name]


def _texts(path: Path, column: str) -> dict[str, str]:
    from eval.score_files import read_table

    return {name: row.text(column) for name, row in read_table(path, columns=(column,)).rows.items()}


def _pairs(predictions: Path, gold: Path, *, missing: str) -> list[Pair]:
    """Join two files by name; what is in one only is an error, but for what `--missing wrong` counts as 0."""
    from eval.judge import Pair
    from eval.score_files import read_table, some

    if missing not in ("error", "wrong"):
        raise InputError(f"missing {missing!r} is not allowed; error or wrong", field="missing")
    truth, given = read_table(gold, columns=("text",)), _texts(predictions, "text")
    if extra := [name for name in given if name not in truth.rows]:
        raise DatasetError(f"{predictions} holds {len(extra)} names that {gold} does not: {some(extra)}")
    lacking = [name for name in truth.rows if name not in given]
    if lacking and missing == "error":
        raise DatasetError(
            f"{predictions} has no row for {len(lacking)} of {len(truth.rows)} names of {gold}: {some(lacking)}; "
            "--missing wrong counts them as 0"
        )
    column = next((name for name in ("speaker", "video") if truth.has(name)), None)
    return [
        Pair(
            name=name, gold=row.text("text"), prediction=given.get(name, ""),
            group=None if column is None else row.text(column),
        )
        for name, row in truth.rows.items()
    ]  # fmt: skip


def _named(path: Path) -> dict[str, str]:
    import hashlib

    return {"name": path.name, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}


def _say_overlap(result: OverlapResult, output: Path) -> None:
    from rich.console import Console

    console = Console(soft_wrap=True)
    judged = len(result.pairs) - result.num_unjudged
    if result.value is None:
        console.print(f"no figure: {result.no_figure}; written to {output}", markup=False, highlight=False)
        raise typer.Exit(1)
    interval = "" if result.low is None else f" [{result.low:.3f}, {result.high:.3f}]"
    spread = "" if result.spread is None else f", spread of the repeats {result.spread:.3f}"
    console.print(
        f"{result.kind} overlap {result.value:.3f}{interval} of 10{spread}; {judged} of {len(result.pairs)} judged, "
        f"{result.num_unjudged} unjudged, {result.num_empty} empty predictions; written to {output}",
        markup=False, highlight=False,
    )  # fmt: skip
    if result.judge["json_mode_refused"]:
        console.print("note: the endpoint refused JSON mode; --no-json-mode asks without it", markup=False)


def _write(write: Callable[[Path, GroupedWords], None], output: Path, grouped: GroupedWords) -> None:
    from rich.console import Console

    if grouped.no_figure is not None:
        Console(stderr=True, soft_wrap=True).print(f"no file: {grouped.no_figure}", markup=False, highlight=False)
        raise typer.Exit(1)
    write(output, grouped)
    told: dict[str, Any] = {"clips": len(grouped.values), "unjudged": len(grouped.unjudged)}
    said = ", ".join(f"{count} {name}" for name, count in told.items())
    Console(soft_wrap=True).print(f"{said}; written to {output}", markup=False, highlight=False)

"""``emollama build-instructions plan|run|review|apply``: from clips to instruction data that people have looked at.

Exit codes: 0 done, 1 some samples failed and can be tried again, 2 the input was wrong, 130 interrupted.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from emollama.errors import EmoLlamaError, InputError

if TYPE_CHECKING:
    from emollama.manifest import Manifest
    from train.builders.merr.estimate import Estimate
    from train.builders.merr.rules import RulesFile
    from train.builders.merr.state import BuildConfig, RunFolder

_BAD_INPUT = 2

app = typer.Typer(
    help="Build instruction data from clips: peak frame, readings to phrases, description, explanation.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

Source = Annotated[Path, typer.Argument(help="A manifest (JSONL), or a folder of clips.")]
Run = Annotated[Path | None, typer.Option("--run", help="Folder of the run. Default: NAME.build beside the source.")]
RulesPath = Annotated[Path | None, typer.Option("--rules", help="A rules file of your own.")]
WriterName = Annotated[str, typer.Option("--writer", help="nano, endpoint, or package.module:function.")]
ModelName = Annotated[str | None, typer.Option("--model", help="The endpoint's model.")]
BaseUrl = Annotated[str | None, typer.Option("--base-url", help="The endpoint. Default: $OPENAI_BASE_URL.")]
Describe = Annotated[bool, typer.Option("--describe", help="Ask the endpoint what is visible in each peak frame.")]
OpenFace = Annotated[Path | None, typer.Option("--openface", help="Folder of OpenFace CSV files, named by id or clip.")]
Labels = Annotated[str | None, typer.Option("--labels", help="Labels that unlabelled clips may get; nano's eight.")]
Asr = Annotated[str | None, typer.Option("--asr", help="Hear the words of clips without a transcript, e.g. tiny.en.")]
MatchBy = Annotated[str, typer.Option("--match", help="What must bear the label out: face, any, off.")]
MinConfidence = Annotated[float, typer.Option("--min-confidence", help="Of a pseudo-label, or of the largest share.")]
MinExpression = Annotated[float, typer.Option("--min-expression", help="Probability of the label's expression.")]
Attempts = Annotated[int, typer.Option("--attempts", help="Drafts that an explanation may take.")]
Seed = Annotated[int, typer.Option("--seed", help="Varies the wording; the same seed gives the same texts.")]
Temperature = Annotated[float, typer.Option("--temperature", help="Of the endpoint.")]
MaxTokens = Annotated[int, typer.Option("--max-tokens", help="Of one answer of the endpoint.")]
Body = Annotated[str | None, typer.Option("--body", help='JSON merged into every request, e.g. {"max_tokens": null}.')]
PerMinute = Annotated[int | None, typer.Option("--requests-per-minute", help="At most so many requests.")]
TokensPerMinute = Annotated[int | None, typer.Option("--tokens-per-minute", help="At most so many tokens.")]
PromptPrice = Annotated[float | None, typer.Option("--prompt-price", help="Money for a million prompt tokens.")]
AnswerPrice = Annotated[float | None, typer.Option("--answer-price", help="Money for a million answer tokens.")]
ImageTokens = Annotated[int, typer.Option("--image-tokens", help="Tokens that one picture counts as.")]


@contextmanager
def _errors() -> Iterator[None]:
    """Say a deliberate error in one line."""
    try:
        yield
    except EmoLlamaError as error:
        typer.echo(f"error: {' '.join(str(error).split())}", err=True)
        raise typer.Exit(_BAD_INPUT) from error


@app.command()
def plan(
    source: Source,
    run: Run = None,
    rules: RulesPath = None,
    writer: WriterName = "nano",
    model: ModelName = None,
    base_url: BaseUrl = None,
    describe: Describe = False,
    openface: OpenFace = None,
    attempts: Attempts = 3,
    requests_per_minute: PerMinute = None,
    tokens_per_minute: TokensPerMinute = None,
    prompt_price: PromptPrice = None,
    answer_price: AnswerPrice = None,
    image_tokens: ImageTokens = 0,
) -> None:
    """Say what a run would ask for: requests, tokens and money. Nothing is read but the manifest, nothing is sent."""
    with _errors():
        manifest, folder, known = _open(source, run, rules)
        config = _config(
            known,
            writer=writer,
            model=model,
            base_url=base_url,
            describe=describe,
            openface=openface,
            attempts=attempts,
        )
        _show(
            _estimate(
                manifest, config, folder, known,
                rates=(requests_per_minute, tokens_per_minute), prices=(prompt_price, answer_price, image_tokens),
            )
        )  # fmt: skip


@app.command()
def run(
    source: Source,
    run: Run = None,
    rules: RulesPath = None,
    writer: WriterName = "nano",
    model: ModelName = None,
    base_url: BaseUrl = None,
    describe: Describe = False,
    openface: OpenFace = None,
    labels: Labels = None,
    asr: Asr = None,
    match: MatchBy = "face",
    min_confidence: MinConfidence = 0.6,
    min_expression: MinExpression = 0.5,
    attempts: Attempts = 3,
    seed: Seed = 0,
    temperature: Temperature = 0.7,
    max_tokens: MaxTokens = 400,
    body: Body = None,
    concurrency: Annotated[int, typer.Option("--concurrency", help="Samples in work at once.")] = 2,
    timeout: Annotated[float, typer.Option("--timeout", help="Seconds that one request may take.")] = 60.0,
    requests_per_minute: PerMinute = None,
    tokens_per_minute: TokensPerMinute = None,
    prompt_price: PromptPrice = None,
    answer_price: AnswerPrice = None,
    image_tokens: ImageTokens = 0,
    device: Annotated[str, typer.Option("--device", help="Where nano runs.")] = "cpu",
    limit: Annotated[int | None, typer.Option("--limit", help="Take up at most so many samples.")] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Read a few clips and show their prompts; send and write nothing.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask before an endpoint is asked.")] = False,
) -> None:
    """Build the data. A run that was stopped goes on where it was; --yes confirms what an endpoint will cost."""
    from train.builders.merr.session import run_session, show_dry_run

    with _errors():
        manifest, folder, known = _open(source, run, rules)
        config = _config(
            known, writer=writer, model=model, base_url=base_url, describe=describe, openface=openface,
            attempts=attempts, labels=labels, asr=asr, match=match, min_confidence=min_confidence,
            min_expression=min_expression, seed=seed, temperature=temperature, max_tokens=max_tokens, body=body,
        )  # fmt: skip
        if dry_run:
            show_dry_run(manifest, config, known, device=device, count=limit or 3)
            return
        estimate = _estimate(
            manifest, config, folder, known,
            rates=(requests_per_minute, tokens_per_minute), prices=(prompt_price, answer_price, image_tokens),
        )  # fmt: skip
        _show(estimate)
        if config.asks_endpoint and estimate.requests.low and not yes:
            typer.echo("confirm with --yes to start", err=True)
            raise typer.Exit(_BAD_INPUT)
        with folder.locked():
            run_session(
                manifest, config, folder, known, device=device, concurrency=concurrency, timeout=timeout,
                rates=(requests_per_minute, tokens_per_minute), limit=limit,
            )  # fmt: skip


@app.command()
def review(
    source: Source,
    run: Run = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Default: review.html in the run.")] = None,
    sample: Annotated[int, typer.Option("--sample", help="How many samples.")] = 50,
    seed: Annotated[int, typer.Option("--seed", help="Which samples.")] = 0,
) -> None:
    """Write one HTML page with a random sample, to be read and corrected in a browser."""
    from train.builders.merr.sheet import write_sheet

    with _errors():
        manifest, folder, _ = _open(source, run, None)
        sheet = write_sheet(output or folder.path / "review.html", manifest, folder, count=sample, seed=seed)
    typer.echo(f"{sheet.shown} of {sheet.of} samples in {sheet.path}")


@app.command()
def apply(
    source: Source,
    corrections: Annotated[Path, typer.Argument(help="The JSON file that the sheet exported.")],
    run: Run = None,
    rules: RulesPath = None,
) -> None:
    """Put the corrections of a review into the run and write its manifests anew."""
    from train.builders.merr.corrections import apply_corrections
    from train.builders.merr.export import export

    with _errors():
        manifest, folder, known = _open(source, run, rules)
        folder.config()
        with folder.locked():
            applied = apply_corrections(corrections, manifest, folder, rules=known)
            exported = export(manifest, folder)
    for warning in applied.warnings:
        typer.echo(f"warning: {warning}", err=True)
    typer.echo(f"{applied.accepted} accepted ({applied.edited} edited), {applied.rejected} rejected")
    typer.echo(f"{exported.kept} samples in {exported.manifests['instructions']}")


# ---- pieces --------------------------------------------------------------------------------------------------------


def _open(source: Path, run: Path | None, rules: Path | None) -> tuple[Manifest, RunFolder, RulesFile]:
    from train.builders.merr.rules import RULES_FILE, load_rules
    from train.builders.merr.source import open_source
    from train.builders.merr.state import RunFolder

    manifest = open_source(source)
    # pictures of a run must not lie among the clips of a folder, or the next run would take them for clips
    default = source.resolve().with_name(f"{source.resolve().name}.build") if source.is_dir() else None
    return manifest, RunFolder(run or default or source.with_suffix(".build")), load_rules(rules or RULES_FILE)


def _config(
    rules: RulesFile,
    *,
    writer: str,
    model: str | None,
    base_url: str | None,
    describe: bool,
    openface: Path | None,
    attempts: int,
    labels: str | None = None,
    asr: str | None = None,
    match: str = "face",
    min_confidence: float = 0.6,
    min_expression: float = 0.5,
    seed: int = 0,
    temperature: float = 0.7,
    max_tokens: int = 400,
    body: str | None = None,
) -> BuildConfig:
    from emollama.endpoint import BASE_URL_VARIABLE
    from emollama.labels import parse_label_set
    from train.builders.merr.matching import MatchOptions
    from train.builders.merr.state import BuildConfig
    from train.builders.merr.writers import WRITERS, load_callable

    if writer not in WRITERS:
        load_callable(writer)
    if openface is not None and not openface.is_dir():
        raise InputError(f"openface is {openface}, which is no folder", field="openface")
    asks = describe or writer == "endpoint"
    url = base_url or os.environ.get(BASE_URL_VARIABLE)
    return BuildConfig(
        writer=writer,
        describe=describe,
        endpoint_url=url if asks else None,
        endpoint_model=model if asks else None,
        temperature=temperature,
        max_tokens=max_tokens,
        body=_json_object(body),
        attempts=attempts,
        seed=seed,
        labels=None if labels is None else parse_label_set(labels),
        asr=asr,
        openface=None if openface is None else str(openface),
        rules_sha256=rules.sha256,
        match=MatchOptions(by=match, min_confidence=min_confidence, min_expression=min_expression),  # type: ignore[arg-type]
    )


def _json_object(text: str | None) -> dict[str, Any]:
    if text is None:
        return {}
    try:
        document = json.loads(text)
    except ValueError as error:
        raise InputError(f"body is {text!r}, which is not JSON: {error}", field="body") from error
    if not isinstance(document, dict):
        raise InputError(f"body is {text!r}; allowed: a JSON object", field="body")
    return document


def _estimate(
    manifest: Manifest,
    config: BuildConfig,
    folder: RunFolder,
    rules: RulesFile,
    *,
    rates: tuple[int | None, int | None],
    prices: tuple[float | None, float | None, int],
) -> Estimate:
    from train.builders.merr.estimate import Prices, estimate

    return estimate(
        manifest.samples,
        config=config,
        run=folder,
        rules=rules.rules,
        prices=Prices(prompt=prices[0], answer=prices[1], image_tokens=prices[2]),
        requests_per_minute=rates[0],
        tokens_per_minute=rates[1],
    )


def _show(estimate: Estimate) -> None:
    left = estimate.samples - estimate.finished
    typer.echo(f"{estimate.samples} samples, {estimate.finished} finished, {left} to do")
    if not estimate.requests.high:
        typer.echo("  nothing is asked of any endpoint")
        return
    for name, span in (
        ("requests", estimate.requests),
        ("prompt tokens", estimate.prompt_tokens),
        ("answer tokens", estimate.answer_tokens),
    ):
        typer.echo(f"  {name:14} {span.low:,} to {span.high:,}")
    if estimate.money is not None:
        typer.echo(
            f"  {'money':14} {estimate.money[0]:,.2f} to {estimate.money[1]:,.2f}, in the currency of the prices"
        )
    if estimate.minutes is not None:
        typer.echo(f"  {'time':14} at least {estimate.minutes:,.1f} minutes under the rate limits")
    for note in estimate.notes:
        typer.echo(f"  note: {note}")


if __name__ == "__main__":
    app()

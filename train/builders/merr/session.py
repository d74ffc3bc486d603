"""One run at the command line: puts the parts together, shows how it goes, and says how it ended.

After Ctrl-C or SIGTERM what is in flight ends, and the next run goes on from there; a second one ends at once and loses
only what was in flight. Exit codes are those of `train.builders.merr.cli`.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import typer

from emollama.endpoint import AnswerCache, ChatEndpoint, EndpointOptions, RateLimit, Stop
from emollama.manifest import Manifest, Sample
from train.builders.merr.build import Builder
from train.builders.merr.export import export
from train.builders.merr.reader import ClipReader
from train.builders.merr.rules import RulesFile
from train.builders.merr.state import BuildConfig, Record, RunFolder
from train.builders.merr.writers import Assignment, CallableWriter, EndpointWriter, NanoWriter, Writer, load_callable

FAILED, INTERRUPTED = 1, 130


def make_reader(manifest: Manifest, config: BuildConfig, rules: RulesFile, *, device: str) -> ClipReader:
    """Load the model and return what reads the manifest's clips with it."""
    from emollama.analyze import Analyzer

    return ClipReader(
        Analyzer.load(config.model, device=device),
        manifest,
        rules=rules.rules,
        openface=None if config.openface is None else Path(config.openface),
        labels=config.labels,
        asr=config.asr,
        peaks=config.peaks,
    )


@contextmanager
def stop_on_signals(stop: Stop) -> Iterator[None]:
    """Take the first Ctrl-C or SIGTERM as the wish to stop, and the second as `KeyboardInterrupt`."""

    def ask(number: int, frame: object) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()

    previous = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def show_dry_run(manifest: Manifest, config: BuildConfig, rules: RulesFile, *, device: str, count: int) -> None:
    """Build a few samples in a folder that is thrown away, with a writer that only shows what it was asked."""
    import tempfile
    from dataclasses import replace

    asked: dict[str, str] = {}

    def show(assignment: Assignment, attempt: int) -> str:
        asked[assignment.sample_id] = str(assignment.prompt.messages[-1]["content"])
        return "not asked"

    with tempfile.TemporaryDirectory() as folder:
        builder = Builder(
            replace(config, describe=False, attempts=1),
            run=RunFolder(Path(folder)),
            rules=rules,
            reader=make_reader(manifest, config, rules, device=device),
            writer=CallableWriter(show, name="dry run"),
            concurrency=1,
        )
        for sample in manifest.samples[:count]:
            record = builder.build(sample)
            assert record is not None
            typer.echo(f"--- {sample.id}")
            if sample.id not in asked:
                typer.echo(f"{record.stage} ({record.code}): {record.reason}\n")
                continue
            kept = "" if record.match is None else record.match["reason"]
            typer.echo(f"kept: {kept}\ncoarse: {record.fields['coarse']}\nprompt:\n{asked[sample.id]}\n")
    typer.echo("nothing was sent and nothing was written")


def run_session(
    manifest: Manifest,
    config: BuildConfig,
    folder: RunFolder,
    rules: RulesFile,
    *,
    device: str,
    concurrency: int,
    timeout: float,
    rates: tuple[int | None, int | None],
    limit: int | None,
) -> None:
    """Build what is left of the manifest, export, and say how it ended; raises `typer.Exit` unless all went well."""
    folder.open(config)
    stop = Stop()
    endpoint: ChatEndpoint | None = None
    if config.asks_endpoint:
        assert config.endpoint_url is not None
        assert config.endpoint_model is not None
        options = EndpointOptions(
            base_url=config.endpoint_url,
            model=config.endpoint_model,
            temperature=config.temperature,
            max_tokens=config.max_tokens,
            seed=config.seed,
            body=config.body,
            timeout_seconds=timeout,
        )
        limiter = RateLimit(requests=rates[0], tokens=rates[1], sleep=stop.sleep)
        endpoint = ChatEndpoint(options, cache=AnswerCache(folder.cache), limit=limiter, stop=stop)
    reader = make_reader(manifest, config, rules, device=device)
    writer: Writer
    if config.writer == "endpoint":
        assert endpoint is not None
        writer = EndpointWriter(endpoint)
    else:
        writer = NanoWriter(reader.analyzer) if config.writer == "nano" else load_callable(config.writer)
    builder = Builder(
        config, run=folder, rules=rules, reader=reader, writer=writer, describer=endpoint, stop=stop,
        concurrency=concurrency,
    )  # fmt: skip
    left = builder.remaining(manifest.samples)[:limit]
    try:
        with stop_on_signals(stop):
            interrupted = _progress(builder, left, endpoint)
    finally:
        if endpoint is not None:
            endpoint.close()
        exported = export(manifest, folder, usage=None if endpoint is None else asdict(endpoint.usage))
    typer.echo(
        f"{exported.kept} kept ({exported.explained} explained), {exported.dropped} dropped, "
        f"{exported.failed} failed, {exported.not_yet} not yet done"
    )
    for code, count in exported.reasons.items():
        typer.echo(f"  {count:6} {code}")
    typer.echo(f"{exported.manifests['instructions']}\nreasons and provenance: {folder.path}")
    if interrupted:
        typer.echo("interrupted; the same command goes on from here", err=True)
        raise typer.Exit(INTERRUPTED)
    if exported.failed:
        typer.echo("some samples failed; the same command tries them again", err=True)
        raise typer.Exit(FAILED)


def _progress(builder: Any, samples: list[Sample], endpoint: Any) -> bool:
    """Run with a live line of what is done, kept and asked; return whether it was interrupted."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    counts = {"done": 0, "dropped": 0, "failed": 0}
    columns = (
        TextColumn("building"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[said]}"),
        TimeElapsedColumn(), TimeRemainingColumn(),
    )  # fmt: skip
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task("building", total=len(samples), said="")

        def on_record(record: Record) -> None:
            counts[record.stage] += 1
            said = f"{counts['done']} kept, {counts['dropped']} dropped, {counts['failed']} failed"
            if endpoint is not None:
                use = endpoint.usage
                tokens = use.prompt_tokens + use.completion_tokens
                said += f"; {use.requests} requests, {use.cached} cached, {tokens:,} tokens"
            progress.update(task, advance=1, said=said)

        interrupted: bool = builder.run(samples, on_record=on_record).interrupted
        return interrupted

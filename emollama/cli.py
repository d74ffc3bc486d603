"""The command line: ``emollama analyze``, ``emollama models``, and what other packages add.

Sub-commands of other packages (serve, train, eval, bench and others) are entry points of the group
``emollama.commands``; one is imported when it is called, never to be listed. Nothing heavy is imported before a clip is
analysed.

Exit codes: 0 done, 1 some items failed, 2 the input was wrong, 130 interrupted.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from emollama._version import __version__
from emollama.clip_options import (
    AdapterOption,
    DeviceOption,
    LabelsOption,
    LanguageOption,
    ModelOption,
    TranscriptOption,
)
from emollama.converters.cli import convert
from emollama.converters.export_cli import export
from emollama.errors import DependencyError, EmoLlamaError, InputError
from emollama.sniff import MEDIA_SUFFIXES

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

    from emollama.analyze import Analyzer
    from emollama.long_clip import LongAnalysis
    from emollama.types import Analysis, Transcript

GROUP = "emollama.commands"
# What a listing says of the sub-commands that are not imported for it.
_SUMMARIES = {
    "batch": "Label many clips into one folder: resumable, each clip once, errors as data.",
    "report": "Write a clip's analysis down: page, PDF, table, subtitles, marked or blurred video.",
    "serve": "Serve /analyze and the OpenAI-compatible API.",
    "jobs": "Fine-tune through a running service: create, follow, pause and cancel jobs.",
    "keys": "API keys of the service: make, list and revoke them.",
    "audit": "The log of who had what done, when and why: list and verify it.",
    "notice": "What people whose expressions are read must be told.",
    "data": "Check, divide, import and show data sets for fine-tuning.",
    "build-instructions": "Make instruction data from clips, and review it.",
    "train": "Train an adapter on your own clips, or a part of nano, by a recipe.",
    "fusion": "Fusion beside the LLM: tables of vectors, self-training, answers and challenge files.",
    "merge": "Merge an adapter into its base: one model folder that needs neither.",
    "eval": "Put a model through benchmarks, compare runs, rank them.",
    "score": "Score a file of predictions against a file of truth.",
    "judge": "Judge descriptions with a language model behind an endpoint.",
    "bench": "Measure speed and where the time goes.",
    "bench-train": "Measure training beside transformers' Trainer (also: bench train).",
    "bench-engine": "Measure decoding beside transformers' generate (also: bench engine).",
    "bench-serve": "Measure a service under load (also: bench serve).",
    "bench-faces": "Measure faces per second beside a plain loop (also: bench faces).",
    "bench-live": "Measure how soon and how often a camera is read (also: bench live).",
    "bench-long": "Measure long clips: seconds and memory (also: bench long).",
}
_OK, _FAILED, _BAD_INPUT, _INTERRUPTED = 0, 1, 2, 130


class LazyGroup(TyperGroup):
    """A command group whose entry-point commands are stubs until one of them is called; errors are one line."""

    def list_commands(self, ctx: Any) -> list[str]:
        return [
            *super().list_commands(ctx),
            *(point.name for point in _entry_points() if point.name not in self.commands),
        ]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        own = super().get_command(ctx, cmd_name)
        if own is not None or _entry_point(cmd_name) is None:
            return own
        return TyperCommand(name=cmd_name, help=_SUMMARIES.get(cmd_name, "Added by another package."))

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if len(args) > 1 and _entry_point("-".join(args[:2])) is not None:  # `bench train` is the command bench-train
            args = ["-".join(args[:2]), *args[2:]]
        name, command, rest = super().resolve_command(ctx, args)
        if name is not None and name not in self.commands:
            command = _load_command(name)
        return name, command, rest

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except EmoLlamaError as error:
            typer.echo(f"error: {_one_line(error)}", err=True)
            raise typer.Exit(_BAD_INPUT) from None
        except KeyboardInterrupt:
            typer.echo("interrupted", err=True)
            raise typer.Exit(_INTERRUPTED) from None


def _entry_points() -> list[EntryPoint]:
    from importlib.metadata import entry_points

    found = {point.name: point for point in entry_points(group=GROUP)}
    ranked = sorted(found, key=lambda name: (list(_SUMMARIES).index(name) if name in _SUMMARIES else 99, name))
    return [found[name] for name in ranked]


def _entry_point(name: str) -> EntryPoint | None:
    return next((point for point in _entry_points() if point.name == name), None)


def _load_command(name: str) -> Any:
    point = _entry_point(name)
    assert point is not None
    try:
        loaded = point.load()
    except ImportError as error:
        raise DependencyError(f"the sub-command {name!r} cannot be loaded: {error}") from error
    return typer.main.get_command(loaded) if isinstance(loaded, typer.Typer) else loaded


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


app = typer.Typer(
    cls=LazyGroup,
    help="What a person in a clip appears to feel, and what in the picture, the voice and the words says so.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"emollama {__version__}")
        raise typer.Exit(_OK)


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and leave.")
    ] = False,
) -> None:
    pass


# ---- analyze ------------------------------------------------------------------------------------------------------


@app.command()
def analyze(
    ctx: typer.Context,
    paths: Annotated[
        list[str] | None, typer.Argument(metavar="PATH", help="Clips, sound files, pictures, folders; - is stdin.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON: one object, or a line for each of many.")] = False,
    csv: Annotated[bool, typer.Option("--csv", help="Print a CSV row for each clip.")] = False,
    transcript: TranscriptOption = None,
    labels: LabelsOption = None,
    language: LanguageOption = None,
    model: ModelOption = "nano",
    adapter: AdapterOption = None,
    device: DeviceOption = "cpu",
    asr: Annotated[
        str | None,
        typer.Option(help="Listen to the words with this recogniser, e.g. whisper-base (downloads it once)."),
    ] = None,
    output: Annotated[
        Path | None, typer.Option(help="Append one JSON line per clip to this file; clips already in it are skipped.")
    ] = None,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="With --output: do failed clips again.")] = False,
    subtitles: Annotated[
        Path | None, typer.Option(help="Write the timeline of the one clip as .srt, .vtt, .csv or .json.")
    ] = None,
    window: Annotated[
        float | None,
        typer.Option(help="Read the clip in windows of so many seconds; clips over 10 minutes always are, of 30 s."),
    ] = None,
) -> None:
    """Say what the person in each clip appears to feel, with scores, timeline, evidence and reasons."""
    if json and csv:
        raise InputError("--json and --csv exclude each other", field="json")
    words = read_transcript(transcript, language=language)
    names = None if labels is None else _labels(labels)
    items = list_clips(paths or [])
    single = len(items) <= 1 and output is None and not any(Path(path).is_dir() for path in paths or [])
    if words is not None and len(items) > 1:
        raise InputError("--transcript belongs to one clip; several were given", field="transcript")
    if not items and words is None:
        raise InputError("no clip: give a PATH, or words by --transcript", field="paths")
    if subtitles is not None:
        _check_subtitles(subtitles, single=single)
    if retry_failed and output is None:
        raise InputError("--retry-failed needs --output", field="retry_failed")

    if window is not None and not 2 <= window <= 300:
        raise InputError(f"--window is {window:g}; allowed: 2 to 300 seconds", field="window")

    job = BatchOptions(transcript=words, labels=names, language=language, asr=asr, window=window)
    done = _Resume.read(output, retry_failed=retry_failed) if output is not None else None
    loader: Callable[..., Analyzer] = ctx.obj if ctx.obj is not None else load_analyzer
    analyzer = loader(model, adapter=adapter, device=device)
    if single:
        answer = analyze_one(analyzer, items[0] if items else None, job)
        _show(answer, json=json, csv=csv)
        if subtitles is not None:
            from emollama.timeline import WRITERS

            write = WRITERS[subtitles.suffix[1:].lower()]
            subtitles.write_text(write(_whole(answer).timeline), encoding="utf-8")
        return
    failed = _analyze_many(analyzer, items or [""], job, output=output, done=done, json=json, csv=csv)
    if failed:
        typer.echo(f"{failed} of {max(len(items), 1)} clips failed", err=True)
        raise typer.Exit(_FAILED)


@dataclass(frozen=True, kw_only=True)
class BatchOptions:
    """What every clip of one call shares."""

    transcript: Transcript | None
    labels: tuple[str, ...] | None
    language: str | None
    asr: str | None
    window: float | None = None  # seconds; None where only long clips are read in windows


def load_analyzer(model: str, *, adapter: Path | None, device: str) -> Analyzer:
    from emollama.analyze import load

    return load(model, adapter=adapter, device=device)


def _labels(text: str) -> tuple[str, ...]:
    from emollama.labels import parse_label_set

    return parse_label_set(text)


def _check_subtitles(path: Path, *, single: bool) -> None:
    if not single:
        raise InputError("--subtitles belongs to one clip; several were given", field="subtitles")
    if path.suffix.lower() not in (".srt", ".vtt", ".csv", ".json"):
        raise InputError(f"--subtitles {path.name!r} must end in .srt, .vtt, .csv or .json", field="subtitles")
    if not path.absolute().parent.is_dir():
        raise InputError(f"--subtitles: the folder {path.parent} does not exist", field="subtitles")


_TRANSCRIPT_SUFFIXES = (".txt", ".srt", ".vtt", ".json")


def read_transcript(value: str | None, *, language: str | None = None) -> Transcript | None:
    """Return the words given as text, or as the name of a file that `emollama.transcribe` reads."""
    if value is None:
        return None
    is_name = len(value) < 1024 and value.isprintable()
    if is_name and Path(value).is_file():
        from emollama.transcribe import read_transcript_file

        return read_transcript_file(value, language=language)
    if is_name and " " not in value.strip() and Path(value).suffix.lower() in _TRANSCRIPT_SUFFIXES:
        raise InputError(f"the transcript {value} is not a file", field="transcript")
    from emollama.types import Transcript

    return Transcript(text=" ".join(value.split()), language=language, source="given")


def list_clips(paths: Sequence[str]) -> list[str]:
    """Return the clips that paths name: files as they are, folders by their media files in sorted order."""
    found: list[str] = []
    for text in paths:
        path = Path(text)
        if text == "-" or path.is_file():
            found.append(text)
        elif path.is_dir():
            inside = sorted(p for p in path.rglob("*") if p.suffix.lower() in MEDIA_SUFFIXES and p.is_file())
            if not inside:
                raise InputError(f"the folder {text} holds no media file", field="paths")
            found.extend(str(p) for p in inside)
        else:
            raise InputError(f"{text} does not exist", field="paths")
    return list(dict.fromkeys(found))


def analyze_one(analyzer: Analyzer, path: str | None, job: BatchOptions) -> Analysis | LongAnalysis:
    source: Path | bytes | None = None if not path else sys.stdin.buffer.read() if path == "-" else Path(path)
    name = "stdin" if path == "-" else None
    if source is not None and (job.window is not None or _is_long(source)):
        return _analyze_long(analyzer, source, job, name=name)
    return analyzer.analyze(
        source, name=name, transcript=job.transcript, labels=job.labels, language=job.language, asr=job.asr
    )


def _is_long(source: Path | bytes) -> bool:
    """Tell whether a clip is over the ordinary limits; what cannot be told is left to the analysis to say."""
    from emollama.media import MediaLimits
    from emollama.media_windows import clip_seconds

    limits = MediaLimits()
    try:
        size = len(source) if isinstance(source, bytes) else source.stat().st_size
        return size > limits.max_bytes or (clip_seconds(source) or 0.0) > limits.max_seconds
    except (EmoLlamaError, OSError):
        return False


def _analyze_long(analyzer: Analyzer, source: Path | bytes, job: BatchOptions, *, name: str | None) -> LongAnalysis:
    """Analyse window by window, with a bar where somebody watches."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        Progress,
        TaskProgressColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    from emollama.long_clip import analyze_long
    from emollama.media_windows import WINDOW_SECONDS

    columns = (TextColumn("analysing"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task("analysing", total=1.0)
        return analyze_long(
            analyzer, source, name=name, window_seconds=job.window or WINDOW_SECONDS, transcript=job.transcript,
            labels=job.labels, language=job.language, asr=job.asr,
            progress=lambda share: bar.update(task, completed=share),
        )  # fmt: skip


def _whole(answer: Analysis | LongAnalysis) -> Analysis:
    """Return the analysis of the whole clip, however it was read."""
    from emollama.long_clip import LongAnalysis

    return answer.whole if isinstance(answer, LongAnalysis) else answer


def _show(answer: Analysis | LongAnalysis, *, json: bool, csv: bool) -> None:
    if json:
        from json import dumps

        typer.echo(dumps(answer.to_json_dict(), ensure_ascii=False, indent=2))
    elif csv:
        writer = _CsvOut()
        writer.write(_whole(answer).clip, answer.to_json_dict())
    else:
        from rich.console import Console

        from emollama.long_clip import LongAnalysis
        from emollama.panel import render, render_long

        Console().print(render_long(answer) if isinstance(answer, LongAnalysis) else render(answer))


def _analyze_many(
    analyzer: Analyzer,
    items: Sequence[str],
    job: BatchOptions,
    *,
    output: Path | None,
    done: _Resume | None,
    json: bool,
    csv: bool,
) -> int:
    """Analyse clip after clip; return how many failed. One that fails is a row with its error, and the rest goes on."""
    import hashlib
    from json import dumps

    table = _CsvOut() if csv else None
    num_new = num_old = failed = 0
    for path in _with_progress(items):
        row: dict[str, Any] = {"path": path, "sha256": ""}
        analysis: Analysis | LongAnalysis | None = None
        try:
            if path and path != "-":
                with Path(path).open("rb") as file:
                    row["sha256"] = hashlib.file_digest(file, "sha256").hexdigest()
            key = (path, row["sha256"])
            if done is not None and key in done.rows:
                num_old += 1
                failed += done.rows[key]
                continue
            analysis = analyze_one(analyzer, path or None, job)
            row.update(analysis.to_json_dict())
        except (EmoLlamaError, OSError) as error:
            failed += 1
            row["error"] = {"type": type(error).__name__, "message": _one_line(error)}
            typer.echo(f"error: {path}: {_one_line(error)}", err=True)
        num_new += 1
        if output is not None:
            with output.open("a", encoding="utf-8") as sink:
                sink.write(dumps(row, ensure_ascii=False) + "\n")
        if json:
            typer.echo(dumps(row, ensure_ascii=False))
        elif table is not None:
            table.write(path, row)
        elif output is None and analysis is not None:
            _show(analysis, json=False, csv=False)
    if output is not None:
        typer.echo(f"{output}: {num_new} new, {num_old} already there, {failed} failed", err=True)
    return failed


def _with_progress(items: Sequence[str]) -> Iterator[str]:
    if not sys.stderr.isatty():
        yield from items
        return
    from rich.console import Console
    from rich.progress import track

    yield from track(items, description="analysing", console=Console(stderr=True))


@dataclass(frozen=True)
class _Resume:
    """What an output file already holds: (path, sha256) -> whether it failed."""

    rows: dict[tuple[str, str], bool]

    @classmethod
    def read(cls, path: Path, *, retry_failed: bool) -> _Resume:
        """Read an output file; a line cut off by a kill, and failures that are to be retried, are removed from it."""
        from json import JSONDecodeError, loads

        if not path.absolute().parent.is_dir():
            raise InputError(f"--output: the folder {path.parent} does not exist", field="output")
        if path.is_dir():
            raise InputError(f"--output {path} is a folder; it must be a file", field="output")
        if not path.exists():
            return cls({})
        kept, rows = [], {}
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
        for number, line in enumerate(lines, start=1):
            try:
                row = loads(line)
                key, failed = (str(row["path"]), str(row["sha256"])), "error" in row
            except (JSONDecodeError, KeyError, TypeError) as error:
                if number == len(lines) and not line.endswith("\n"):
                    continue
                raise InputError(
                    f"--output {path}: line {number} is not a row of this command", field="output"
                ) from error
            if failed and retry_failed:
                continue
            kept.append(line if line.endswith("\n") else line + "\n")
            rows[key] = failed
        if kept != lines:
            temporary = path.with_name(path.name + ".tmp")
            temporary.write_text("".join(kept), encoding="utf-8")
            temporary.replace(path)
        return cls(rows)


class _CsvOut:
    """One row a clip on standard output; the columns are those of the first answer's label set."""

    def __init__(self) -> None:
        import csv

        self._writer = csv.writer(sys.stdout, lineterminator="\n")
        self._labels: list[str] | None = None
        self._waiting: list[tuple[str, dict[str, Any]]] = []

    def write(self, path: str, row: dict[str, Any]) -> None:
        emotion = row.get("emotion")
        if self._labels is None:
            # Failures before the first answer have no scores; the header can wait for neither longer nor shorter.
            self._labels = list(emotion["scores"]) if emotion else []
            self._writer.writerow(
                ["path", "label", "confidence", "abstained", "valence", "arousal", "rationale", "warnings", "error"]
                + [f"score_{name}" for name in self._labels]
            )
        if emotion is None:
            self._writer.writerow([path, *[""] * 7, row["error"]["message"], *[""] * len(self._labels)])
            return
        self._writer.writerow(
            [
                path, emotion["label"] or "", emotion["confidence"], emotion["abstained"], row["valence"],
                row["arousal"], row["rationale"], " ".join(row["warnings"]), "",
                *(emotion["scores"].get(name, "") for name in self._labels),
            ]
        )  # fmt: skip


# ---- models -------------------------------------------------------------------------------------------------------


# ---- chat ---------------------------------------------------------------------------------------------------------


@app.command()
def chat(
    clip: Annotated[Path, typer.Argument(help="A clip, sound file or picture.")],
    question: Annotated[
        list[str] | None, typer.Option("--question", "-q", help="Answer this and leave; may be given several times.")
    ] = None,
    transcript: TranscriptOption = None,
    model: ModelOption = "nano",
    adapter: AdapterOption = None,
    device: DeviceOption = "cpu",
) -> None:
    """Ask questions about a clip, one after the other."""
    if not clip.is_file():
        raise InputError(f"no clip at {clip}", field="clip")
    words = read_transcript(transcript)
    from rich.console import Console

    from emollama.chat_cli import ChatSession, run

    console = Console()
    session = ChatSession(load_analyzer(model, adapter=adapter, device=device), clip, transcript=words)
    for each in question or ():
        session.answer(each, console)
    if not question:
        run(session, console)


@app.command()
def models(json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """List the models that can be loaded by name."""
    from emollama.config import PRESETS

    rows = [
        {
            "name": config.name,
            "embedded": config.name == "nano",
            "streams": [stream.name for stream in config.streams],
            "backbone": config.backbone_weights,
            "description": config.description,
        }
        for config in PRESETS.values()
    ]
    if json:
        from json import dumps

        typer.echo(dumps(rows, indent=2))
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table("name", "weights", "what it is", box=None)
    for row in rows:
        weights = "embedded" if row["embedded"] else "to be fetched"
        table.add_row(Text(str(row["name"])), weights, Text(str(row["description"])))
    Console().print(table)


app.command()(convert)
app.command()(export)


def main() -> None:
    """Entry point of the ``emollama`` script."""
    app()


if __name__ == "__main__":
    main()

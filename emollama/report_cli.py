"""``emollama report``: a clip, an analysis, a folder of clips or of analyses as files for people."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from emollama.batch.folder import RESULTS
from emollama.clip_options import (
    AdapterOption,
    DeviceOption,
    LabelsOption,
    LanguageOption,
    ModelOption,
    TranscriptOption,
)
from emollama.errors import EmoLlamaError, InputError

if TYPE_CHECKING:
    from emollama.reports.video import VideoOptions

_FAILED = 1
_VIDEO_SUFFIX = ".report.mp4"

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


@app.command()
def report(
    ctx: typer.Context,
    path: Annotated[
        Path,
        typer.Argument(
            metavar="PATH",
            help="A clip, an analysis (.json), a folder of clips, or a folder that `emollama batch` filled.",
        ),
    ],
    html: Annotated[bool, typer.Option("--html", help="A page (what is written when nothing is asked for).")] = False,
    pdf: Annotated[bool, typer.Option("--pdf", help="A document on A4.")] = False,
    csv: Annotated[bool, typer.Option("--csv", help="The timeline as a table; of batch's folder, the clips.")] = False,
    srt: Annotated[bool, typer.Option("--srt", help="The timeline as SubRip subtitles.")] = False,
    vtt: Annotated[bool, typer.Option("--vtt", help="The timeline as WebVTT subtitles.")] = False,
    video: Annotated[
        bool, typer.Option("--video", help="The clip with boxes and what faces appear to express.")
    ] = False,
    blur: Annotated[
        bool, typer.Option("--blur", help="With --video: make every face that is found unrecognisable.")
    ] = False,
    no_marks: Annotated[bool, typer.Option("--no-marks", help="With --video: no boxes and no captions.")] = False,
    voice: Annotated[str, typer.Option(help="With --video: keep, change or mute the sound.")] = "keep",
    out: Annotated[Path, typer.Option(help="The folder to write into.")] = Path(),
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace reports that are there already.")] = False,
    transcript: TranscriptOption = None,
    labels: LabelsOption = None,
    language: LanguageOption = None,
    model: ModelOption = "nano",
    adapter: AdapterOption = None,
    device: DeviceOption = "cpu",
) -> None:
    """Write reports about clips: pages, documents, tables, subtitles, marked or blurred videos."""
    formats = [name for name, on in (("html", html), ("pdf", pdf), ("csv", csv), ("srt", srt), ("vtt", vtt)) if on]
    if not formats and not video:
        formats = ["html"]
    if not video and (blur or no_marks or voice != "keep"):
        raise InputError("--blur, --no-marks and --voice belong to --video", field="video")
    if not path.exists():
        raise InputError(f"{path} does not exist", field="path")
    if not out.is_dir():
        raise InputError(f"--out: the folder {out} does not exist", field="out")
    wanted = _Wanted(formats=tuple(formats), film=_film(marks=not no_marks, blur=blur, voice=voice) if video else None)
    if path.is_dir() and (path / RESULTS).is_file():
        _report_batch(path, wanted, out=out, overwrite=overwrite)
        return
    if path.suffix.lower() == ".json":
        if video:
            raise InputError("--video wants the clip itself, not its analysis", field="video")
        _write_formats(_read(path), wanted.missing(out / path.stem, overwrite=overwrite))
        return
    analyze = _Analyzing(
        ctx.obj, transcript=transcript, labels=labels, language=language,
        which={"model": model, "adapter": adapter, "device": device},
    )  # fmt: skip
    if not path.is_dir():
        _report_clip(path, analyze, wanted, wanted.missing(out / path.stem, overwrite=overwrite))
        return
    if transcript is not None:
        raise InputError("--transcript belongs to one clip; a folder has several", field="transcript")
    if failed := _report_clips(path, analyze, wanted, out=out, overwrite=overwrite):
        typer.echo(f"{failed} clips failed; the same command does them again", err=True)
        raise typer.Exit(_FAILED)


@dataclass(frozen=True, kw_only=True)
class _Wanted:
    """What is to be written of each clip."""

    formats: tuple[str, ...]
    film: VideoOptions | None

    def targets(self, stem: Path) -> dict[str, Path]:
        """Return format (or "video") -> file of one clip."""
        named = {name: stem.with_name(f"{stem.name}.{name}") for name in self.formats}
        return named if self.film is None else {**named, "video": stem.with_name(f"{stem.name}{_VIDEO_SUFFIX}")}

    def missing(self, stem: Path, *, overwrite: bool) -> dict[str, Path]:
        """Return the same, and refuse to replace a file unasked."""
        targets = self.targets(stem)
        for target in targets.values():
            if target.exists() and not overwrite:
                raise InputError(f"{target} is there already; --overwrite replaces it", field="out")
        return targets


class _Analyzing:
    """Analyses clips; the model is loaded for the first one."""

    def __init__(
        self,
        loader: Callable[..., Any] | None,
        *,
        transcript: str | None,
        labels: str | None,
        language: str | None,
        which: Mapping[str, Any],
    ) -> None:
        from emollama.cli import BatchOptions, load_analyzer, read_transcript
        from emollama.labels import parse_label_set

        names = None if labels is None else parse_label_set(labels)
        words = read_transcript(transcript, language=language)
        self._job = BatchOptions(transcript=words, labels=names, language=language, asr=None)
        self._load, self._which = loader or load_analyzer, dict(which)
        self._analyzer: Any = None

    def __call__(self, path: Path) -> dict[str, Any]:
        from emollama.cli import analyze_one

        if self._analyzer is None:
            self._analyzer = self._load(self._which.pop("model"), **self._which)
        document: dict[str, Any] = analyze_one(self._analyzer, str(path), self._job).to_json_dict()
        return document


def _film(*, marks: bool, blur: bool, voice: str) -> VideoOptions:
    from emollama.reports.video import VideoOptions

    return VideoOptions(marks=marks, blur=blur, voice=voice)  # type: ignore[arg-type]


# ---- one clip, many clips, what batch made ------------------------------------------------------------------------


def _report_clip(path: Path, analyze: _Analyzing, wanted: _Wanted, targets: Mapping[str, Path]) -> None:
    """Write what is in ``targets``; the video after the rest, because it takes the longest."""
    document = analyze(path)
    _write_formats(document, targets)
    if "video" in targets:
        from emollama.reports.video import write_video

        with _bar(f"writing {targets['video'].name}") as tell:
            write_video(path, document, targets["video"], wanted.film, progress=tell)
        typer.echo(str(targets["video"]))


def _report_clips(folder: Path, analyze: _Analyzing, wanted: _Wanted, *, out: Path, overwrite: bool) -> int:
    """Report every clip of a folder under its own name; return how many failed.

    What is there already is left, so that a run which was ended goes on where it was; a file is there whole or not.
    """
    from emollama.cli import list_clips

    clips = [Path(name) for name in list_clips([str(folder)])]
    failed = there = 0
    for clip in _with_progress(clips):
        # With its suffix: talk.mp4 and talk.wav are two clips.
        targets = wanted.targets(out / clip.relative_to(folder))
        left = {name: target for name, target in targets.items() if overwrite or not target.exists()}
        if not left:
            there += 1
            continue
        try:
            for target in left.values():
                target.parent.mkdir(parents=True, exist_ok=True)
            _report_clip(clip, analyze, wanted, left)
        except (EmoLlamaError, OSError) as error:
            failed += 1
            typer.echo(f"error: {clip}: {' '.join(str(error).split())}", err=True)
    typer.echo(f"{out}: {len(clips) - there - failed} clips reported, {there} already there, {failed} failed", err=True)
    return failed


def _report_batch(path: Path, wanted: _Wanted, *, out: Path, overwrite: bool) -> None:
    from emollama.reports import SUMMARY_FORMATS, write_summary
    from emollama.reports.folder import folder_summary

    if wanted.film is not None or not set(wanted.formats) <= set(SUMMARY_FORMATS):
        allowed = ", ".join(f"--{name}" for name in SUMMARY_FORMATS)
        raise InputError(f"what can be written of a folder of answers: {allowed}", field="path")
    targets = wanted.missing(out / path.resolve().name, overwrite=overwrite)
    summary = folder_summary(path)
    for name, target in targets.items():
        _write(target, write_summary(summary, name))
        typer.echo(str(target))


# ---- files --------------------------------------------------------------------------------------------------------


def _write_formats(document: Mapping[str, Any], targets: Mapping[str, Path]) -> None:
    from emollama.reports import write_report

    for name, target in targets.items():
        if name != "video":
            _write(target, write_report(document, name))
            typer.echo(str(target))


def _write(target: Path, content: bytes) -> None:
    partial = target.with_name(f".{target.name}.partial")
    try:
        partial.write_bytes(content)
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)


def _read(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise InputError(f"{path} is not JSON ({error})", field="path") from error
    if not isinstance(document, dict):
        raise InputError(f"{path} is not an analysis: it must hold one JSON object", field="path")
    return document


def _with_progress(clips: Sequence[Path]) -> Iterator[Path]:
    if not sys.stderr.isatty():
        yield from clips
        return
    from rich.console import Console
    from rich.progress import track

    yield from track(clips, description="reporting", console=Console(stderr=True))


@contextmanager
def _bar(what: str) -> Iterator[Callable[[float], None]]:
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task(what, total=1.0)
        yield lambda share: bar.update(task, completed=share)

"""``emollama report``: a clip, an analysis or a folder of them as files for people."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from emollama.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


@app.command()
def report(
    ctx: typer.Context,
    path: Annotated[
        Path,
        typer.Argument(metavar="PATH", help="A clip, an analysis (.json), or a folder that `emollama batch` filled."),
    ],
    html: Annotated[bool, typer.Option("--html", help="A page (what is written when nothing is asked for).")] = False,
    pdf: Annotated[bool, typer.Option("--pdf", help="A document on A4.")] = False,
    csv: Annotated[bool, typer.Option("--csv", help="The timeline as a table.")] = False,
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
    transcript: Annotated[
        str | None, typer.Option(help="The words of the clip, or a file with them (.txt, .srt, .vtt, .json).")
    ] = None,
    language: Annotated[str | None, typer.Option(help="Language of the words, e.g. en.")] = None,
    model: Annotated[str, typer.Option(help="A name of `emollama models`, or a folder.")] = "nano",
    adapter: Annotated[Path | None, typer.Option(help="A LoRA adapter folder to use.")] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1, ...")] = "cpu",
) -> None:
    """Write reports about a clip: a page, a document, tables, subtitles, a marked or blurred video."""
    wanted = [name for name, on in (("html", html), ("pdf", pdf), ("csv", csv), ("srt", srt), ("vtt", vtt)) if on]
    if not wanted and not video:
        wanted = ["html"]
    if not video and (blur or no_marks or voice != "keep"):
        raise InputError("--blur, --no-marks and --voice belong to --video", field="video")
    if not path.exists():
        raise InputError(f"{path} does not exist", field="path")
    if not out.is_dir():
        raise InputError(f"--out: the folder {out} does not exist", field="out")
    if path.is_dir():
        _report_folder(path, wanted, video=video, out=out, overwrite=overwrite)
        return
    is_analysis = path.suffix.lower() == ".json"
    if is_analysis and video:
        raise InputError("--video wants the clip itself, not its analysis", field="video")
    targets = {name: _target(out, path, f".{name}", overwrite) for name in wanted}
    film = _target(out, path, ".report.mp4", overwrite) if video else None
    if film is not None:
        from emollama.reports.video import VideoOptions

        options = VideoOptions(marks=not no_marks, blur=blur, voice=voice)  # type: ignore[arg-type]
    if is_analysis:
        document: Mapping[str, Any] = _read(path)
    else:
        document = _analysed(ctx.obj, path, transcript, language, model=model, adapter=adapter, device=device)
    from emollama.reports import write_report

    for name, target in targets.items():
        _write(target, write_report(document, name))
        typer.echo(str(target))
    if film is not None:
        from emollama.reports.video import write_video

        with _bar(f"writing {film.name}") as tell:
            write_video(path, document, film, options, progress=tell)
        typer.echo(str(film))


def _report_folder(path: Path, wanted: list[str], *, video: bool, out: Path, overwrite: bool) -> None:
    from emollama.reports import SUMMARY_FORMATS, write_summary
    from emollama.reports.folder import folder_summary

    if video or not set(wanted) <= set(SUMMARY_FORMATS):
        allowed = ", ".join(f"--{name}" for name in SUMMARY_FORMATS)
        raise InputError(f"what can be written of a folder: {allowed}", field="path")
    targets = {name: _target(out, path.resolve(), f".{name}", overwrite) for name in wanted}
    summary = folder_summary(path)
    for name, target in targets.items():
        _write(target, write_summary(summary, name))
        typer.echo(str(target))


def _target(out: Path, path: Path, suffix: str, overwrite: bool) -> Path:
    target = out / f"{path.stem if path.is_file() else path.name}{suffix}"
    if target.exists() and not overwrite:
        raise InputError(f"{target} is there already; --overwrite replaces it", field="out")
    return target


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


def _analysed(
    loader: Callable[..., Any] | None, path: Path, transcript: str | None, language: str | None, **which: Any
) -> dict[str, Any]:
    from emollama.cli import BatchOptions, analyze_one, load_analyzer, read_transcript

    words = read_transcript(transcript, language=language)
    analyzer = (loader or load_analyzer)(which.pop("model"), **which)
    job = BatchOptions(transcript=words, labels=None, language=language, asr=None)
    document: dict[str, Any] = analyze_one(analyzer, str(path), job).to_json_dict()
    return document


@contextmanager
def _bar(what: str) -> Iterator[Callable[[float], None]]:
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task(what, total=1.0)
        yield lambda share: bar.update(task, completed=share)

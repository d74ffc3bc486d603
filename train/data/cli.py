"""``emollama data``: check a data set, divide it, import one, show it, print the format's schema.

Exit codes: 0 done, 1 the data has errors, 2 the call was wrong.
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from emollama.errors import EmoLlamaError, InputError, UnknownNameError

if TYPE_CHECKING:
    from train.data.report import Report

_PROBLEMS, _BAD_INPUT = 1, 2

app = typer.Typer(
    help="Check, divide, import and show data sets for fine-tuning.", add_completion=False, no_args_is_help=True
)


@app.command()
def validate(
    source: Annotated[
        Path, typer.Argument(metavar="MANIFEST_OR_BUNDLE", help="manifest.jsonl, or a zip, tar, tar.gz.")
    ],
    labels: Annotated[
        str | None, typer.Option(help="The label set: comma-separated, or a set's name such as mer.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
    epochs: Annotated[
        int | None, typer.Option(help="For the cost: epochs of training; default: what a job would choose.")
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option(help="For the cost: samples a step; default: what a job would choose.")
    ] = None,
    time_encoding: Annotated[
        bool, typer.Option("--time", help="For the cost: encode three clips with nano and measure.")
    ] = False,
    validates: Annotated[
        Path | None, typer.Option(help="The manifest that is trained on, when this one only validates it.")
    ] = None,
    workers: Annotated[int, typer.Option(help="Threads that read clips.")] = 2,
) -> None:
    """Find everything that is wrong with a data set, and say what training on it will cost."""
    with _told_errors():
        report = _validated(source, labels, epochs, batch_size, workers, time_encoding=time_encoding, other=validates)
    if as_json:
        typer.echo(json.dumps(report.to_json_dict(), indent=2, ensure_ascii=False))
    else:
        typer.echo(report.to_text())
    if not report.ok:
        raise typer.Exit(_PROBLEMS)


@app.command()
def split(
    manifest: Annotated[Path, typer.Argument(help="The manifest to divide.")],
    valid: Annotated[float, typer.Option(help="Share for validation.")] = 0.1,
    test: Annotated[float, typer.Option(help="Share for the test.")] = 0.1,
    seed: Annotated[int, typer.Option(help="Another seed, another division.")] = 0,
    output: Annotated[
        Path | None, typer.Option(help="Write here instead of over the manifest; the same folder.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Divide anew what has splits already.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print what came out as JSON.")] = False,
) -> None:
    """Divide by speaker (or by content), each label in its share, and write the split of every sample."""
    from emollama.manifest import read_manifest, write_manifest
    from train.data.split import Shares, divide

    with _told_errors():
        read = read_manifest(manifest)
        if not overwrite and any(sample.split is not None for sample in read.samples):
            raise InputError(f"{manifest} has splits already; --overwrite divides it anew", field="overwrite")
        target = output or manifest
        if target.absolute().parent.resolve() != read.folder.resolve():
            raise InputError(f"--output {target} must be in the manifest's folder: clips are relative to it")
        division = divide(read, Shares(valid=valid, test=test), seed=seed)
        write_manifest(target, division.samples, header=read.header)
    document = division.to_json_dict()
    if as_json:
        typer.echo(json.dumps({"manifest": str(target), "seed": seed, **document}, indent=2, ensure_ascii=False))
        return
    for name, part in document["splits"].items():
        of_labels = ", ".join(f"{label} {count}" for label, count in part["labels"].items())
        people = f", {part['speakers']} speakers" if division.grouped_by == "speaker" else ""
        typer.echo(f"{name}: {part['samples']} samples ({part['share']:.1%}){people}: {of_labels}")
    typer.echo(f"{target}: {division.num_groups} groups by {division.grouped_by}, seed {seed}")


@app.command("import")
def import_(
    name: Annotated[str | None, typer.Argument(help="The kind of source; without one, the kinds are listed.")] = None,
    source: Annotated[Path | None, typer.Argument(help="The file or folder to read.")] = None,
    out: Annotated[Path | None, typer.Argument(help="The manifest to write (.jsonl).")] = None,
    media: Annotated[Path | None, typer.Option(help="The folder of the clips, when it is not the source's.")] = None,
    clips: Annotated[
        str, typer.Option(help="refer to clips where they lie, or copy or link them beside OUT.")
    ] = "refer",
    skip_missing: Annotated[bool, typer.Option("--skip-missing", help="Leave out clips that are not there.")] = False,
    license: Annotated[str | None, typer.Option(help="Licence of the clips; it goes into the header.")] = None,
    options: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="An option of the importer, e.g. fold=2.")
    ] = None,
) -> None:
    """Turn another data set into a manifest."""
    from emollama.importers import IMPORTERS, load_importer
    from emollama.importers.clips import ClipFolder
    from emollama.manifest import ManifestHeader, write_manifest

    if name is None:
        typer.echo("importers: " + ", ".join(IMPORTERS))
        return
    with _told_errors():
        importer = load_importer(name)
        if source is None or out is None:
            raise InputError("import wants a SOURCE and the manifest to write, OUT", field="source")
        if out.suffix != ".jsonl":
            raise InputError(f"OUT is {str(out)!r}; it must end in .jsonl", field="out")
        folder = ClipFolder(root=out.parent, mode=clips, skip_missing=skip_missing)  # type: ignore[arg-type]
        given = _options(importer, options or [])
        header = ManifestHeader(manifest_version=1, license=license)
        with _progress("importing") as tick:
            samples = _counted(importer(source, media=media, clips=folder, **given), tick)
            count = write_manifest(out, samples, header=header)
    skipped = f", {folder.num_skipped} clips were not there" if folder.num_skipped else ""
    typer.echo(f"{out}: {count} samples{skipped}")


@app.command()
def schema() -> None:
    """Print the JSON schema of a manifest's line."""
    from emollama.manifest import json_schema

    typer.echo(json.dumps(json_schema(), indent=2))


@app.command()
def show(
    manifest: Annotated[Path, typer.Argument(help="The manifest to show.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
    no_clips: Annotated[bool, typer.Option("--no-clips", help="Do not open the clips; seconds are left out.")] = False,
) -> None:
    """Show what a data set holds: samples, people and seconds by split, label and speaker."""
    from emollama.manifest import read_manifest
    from train.data.overview import overview, tables

    with _told_errors():
        read = read_manifest(manifest)
        seconds = None if no_clips else _seconds(read)
        found = overview(read, seconds)
    if as_json:
        typer.echo(json.dumps(found, indent=2, ensure_ascii=False))
        return
    from rich.console import Console

    console = Console()
    for table in tables(found):
        console.print(table)


# ---- helpers ------------------------------------------------------------------------------------------------------


def _validated(
    source: Path,
    labels: str | None,
    epochs: int | None,
    batch_size: int | None,
    workers: int,
    *,
    time_encoding: bool,
    other: Path | None,
) -> Report:
    from emollama.labels import parse_label_set
    from train.data.bundle import BundleError, kind_of
    from train.data.cost import nano_tokens
    from train.data.validate import validate as check
    from train.data.validate import validate_upload

    if not source.is_file():
        raise InputError(f"{source} is not a file; give a manifest or a bundle", field="source")
    if other is not None and not other.is_file():
        raise InputError(f"--validates {other} is not a file; give the manifest that is trained on", field="validates")
    if (epochs is not None and epochs < 1) or (batch_size is not None and batch_size < 1):
        raise InputError("--epochs and --batch-size begin at 1", field="epochs")
    options: dict[str, Any] = {
        "labels": None if labels is None else parse_label_set(labels),
        "count_tokens": nano_tokens(),
        "epochs": epochs,
        "batch_size": batch_size,
        "workers": workers,
    }
    try:
        is_bundle = kind_of(source) != "jsonl"
    except BundleError:
        is_bundle = True
    if not is_bundle:
        options["speed"] = _measured(source, batch_size) if time_encoding else None
    elif time_encoding:
        raise InputError("--time has no effect on a bundle; unpack it first", field="time")
    with _progress("reading clips") as tick:
        if other is not None:
            trained = check(other, workers=workers, progress=tick)
            if trained.summary is None or not trained.summary.num_samples:
                raise InputError(f"--validates {other} holds no sample; check it first", field="validates")
            options["validates"] = trained
        if not is_bundle:
            return check(source, progress=tick, **options)
        import tempfile

        with tempfile.TemporaryDirectory(prefix="emollama-data-") as scratch:
            return validate_upload(source, Path(scratch) / "data", progress=tick, **options)


def _measured(source: Path, batch_size: int | None) -> Any:
    """Time a few encodings and steps of the embedded model, when the manifest can be trained on at all."""
    from emollama.errors import DatasetError
    from emollama.manifest import read_manifest
    from train.data.timing import time_nano

    try:
        return time_nano(read_manifest(source), batch_size=batch_size)
    except DatasetError:
        return None  # the report says what is wrong with it


def _seconds(manifest: Any) -> dict[str, float]:
    from emollama.media import MediaLimits
    from train.data.clip_checks import probe_clips

    names = [sample.clip for sample in manifest.samples if sample.clip is not None]
    with _progress("reading clips") as tick:
        facts = probe_clips(names, manifest.folder, limits=MediaLimits(), progress=tick)
    broken = [name for name, fact in facts.items() if fact.problem is not None]
    if broken:
        typer.echo(f"{len(broken)} clips cannot be read; `emollama data validate` says why", err=True)
    return {name: fact.seconds for name, fact in facts.items()}


def _options(importer: Callable[..., Any], given: list[str]) -> dict[str, Any]:
    """Read KEY=VALUE by the importer's own signature."""
    import inspect
    from typing import get_type_hints

    hints = get_type_hints(importer)
    known = [
        name
        for name, parameter in inspect.signature(importer).parameters.items()
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY and name not in ("media", "clips")
    ]
    read: dict[str, Any] = {}
    for text in given:
        name, mark, value = text.partition("=")
        if not mark:
            raise InputError(f"--set {text!r} is not KEY=VALUE", field="set")
        if name not in known:
            raise UnknownNameError("option of this importer", name, known)
        kind = hints[name]
        try:
            number = {int: int, float: float}.get(kind)
            read[name] = number(value) if number is not None else Path(value) if "Path" in str(kind) else value
        except ValueError as error:
            raise InputError(f"--set {name}={value!r}: a number is wanted", field=name) from error
    return read


def _counted(samples: Iterator[Any], tick: Callable[[int, int], None]) -> Iterator[Any]:
    for number, sample in enumerate(samples, start=1):
        tick(number, 0)
        yield sample


@contextlib.contextmanager
def _progress(what: str) -> Iterator[Callable[[int, int], None]]:
    """Show progress on standard error when that is a terminal; a total of 0 is not known."""
    if not sys.stderr.isatty():
        yield lambda done, total: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total or None)


@contextlib.contextmanager
def _told_errors() -> Iterator[None]:
    """Say a deliberate error in one line, and leave with the code for a wrong call."""
    try:
        yield
    except EmoLlamaError as error:
        _fail(str(error))
    except OSError as error:
        _fail(f"{error.filename or ''}: {error.strerror or error}".removeprefix(": "))


def _fail(message: str) -> NoReturn:
    typer.echo("error: " + " ".join(message.split()), err=True)
    raise typer.Exit(_BAD_INPUT)


if __name__ == "__main__":
    app()

"""``emollama eval``: put a model through benchmarks, compare runs, rank them, and measure parts of nano on their own.

``emollama eval TASK...`` runs tasks; ``compare``, ``leaderboard``, ``part`` and ``results`` are commands beside it.
Knows the names of the tasks and what to do with their answers; tasks and models are imported when they are asked for.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from emollama.errors import DatasetError, EmoLlamaError, InputError
from eval.tasks import TASKS, describe_task, load_task

if TYPE_CHECKING:
    from rich.console import Console

    from emollama.html_page import Section
    from eval.ask import EvalModel
    from eval.robustness_run import Sweep
    from eval.run import EvalOptions, RunResult
    from eval.task import EvalTask

DATA_VARIABLE = "EMOLLAMA_DATA"
DEFAULT_DATA = Path("../shared/data")
RUNS = Path("runs/eval")
_FAILED, _BAD_INPUT, _INTERRUPTED = 1, 2, 130


class EvalGroup(TyperGroup):
    """A group whose first word may be a task: what is no command of its own is given to ``run``."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if not args or (args[0] not in self.commands and args[0] not in ctx.help_option_names):
            args = ["run", *args]
        return super().parse_args(ctx, args)


app = typer.Typer(
    cls=EvalGroup,
    help="Score a model on benchmarks: emollama eval TASK... --model M --data PATH (see `emollama eval run --help`).",
    add_completion=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.command()
def run(
    tasks: Annotated[
        list[str] | None, typer.Argument(metavar="TASK...", help="Tasks; without one, their list.")
    ] = None,
    model: Annotated[str, typer.Option(help="nano, a model folder, or an adapter folder.")] = "nano",
    base: Annotated[str | None, typer.Option(help="Base of an adapter that does not name its own.")] = None,
    endpoint: Annotated[str | None, typer.Option(help="URL of an OpenAI-compatible endpoint to ask instead.")] = None,
    endpoint_model: Annotated[str | None, typer.Option(help="Name of the model that the endpoint serves.")] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, or auto.")] = "cpu",
    data: Annotated[
        Path | None,
        typer.Option(
            help=f"Folder of the raw data, or the task's file. Default: ${DATA_VARIABLE}, then {DEFAULT_DATA}."
        ),
    ] = None,
    split: Annotated[str | None, typer.Option(help="Split; default: the task's own.")] = None,
    limit: Annotated[int | None, typer.Option(help="Ask only so many items, evenly spread over the split.")] = None,
    run_dir: Annotated[
        Path | None, typer.Option(help=f"Folder of the run; of several tasks, their parent. Default: {RUNS}/...")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the run in --run-dir, or with the newest unfinished one.")
    ] = False,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="With --resume: ask what failed again.")] = False,
    ablate: Annotated[
        bool, typer.Option("--ablate/--no-ablate", help="Each modality alone and removed, where there are several.")
    ] = True,
    allow_leak: Annotated[
        list[str] | None, typer.Option(help="Leave a leak in: clip, speaker, or one by name: speaker:03.")
    ] = None,
    train_manifest: Annotated[
        list[Path] | None, typer.Option(help="Manifest that the model was trained with; checked for leaks.")
    ] = None,
    wheel: Annotated[Path | None, typer.Option(help="Folder of the emotion wheels' word lists.")] = None,
    synonyms: Annotated[Path | None, typer.Option(help="CSV file name,groups: synonym groups of each clip.")] = None,
    corrupt: Annotated[
        list[str] | None, typer.Option(help="Also ask with spoiled clips, e.g. noise=0,10,20 or blur=2,4 or dark.")
    ] = None,
    noise: Annotated[Path | None, typer.Option(help="Recordings for --corrupt noise, e.g. MUSAN's speech.")] = None,
    corrupt_seed: Annotated[int, typer.Option(help="Seed of what --corrupt draws.")] = 0,
    workers: Annotated[int, typer.Option(help="Items in flight at a time.")] = 1,
    resamples: Annotated[int, typer.Option(help="Bootstrap resamples.")] = 1000,
    seed: Annotated[int, typer.Option(help="Seed of the resampling.")] = 0,
    json_path: Annotated[
        Path | None, typer.Option("--json", help="Also write result and origin here; of several tasks: {task} in it.")
    ] = None,
) -> None:
    """Put a model through one or several benchmark tasks; writes a run folder with answers, figures and reports."""
    from rich.console import Console

    console = Console()
    if not tasks:
        from eval.report import print_rows

        print_rows(console, "tasks", {name: describe_task(name) for name in TASKS})
        return
    with _errors_in_one_line():
        from eval.run import EvalOptions
        from eval.scoring import ScoreSettings

        loaded = [load_task(name) for name in dict.fromkeys(tasks)]
        where = find_data(data)
        if json_path is not None and len(loaded) > 1 and "{task}" not in str(json_path):
            raise InputError(f"--json {json_path} must hold {{task}} where several tasks are run", field="json")
        if retry_failed and not resume:
            raise InputError("--retry-failed has no effect without --resume", field="retry_failed")
        options = EvalOptions(
            split=split,
            limit=limit,
            ablate=None if ablate else False,
            resume=resume,
            retry_failed=retry_failed,
            workers=workers,
            allow_leaks=tuple(allow_leak or ()),
            train_manifests=_manifests(train_manifest or (), model if endpoint is None else None),
            score=ScoreSettings(wheel=wheel, synonyms=synonyms, num_resamples=resamples, seed=seed),
        )
        sweep = _sweep(corrupt, noise, corrupt_seed, loaded)
        asked = open_model(model, base=base, device=device, endpoint=endpoint, endpoint_model=endpoint_model)
        results = []
        for task in loaded:
            folder = _run_folder(run_dir, task.name, asked, options, several=len(loaded) > 1)
            is_new = not (folder / "config.json").exists()
            chosen = options if not (options.resume and is_new) else _fresh(options)
            try:
                result = run_task(console, task.name, asked, where, folder, chosen, sweep=sweep)
            except KeyboardInterrupt:
                _say_how_to_resume(folder)
                raise typer.Exit(_INTERRUPTED) from None
            results.append(result)
            if json_path is not None:
                _write_log(console, Path(str(json_path).replace("{task}", task.name)), result)
    if any(result.document["counts"]["failed"] for result in results):
        raise typer.Exit(_FAILED)


def run_task(
    console: Console,
    name: str,
    model: EvalModel,
    data: Path,
    folder: Path,
    options: EvalOptions,
    *,
    sweep: Sweep | None = None,
) -> RunResult:
    """Run one task with a progress bar, and show its figures and where its report lies."""
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    from eval.report_tables import headline, sections
    from eval.run import evaluate

    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn()
    )  # fmt: skip
    with Progress(*columns, console=console, transient=True) as bar:
        line = bar.add_task(name, total=None)
        result = evaluate(
            load_task(name),
            model,
            data,
            folder,
            options,
            progress=lambda done, total: bar.update(line, completed=done, total=total),
        )
        if sweep is not None:
            from eval.robustness_run import run_sweep

            bar.update(line, description=f"{name}, corrupted")
            result = run_sweep(
                load_task(name), model, data, result, options, sweep,
                progress=lambda done, total: bar.update(line, completed=done, total=total),
            )  # fmt: skip
    document = result.document
    console.print(f"{document['title']}, {document['model']}: {headline(document)}", markup=False, highlight=False)
    wanted = ("figures", "counts", "published", "ablation", "robustness", "errors", "latency")
    show(console, [section for section in sections(document, {}) if section.key in wanted])
    for note in document["notes"]:
        console.print(f"note: {note}", markup=False, highlight=False)
    console.print(f"report: {folder / 'report.html'}", markup=False, highlight=False, soft_wrap=True)
    return result


def _sweep(corrupt: list[str] | None, noise: Path | None, seed: int, tasks: Sequence[EvalTask]) -> Sweep | None:
    """Return what --corrupt asks for; what does not fit a task is said before anything is asked."""
    if not corrupt:
        if noise is not None:
            raise InputError("--noise has no effect without --corrupt noise", field="noise")
        return None
    from eval.robustness import parse_conditions
    from eval.robustness_run import Sweep

    sweep = Sweep(conditions=parse_conditions(corrupt), seed=seed, noise=noise)
    for task in tasks:
        sweep.check(task)
    return sweep


def open_model(
    model: str, *, base: str | None, device: str, endpoint: str | None, endpoint_model: str | None
) -> EvalModel:
    """Return the model to ask: the analyzer, or an endpoint when its URL is given."""
    if endpoint is None:
        if endpoint_model is not None:
            raise InputError("--endpoint-model has no effect without --endpoint URL", field="endpoint_model")
        from eval.analyzer_model import AnalyzerModel

        return AnalyzerModel.load(model, base=base, device=device)
    if endpoint_model is None:
        raise InputError("--endpoint wants --endpoint-model NAME, the model that it serves", field="endpoint_model")
    from eval.endpoint_model import EndpointModel

    return EndpointModel.open(endpoint, endpoint_model, cache=RUNS / "answers")


@app.command()
def compare(
    first: Annotated[Path, typer.Argument(metavar="RUN_A", help="Folder of a finished run.")],
    second: Annotated[Path, typer.Argument(metavar="RUN_B", help="Folder of another run of the same task.")],
    wheel: Annotated[Path | None, typer.Option(help="Folder of the emotion wheels' word lists.")] = None,
    synonyms: Annotated[Path | None, typer.Option(help="CSV file name,groups: synonym groups of each clip.")] = None,
    resamples: Annotated[int, typer.Option(help="Bootstrap resamples and swaps.")] = 1000,
    seed: Annotated[int, typer.Option(help="Seed of the resampling.")] = 0,
    json_path: Annotated[Path | None, typer.Option("--json", help="Also write the comparison here.")] = None,
) -> None:
    """Test whether two runs differ by more than chance, and name the items on which they do."""
    from rich.console import Console

    with _errors_in_one_line():
        from eval.compare import compare_runs, comparison_sections
        from eval.report import provenance, write_json
        from eval.run_dir import CONFIG, read_document
        from eval.scoring import ScoreSettings

        task = load_task(str(read_document(first / CONFIG).get("task")))
        settings = ScoreSettings(wheel=wheel, synonyms=synonyms, num_resamples=resamples, seed=seed)
        document = compare_runs(first, second, task, settings)
        console = Console()
        show(console, comparison_sections(document))
        if json_path is not None:
            write_json(json_path, {**document, "origin": provenance()})
            console.print(f"written to {json_path}", markup=False)


@app.command()
def leaderboard(
    runs: Annotated[list[Path], typer.Argument(metavar="RUNS...", help="Run folders, or folders that hold some.")],
    html: Annotated[Path | None, typer.Option(help="Write the leaderboard as a page here.")] = None,
    markdown: Annotated[Path | None, typer.Option(help="Write the leaderboard as Markdown here.")] = None,
) -> None:
    """Rank finished runs of each task by its official figure, beside the published ones."""
    from rich.console import Console

    with _errors_in_one_line():
        from eval.leaderboard import find_results, leaderboard_html, leaderboard_markdown
        from eval.leaderboard import leaderboard as rank

        tables = rank(find_results(runs))
        console = Console()
        show(console, tables)
        for path, text in ((html, leaderboard_html(tables)), (markdown, leaderboard_markdown(tables))):
            if path is not None:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text, encoding="utf-8")
                console.print(f"written to {path}", markup=False)


@app.command()
def results(
    logs: Annotated[list[Path], typer.Argument(metavar="LOGS...", help="Files that --json wrote.")],
    output: Annotated[Path, typer.Option(help="The page to write.")] = Path("docs/results.md"),
) -> None:
    """Write a page of results from the logs of runs; no figure on it comes from anywhere else."""
    from rich.console import Console

    with _errors_in_one_line():
        from eval.results import render_results

        text = render_results(logs)
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(text, encoding="utf-8")
        Console().print(f"written to {output}", markup=False)


@app.command()
def part(
    name: Annotated[str | None, typer.Argument(help="Name of the part; without one the parts are listed.")] = None,
    settings: Annotated[
        list[str] | None, typer.Argument(metavar="KEY=VALUE", help="Settings of the part, e.g. limit=500.")
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(
            help=f"Folder of the raw data, or the part's file. Default: ${DATA_VARIABLE}, then {DEFAULT_DATA}."
        ),
    ] = None,
    model: Annotated[str | None, typer.Option(help="Preset or checkpoint folder; default: the part's own.")] = None,
    json_path: Annotated[Path | None, typer.Option("--json", help="Also write the result and its origin here.")] = None,
) -> None:
    """Measure one network of nano on its own, or composed clips: what the model card cites."""
    from rich.console import Console

    console = Console()
    with _errors_in_one_line():
        from eval.part import read_settings, run_part
        from eval.parts import PARTS, load_part

        if name is None:
            from eval.report import print_rows

            print_rows(console, "parts", {known: _first_line(module) for known, module in PARTS.items()})
            return
        options = {**read_settings(settings or ()), **({} if model is None else {"model": model})}
        run_part(console, name, load_part(name), data=find_data(data), options=options, json_path=json_path)


@app.command()
def companions(
    task: Annotated[str, typer.Argument(help="Task whose items are asked about.")],
    model: Annotated[str, typer.Option(help="nano, a model folder, or an adapter folder.")] = "nano",
    base: Annotated[str | None, typer.Option(help="Base of an adapter that does not name its own.")] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, or auto.")] = "cpu",
    data: Annotated[Path | None, typer.Option(help=f"Folder of the raw data. Default: ${DATA_VARIABLE}.")] = None,
    split: Annotated[str | None, typer.Option(help="Split; default: the task's own.")] = None,
    limit: Annotated[int | None, typer.Option(help="Ask only so many items, evenly spread over the split.")] = None,
    resamples: Annotated[int, typer.Option(help="Bootstrap resamples.")] = 1000,
    seed: Annotated[int, typer.Option(help="Seed of the resampling.")] = 0,
    json_path: Annotated[Path | None, typer.Option("--json", help="Also write figures and origin here.")] = None,
) -> None:
    """Figures of rationales that need no judge: claims against readings, absent modalities, form, consistency."""
    from rich.console import Console
    from rich.progress import Progress

    with _errors_in_one_line():
        from eval.analyzer_model import AnalyzerModel
        from eval.companions_run import companion_section, run_companions
        from eval.report import provenance, write_json
        from eval.run import EvalOptions
        from eval.scoring import ScoreSettings

        chosen, where = load_task(task), find_data(data)
        options = EvalOptions(split=split, limit=limit, score=ScoreSettings(num_resamples=resamples, seed=seed))
        asked = AnalyzerModel.load(model, base=base, device=device)
        console = Console()
        with Progress(console=console, transient=True) as bar:
            line = bar.add_task(task, total=None)
            document = run_companions(
                chosen, asked.analyzer, where, options, model=asked.name,
                progress=lambda done, total: bar.update(line, completed=done, total=total),
            )  # fmt: skip
        show(console, [companion_section(document)])
        if json_path is not None:
            write_json(json_path, {**document, "origin": provenance()})
            console.print(f"written to {json_path}", markup=False, soft_wrap=True)


@app.command()
def read_crops(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="A face model, X.safetensors with X.json beside it.")],
    crops: Annotated[Path, typer.Argument(metavar="CROPS", help="Folder with <video>/00001.jpg, as ABAW's cropped.")],
    output: Annotated[Path, typer.Argument(metavar="OUT", help="Folder for <video>.safetensors; those there stay.")],
    batch_size: Annotated[int, typer.Option(help="Pictures in a batch.")] = 32,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1, ...")] = "cpu",
    sparse: Annotated[
        Path | None, typer.Option(help="Heads with an adaptive frame rate: only the crops that it asks for are read.")
    ] = None,
) -> None:
    """Read every crop of every video with a face model, and keep scores and embeddings for heads and submissions."""
    with _errors_in_one_line():
        from emollama.abaw.heads import TunedHeads
        from emollama.encoders.onnx_face import load_face
        from eval.submissions.read_crops import read_folder

        encoder = load_face(model, device=device, batch_size=batch_size, flip=False)
        heads = None if sparse is None else TunedHeads.load(sparse)
        for video, count in read_folder(encoder, crops, output, heads=heads):
            typer.echo(f"{video}: {count} faces")


@app.command()
def read_sound(
    encoder: Annotated[str, typer.Argument(metavar="ENCODER", help="hubert, wav2vec2, or voice, which is shipped.")],
    videos: Annotated[Path, typer.Argument(metavar="VIDEOS", help="Folder with batch1, ..., videos, or with files.")],
    output: Annotated[Path, typer.Argument(metavar="OUT", help="Folder for <video>.safetensors; those there stay.")],
    weights: Annotated[Path | None, typer.Option(help="Folder of the encoder's weights.")] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1, ...")] = "cpu",
) -> None:
    """Listen to every video with an audio encoder, and keep its features over time for heads and submissions."""
    with _errors_in_one_line():
        from eval.submissions.read_sound import find_listener, read_videos

        for video, count in read_videos(find_listener(encoder, weights, device=device), videos, output):
            typer.echo(f"{video}: {count} rows" if count else f"{video}: no sound")


@app.command()
def submit(
    name: Annotated[str, typer.Argument(metavar="TASK", help="expr, va, au, ce or emi, of ABAW.")],
    scores: Annotated[Path, typer.Option(help="Folder with the readings of frames, <video>.safetensors.")],
    wanted: Annotated[Path, typer.Option("--list", help="The frames or clips to answer, as the challenge lists them.")],
    output: Annotated[Path, typer.Option(help="The file to write.")],
    head: Annotated[
        Path | None,
        typer.Option(help="A folder of tuned heads, or one head's file; without it expr, va and ce are zero-shot."),
    ] = None,
    sound: Annotated[
        Path | None, typer.Option(help="Folder with features of sound, for heads that listen to it (read-sound).")
    ] = None,
    half_width: Annotated[
        int | None, typer.Option(help="Frames on either side to smooth over. Default: as tuned, else 0.")
    ] = None,
    trust: Annotated[
        float | None,
        typer.Option(help="expr: where the pre-trained model is surer than this, believe it, not the head."),
    ] = None,
) -> None:
    """Write a submission from kept readings of a face model: a row for every listed frame, also without a face."""
    with _errors_in_one_line():
        from emollama.abaw.heads import TunedHeads
        from emollama.datasets import frame_scores, sound_features
        from eval.submissions.answers import submit as write_submission

        trained = None if head is None else TunedHeads.load(head)
        done = write_submission(
            output,
            name,
            frame_scores.read(scores),
            wanted,
            head=trained,
            sounds=None if sound is None else sound_features.read(sound),
            half_width=half_width,
            trust=trust,
        )
        faceless = f"; without any face: {', '.join(done.faceless)}" if done.faceless else ""
        typer.echo(f"{done.rows} rows of {done.names} written to {output}{faceless}")
        if done.divergence is not None:
            typer.echo(f"divergence of the published class counts from the answers: {done.divergence:.4f}")
        if done.share_read is not None:
            typer.echo(f"frames read at the adaptive rate: {done.share_read:.1%}")


def find_data(given: Path | None) -> Path:
    """Return where the data lies: the option, then the environment, then the folder beside the checkout."""
    path = given or Path(os.environ.get(DATA_VARIABLE) or DEFAULT_DATA)
    if not path.exists():
        raise DatasetError(
            f"data {str(path)!r} does not exist; name the folder with --data or {DATA_VARIABLE}", field="data"
        )
    return path


def show(console: Console, tables: Sequence[Section]) -> None:
    """Print tables to the terminal."""
    from rich.table import Table
    from rich.text import Text

    for section in tables:
        table = Table(title=Text(section.title), title_justify="left", show_header=any(section.header))
        for cell in section.header:
            table.add_column(Text(cell), overflow="fold")
        for row in section.rows:
            table.add_row(*(Text(cell) for cell in row))
        console.print(table)
        if section.text:
            console.print(Text(section.text, style="dim"))


def _first_line(target: str) -> str:
    import ast
    from importlib.util import find_spec

    spec = find_spec(target.split(":")[0])
    if spec is None or spec.origin is None:
        return ""
    docstring = ast.get_docstring(ast.parse(Path(spec.origin).read_text(encoding="utf-8"))) or ""
    return docstring.partition("\n")[0]


def _manifests(given: Sequence[Path], model: str | None) -> tuple[Path, ...]:
    """The manifests that were named, and the one that an adapter's own run folder names."""
    from eval.leaks import training_manifest_of

    own = None if model is None else training_manifest_of(model)
    return tuple(dict.fromkeys([*given, *([own] if own is not None else [])]))


def _run_folder(given: Path | None, task: str, model: EvalModel, options: EvalOptions, *, several: bool) -> Path:
    from eval.run_dir import find_unfinished, new_run_dir

    if given is not None:
        return given / task if several else given
    if options.resume:
        split = options.split or load_task(task).split
        found = find_unfinished(RUNS, task=task, model=model.describe(), split=split)
        if found is not None:
            return found
    return new_run_dir(RUNS, task=task, model=model.name)


def _fresh(options: EvalOptions) -> EvalOptions:
    from dataclasses import replace

    return replace(options, resume=False, retry_failed=False)


def _write_log(console: Console, path: Path, result: RunResult) -> None:
    from eval.report import write_json
    from eval.run_dir import ENVIRONMENT, read_document

    write_json(path, {**read_document(result.path / ENVIRONMENT), "result": result.document})
    console.print(f"written to {path}", markup=False, soft_wrap=True)


def _say_how_to_resume(folder: Path) -> None:
    import sys

    words = [word for word in sys.argv[1:] if word != "--resume"]
    if "--run-dir" not in words:
        words += ["--run-dir", str(folder)]
    typer.echo(f"interrupted; go on with: emollama {shlex.join([*words, '--resume'])}", err=True)


@contextmanager
def _errors_in_one_line() -> Iterator[None]:
    try:
        yield
    except EmoLlamaError as error:
        typer.echo(f"error: {' '.join(str(error).split())}", err=True)
        raise typer.Exit(_BAD_INPUT) from error

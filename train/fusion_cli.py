"""``emollama fusion``: tables of utterance vectors, self-training, answers and challenge files of a fusion classifier.

The classifier itself is trained by ``emollama train fusion task.table=...``.
"""

from __future__ import annotations

import csv
import json
import logging
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from emollama.errors import DatasetError, EmoLlamaError, InputError

if TYPE_CHECKING:
    from train.config import TrainConfig
    from train.self_training.rounds import SelfTraining

app = typer.Typer(
    help="A small classifier over utterance vectors, beside the LLM: tables, self-training, answers.",
    add_completion=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
CACHE = Path("runs/fusion-items")
FEW_LABELS = ("task.attention=votes",)  # what self-training begins with; an override of one's own comes after it
Overrides = Annotated[list[str] | None, typer.Argument(help="key=value of the recipe, e.g. task.hidden=128")]
Data = Annotated[Path | None, typer.Option(help="Folder of the raw data. Default: $EMOLLAMA_DATA, ../shared/data.")]
Seeds = Annotated[str, typer.Option(help="Seeds, separated by commas.")]
Steps = Annotated[int, typer.Option(help="Updates of every training, however many clips it has.")]
JsonPath = Annotated[Path | None, typer.Option("--json", help="Write the whole document here.")]
Cache = Annotated[Path, typer.Option(help="Where the vectors of single items are kept.")]
PerClass = Annotated[int, typer.Option(help="Training clips of each class.")]
ValidPerClass = Annotated[int, typer.Option(help="Clips of each class that are scored.", min=1)]
LabelledShare = Annotated[float, typer.Option(help="Share of the training clips that keep their labels.")]
Rounds = Annotated[int, typer.Option(help="Rounds of pseudo-labels.")]
Members = Annotated[int, typer.Option(help="Seeds in an ensemble.", min=1)]
Threshold = Annotated[float, typer.Option(help="Confidence from which a pseudo-label is believed.")]
Folds = Annotated[int, typer.Option(help="Folds of the cross-validation; 0: none.")]
BySpeaker = Annotated[bool, typer.Option("--by-speaker", help="Standardise voices by their speaker's recordings.")]
Labels = Annotated[Path | None, typer.Option(help="CSV file: name, discrete (and group, where it is known).")]


@app.command()
def gather(
    out: Annotated[Path, typer.Argument(help="The table to write (.safetensors).")],
    features: Annotated[list[str], typer.Argument(help="MODALITY=FOLDER of <clip>.npy, e.g. audio=hubert-UTT")],
    labels: Labels = None,
    names: Annotated[
        Path | None, typer.Option(help="List of clips (first column). Default: those of --labels.")
    ] = None,
) -> None:
    """Gather MERBench's feature folders (``<encoder>-UTT``) into one table, with labels where there are some."""
    from emollama.fusion.utterances import read_folders

    with _errors_in_one_line():
        folders = {}
        for text in features:
            modality, equals, folder = text.partition("=")
            if not equals or not modality.isidentifier():
                raise InputError(f"features {text!r} is not of the form MODALITY=FOLDER", field="features")
            folders[modality] = Path(folder)
        rows = _read_csv(labels) if labels is not None else {}
        wanted = list(_read_csv(names)) if names is not None else list(rows)
        if not wanted:
            raise InputError("no clip is named; give --labels or --names", field="names")
        table = read_folders(
            folders,
            wanted,
            labels={name: row["discrete"] for name, row in rows.items() if row.get("discrete")},
            groups={name: row["group"] for name, row in rows.items() if row.get("group")},
        )
        table.save(out)
        lacking = {name: int((~table.present[:, n]).sum()) for n, name in enumerate(table.modalities)}
        typer.echo(
            f"{len(table)} clips, {sum(label is not None for label in table.labels)} with a label; "
            + ", ".join(
                f"{name} {table.widths[name]} numbers, {count} clips without" for name, count in lacking.items()
            )
        )


@app.command()
def compose(
    out: Annotated[Path, typer.Argument(help="Folder for labelled.safetensors, rest... and valid.safetensors.")],
    data: Data = None,
    cache: Cache = CACHE,
    seed: Annotated[int, typer.Option(help="Seed of the clips; also says which two speakers are held out.")] = 0,
    per_class: PerClass = 100,
    labelled_share: LabelledShare = 0.3,
) -> None:
    """Compose clips of FER+, EmoDB and GoEmotions, read by nano's encoders, to try everything on."""
    from emollama.fusion import composed

    with _errors_in_one_line():
        sets = composed.compose(_data(data), cache, seed=seed, per_class=per_class, labelled_share=labelled_share)
        for name in ("labelled", "rest", "valid"):
            getattr(sets, name).save(out / f"{name}.safetensors")
        typer.echo(
            f"{len(sets.labelled)} + {len(sets.rest)} training clips, {len(sets.valid)} for validation "
            f"(speakers {' and '.join(sets.held_out)}) in {out}"
        )


@app.command()
def words(
    transcripts: Annotated[Path, typer.Argument(help="CSV file: name, and the words in --column.")],
    out: Annotated[Path, typer.Argument(help="Folder for <clip>.npy, which `gather` reads.")],
    backbone: Annotated[Path | None, typer.Option(help="Folder of a LLaMA. Default: nano's.")] = None,
    column: Annotated[str, typer.Option(help="Column of the words: sentence, chinese, english, text.")] = "sentence",
    pooling: Annotated[str, typer.Option(help="last: where the emotion would be named; mean: as MERBench.")] = "last",
    endpoint: Annotated[
        str | None, typer.Option(help="URL of a chat endpoint that writes a cue for each clip.")
    ] = None,
    endpoint_model: Annotated[str | None, typer.Option(help="Name of the model that the endpoint serves.")] = None,
    cue_backbone: Annotated[Path | None, typer.Option(help="Folder of a local LLaMA that writes them instead.")] = None,
    cache: Annotated[Path, typer.Option(help="Where cues are kept.")] = Path("runs/cues"),
) -> None:
    """Make the vectors of words by a prompted LLaMA, with cues in the prompt where somebody writes them."""
    import numpy as np

    from emollama.endpoint import AnswerCache, ChatEndpoint, EndpointOptions
    from emollama.fusion.cues import CueWriter, EndpointCues, LocalCues, write_all
    from emollama.fusion.nano_vectors import NANO
    from emollama.fusion.prompted_text import PromptedText

    with _errors_in_one_line():
        if endpoint is not None and (endpoint_model is None or cue_backbone is not None):
            raise InputError("--endpoint wants --endpoint-model, and no --cue-backbone", field="endpoint")
        rows = _read_csv(transcripts)
        if rows and column not in next(iter(rows.values())):
            raise DatasetError(f"{transcripts} has no column {column}; name the one of the words by --column")
        said = [row[column] or "" for row in rows.values()]
        writer: CueWriter | None = None
        if endpoint is not None and endpoint_model is not None:
            options = EndpointOptions(base_url=endpoint, model=endpoint_model, temperature=0.0, max_tokens=120)
            writer = EndpointCues(ChatEndpoint(options, cache=AnswerCache(cache)))
        elif cue_backbone is not None:
            writer = LocalCues.load(cue_backbone, cache=AnswerCache(cache))
        cues = [None] * len(said) if writer is None else write_all(writer, said)
        make = PromptedText.load_nano if backbone is None else PromptedText.load
        reader = make(backbone or NANO, pooling=pooling)  # type: ignore[arg-type]
        out.mkdir(parents=True, exist_ok=True)
        count = 0
        for name, text, cue in zip(rows, said, cues, strict=True):
            vector = reader.vector(text, cues=cue)
            if vector is not None:
                if Path(name).name != name:
                    raise DatasetError(f"{transcripts}: {name!r} is no name of a clip", field="name")
                np.save(out / f"{name}.npy", vector)
                count += 1
        typer.echo(f"{count} vectors in {out}, {len(rows) - count} clips without words")


@app.command()
def predict(
    model: Annotated[Path, typer.Argument(help="Folder of a fusion classifier.")],
    table: Annotated[Path, typer.Argument(help="Table of utterances.")],
    out: Annotated[Path, typer.Argument(help="CSV file to write: name, discrete. This is MER's submission file.")],
    without: Annotated[list[str] | None, typer.Option(help="Answer as if this modality were absent.")] = None,
    scores: Annotated[Path | None, typer.Option(help="Also write all probabilities here (CSV).")] = None,
) -> None:
    """Answer a table; where it has labels, say how well, whole and with each modality missing."""
    from emollama.fusion.classifier import FusionClassifier
    from emollama.fusion.utterances import Utterances
    from train.self_training.rounds import score

    with _errors_in_one_line():
        classifier, clips = FusionClassifier.load(model), Utterances.load(table)
        told = clips.without(*without) if without else clips
        probabilities = classifier.probabilities(told)
        answers = [classifier.labels[column] for column in probabilities.argmax(1)]
        _write_csv(out, ("name", "discrete"), zip(clips.names, answers, strict=True))
        if scores is not None:
            rows = (
                [name, *(f"{value:.6f}" for value in row)] for name, row in zip(clips.names, probabilities, strict=True)
            )
            _write_csv(scores, ("name", *classifier.labels), rows)
        typer.echo(f"{len(answers)} answers in {out}")
        labelled = [row for row, label in enumerate(clips.labels) if label is not None]
        if labelled:
            known = clips.take(labelled)
            asked = {"whole": known, **{f"without {name}": known.without(name) for name in known.modalities}}
            for name, part in asked.items():
                kept = part.take([row for row in range(len(part)) if part.present[row].any()])
                if len(kept):
                    figures = score(classifier, kept)
                    typer.echo(f"{name}: {len(kept)} clips  " + "  ".join(f"{k} {v:.4f}" for k, v in figures.items()))


@app.command("self-train")
def self_train_command(
    labelled: Annotated[Path, typer.Argument(help="Table of labelled clips.")],
    unlabelled: Annotated[Path, typer.Argument(help="Table of unlabelled clips; labels in it are not looked at.")],
    out: Annotated[Path, typer.Argument(help="Folder to write: round-N/, pseudo-N.csv, report.json, report.md.")],
    overrides: Overrides = None,
    valid: Annotated[
        Path | None, typer.Option(help="Table to score each round on; none of its clips may be used.")
    ] = None,
    rounds: Rounds = 3,
    members: Members = 3,
    threshold: Threshold = 0.6,
    thresholds: Annotated[str, typer.Option(help="For single classes: worried=0.85,surprise=0.85")] = "",
    precision: Annotated[float | None, typer.Option(help="Find the thresholds for this precision instead.")] = None,
    balance: Annotated[float, typer.Option(help="A class may have so many times the rarest; 0: no bound.")] = 2.0,
    folds: Folds = 5,
    seed: Annotated[int, typer.Option(help="Seed of folds and networks.")] = 0,
    steps: Annotated[int | None, typer.Option(help="Updates of every training; default: the recipe's epochs.")] = None,
) -> None:
    """Run rounds of pseudo-labels, with a report of each and a cross-validation that none of them can touch."""
    from emollama.fusion.utterances import Utterances
    from train.self_training.report import describe_rounds, write_report
    from train.self_training.rounds import SelfTraining as Options
    from train.self_training.rounds import cross_validate, self_train
    from train.self_training.teach import teach_by

    with _errors_in_one_line():
        options = Options(
            rounds=rounds, members=members, threshold=threshold, thresholds=_read_thresholds(thresholds),
            precision=precision, balance=balance or None, folds=folds, seed=seed,
        )  # fmt: skip
        if out.exists() and any(out.iterdir()):
            raise InputError(f"{out} is not empty; name a new folder", field="out")
        known, unknown = Utterances.load(labelled), Utterances.load(unlabelled)
        unknown = unknown.with_labels([None] * len(unknown))
        scored = Utterances.load(valid) if valid is not None else None
        if scored is not None and (shared := set(scored.names) & (set(known.names) | set(unknown.names))):
            raise InputError(f"{sorted(shared)[0]!r} of {valid} is among the training clips", field="valid")
        labels = sorted({label for label in known.labels if label is not None})
        teach = teach_by(_recipe((*FEW_LABELS, *(overrides or ()))), labels, steps=steps)
        done = self_train(known, unknown, options, teach)
        scores = cross_validate(known, unknown, options, teach) if folds else ()
        for each in done:
            each.classifier.save(out / f"round-{each.number}")
            if each.pseudo is not None:
                names = [unknown.names[row] for row in each.pseudo.rows]
                confidence = [f"{value:.4f}" for value in each.pseudo.confidence]
                rows = zip(names, each.pseudo.labels, confidence, strict=True)
                _write_csv(out / f"pseudo-{each.number}.csv", ("name", "discrete", "confidence"), rows)
        described = describe_rounds(done, unknown, valid=scored, folds=scores)
        write_report(out, {**_origin(), "options": _plain(options), "rounds": described})
        typer.echo((out / "report.md").read_text("utf-8"))


@app.command("dropout-study")
def dropout_study_command(
    overrides: Overrides = None,
    data: Data = None,
    cache: Cache = CACHE,
    seeds: Seeds = "3,4,5",
    steps: Steps = 760,
    per_class: PerClass = 100,
    valid_per_class: ValidPerClass = 200,
    by_speaker: BySpeaker = False,
    members: Members = 1,
    networks: Annotated[int, typer.Option(help="Classifiers of each seed, whose scores are averaged.", min=1)] = 1,
    models: Annotated[Path | None, typer.Option(help="Keep the classifiers in this folder.")] = None,
    json_path: JsonPath = None,
) -> None:
    """Measure on composed clips what dropout of whole modalities does when one is missing."""
    from train.self_training.studies import Composition, dropout_study

    with _errors_in_one_line():
        document = dropout_study(
            _data(data),
            cache,
            _recipe(overrides),
            seeds=_numbers(seeds),
            steps=steps,
            composition=Composition(per_class=per_class, valid_per_class=valid_per_class, by_speaker=by_speaker),
            members=members,
            networks=networks,
            models=models,
            progress=typer.echo,
        )
        _finish(document, json_path, shown=("fall_with_over_fall_without", "at_most_half_for_each"))


@app.command("self-training-study")
def self_training_study_command(
    overrides: Overrides = None,
    data: Data = None,
    cache: Cache = CACHE,
    seeds: Seeds = "3,4,5",
    steps: Steps = 760,
    rounds: Rounds = 3,
    members: Members = 3,
    threshold: Threshold = 0.6,
    folds: Folds = 3,
    per_class: PerClass = 100,
    valid_per_class: ValidPerClass = 200,
    by_speaker: BySpeaker = False,
    labelled_share: LabelledShare = 0.3,
    json_path: JsonPath = None,
) -> None:
    """Measure on composed clips how much of the gap between few labels and all of them self-training recovers."""
    from train.self_training.rounds import SelfTraining as Options
    from train.self_training.studies import Composition, self_training_study

    with _errors_in_one_line():
        document = self_training_study(
            _data(data),
            cache,
            _recipe((*FEW_LABELS, *(overrides or ()))),
            Options(rounds=rounds, members=members, threshold=threshold, folds=folds),
            seeds=_numbers(seeds),
            steps=steps,
            composition=Composition(
                per_class=per_class,
                labelled_share=labelled_share,
                valid_per_class=valid_per_class,
                by_speaker=by_speaker,
            ),
            progress=typer.echo,
        )
        shown = ("few_labels", "self_trained", "all_labels", "recovered_share_of_the_gap", "at_least_half")
        _finish(document, json_path, shown=shown)


# ---- what the commands share -----------------------------------------------------------------------------------------


@contextmanager
def _errors_in_one_line() -> Iterator[None]:
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    try:
        yield
    except EmoLlamaError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2) from error
    except InterruptedError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(130) from error


def _recipe(overrides: Sequence[str] | None) -> TrainConfig:
    from train.config import override
    from train.recipes import load_recipe

    config: TrainConfig = override(load_recipe("fusion"), overrides or ())
    return config


def _data(data: Path | None) -> Path:
    from train.config import data_dir

    return data_dir(data)


def _numbers(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise InputError(f"seeds are {text!r}; allowed: whole numbers separated by commas", field="seeds") from None


def _read_thresholds(text: str) -> dict[str, float]:
    found = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        label, _, value = part.partition("=")
        try:
            found[label.strip()] = float(value)
        except ValueError:
            raise InputError(f"threshold {part!r} is not of the form LABEL=NUMBER", field="thresholds") from None
    return found


def _read_csv(path: Path) -> dict[str, dict[str, str]]:
    """Read a table with the column ``name``; raises `DatasetError` for a missing file or a clip that is there twice."""
    if not path.is_file():
        raise DatasetError(f"{path} is missing; expected: a CSV file with the column name", field="names")
    rows: dict[str, dict[str, str]] = {}
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file)
        if "name" not in (reader.fieldnames or ()):
            raise DatasetError(f"{path} has no column name", field="names")
        for row in reader:
            if row["name"] in rows:
                raise DatasetError(f"{path}, line {reader.line_num}: {row['name']!r} is there twice; keep one")
            rows[row["name"]] = row
    return rows


def _write_csv(path: Path, header: Sequence[str], rows: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".part")
    with partial.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)
    partial.replace(path)


def _origin() -> dict[str, Any]:
    from train.run_dir import environment

    return {
        "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        **environment(),
    }


def _plain(options: SelfTraining) -> dict[str, Any]:
    from dataclasses import asdict

    return asdict(options)


def _finish(document: Mapping[str, Any], path: Path | None, *, shown: Sequence[str]) -> None:
    from emollama.tensors import write_json

    for name in shown:
        typer.echo(f"{name}: {json.dumps(document[name])}")
    if path is not None:
        write_json(path, {**_origin(), "result": document})
        typer.echo(f"written to {path}")


if __name__ == "__main__":
    app()

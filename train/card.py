"""Write nano's model card and calibration plot from the logs in ``docs/logs``; a figure without a log cannot appear.

Each log is a report of ``emollama eval part NAME --json`` (or of the calibration); its own command stands beside its figures.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from emollama.errors import DatasetError

LOGS = Path("docs/logs")
PLOT = Path("docs/images/nano-calibration.png")
_MEBI = 1024 * 1024


def write_card(*, logs: Path = LOGS, assets: Path = Path("emollama/assets/nano"), plot: Path = PLOT) -> Path:
    """Render ``MODEL_CARD.md`` into ``assets`` and the reliability plot to ``plot``; a missing log names its command."""
    reports = {
        name: _read(logs / f"{name}.json") for name in ("ferplus", "emodb", "goemotions", "composed", "calibration")
    }
    draw_reliability(reports["calibration"]["reliability"], plot)
    sizes = {path.name: path.stat().st_size for path in sorted(assets.rglob("*.safetensors"))}
    total = sum(path.stat().st_size for path in assets.rglob("*") if path.is_file())
    card = assets / "MODEL_CARD.md"
    card.write_text(render(reports, total_bytes=total, num_files=len(sizes)), encoding="utf-8")
    return card


def render(reports: Mapping[str, Mapping[str, Any]], *, total_bytes: int, num_files: int) -> str:
    """Return the card's Markdown."""
    face, voice = reports["ferplus"]["result"], reports["emodb"]["result"]
    words, composed = reports["goemotions"]["result"], reports["composed"]["result"]
    calibration = reports["calibration"]
    overall = calibration["reliability"]["all"]["after"]
    fitted = calibration["fitted"]
    bands = fitted["confidence_bands"]
    by_subset = "\n".join(
        f"| {name} | {entry['after']['count']} | {entry['after']['accuracy']:.3f} | {entry['after']['ece']:.3f} |"
        for name, entry in calibration["reliability"].items()
        if name != "all"
    )
    composed_rows = "\n".join(f"| {name} | {value:.3f} |" for name, value in composed["accuracy_by_subset"].items())
    falls = "; ".join(composed["falls"]) or "none"
    return f"""# nano

The embedded model of EmoLLaMA: a small face network, a small voice branch and a small LLaMA with a LoRA adapter, all
trained from scratch by the recipes in `train/recipes/` (`make train-nano`). Weights, tokenizer and configuration take
{total_bytes / _MEBI:.1f} MB in {num_files} weight files. It is there to try the whole path in a minute on a laptop, and for tests. It is not a
strong model, and it says nothing about what anyone really feels.

## What it is made of

| part | file | what |
|---|---|---|
| face | `face.safetensors` | residual network on 48x48 grey crops: 8 expressions, valence, arousal |
| voice | `voice.safetensors` | log-mel, Whisper-shaped encoder, measured prosody: 6 emotions |
| words | `backbone/` | LLaMA with its own tokenizer; the transcript is read as tokens |
| fusion | `projectors.safetensors`, `adapter/` | features projected into the LLaMA; a PEFT LoRA folder |
| calibration | `calibration.json` | temperature and bias for each subset of modalities |

## Training data and licences

| data | used for | licence |
|---|---|---|
| FER+ labels on FER2013 pictures, training split | face, fusion | labels MIT; the pictures are web pictures gathered in 2013, of unclear rights: the customary research set |
| EmoDB, 8 of its 10 speakers, without boredom | voice, fusion | CC0 as packaged by audEERING |
| GoEmotions, training split | words, fusion | Apache-2.0 / CC BY 4.0 |
| XED, English subtitles | words | CC BY 4.0 |
| EmoBank | valence and arousal of words | CC BY-SA 4.0 |

Nothing in these sets pairs a face with a voice or a sentence. The fusion stages join a picture, a recording and a comment
of the same emotion, or on purpose of another. The rationales are made by a grammar of this project
(`emollama/phrases.py`) from readings measured on those samples. Valence and arousal of faces are not measured
either: they are the voters' expressions placed on Russell's circumplex (`emollama.labels.CIRCUMPLEX`).

## How it scores

None of the samples scored here was trained on. The face and words figures are on the validation splits, on which the
number of epochs and the like were chosen; expect a little less elsewhere.

**Face**: FER+ validation, {face["majority_pictures"]} pictures with a majority: accuracy **{face["accuracy"]:.4f}**, macro-F1 {face["macro_f1"]:.3f}, {face["parameters"]:,} parameters.
`{reports["ferplus"]["command"]}`

{_recall_table(face)}

**Voice**: EmoDB, six emotions, leave-two-speakers-out: mean unweighted average recall **{voice["uar"]:.4f}**
({", ".join(f"{name} {value:.3f}" for name, value in voice["folds"].items())}). The shipped branch is trained on all eight speakers by the same recipe.
`{reports["emodb"]["command"]}`

{_recall_table(voice)}

**Words**: GoEmotions dev, {words["n"]} comments with exactly one Ekman label: macro-F1 over seven classes **{words["macro_f1"]:.4f}**, accuracy
{words["accuracy"]:.3f}, scored by the LLaMA's own label tokens. A linear n-gram model, which is also its teacher, reaches 0.599 and 0.664 on
the same comments (`docs/logs/backbone-yardstick.txt`): the LLaMA does not beat it, but it reads face and voice beside the words.
`{reports["goemotions"]["command"]}`

{_recall_table(words)}

**All together**: {composed["samples"]} composed clips over the seven subsets of modalities, six emotions, {"voices judged by the fold that had not heard them" if composed["voice_out_of_fold"] else "with the shipped voice branch"}:
accuracy {composed["accuracy"]:.3f}, expected calibration error **{composed["ece"]:.3f}**; replies that parse {composed["parsed"]:.1%}; rationale names the scored label {composed["label_kept"]:.1%};
an absent modality claimed {composed["absent_claimed"]:.1%}; abstained {composed["abstained"]:.1%}. Steps at which adding a modality lowered accuracy: {falls}.
`{reports["composed"]["command"]}`

| modalities | accuracy |
|---|---|
{composed_rows}

## What a score means

A score is the likelihood of the label's token after the clip, as a softmax over the asked labels, with a temperature
and a bias fitted for each subset of modalities on one half of the validation data. Where several modalities are there, their
joint opinion is pooled with what each says alone (weight {fitted["alone_weight"]:.2f}, fitted on the same half). On the other half ({overall["count"]} answers) the
expected calibration error is {overall["ece"]:.3f} (15 bins).

| modalities | answers | accuracy | calibration error |
|---|---|---|---|
{by_subset}

![Reliability of nano's scores](../../../docs/images/{PLOT.name})

Below {fitted["abstain_below"]:.2f} (for eight labels; for another number the same distance from chance) the answer is marked as abstained.
From {bands["medium"]:.2f} on a sentence may call the reading fairly sure, from {bands["high"]:.2f} on confident.

## How it was trained

Every stage is one command of `make train-nano`, with its seed in the recipe; `docs/logs/` has the log of each run that made
the shipped files. The runs of face and backbone were interrupted, resumed and shortened on the way, so retraining
gives a model like this one, not this one bit for bit.

## Limits

- Faces were seen as 48x48 grey pictures, mostly frontal; profiles, masks, strong make-up and poor light are read badly.
  Contempt and disgust are rare in the data and mostly missed.
- Nearly all of what the voice branch knows is in the measured prosody; its Whisper-shaped encoder adds little with so few recordings.
- Voices are of eight German actors who play an emotion loudly; everyday speech is calmer, and other languages differ.
  Surprise and contempt were never heard.
- Words are English, from Reddit and film subtitles; irony is not understood.
- The rationale is chosen, token by token, among sentences that the readings support (`emollama/phrases.py`). Left free, the
  small LLaMA writes fluently and mixes the cues up; so do not read style or insight of its own into the wording. In chat
  it now and then answers another question than the one that was asked.
- A label that is not among the eight or the fine labels of GoEmotions is scored by the likelihood of its letters and means
  little until an adapter teaches it.
- An expression is not an inner state. The model was not examined for differences between groups of people; the data
  do not allow it. Do not use it to judge anyone, at work, in education, in health, or in law.
"""


def draw_reliability(reliability: Mapping[str, Any], path: Path) -> None:
    """Draw confidence against accuracy of the held-out half, all subsets together."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    bins = reliability["all"]["after"]["bins"]
    figure = Figure(figsize=(5.2, 4.6), dpi=110, layout="constrained")
    axes = figure.add_subplot()
    axes.plot([0, 1], [0, 1], color="0.7", linestyle="--", label="perfectly calibrated")
    counts = [one["count"] for one in bins]
    axes.scatter(
        [one["confidence"] for one in bins],
        [one["accuracy"] for one in bins],
        s=[20 + 300 * count / max(counts) for count in counts],
        alpha=0.7,
        label="answers (area: how many)",
    )
    axes.plot([one["confidence"] for one in bins], [one["accuracy"] for one in bins], linewidth=1)
    axes.set(xlabel="confidence", ylabel="share that was right", xlim=(0, 1), ylim=(0, 1))
    axes.set_title(f"nano, held-out validation answers, ECE {reliability['all']['after']['ece']:.3f}")
    axes.legend(loc="upper left")
    path.parent.mkdir(parents=True, exist_ok=True)
    FigureCanvasAgg(figure).print_png(str(path))


def _recall_table(result: Mapping[str, Any]) -> str:
    recall = {name: value for name, value in result["recall"].items() if value is not None}
    head = " | ".join(recall)
    return (
        f"| | {head} |\n|---|{'---|' * len(recall)}\n"
        f"| recall | {' | '.join(f'{value:.3f}' for value in recall.values())} |\n"
        f"| samples | {' | '.join(str(result['support'][name]) for name in recall)} |"
    )


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise DatasetError(
            f"{path} is not there; write it with `emollama eval part {path.stem} --json {path}`", field="logs"
        )
    document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return document

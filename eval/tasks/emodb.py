"""EmoDB: acted emotion in German speech, six classes by unweighted average recall.

Ten sentences whose words say nothing of the emotion (Burkhardt et al., Interspeech 2005); boredom is left out, since
the models of this project never hear it. The words are not given to the model. Recordings of one speaker are drawn
together by the bootstrap: with eight speakers the intervals are wide, and honestly so.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from emollama.labels import EMODB_6
from emollama.types import Audio, Clip
from eval.task import EvalTask, Item


def items(data: Path, split: str) -> Iterator[Item]:
    """Yield the recordings in the table's order; ``data`` is the raw data folder or one Parquet file."""
    from emollama.datasets import emodb

    for utterance in emodb.iterate(data):
        yield Item(
            id=utterance.name,
            gold=utterance.emotion,
            load=partial(_clip, utterance.name, utterance.audio),
            group=utterance.speaker,
            meta={"sentence": utterance.sentence},
        )


def _clip(name: str, audio: Audio) -> Clip:
    return Clip(name=name, seconds=audio.seconds, audio=audio)


TASK = EvalTask(
    name="emodb",
    title="EmoDB: acted emotion in German speech",
    score="emodb",
    items=items,
    splits=("all",),
    split="all",
    asks="label",
    labels=EMODB_6,
    instruction="Which emotion does the voice express?",
    modalities=("audio",),
    licence="CC0 as packaged by audEERING (audeering/emodb)",
    home="https://github.com/audeering/emodb",
    notes=(
        "The voice branch that is shipped in nano was trained on these very speakers, so nano's figure here says how "
        "well it remembers them, not how well it hears others. The figure on speakers that were not heard is the "
        "out-of-fold one: emollama eval part emodb out_of_fold=docs/logs/voice-oof.json."
    ),
)

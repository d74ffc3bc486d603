"""What an adapter folder says of itself beside its weights: ``emollama.json``.

PEFT's own ``adapter_config.json`` knows ranks and projections. This file adds what answering needs: the base that the
adapter was trained on (an adapter on another base gives nonsense without any error), the label set it learned, and
whether its sentences keep to the grammar that the readings support or are its own. A PEFT folder without the file is
somebody else's and is served as it is: the base's labels, its own words.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from emollama.errors import CheckpointError, InputError
from emollama.labels import parse_label_set

INFO = "emollama.json"
FORMAT = 1
Answers = Literal["supported", "own"]


@dataclass(frozen=True, kw_only=True)
class AdapterInfo:
    """``base`` and ``base_sha256`` name the model underneath; ``labels`` is the set that was learned, in order.

    ``answers``: "supported" holds decoding to sentences that the readings support, "own" lets the adapter write as it
    was taught to and checks it afterwards. ``figures`` are the last validation's, ``license`` is that of the training
    data. ``layout`` is the token layout that a large preset is asked by (`emollama.chat_prompt`), and ``question``
    the wording for its label, with ``{labels}`` in it, where that is not our own. ``picture`` is which frame a preset
    that looks at one is shown, the first or the peak (`emollama.peak_frame`).
    """

    base: str
    base_sha256: str
    labels: tuple[str, ...] = ()
    answers: Answers = "own"
    recipe: str = ""
    created: int = 0
    license: str | None = None
    layout: str = "train"
    question: str = ""
    picture: str = "first"
    figures: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.answers not in get_args(Answers):
            raise InputError(f"answers is {self.answers!r}; allowed: {', '.join(get_args(Answers))}", field="answers")
        if self.question and "{labels}" not in self.question:
            raise InputError(f"question is {self.question!r}; allowed: a text with {{labels}} in it", field="question")
        if self.labels:
            parse_label_set(self.labels)

    def save(self, folder: Path) -> None:
        from emollama.tensors import write_json

        write_json(folder / INFO, {"format": FORMAT, **dataclasses.asdict(self)})

    @classmethod
    def load(cls, folder: Path) -> AdapterInfo | None:
        """Read the file of an adapter folder; ``None`` when it has none, `CheckpointError` when it is malformed."""
        path = folder / INFO
        if not path.is_file():
            return None
        try:
            document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            version = document.pop("format", None)
            if version != FORMAT:
                raise CheckpointError(f"{path} has format {version!r}; allowed: {FORMAT}", field="adapter")
            return cls(**{**document, "labels": tuple(document.get("labels", ()))})
        except (OSError, ValueError, TypeError) as error:
            raise CheckpointError(f"{path} is malformed: {error}", field="adapter") from error


def base_digest(backbone: Path, tokenizer: Path) -> str:
    """Return the sha256 over a backbone's configuration and weights and its tokenizer, which tells bases apart."""
    digest = hashlib.sha256()
    files = [backbone / "config.json", *sorted(backbone.glob("*.safetensors")), tokenizer]
    for path in files:
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()

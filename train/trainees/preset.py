"""The large presets as trainees: their encoders' tokens, their family's chat template, plain answers as targets.

A label is learned as a one-word answer to a question that holds the label set, in several wordings of our own, and
scored by the likelihood of each label's tokens after one fixed wording. A sample's own dialogue is learned as it is
written, its open words and its valence and arousal as short answers; a sample that has several of these teaches now
this, now that. Modalities are dropped as a person would miss them: the
whole picture, the face with everything computed from it, the voice, the words.

With ``debug`` the preset is tiny, has random weights and reads bytes: the same code in seconds. `emotion-llama-7b` is
trained in the layout of its published training code (`emollama.chat_prompt`).
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import threading
import time
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any, cast, get_args

import numpy as np

from emollama.adapter import AdapterInfo, base_digest
from emollama.backbones.lora import read_adapter_config
from emollama.chat_prompt import TEMPLATE_OF, ChatRenderer, ChatTokenizer, FileTokenizer, Layout, Rendered
from emollama.checkpoint import sha256_of
from emollama.config import preset
from emollama.errors import CheckpointError, DatasetError, InputError
from emollama.manifest import Sample
from emollama.peak_frame import FOLDER as PEAK_FOLDER
from emollama.peak_frame import PeakFrame, check_picture
from emollama.preset_renderer import label_question
from emollama.types import Message
from train.trainees import Example, Outcome, Reading
from train.trainees.card import render_card

if TYPE_CHECKING:
    from emollama.config import LoraSettings
    from emollama.model import EmoLlama
    from emollama.presets import Part
    from emollama.types import Clip
    from train.clip_task import ClipOptions

TASKS = ("emotion", "reason")
MAX_TOKENS = 2048
_READING_VERSION = 1
_SCORED_TOGETHER = 8
# What an encoder looks at -> the modality that a person would say is missing.
_MODALITY = {"frames": "scene", "face": "face", "audio": "voice"}


class PresetTrainee:
    """See the module. ``labels`` is the set that is learned, in the user's own words."""

    label_token_ids: tuple[int, ...] = ()

    def __init__(self, options: ClipOptions, labels: Sequence[str]) -> None:
        if options.task not in TASKS:
            raise InputError(f"task is {options.task!r}; allowed: {', '.join(TASKS)}", field="task")
        if options.layout not in get_args(Layout):
            raise InputError(f"layout is {options.layout!r}; allowed: {', '.join(get_args(Layout))}", field="layout")
        self.options = options
        self._layout = cast(Layout, options.layout)
        self.name = preset(options.model).name
        check_picture(options.picture, preset(options.model))
        if options.peak and options.picture != "peak":
            raise InputError("peak has no effect without picture=peak", field="peak")
        self._peak: PeakFrame | None = None
        self.labels = tuple(labels)
        # The shape of the adapter to go on from; one that is not there is told before clips are read.
        self.lora: LoraSettings | None = read_adapter_config(Path(options.adapter)) if options.adapter else None
        self._lock = threading.Lock()
        self._parts: tuple[Part, ...] | None = None
        self._places: Mapping[str, Path] = {}
        tokenizer: ChatTokenizer
        if options.debug:
            from emollama.presets import build_encoders

            self.config, self._parts, tokenizer = build_encoders(self.name, debug=True)
            self.version = f"debug/{self.name}/{_READING_VERSION}"
        else:
            from emollama.presets import find_weights

            self.config = preset(self.name)
            self._places = find_weights(self.name, folders=read_pairs(options.weights))
            tokenizer = FileTokenizer.load(self._backbone / "tokenizer.json")
            encoders = [f"{e.kind}={_fingerprint(self._places[e.weights or ''])}" for e in self.config.encoders]
            self.version = f"{_READING_VERSION}/{'/'.join(encoders)}"
        if options.picture == "peak":
            by = "/".join(sha256_of(path)[:16] for path in sorted(Path(options.peak).glob("*"))) if options.peak else ""
            self._peak = PeakFrame.load(Path(options.peak) if options.peak else None)
            self.version += f"/peak/{by}"
        self.renderer = ChatRenderer(tokenizer, template=TEMPLATE_OF[self.name], streams=self.config.streams)
        self.pad_id = self.renderer.pad_id
        self._answers = [self.renderer.answer(label) for label in self.labels]
        self._questions = json.loads((Path(__file__).parent / "questions.json").read_text("utf-8"))
        self._replays = self._read_replays()
        self._modality = {
            stream: _MODALITY[encoder.reads] for encoder in self.config.encoders for stream in encoder.streams
        }
        self._max_tokens = min(MAX_TOKENS, self.config.backbone.max_positions)

    @property
    def _backbone(self) -> Path:
        return self._places[self.config.backbone_weights or ""]

    # ---- reading -------------------------------------------------------------------------------------------------

    def read(self, clip: Clip) -> Reading:
        """Follow the faces, run the preset's encoders over what there is, and keep every stream's tokens."""
        from emollama.faces import track_faces
        from emollama.presets import Seen, encode

        tracks = () if clip.frames is None else track_faces(clip.frames, audio=clip.audio)
        main = next((track for track in tracks if track.is_main), None)
        parts = self._load_encoders()
        at = None if self._peak is None else self._peak.time(main)
        tokens = encode(parts, Seen(clip=clip, track=main, num_frames=self.config.num_frames, at=at))
        return Reading(tokens={name: part for name, part in tokens.items() if len(part)}, seconds=clip.seconds)

    def _load_encoders(self) -> tuple[Part, ...]:
        from emollama.presets import load_encoders

        with self._lock:  # clips are read by several threads
            if self._parts is None:
                self._parts = load_encoders(self.config, self._places, device=_device())
            return self._parts

    def present(self, sample: Sample, reading: Reading) -> tuple[str, ...]:
        found = dict.fromkeys(self._modality[stream] for stream in self._modality if stream in reading.tokens)
        return (*found, "words") if (sample.transcript or "").strip() else tuple(found)

    # ---- writing -------------------------------------------------------------------------------------------------

    def teaches(self, sample: Sample) -> bool:
        return bool(self._dialogues(sample, Random(0)))

    def examples(
        self, sample: Sample, reading: Reading, *, present: Sequence[str], rng: Random, training: bool
    ) -> list[Example]:
        features = {
            stream: reading.tokens[stream]
            for stream, modality in self._modality.items()
            if stream in reading.tokens and modality in present
        }
        said = sample.transcript if "words" in present else None
        if not training:
            asked = [Message(role="user", content=self._label_question(0))]
            ids = self.renderer.prompt(
                asked, counts=self._counts(features), transcript=said, task=TASKS[0], layout=self._layout
            )
            return [Example(ids=tuple(ids), is_answer=(False,) * len(ids), features=features, label_at=len(ids) - 1)]
        dialogues = self._dialogues(sample, rng)
        if not dialogues:
            needed = "messages" if self.options.task == "reason" else "a label, words, numbers or messages"
            raise InputError(f"sample {sample.id!r} teaches nothing: task={self.options.task} needs {needed}")
        for task, turns in dialogues:
            example = self._write(turns, features, said, task=task)
            if example is not None:
                return [example]
        raise InputError(f"sample {sample.id!r} does not fit: its question alone has {self._max_tokens} tokens")

    def _dialogues(self, sample: Sample, rng: Random) -> list[tuple[str | None, list[Message]]]:
        """What a sample can teach, in the order in which it is tried, with the tag of its task.

        One is taken at each visit, so that a batch holds as many examples as it has samples. The label comes first in
        half of the visits, the rest share the other half.
        """
        others: list[tuple[str | None, list[Message]]] = []
        if sample.messages:
            own = [Message(role=message.role, content=message.content) for message in sample.messages]
            others.append((TASKS[1], self._reworded(own, rng) if self.options.task == "reason" else own))
        if self.options.task == "reason":
            return others
        if sample.open_vocabulary:
            others.append((None, _turns(self._ask("open", rng), ", ".join(sample.open_vocabulary))))
        if sample.valence is not None or sample.arousal is not None:
            numbers = (("valence", sample.valence), ("arousal", sample.arousal))
            answer = ", ".join(f"{name} {value:.1f}" for name, value in numbers if value is not None)
            others.append((None, _turns(self._ask("affect", rng), answer)))
        rng.shuffle(others)
        if not sample.shares:
            return others
        shares = sample.shares
        label = rng.choices(list(shares), weights=list(shares.values()))[0]
        question = self._label_question(rng.randrange(len(self._questions["label"])))
        asked = (TASKS[0], _turns(question, self._spelled(label)))
        return [asked, *others] if not others or rng.random() < 0.5 else [*others, asked]

    def _ask(self, kind: str, rng: Random) -> str:
        wording: str = rng.choice(self._questions[kind])
        return wording

    def _write(
        self, turns: Sequence[Message], features: Mapping[str, np.ndarray], said: str | None, *, task: str | None
    ) -> Example | None:
        """Write a dialogue; what is longer than the model reads is cut at its end, and then has no end to learn."""
        rendered = self.renderer.supervised(
            turns, counts=self._counts(features), transcript=said, task=task, layout=self._layout
        )
        kept = Rendered(ids=rendered.ids[: self._max_tokens], is_answer=rendered.is_answer[: self._max_tokens])
        if not any(kept.is_answer):
            return None
        return Example(ids=kept.ids, is_answer=kept.is_answer, features=features)

    def _spelled(self, label: str) -> str:
        """Return a label in the word of the label set, however the sample writes it."""
        from emollama.labels import canonical

        return next(name for name in self.labels if canonical(name) == canonical(label))

    def _label_question(self, index: int) -> str:
        if index == 0:
            return label_question(self.labels)  # what answers are asked by
        wording: str = self._questions["label"][index]
        return wording.replace("{labels}", ", ".join(self.labels))

    def _reworded(self, own: list[Message], rng: Random) -> list[Message]:
        """Ask the first question in one of several wordings, so that the answer does not hang on one of them."""
        first = next(index for index, message in enumerate(own) if message.role == "user")
        wordings = [own[first].content, *self._questions["reason"]]
        own[first] = Message(role="user", content=rng.choice(wordings))
        return own

    def _counts(self, features: Mapping[str, np.ndarray]) -> dict[str, int]:
        counts = {}
        for stream, tokens in features.items():
            projector = self.config.stream(stream).projector
            counts[stream] = projector.num_queries if projector.kind == "resampler" else len(tokens)
        return counts

    def replay(self, rng: Random) -> Example | None:
        """Draw a dialogue without a clip: from the user's file, else one of ours about what cannot be known."""
        return self._write(rng.choice(self._replays), {}, None, task=None)

    def _read_replays(self) -> list[list[Message]]:
        if self.options.replay:
            return read_dialogues(Path(self.options.replay))
        return [_turns(question, answer) for question, answer in self._questions["limits"]]

    # ---- model ---------------------------------------------------------------------------------------------------

    def build_model(self, *, lora: LoraSettings | None, train_projectors: bool, seed: int) -> EmoLlama:
        """The frozen base, fresh LoRA and projectors or those of ``options.adapter``; only these are trained."""
        from emollama.backbones.lora import load_lora
        from emollama.presets import assemble_model

        backbone: Any = self._load_backbone()
        begin = Path(self.options.adapter) if self.options.adapter else None
        if begin is not None:
            self._check_base(begin)
            backbone = load_lora(backbone, begin, trainable=lora is not None)
        model = assemble_model(
            self.config,
            backbone,
            placeholder_ids=self.renderer.placeholder_ids,
            lora=lora if begin is None else None,
            seed=seed,
        )
        if begin is not None:
            model.load_projectors(begin / "projectors.safetensors")
        for parameter in model.projectors.parameters():
            parameter.requires_grad_(train_projectors)
        if self.options.gradient_checkpointing:
            model.enable_gradient_checkpointing()
        return model

    def _load_backbone(self) -> Any:
        import torch

        from emollama.backbones.frozen import freeze, load_frozen

        if not self.options.debug:
            # bfloat16 also where the published run used float16: the same memory, and no loss scaling
            return load_frozen(self._backbone, bits=self.options.bits, dtype=torch.bfloat16, device=_device())
        from emollama.backbones.quantize import quantize_llama
        from emollama.presets import build_debug_backbone

        if self.options.bits not in (0, 4):
            raise InputError(f"bits is {self.options.bits}; allowed with debug: 0, 4", field="bits")
        backbone = build_debug_backbone(self.config)
        return quantize_llama(backbone, compute_dtype=torch.float32) if self.options.bits else freeze(backbone)

    def _check_base(self, adapter: Path) -> None:
        info = AdapterInfo.load(adapter)
        if info is not None and (info.base, info.base_sha256) != (self.name, self.base_sha256):
            raise CheckpointError(
                f"{adapter} was trained on {info.base} ({info.base_sha256[:12]}), this is {self.name} "
                f"({self.base_sha256[:12]})",
                field="adapter",
            )

    @cached_property
    def base_sha256(self) -> str:
        """The digest of backbone and tokenizer; of a debug build, of what it is built from."""
        if self.options.debug:
            from emollama.presets import debug_digest

            return debug_digest(self.config)
        return base_digest(self._backbone, self._backbone / "tokenizer.json")

    def label_scores(self, model: EmoLlama, examples: Sequence[Example]) -> np.ndarray:
        """Summed log-likelihoods [N, K] of each label's answer and its end, so that "sad" is no part of "sadness"."""
        import torch

        from emollama.backbones.lora import base_of
        from emollama.backbones.score import answer_log_likelihoods
        from train.clip_batch import collate

        device = next(model.parameters()).device
        llama = base_of(model.backbone)
        table = []
        with torch.no_grad():
            for start in range(0, len(examples), _SCORED_TOGETHER):
                some = examples[start : start + _SCORED_TOGETHER]
                batch = collate(some, pad_id=self.pad_id, label_token_ids=())
                rows = model.embed(batch.inputs.to(device))
                prompts = [row[: len(one.ids)] for row, one in zip(rows, some, strict=True)]
                table.append(answer_log_likelihoods(llama, prompts, self._answers))
        return torch.cat(table).double().numpy()

    # ---- export --------------------------------------------------------------------------------------------------

    def export(self, model: EmoLlama, folder: Path, *, outcome: Outcome) -> None:
        """Write the PEFT folder, the projectors, ``emollama.json`` and the card."""
        import torch

        from emollama.backbones.lora import save_lora

        folder.mkdir(parents=True, exist_ok=True)
        if hasattr(model.backbone, "peft_config"):
            save_lora(model.backbone, folder, dtype=torch.float32, base_name=self.name)
        model.save_projectors(folder / "projectors.safetensors")
        info = AdapterInfo(
            base=self.name,
            base_sha256=self.base_sha256,
            labels=self.labels,
            answers="own",
            recipe=outcome.recipe,
            created=int(time.time()),
            license=outcome.license,
            layout=self._layout,
            picture=self.options.picture,
            figures={name: round(float(value), 6) for name, value in outcome.figures.items()},
        )
        info.save(folder)
        if self.options.peak:
            shutil.copytree(self.options.peak, folder / PEAK_FOLDER, dirs_exist_ok=True)
        (folder / "ADAPTER_CARD.md").write_text(render_card(info, outcome), encoding="utf-8")


def read_pairs(text: str) -> dict[str, Path]:
    """Read ``name=folder`` pairs, comma-separated; raises `InputError` for one without ``=`` or named twice."""
    pairs: dict[str, Path] = {}
    for part in (part.strip() for part in text.split(",")):
        if not part:
            continue
        name, equals, folder = part.partition("=")
        if not equals or not folder.strip() or name.strip() in pairs:
            raise InputError(f"weights holds {part!r}; allowed: each name once, as name=folder", field="weights")
        pairs[name.strip()] = Path(folder.strip())
    return pairs


def read_dialogues(path: Path) -> list[list[Message]]:
    """Read a JSONL of ``{"messages": [{"role", "content"}, ...]}``, the shape of OpenAI's fine-tuning files.

    Raises `DatasetError` naming file, line and what is wrong; other keys of a line are not read.
    """
    from pydantic import TypeAdapter, ValidationError

    from emollama.manifest import ManifestMessage, describe, iter_rows

    adapter = TypeAdapter(tuple[ManifestMessage, ...])
    dialogues = []
    for row in iter_rows(path):
        if row.document is None:
            raise DatasetError(f"{path}:{row.line}: {row.problem}", field="replay")
        try:
            given = adapter.validate_python(row.document.get("messages"))
        except ValidationError as error:
            field, problem = describe(error)[0]
            raise DatasetError(f"{path}:{row.line}: messages.{field}: {problem}", field="replay") from error
        turns = [message.role for message in given if message.role != "system"]
        if not turns or turns != ["user", "assistant"] * (len(turns) // 2):
            raise DatasetError(
                f"{path}:{row.line}: roles are {[message.role for message in given]}; allowed: an optional system "
                "turn, then user and assistant in turn",
                field="replay",
            )
        dialogues.append([Message(role=message.role, content=message.content) for message in given])
    if not dialogues:
        raise DatasetError(f"{path} holds no dialogues", field="replay")
    return dialogues


def _turns(question: str, answer: str) -> list[Message]:
    return [Message(role="user", content=question), Message(role="assistant", content=answer)]


def _device() -> str:
    """The GPU of this process, or the processor."""
    import torch

    return f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if torch.cuda.is_available() else "cpu"


def _fingerprint(place: Path) -> str:
    """Tell weights apart without reading gigabytes: names, sizes and both ends of every file."""
    digest = hashlib.sha256()
    files = [place] if place.is_file() else sorted(path for path in place.rglob("*") if path.is_file())
    for path in files:
        size = path.stat().st_size
        digest.update(f"{path.name}/{size}/".encode())
        with path.open("rb") as file:
            digest.update(file.read(1 << 16))
            if size > 1 << 16:
                file.seek(-(1 << 16), os.SEEK_END)
                digest.update(file.read())
    return digest.hexdigest()[:16]

"""nano, and any model folder of its layout, as a trainee: its readings, its prompt, its adapter.

A clip is read by the shipped encoders exactly as the service reads it. Training starts from the model's own adapter and
projectors, so that what it could do is where it begins. A label is learned as a choice among the first tokens of the
label set (and, for a label that is spelled in letters, as plain text after it), which is how the service scores it.
Samples without a dialogue of their own get one now and then from the grammar (`emollama.phrases`) over the readings
of their clip, and replay draws such dialogues over random readings: a model tuned to labels goes on writing reasons.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

import numpy as np

from emollama import calibration as cal
from emollama.adapter import AdapterInfo, base_digest
from emollama.checkpoint import load_assets
from emollama.errors import InputError
from emollama.labels import EMODB_6, NANO_LABELS, canonical
from emollama.manifest import Sample
from emollama.phrases import ask
from emollama.prompt import SOURCES, Cues, FaceCue, Renderer, Source, VoiceCue, WordsCue, longest
from train.builders.cues import join_cues, random_cues
from train.trainees import Example, Outcome, Reading
from train.trainees.card import render_card

if TYPE_CHECKING:
    from emollama.analyze import Analyzer
    from emollama.config import LoraSettings
    from emollama.model import EmoLlama
    from emollama.types import Clip
    from train.clip_task import ClipOptions

# Fewer validation answers than this fit a temperature only, fewer than the second nothing.
_WITH_BIAS_FROM, _FIT_FROM = 200, 24


class NanoTrainee:
    """See the module. ``labels`` is the set that is learned."""

    name = "nano"

    def __init__(self, options: ClipOptions, labels: Sequence[str]) -> None:
        self.options = options
        self.labels = tuple(labels)
        self.assets = load_assets(options.model)
        self.base_sha256 = base_digest(self.assets.backbone, self.assets.tokenizer)
        self.version = f"1/{self.base_sha256}/{_digest_of(self.assets.face)}/{_digest_of(self.assets.voice)}"
        self.renderer = Renderer.load(self.assets.tokenizer)
        self.pad_id = self.renderer.token_id("<pad>")
        self._options_of = dict(zip(self.labels, self.renderer.label_ids(self.labels), strict=True))
        begins = [ids[0] for ids in (*self._options_of.values(), *self.renderer.label_ids(NANO_LABELS))]
        self.label_token_ids = tuple(dict.fromkeys(begins))
        self._own = np.isin(self.label_token_ids, [ids[0] for ids in self._options_of.values()])
        self._spelling = {canonical(name): name for name in self.labels}
        self._reader: Analyzer | None = None

    # ---- reading -------------------------------------------------------------------------------------------------

    def read(self, clip: Clip) -> Reading:
        """Read a clip as the service would: face and voice tokens, and the cues that a sentence may speak of."""
        if self._reader is None:
            from emollama.analyze import Analyzer

            self._reader = Analyzer.load(self.options.model)
        seen = self._reader.understand(clip)
        cues = {} if seen.cues is None else dataclasses.asdict(seen.cues)
        facts = {"cues": {name: cues.get(name) for name in ("face", "voice", "words", "still")}}
        return Reading(
            tokens={str(name): part for name, part in seen.features.items()}, facts=facts, seconds=clip.seconds
        )

    def present(self, sample: Sample, reading: Reading) -> tuple[str, ...]:
        there = [source for source in SOURCES if source in reading.tokens]
        return (*there, "words") if (sample.transcript or "").strip() else tuple(there)

    # ---- writing -------------------------------------------------------------------------------------------------

    def teaches(self, sample: Sample) -> bool:
        """A label, its shares or a dialogue; open words, valence and arousal alone are for the large presets."""
        return bool(sample.shares or sample.messages)

    def examples(
        self, sample: Sample, reading: Reading, *, present: Sequence[str], rng: Random, training: bool
    ) -> list[Example]:
        features = {name: tokens for name, tokens in reading.tokens.items() if name in present}
        if training and "voice" in features:
            features["voice"] = self._blur_voice(features["voice"], rng)
        prefix = self.renderer.prefix(
            face_tokens=len(features.get("face", ())),
            voice_tokens=len(features.get("voice", ())),
            transcript=sample.transcript if "words" in present else None,
        )
        at = len(prefix) - 1
        if not training:
            return [Example(ids=tuple(prefix), is_answer=(False,) * len(prefix), features=features, label_at=at)]
        shares = {self._spelling[canonical(name)]: share for name, share in sample.shares.items()}
        target, asked = self._target(shares, rng)
        tail: list[int] = []
        learned: list[bool] = []
        label = rng.choices(list(shares), weights=list(shares.values()))[0] if shares else None
        if label is not None:
            spelled = self._options_of[label]
            tail, learned = list(spelled), [False, *[True] * (len(spelled) - 1)]
        elif sample.messages:  # a dialogue comes after a label: that of the readings, which is not learned
            label = self._read_label(reading, present)
            tail = list(self.renderer.label_ids([label])[0])
            learned = [False] * len(tail)
            shares = {label: 1.0}
        cues = self._cues(label, shares, reading, present)
        if cues is not None and label is not None and (sample.messages or rng.random() < self.options.dialogue_share):
            for ids, is_answer in self._dialogue(sample, label, cues, rng):
                tail += ids
                learned += is_answer
        return [
            Example(
                ids=(*prefix, *tail),
                is_answer=(*(False for _ in prefix), *learned),
                features=features,
                label_at=at if target is not None else None,
                target=target,
                asked=asked,
            )
        ]

    def _target(self, shares: Mapping[str, float], rng: Random) -> tuple[np.ndarray | None, np.ndarray | None]:
        """The target [U] over first tokens; now and then one of nano's own labels is among the choices, and wrong."""
        if not shares:
            return None, None
        target = np.zeros(len(self.label_token_ids), np.float32)
        for name, share in shares.items():
            target[self.label_token_ids.index(self._options_of[name][0])] += share
        others = np.array([rng.random() < self.options.distractor for _ in self.label_token_ids])
        return target / target.sum(), self._own | others

    def _cues(
        self, label: str | None, shares: Mapping[str, float], reading: Reading, present: Sequence[str]
    ) -> Cues | None:
        """The readings of a clip as cues, with the sample's label as the verdict; ``None`` without either."""
        stored = reading.facts.get("cues") or {}
        face = tuple(FaceCue(**cue) for cue in stored.get("face") or ()) if "face" in present else ()
        voice = VoiceCue(**stored["voice"]) if stored.get("voice") and "voice" in present else None
        words = WordsCue(**stored["words"]) if stored.get("words") and "words" in present else None
        if label is None or not (face or voice or words):
            return None
        verdicts = _verdicts(reading, present)
        behind = [source for source, verdict in verdicts.items() if canonical(verdict) == canonical(label)]
        others = sorted((name for name in shares if name != label and shares[name] >= 0.1), key=lambda n: -shares[n])
        known = [canonical(name) for name in others if canonical(name) in NANO_LABELS]
        return join_cues(
            label=label,
            confidence="high" if shares[label] >= 0.8 else "medium" if shares[label] >= 0.5 else "low",
            face=face,
            voice=voice,
            words=words,
            lead=behind[0] if behind else None,
            others=known[:2],
            still=bool(stored.get("still")),
        )

    def _read_label(self, reading: Reading, present: Sequence[str]) -> str:
        """What the first modality that is present says of a clip, in the word of the label set where it has one."""
        verdicts = _verdicts(reading, present)
        found = next(iter(verdicts.values()), NANO_LABELS[0])
        return self._spelling.get(canonical(found), found)

    def _dialogue(self, sample: Sample, label: str, cues: Cues, rng: Random) -> list[tuple[list[int], list[bool]]]:
        """The turns after the label as (ids, is answer): the sample's own, or a question of the grammar."""
        renderer = self.renderer
        opened = len(renderer.label_ids([label])[0])  # `followup` begins with the label, which stands there already
        if not sample.messages:
            _, question, text = ask(cues, rng)
            asked, answer = renderer.followup(label, cues, question)[opened:], renderer.answer(text)
            return [(asked + answer, [False] * len(asked) + [True] * len(answer))]
        turns = [message for message in sample.messages if message.role != "system"]
        out = []
        for index in range(0, len(turns), 2):
            if index == 0:
                asked = renderer.followup(label, cues, turns[0].content)[opened:]
            else:
                words = renderer.encode_untrusted(" ".join(turns[index].content.split()))
                asked = [renderer.token_id("<|user|>"), *words, renderer.token_id("<|assistant|>")]
            answer = [*renderer.encode_untrusted(turns[index + 1].content.strip()), renderer.stop_id]
            out.append((asked + answer, [False] * len(asked) + [True] * len(answer)))
        return out

    def _blur_voice(self, tokens: np.ndarray, rng: Random) -> np.ndarray:
        """Jitter a voice token [1, D], so that few recordings are not learned by heart.

        Its first six numbers are the voice head's log-probabilities, which on recordings that the head was trained on
        are surer than on new ones: they are flattened and jittered, and now and then no opinion is given at all.
        """
        from emollama.encoders.voice import TOKEN_SCALE

        options = self.options
        noise = np.random.default_rng(rng.getrandbits(63))
        opinion, functionals = tokens[0, : len(EMODB_6)], tokens[0, len(EMODB_6) :]
        if rng.random() < options.opinion_drop:
            opinion = np.zeros_like(opinion)
        else:
            opinion = opinion * rng.uniform(*options.opinion_scale)
            opinion = opinion + noise.normal(scale=options.opinion_jitter, size=opinion.shape)
        opinion = opinion - np.logaddexp.reduce(opinion)
        functionals = functionals + noise.normal(scale=options.voice_noise * TOKEN_SCALE, size=functionals.shape)
        return np.concatenate((opinion, functionals))[None].astype(np.float32)

    def replay(self, rng: Random) -> Example | None:
        """A dialogue of the grammar over random cues: what the base was taught to say."""
        cues = random_cues(rng)
        _, question, answer = ask(cues, rng)
        prefix = self.renderer.prefix()
        ids, learned = self.renderer.supervised(
            prefix=prefix, label=cues.label, cues=cues, question=question, answer=answer
        )
        return Example(ids=tuple(ids), is_answer=tuple(learned), features={})

    # ---- model ---------------------------------------------------------------------------------------------------

    def build_model(self, *, lora: LoraSettings | None, train_projectors: bool, seed: int) -> EmoLlama:
        """The base with its own adapter and projectors to go on from; ``lora`` must be the adapter's own shape."""
        from emollama.backbones.frozen import load_frozen
        from emollama.backbones.lora import attach_lora, load_lora, read_adapter_config
        from emollama.encoders.face import FaceEncoder
        from emollama.encoders.voice import VoiceEncoder
        from emollama.model import EmoLlama
        from emollama.projectors import build_projectors

        backbone: Any = load_frozen(self.assets.backbone, bits=self.options.bits)
        width = int(backbone.config.hidden_size)
        if self.assets.adapter is not None:
            own = read_adapter_config(self.assets.adapter)
            if lora is not None and (lora.rank, lora.targets) != (own.rank, own.targets):
                raise InputError(
                    f"lora has rank {lora.rank} on {', '.join(lora.targets)}; {self.assets.name} goes on from its own "
                    f"adapter, of rank {own.rank} on {', '.join(own.targets)}",
                    field="lora",
                )
            backbone = load_lora(backbone, self.assets.adapter, trainable=lora is not None)
        elif lora is not None:
            backbone = attach_lora(backbone, lora, seed=seed)
        widths = {
            "face": FaceEncoder.load(self.assets.face).token_width,
            "voice": VoiceEncoder.load(self.assets.voice).token_width,
        }
        placeholders = {"face": self.renderer.face_placeholder_id, "voice": self.renderer.voice_placeholder_id}
        model = EmoLlama(backbone, dict(build_projectors(widths, width).items()), placeholders)
        model.load_projectors(self.assets.projectors)
        for parameter in model.projectors.parameters():
            parameter.requires_grad_(train_projectors)
        return model

    @property
    def lora(self) -> LoraSettings | None:
        """The shape of the adapter that training goes on from."""
        from emollama.backbones.lora import read_adapter_config

        return None if self.assets.adapter is None else read_adapter_config(self.assets.adapter)

    def label_scores(self, model: EmoLlama, examples: Sequence[Example]) -> np.ndarray:
        """Log-likelihoods [N, K] of the labels; letters of a spelled label are read in passes of their own."""
        import torch

        from train.clip_batch import collate

        batch = collate(examples, pad_id=self.pad_id, label_token_ids=self.label_token_ids)
        device = next(model.parameters()).device
        hidden = model.hidden(batch.inputs.to(device))
        at = hidden[torch.arange(len(examples)), batch.label_at.to(device)]
        logits = model.head(at).float().log_softmax(-1).cpu().numpy()  # [N, V]
        scores = np.stack([logits[:, ids[0]] for ids in self._options_of.values()], axis=1)
        for column, ids in enumerate(self._options_of.values()):
            if len(ids) > 1:
                longer = [
                    dataclasses.replace(
                        one, ids=(*one.ids, *ids[:-1]), is_answer=(False,) * (len(one.ids) + len(ids) - 1)
                    )
                    for one in examples
                ]
                inputs = collate(longer, pad_id=self.pad_id, label_token_ids=self.label_token_ids).inputs.to(device)
                states = model.hidden(inputs)
                for step, token in enumerate(ids[1:]):
                    places = torch.tensor([len(one.ids) + step for one in examples])
                    row = model.head(states[torch.arange(len(examples)), places]).float().log_softmax(-1)
                    scores[:, column] += row[:, token].cpu().numpy()
        return scores.astype(np.float64)

    # ---- export --------------------------------------------------------------------------------------------------

    def export(self, model: EmoLlama, folder: Path, *, outcome: Outcome) -> None:
        """Write adapter, projectors, calibration, ``emollama.json`` and the card into ``folder``."""
        import torch

        from emollama.backbones.lora import save_lora
        from emollama.tensors import write_json

        folder.mkdir(parents=True, exist_ok=True)
        save_lora(model.backbone, folder, dtype=torch.float16, base_name=self.assets.name)
        model.save_projectors(folder / "projectors.safetensors", dtype=torch.float16)
        write_json(folder / "calibration.json", self._calibration(outcome).to_json_dict())
        info = AdapterInfo(
            base=self.assets.name,
            base_sha256=self.base_sha256,
            labels=self.labels,
            answers="own" if outcome.has_messages else "supported",
            recipe=outcome.recipe,
            created=int(time.time()),
            license=outcome.license,
            figures={name: round(float(value), 6) for name, value in outcome.figures.items()},
        )
        info.save(folder)
        (folder / "ADAPTER_CARD.md").write_text(render_card(info, outcome), encoding="utf-8")

    def _calibration(self, outcome: Outcome) -> cal.Calibration:
        """The base's calibration, with the subsets that validation has answers of fitted anew to the new labels."""
        base = cal.Calibration.load(self.assets.calibration)
        fitted = dict(base.subsets)
        for subset, (scores, truth) in outcome.calibration.items():
            if len(truth) >= _FIT_FROM:
                with_bias = len(truth) >= _WITH_BIAS_FROM
                fitted[subset] = cal.fit_subset(scores, truth, labels=self.labels, with_bias=with_bias)
        return dataclasses.replace(base, subsets=fitted)


def _verdicts(reading: Reading, present: Sequence[str]) -> dict[Source, str]:
    """Return what each modality says by itself, of those that are present and were read."""
    stored = reading.facts.get("cues") or {}
    verdicts: dict[Source, str] = {}
    if "face" in present and stored.get("face"):
        verdicts["face"] = longest(tuple(FaceCue(**cue) for cue in stored["face"])).label
    for source in ("voice", "words"):
        if source in present and stored.get(source):
            verdicts[source] = stored[source]["label"]
    return verdicts


def _digest_of(path: Path) -> str:
    from emollama.checkpoint import sha256_of

    return sha256_of(path)[:16]

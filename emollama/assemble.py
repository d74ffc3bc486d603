"""A model folder -> the parts of an analyzer, and the bridge between the analyzer's questions and the lean runtime.

Which files a folder holds is `emollama.checkpoint.load_assets`. An adapter folder of one's own may bring
``projectors.safetensors`` and ``calibration.json``, which then replace the model's.
transformers, peft and timm are not imported here.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path

import numpy as np
import torch

from emollama.adapter import AdapterInfo, base_digest
from emollama.calibration import Calibration
from emollama.checkpoint import ModelAssets, load_assets
from emollama.config import PRESETS
from emollama.errors import CheckpointError, InputError
from emollama.generate import Engine, Request
from emollama.parts import Parts, PromptRow, Query
from emollama.prompt import Renderer
from emollama.runtime import Prefix, Row, Runtime, Sampling, one_of

# Room in the cache for what follows a prefix, so that it does not have to grow.
_RESERVE = 32
# Replies that are decoded at once, and that may wait for a row; who lets clips in bounds them long before that.
_MAX_REPLIES, _MAX_WAITING = 16, 1024


class RuntimeEngine:
    """Answers the analyzer's queries (`emollama.parts.Engine`) with a `Runtime`; any thread may ask.

    Prefixes are computed and scored where they are asked for, side by side; replies of all threads are decoded as one
    batch of ``replies``, which a reply joins at any time.
    """

    def __init__(self, runtime: Runtime, *, replies: Engine | None = None) -> None:
        self.runtime = runtime
        # adapters on one base share its engine, and so the batch
        self.replies = replies or Engine(runtime, max_rows=_MAX_REPLIES, max_waiting=_MAX_WAITING)

    def prefill(self, rows: Sequence[PromptRow]) -> Prefix:
        return self.runtime.prefill([Row(row.ids, row.features) for row in rows], reserve=_RESERVE)

    @torch.inference_mode()
    def score(self, prefix: Prefix, queries: Sequence[Query]) -> list[np.ndarray]:
        """Lay all different continuations side by side in one pass and read every option's tokens off them."""
        branches: dict[tuple[int, ...], int] = {}  # token sequence -> where it begins
        length = 0
        for query in queries:
            if not query.marker or any(not option for option in query.options):
                raise InputError("a query needs a marker and options of 1 or more tokens", field="options")
            for option in query.options:
                sequence = (*query.marker, *option[:-1])
                if sequence not in branches:
                    branches[sequence] = length
                    length += len(sequence)
        backbone = self.runtime.backbone
        hidden = backbone.branch(prefix.cache, list(branches))  # [B, T, W]
        logits = backbone.logits(hidden)  # [B, T, V]
        normaliser = logits.logsumexp(-1)  # [B, T]
        tables = []
        for query in queries:
            columns = []
            for option in query.options:
                begin = branches[(*query.marker, *option[:-1])] + len(query.marker) - 1
                places = torch.arange(begin, begin + len(option), device=logits.device)
                tokens = torch.tensor(list(option), device=logits.device)
                columns.append((logits[:, places, tokens] - normaliser[:, places]).sum(-1))
            tables.append(torch.stack(columns, dim=-1).double().cpu().numpy())
        return tables

    def generate(
        self,
        prefix: Prefix,
        ids: Sequence[int],
        *,
        stop_id: int,
        max_new_tokens: int,
        temperature: float,
        seed: int,
        banned: frozenset[int] = frozenset(),
        choices: Sequence[Sequence[int]] | None = None,
    ) -> Generator[int, None, None]:
        """Continue the first row by ``ids`` and yield new tokens up to, without, the stop token."""
        sampling = Sampling(
            max_tokens=max_new_tokens,
            temperature=temperature,
            seed=seed,
            stop_ids=(stop_id,),
            banned=banned,
            constraint=None if choices is None else one_of(choices, end=(stop_id,)),
        )
        extended = self.runtime.extend(prefix, 0, ids)
        return self._tokens(Request(prefix=extended, sampling=sampling))

    def _tokens(self, request: Request) -> Generator[int, None, None]:
        with closing(self.replies.stream(request)) as events:
            for event in events:
                if event.error is not None:
                    raise event.error
                if event.token_id is not None:
                    yield event.token_id


def load_parts(model: str | Path, *, adapter: str | Path | None = None, device: str = "cpu") -> Parts:
    """Load everything an `emollama.analyze.Analyzer` needs from a model folder (see the module) on a device."""
    from emollama.abaw.beside import with_heads
    from emollama.encoders.face import FaceEncoder
    from emollama.encoders.voice import VoiceEncoder
    from emollama.faces import track_faces
    from emollama.prosody import measure
    from emollama.transcribe import load_transcriber

    place = find_device(device)
    own = None if adapter is None else Path(adapter)
    assets = _assets(model, adapter=own)
    # a merged model says of itself what its adapter said
    info = AdapterInfo.load(assets.folder) if own is None else _info(own, assets)
    renderer = Renderer.load(assets.tokenizer)
    face = FaceEncoder.load(assets.face, device=str(place))
    voice = VoiceEncoder.load(assets.voice)
    runtime = Runtime.load(
        assets.backbone,
        projectors=assets.projectors,
        widths={"face": face.token_width, "voice": voice.token_width},
        placeholder_ids={"face": renderer.face_placeholder_id, "voice": renderer.voice_placeholder_id},
        adapter=assets.adapter,
        eos_ids=(renderer.stop_id,),
        device=place,
    )
    return Parts(
        name=assets.name,
        adapter=None if own is None else own.name,
        labels=() if info is None else info.labels,
        answers=info.answers if info is not None else "supported" if own is None else "own",
        renderer=renderer,
        engine=RuntimeEngine(runtime),
        face=with_heads(face, assets.face),
        voice=voice,
        measure_voice=measure,
        track_faces=track_faces,
        calibration=Calibration.load(assets.calibration),
        recogniser=partial(load_transcriber, device=str(place)),
    )


def _info(adapter: Path, assets: ModelAssets) -> AdapterInfo | None:
    """Read what an adapter says of itself; one that was trained on another base is refused."""
    info = AdapterInfo.load(adapter)
    if info is not None and info.base_sha256 != base_digest(assets.backbone, assets.tokenizer):
        raise CheckpointError(
            f"adapter {adapter.name} was trained on another {info.base!r} than this one (its sha256 differs); train it "
            "again, or load the model that it was trained on",
            field="adapter",
        )
    return info


def _assets(model: str | Path, *, adapter: Path | None) -> ModelAssets:
    if isinstance(model, str) and model in PRESETS and model != "nano" and not Path(model).is_dir():
        raise CheckpointError(
            f"{model!r} is a large preset and not of nano's layout; `Analyzer.load` loads it", field="model"
        )
    return load_assets(model, adapter=adapter)


def find_device(name: str) -> torch.device:
    """Return the device of a name; one that is unknown or not here is an `InputError`."""
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise InputError(f"device is {name!r}; allowed: cpu, cuda, cuda:0, mps", field="device") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise InputError(f"device is {name!r}, but torch finds no CUDA device here", field="device")
    if device.type not in ("cpu", "cuda", "mps"):
        raise InputError(f"device is {name!r}; allowed: cpu, cuda, cuda:0, mps", field="device")
    return device

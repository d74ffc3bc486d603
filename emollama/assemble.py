"""A model folder -> the parts of an analyzer, and the bridge between the analyzer's questions and the lean runtime.

A folder holds ``tokenizer.json``, ``backbone/``, ``adapter/`` (optional, a PEFT folder), ``projectors.safetensors``,
``face.safetensors``, ``voice.safetensors`` and ``calibration.json``; nano's lies inside the package. An adapter folder
of one's own may bring ``projectors.safetensors`` and ``calibration.json``, which then replace the model's.
transformers, peft and timm are not imported here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

from emollama.analyze import Parts, PromptRow, Query, Recogniser
from emollama.calibration import Calibration
from emollama.config import PRESETS
from emollama.errors import CheckpointError, InputError, UnknownNameError
from emollama.prompt import Renderer
from emollama.runtime import Prefix, Row, Runtime, Sampling

ASSETS = Path(__file__).parent / "assets"
# Room in the cache for what follows a prefix, so that it does not have to grow.
_RESERVE = 32


class RuntimeEngine:
    """Answers the analyzer's queries (`emollama.analyze.Engine`) with a `Runtime`."""

    def __init__(self, runtime: Runtime) -> None:
        self.runtime = runtime

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
    ) -> Iterator[int]:
        """Continue the first row by ``ids`` and yield new tokens up to, without, the stop token."""
        sampling = Sampling(
            max_tokens=max_new_tokens, temperature=temperature, seed=seed, stop_ids=(stop_id,), banned=banned
        )
        return self.runtime.decode(self.runtime.extend(prefix, 0, ids, reserve=max_new_tokens), sampling=sampling)


def model_folder(model: str | Path) -> Path:
    """Return the folder of a model that is embedded or given as a folder."""
    path = Path(model)
    if isinstance(model, str) and model in PRESETS:
        path = ASSETS / model
        if not path.is_dir():
            raise CheckpointError(
                f"the weights of {model!r} are not here; give the folder that holds them", field="model"
            )
        return path
    if not path.is_dir():
        raise UnknownNameError("model", str(model), PRESETS)
    return path


def load_parts(model: str | Path, *, adapter: str | Path | None = None, device: str = "cpu") -> Parts:
    """Load everything an `emollama.analyze.Analyzer` needs from a model folder (see the module) on a device."""
    from emollama.encoders.face import FaceEncoder
    from emollama.encoders.voice import VoiceEncoder
    from emollama.faces import track_faces
    from emollama.prosody import measure

    place = _device(device)
    folder = model_folder(model)
    own = None if adapter is None else Path(adapter)
    if own is not None and not (own / "adapter_config.json").is_file():
        raise CheckpointError(f"{own} is not an adapter folder: it holds no adapter_config.json", field="adapter")
    lora = own or (folder / "adapter" if (folder / "adapter").is_dir() else None)

    def of(name: str) -> Path:
        return own / name if own is not None and (own / name).is_file() else folder / name

    renderer = Renderer.load(folder / "tokenizer.json")
    face = FaceEncoder.load(folder / "face.safetensors", device=str(place))
    voice = VoiceEncoder.load(folder / "voice.safetensors")
    runtime = Runtime.load(
        folder / "backbone",
        projectors=of("projectors.safetensors"),
        widths={"face": face.token_width, "voice": voice.token_width},
        placeholder_ids={"face": renderer.face_placeholder_id, "voice": renderer.voice_placeholder_id},
        adapter=lora,
        eos_ids=(renderer.stop_id,),
        device=place,
    )
    return Parts(
        name=folder.name,
        adapter=None if own is None else own.name,
        renderer=renderer,
        engine=RuntimeEngine(runtime),
        face=face,
        voice=voice,
        measure_voice=measure,
        track_faces=track_faces,
        calibration=Calibration.load(of("calibration.json")),
        recogniser=_recogniser,
    )


def _device(name: str) -> torch.device:
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise InputError(f"device is {name!r}; allowed: cpu, cuda, cuda:0, mps", field="device") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise InputError(f"device is {name!r}, but torch finds no CUDA device here", field="device")
    if device.type not in ("cpu", "cuda", "mps"):
        raise InputError(f"device is {name!r}; allowed: cpu, cuda, cuda:0, mps", field="device")
    return device


def _recogniser(name: str) -> Recogniser:
    raise InputError(f"asr is {name!r}; no recogniser of that name", field="asr")

"""A large preset's folder -> the parts of an analyzer.

Three things can be asked for: the folder that a fine-tuning job wrote (adapter and projectors, on the preset's
backbone), the folder that `emollama merge` made of it (backbone and projectors), and a preset by its name with such an
adapter. Weights that are not in the folder are looked for in its ``weights/NAME`` (a folder, a file or a link; names
are those of `emollama.checkpoint.MODELS`), then in the Hugging Face cache; nothing is fetched. What was trained with
``task.debug`` is served on the same tiny random base.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from emollama.adapter import AdapterInfo, base_digest
from emollama.assemble import RuntimeEngine, find_device
from emollama.backbones.lean import LeanLlama, expected_tensors
from emollama.backbones.multi_lora import SharedLlama
from emollama.calibration import Calibration
from emollama.chat_prompt import TEMPLATE_OF, ChatRenderer, ChatTokenizer, FileTokenizer, Layout
from emollama.config import PRESETS, LlamaShape, ModelConfig, preset
from emollama.errors import CheckpointError, InputError
from emollama.generate import Engine as Replies
from emollama.parts import Engine, Parts
from emollama.peak_frame import FOLDER as PEAK_FOLDER
from emollama.peak_frame import PeakFrame, check_picture
from emollama.preset_judge import PresetJudge
from emollama.preset_renderer import PresetRenderer
from emollama.preset_senses import PresetSenses, sources_of
from emollama.presets import Half, Part, build_debug_backbone, build_encoders, debug_digest, find_weights, load_encoders
from emollama.projectors import build_projector
from emollama.runtime import Runtime
from emollama.tensors import load_into, read_tensors

ENGINES = ("auto", "lean", "paged")
# Off a GPU transformers would take most of the machine's memory; these hold sixteen dialogues of four thousand tokens.
_PAGES = 16 * 4096 // 256
# From here on a copy of the weights for each adapter costs more than the products beside the base's.
SHARED_FROM_BYTES = 256 << 20
_LARGE = tuple(name for name in PRESETS if name != "nano")


@dataclass(frozen=True, kw_only=True)
class _Found:
    """What there is of a model: its preset, what says so, and where projectors, LoRA and a merged backbone lie."""

    name: str
    info: AdapterInfo
    folder: Path
    lora: Path | None
    merged: Path | None


class Bases:
    """The bases that adapters of one process share: encoders, backbone, and the batch in which all are answered.

    A further adapter on a base that is here costs its LoRA and its projectors. A backbone of fewer bytes than
    ``shared_from_bytes`` is not shared: its adapters are merged into copies of it, which answer faster. A base stays
    for as long as this object does.
    """

    def __init__(self, *, shared_from_bytes: int = SHARED_FROM_BYTES) -> None:
        self.shared_from_bytes = shared_from_bytes
        self.lock = threading.RLock()  # one load at a time: two would need twice the memory
        self._held: dict[tuple[str, str, str], _Base] = {}

    def get(self, key: tuple[str, str, str], make: Callable[[], _Base]) -> _Base:
        """Return the base of a key, made by the first who asks; others wait for it."""
        with self.lock:
            if key not in self._held:
                self._held[key] = make()
            return self._held[key]

    def __len__(self) -> int:
        return len(self._held)


@dataclass(eq=False, kw_only=True)
class _Base:
    """The base underneath: its configuration, encoders, tokenizer, and where the backbone's weights come from.

    One that was loaded for its encoders alone has neither of the last two.
    """

    config: ModelConfig
    encoders: tuple[Part, ...]
    tokenizer: ChatTokenizer | None = None
    backbone: Path | None = None
    shared: SharedLlama | None = None
    replies: Replies | None = None

    def num_bytes(self, dtype: torch.dtype) -> int:
        """What the backbone takes of memory in a type."""
        shape = self.config.backbone if self.backbone is None else LlamaShape.load(self.backbone)
        return sum(tensor.numel() for tensor in expected_tensors(shape).values()) * dtype.itemsize


def is_preset(model: str | Path) -> bool:
    """Say whether a model is one of the large presets, by its name or by what its folder says of itself."""
    if isinstance(model, str) and model in _LARGE and not Path(model).is_dir():
        return True
    info = AdapterInfo.load(Path(model)) if Path(model).is_dir() else None
    return info is not None and info.base in _LARGE


def load_preset_parts(
    model: str | Path,
    *,
    adapter: str | Path | None = None,
    device: str = "cpu",
    engine: str = "auto",
    weights: Mapping[str, Path] | None = None,
    bases: Bases | None = None,
    with_encoders: bool = True,
) -> Parts:
    """Load what an analyzer needs of a large preset; see the module. ``weights`` names folders of weights by name.

    ``engine`` "paged" is transformers' continuous batching, "lean" our own runtime; "auto" is paged on CUDA. With
    ``bases`` adapters share what lies under them; that is lean's, so "auto" is then lean. Without ``with_encoders``
    they are neither looked for nor loaded: for those who bring what was read elsewhere (`load_preset_senses`).
    Raises `CheckpointError` for an adapter of another base, `DependencyError` that names weights which are not here.
    """
    from emollama.faces import track_faces
    from emollama.prosody import measure
    from emollama.transcribe import load_transcriber

    if engine not in ENGINES:
        raise InputError(f"engine is {engine!r}; allowed: {', '.join(ENGINES)}", field="engine")
    place = find_device(device)
    found = _find(model, None if adapter is None else Path(adapter))
    is_paged = engine == "paged" or (engine == "auto" and place.type == "cuda" and bases is None)

    def make() -> _Base:
        return _base(found, weights=dict(weights or {}), device=place, of="both" if with_encoders else "backbone")

    if bases is None or is_paged:
        base = make()
    else:
        where = str(found.merged or sorted((weights or {}).items()))
        base = bases.get((f"{found.name}/{found.info.base_sha256}", where, str(place)), make)
    assert base.tokenizer is not None
    chat = ChatRenderer(base.tokenizer, template=TEMPLATE_OF[found.name], streams=base.config.streams)
    # an unknown layout is refused by the renderer, which knows those that are
    renderer = PresetRenderer(chat, layout=cast(Layout, found.info.layout), question=found.info.question)
    projectors = _projectors(base.config, found.folder)
    answers: Engine
    if is_paged:
        answers = _paged(found, base, projectors, chat, place)
    else:
        answers = _lean(found, base, projectors, chat, place, bases)
    path = found.folder / "calibration.json"
    calibration = Calibration.load(path) if path.is_file() else Calibration()
    labels = found.info.labels
    peak = _peak(found) if with_encoders else None
    senses = PresetSenses(base.encoders, base.config, measure_voice=measure, peak=peak)
    judge = PresetJudge(
        renderer,
        answers,
        calibration,
        sources=sources_of(base.config),
        queries={
            stream.name: stream.projector.num_queries if stream.projector.kind == "resampler" else None
            for stream in base.config.streams
        },
        labels=labels or _default_labels(),
    )
    return Parts(
        name=found.name if found.lora is not None or found.merged is None else found.folder.name,
        adapter=found.folder.name if found.merged is None else None,
        labels=labels,
        answers="own",
        renderer=cast(Any, renderer),  # what is asked of nano's; see its docstring
        engine=answers,
        face=cast(Any, _NoReader("face")),
        voice=cast(Any, _NoReader("voice")),
        measure_voice=measure,
        track_faces=track_faces,
        calibration=calibration,
        recogniser=partial(load_transcriber, device=str(place)),
        senses=senses,
        judge=judge,
    )


def load_preset_senses(model: str | Path, *, device: str = "cpu") -> PresetSenses:
    """Load what looks at clips for a large preset, given as to `load_preset_parts`; its backbone need not be here."""
    from emollama.prosody import measure

    found = _find(model, None)
    base = _base(found, weights={}, device=find_device(device), of="encoders")
    return PresetSenses(base.encoders, base.config, measure_voice=measure, peak=_peak(found))


def _peak(found: _Found) -> PeakFrame | None:
    """What finds the peak frame, where the folder says that it is looked at: its own face model, else the shipped."""
    check_picture(found.info.picture, preset(found.name))
    if found.info.picture == "first":
        return None
    own = found.folder / PEAK_FOLDER
    return PeakFrame.load(own if own.is_dir() else None)


def _default_labels() -> tuple[str, ...]:
    from emollama.labels import NANO_LABELS

    return NANO_LABELS


class _NoReader:
    """Stands where nano has a reader of one modality; a preset's encoders look at whole clips."""

    def __init__(self, what: str) -> None:
        self.what = what

    def read(self, *_: Any, **__: Any) -> Any:
        raise InputError(f"a large preset reads the {self.what} together with the whole clip", field="model")


# ---- finding -----------------------------------------------------------------------------------------------------


def _find(model: str | Path, adapter: Path | None) -> _Found:
    own = None if not Path(model).is_dir() else Path(model)
    folder = adapter or own
    if folder is None:
        raise CheckpointError(
            f"{model} has no projectors of its own; give the folder of an adapter that was trained on it "
            "(`emollama train qlora`), or a folder that `emollama merge` made",
            field="model",
        )
    info = AdapterInfo.load(folder)
    if info is None or info.base not in _LARGE:
        said = "nothing" if info is None else info.base
        raise CheckpointError(
            f"{folder} says {said} of its base; allowed: {', '.join(_LARGE)} in its emollama.json", field="adapter"
        )
    if own is None and model != info.base:
        raise CheckpointError(f"{folder} was trained on {info.base!r}, not on {model!r}", field="adapter")
    if own is not None and adapter is not None:
        under = AdapterInfo.load(own)
        if under is None or under.base != info.base:
            raise CheckpointError(f"{adapter} was trained on {info.base!r}, {own} is another model", field="adapter")
    if not (folder / "projectors.safetensors").is_file():
        raise CheckpointError(f"{folder} holds no projectors.safetensors", field="model")
    merged = None if own is None or not (own / "backbone").is_dir() else own / "backbone"
    lora = folder if (folder / "adapter_config.json").is_file() else None
    return _Found(name=info.base, info=info, folder=folder, lora=lora, merged=merged)


def _base(found: _Found, *, weights: dict[str, Path], device: torch.device, of: Half) -> _Base:
    if found.merged is None:
        config, encoders, tokenizer = build_encoders(found.name, debug=True)
        if found.info.base_sha256 == debug_digest(config):
            return _Base(config=config, encoders=encoders, tokenizer=tokenizer, backbone=None)
    config = preset(found.name)
    beside = found.folder / "weights"
    places = {path.name: path for path in sorted(beside.iterdir())} if beside.is_dir() else {}
    places |= weights
    if found.merged is not None:
        places[config.backbone_weights or ""] = found.merged
    resolved = find_weights(found.name, folders=places, of=of)
    if of == "encoders":
        return _Base(config=config, encoders=load_encoders(config, resolved, device=device))
    backbone = resolved[config.backbone_weights or ""]
    tokenizer_path = backbone / "tokenizer.json"
    file_tokenizer = FileTokenizer.load(tokenizer_path)
    if found.lora is not None and found.info.base_sha256 != base_digest(backbone, tokenizer_path):
        raise CheckpointError(
            f"adapter {found.folder.name} was trained on another {found.name!r} than this one (its sha256 differs); "
            "give the backbone that it was trained on",
            field="adapter",
        )
    encoders = () if of == "backbone" else load_encoders(config, resolved, device=device)
    return _Base(config=config, encoders=encoders, tokenizer=file_tokenizer, backbone=backbone)


def _projectors(config: ModelConfig, folder: Path) -> dict[str, nn.Module]:
    modules = nn.ModuleDict(
        {
            stream.name: build_projector(stream.width, config.backbone.hidden_size, stream.projector)
            for stream in config.streams
        }
    )
    path = folder / "projectors.safetensors"
    load_into(modules, read_tensors(path, dtype=torch.float32), what=str(path))
    return dict(modules.items())


# ---- engines -----------------------------------------------------------------------------------------------------


def _lean(
    found: _Found,
    base: _Base,
    projectors: Mapping[str, nn.Module],
    chat: ChatRenderer,
    device: torch.device,
    bases: Bases | None,
) -> RuntimeEngine:
    """Build our own runtime: on the shared base where there is one and it is large, else on a merged copy."""
    dtype = torch.float32 if device.type == "cpu" else getattr(torch, base.config.dtype)
    if bases is not None and base.num_bytes(dtype) >= bases.shared_from_bytes:
        with bases.lock:
            if base.shared is None:
                base.shared = _share(base, dtype=dtype, device=device)
        shared = base.shared
        view = shared.adapted(None if found.lora is None else shared.read_update(found.lora))
        runtime = Runtime(view, projectors, chat.placeholder_ids, eos_ids=_ends(view.shape, chat))
        with bases.lock:
            if base.replies is None:  # its own runtime holds nothing of any adapter
                base.replies = RuntimeEngine(Runtime(shared, {}, {}, eos_ids=tuple(runtime.eos_ids))).replies
        return RuntimeEngine(runtime, replies=base.replies)
    if base.backbone is None:
        tensors = build_debug_backbone(base.config).state_dict()
        lean = LeanLlama.from_tensors(
            base.config.backbone, tensors, adapter=found.lora, dtype=dtype, device=device, what="the debug backbone"
        )
    else:
        lean = LeanLlama.load(base.backbone, adapter=found.lora, dtype=dtype, device=device)
    return RuntimeEngine(Runtime(lean, projectors, chat.placeholder_ids, eos_ids=_ends(lean.shape, chat)))


def _share(base: _Base, *, dtype: torch.dtype, device: torch.device) -> SharedLlama:
    if base.backbone is not None:
        return SharedLlama.read(base.backbone, dtype=dtype, device=device)
    tensors = build_debug_backbone(base.config).state_dict()
    return SharedLlama.build(base.config.backbone, tensors, dtype=dtype, device=device, what="the debug backbone")


def _paged(
    found: _Found, base: _Base, projectors: Mapping[str, nn.Module], chat: ChatRenderer, device: torch.device
) -> Engine:
    from emollama.backbones.llama import load_llama
    from emollama.backbones.lora import load_lora, merge_lora
    from emollama.backbones.paged import PagedOptions
    from emollama.paged_parts import PagedChatEngine

    dtype = torch.float32 if device.type == "cpu" else getattr(torch, base.config.dtype)
    llama: Any = build_debug_backbone(base.config) if base.backbone is None else load_llama(base.backbone, dtype=dtype)
    if found.lora is not None:
        llama = merge_lora(load_lora(llama, found.lora))
    shape = base.config.backbone if base.backbone is None else LlamaShape.load(base.backbone)
    return PagedChatEngine.of(
        llama.requires_grad_(False).to(device).eval(),
        projectors,
        chat.placeholder_ids,
        eos_ids=frozenset(_ends(shape, chat)),
        options=PagedOptions(mode="sample", num_pages=None if device.type == "cuda" else _PAGES),
    )


def _ends(shape: LlamaShape, chat: ChatRenderer) -> tuple[int, ...]:
    return tuple(dict.fromkeys((*shape.eos_token_ids, chat.end_id)))

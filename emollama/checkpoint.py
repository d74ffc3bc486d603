"""Where weights are: the table of models, their checksums, and fetching them when (and only when) that is asked for.

`nano` lies inside the package. Everything else is looked for in a folder the user names, then in the Hugging Face
cache; it is fetched only with ``download=True``, resumably, at a pinned revision, safetensors and JSON only, and its
sha256 is compared with the table's or, where the table has none, with the one that the hub states for the file.
Weights that their authors published as pickles are never fetched or opened here; the error says what to do instead.
Reading and writing tensors is `emollama.tensors`.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol

from emollama.errors import CheckpointError, DependencyError, UnknownNameError
from emollama.tensors import PICKLE_SUFFIXES, refuse_pickle, write_json

ASSETS = Path(__file__).parent / "assets"
MANIFEST = "sha256.json"
ALLOWED_SUFFIXES = (".safetensors", ".json")
_CHUNK = 1 << 20


@dataclass(frozen=True, kw_only=True)
class WeightsEntry:
    """Published weights: ``repo`` on the Hugging Face Hub at ``revision``, ``files`` -> sha256 or ``None`` (the hub's).

    ``pickle_note`` is set when the authors published only pickles: what they are and how one gets safetensors of them.
    """

    repo: str | None
    revision: str | None
    files: Mapping[str, str | None] = field(default_factory=dict)
    licence: str = ""
    gigabytes: float = 0.0
    is_gated: bool = False
    pickle_note: str | None = None


_LLAMA_FILES = ("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json")


def _files(*names: str) -> Mapping[str, str | None]:
    return MappingProxyType(dict.fromkeys(names))


def _shards(count: int) -> tuple[str, ...]:
    shards = tuple(f"model-{index:05d}-of-{count:05d}.safetensors" for index in range(1, count + 1))
    return (*shards, "model.safetensors.index.json")


MODELS: Mapping[str, WeightsEntry] = MappingProxyType(
    {
        "nano": WeightsEntry(repo=None, revision=None, licence="Apache-2.0", gigabytes=0.03),
        "llama-3.1-8b-instruct": WeightsEntry(
            repo="meta-llama/Llama-3.1-8B-Instruct",
            revision="0e9e39f249a16976918f6564b8830bc894c89659",
            files=_files(*_LLAMA_FILES, *_shards(4)),
            licence="Llama 3.1 Community License",
            gigabytes=16.1,
            is_gated=True,
        ),
        "llama-2-7b-chat": WeightsEntry(
            repo="meta-llama/Llama-2-7b-chat-hf",
            revision="f5db02db724555f92da89c216ac04704f23d4590",
            files=_files(*_LLAMA_FILES, *_shards(2)),
            licence="Llama 2 Community License",
            gigabytes=13.5,
            is_gated=True,
        ),
        "whisper-large-v3": WeightsEntry(
            repo="openai/whisper-large-v3",
            revision="06f233fe06e710322aca913c1bc4249a0d71fce1",
            licence="MIT",
            gigabytes=3.1,
            pickle_note="openai-whisper's own file large-v3.pt, read with weights_only; "
            "allow its download with WhisperEncoder.load('large-v3', download=True)",
        ),
        "clip-vit-l-14": WeightsEntry(
            repo="timm/vit_large_patch14_clip_224.openai",
            revision="main",
            files=_files("open_clip_config.json", "open_clip_model.safetensors"),
            licence="MIT",
            gigabytes=1.7,
        ),
        "chinese-hubert-large": WeightsEntry(
            repo="TencentGameMate/chinese-hubert-large",
            revision="90cb660492214f687e60f5ca509b20edae6e75bd",
            licence="MIT",
            gigabytes=1.3,
            pickle_note="pytorch_model.bin with config.json beside it; `emollama convert hubert`",
        ),
        "hsemotion-b0": WeightsEntry(
            repo=None,
            revision=None,
            licence="Apache-2.0",
            gigabytes=0.02,
            pickle_note="enet_b0_8_va_mtl.pt of HSEmotion (EmotiEffLib), a pickled module; convert it to safetensors",
        ),
        "eva-clip-g": WeightsEntry(
            repo=None,
            revision=None,
            licence="MIT",
            gigabytes=2.0,
            pickle_note="eva_vit_g.pth of LAVIS (BLIP-2); `emollama convert eva-clip-g`",
        ),
        "face-mae": WeightsEntry(
            repo=None,
            revision=None,
            licence="EULA of MER2023 (academic)",
            gigabytes=1.2,
            pickle_note="mae_checkpoint-340.pth of the Emotion-LLaMA authors; `emollama convert face-mae`",
        ),
        "video-mae": WeightsEntry(
            repo=None,
            revision=None,
            licence="EULA of MER2023 (academic)",
            gigabytes=1.2,
            pickle_note="maeVideo_ckp199 of the Emotion-LLaMA authors; `emollama convert video-mae`",
        ),
    }
)


class Hub(Protocol):
    """What is needed of huggingface_hub; tests give their own."""

    def fetch(self, repo: str, filename: str, *, revision: str, is_local: bool) -> Path | None:
        """Return a file's local path; with ``is_local`` only from the cache, ``None`` when it is not there."""

    def stated_sha256(self, repo: str, filenames: Sequence[str], *, revision: str) -> Mapping[str, str]:
        """Return the sha256 that the hub states for large files."""


class HuggingFaceHub:
    """huggingface_hub: resumable, cached, offline mode (``HF_HUB_OFFLINE=1``) honoured."""

    def fetch(self, repo: str, filename: str, *, revision: str, is_local: bool) -> Path | None:
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import (
            EntryNotFoundError,
            GatedRepoError,
            HfHubHTTPError,
            LocalEntryNotFoundError,
            OfflineModeIsEnabled,
        )

        try:
            return Path(hf_hub_download(repo, filename, revision=revision, local_files_only=is_local))
        except GatedRepoError as error:
            raise DependencyError(
                f"{repo} asks for its licence to be accepted: do so at https://huggingface.co/{repo}, "
                "then `hf auth login`"
            ) from error
        except OfflineModeIsEnabled as error:
            raise DependencyError(
                f"{repo}/{filename} is not in the cache and HF_HUB_OFFLINE forbids fetching it"
            ) from error
        except LocalEntryNotFoundError as error:
            if is_local:
                return None
            raise DependencyError(f"{repo}/{filename} could not be fetched: {error}") from error
        except (EntryNotFoundError, HfHubHTTPError, OSError) as error:
            raise DependencyError(f"{repo}/{filename} could not be fetched: {error}") from error

    def stated_sha256(self, repo: str, filenames: Sequence[str], *, revision: str) -> Mapping[str, str]:
        from huggingface_hub import HfApi

        found = HfApi().get_paths_info(repo, list(filenames), revision=revision)
        stated = ((entry.path, getattr(entry, "lfs", None)) for entry in found)  # a folder, or a small file, has none
        return {path: lfs.sha256 for path, lfs in stated if lfs}


def resolve_weights(name: str, *, folder: Path | None = None, download: bool = False, hub: Hub | None = None) -> Path:
    """Return the folder (or file) that holds the weights of ``name``.

    ``folder`` is the user's own copy and wins. Otherwise the Hugging Face cache is searched, and only ``download=True``
    fetches. Raises `UnknownNameError`, or `DependencyError` that says what is missing and how to get it.
    """
    entry = weights_entry(name)
    if folder is not None:
        if not folder.exists():
            raise CheckpointError(f"there is no {folder} for the weights of {name!r}", field="weights")
        if folder.is_file():
            refuse_pickle(folder)
        return folder
    if name == "nano":
        return ASSETS / "nano"
    if entry.pickle_note is not None:
        raise DependencyError(
            f"the weights of {name!r} are published as a pickle ({entry.pickle_note}); give the folder or the "
            "safetensors file that holds them",
            field="weights",
        )
    assert entry.repo is not None
    assert entry.revision is not None
    hub = hub or HuggingFaceHub()
    found = {name: hub.fetch(entry.repo, name, revision=entry.revision, is_local=True) for name in entry.files}
    missing = [filename for filename, path in found.items() if path is None]
    if missing and not download:
        gate = " after its licence is accepted there" if entry.is_gated else ""
        raise DependencyError(
            f"the weights of {name!r} are not here ({len(missing)} of {len(found)} files, {entry.gigabytes:g} GB in "
            f"all, {entry.licence}); allow their download from https://huggingface.co/{entry.repo}{gate} "
            "(download=True), or give the folder that holds them",
            field="weights",
        )
    if missing:
        fetched = {
            filename: _fetch(hub, entry, filename) for filename in missing
        }  # one after the other: each is resumed where it stopped
        _check_fetched(hub, entry, fetched)
        found |= fetched
    return next(path for path in found.values() if path is not None).parent


def weights_entry(name: str) -> WeightsEntry:
    """Return the row of `MODELS`, or raise `UnknownNameError` with the names that are."""
    if name not in MODELS:
        raise UnknownNameError("weights", name, MODELS)
    return MODELS[name]


def _fetch(hub: Hub, entry: WeightsEntry, filename: str) -> Path:
    if Path(filename).suffix not in ALLOWED_SUFFIXES:
        raise CheckpointError(f"{filename} is not a safetensors or JSON file and is not fetched", field="weights")
    assert entry.repo is not None
    assert entry.revision is not None
    path = hub.fetch(entry.repo, filename, revision=entry.revision, is_local=False)
    if path is None:
        raise DependencyError(f"{entry.repo}/{filename} could not be fetched", field="weights")
    return path


def _check_fetched(hub: Hub, entry: WeightsEntry, fetched: Mapping[str, Path]) -> None:
    assert entry.repo is not None
    assert entry.revision is not None
    unknown = [filename for filename in fetched if entry.files[filename] is None]
    stated = hub.stated_sha256(entry.repo, unknown, revision=entry.revision) if unknown else {}
    for filename, path in fetched.items():
        expected = entry.files[filename] or stated.get(filename)
        if expected is not None and sha256_of(path) != expected:
            raise CheckpointError(f"{path} is damaged: its sha256 is not {expected}; delete it and fetch it again")


# ---- checksums ----------------------------------------------------------------------------------------------------


def sha256_of(path: Path) -> str:
    """Return the sha256 of a file in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def write_manifest(folder: Path) -> Path:
    """Write ``sha256.json``: the sha256 of every file of a model folder, by its path inside it."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != MANIFEST)
    for path in files:
        if path.suffix in PICKLE_SUFFIXES:
            refuse_pickle(path)
    write_json(folder / MANIFEST, {path.relative_to(folder).as_posix(): sha256_of(path) for path in files})
    return folder / MANIFEST


def verify_manifest(folder: Path) -> int:
    """Compare a model folder with its ``sha256.json`` and return the number of files; a difference is raised."""
    path = folder / MANIFEST
    if not path.is_file():
        raise CheckpointError(f"{folder} holds no {MANIFEST}", field="model")
    stated: dict[str, Any] = json.loads(path.read_text("utf-8"))
    for name, expected in stated.items():
        file = folder / name
        if not file.is_file():
            raise CheckpointError(f"{file} is missing", field="model")
        if sha256_of(file) != expected:
            raise CheckpointError(f"{file} is damaged or changed: its sha256 is not {expected}", field="model")
    return len(stated)


# ---- a model folder -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class ModelAssets:
    """The files of a model folder of nano's layout; ``adapter`` is ``None`` when it has none (merged or untuned)."""

    name: str
    folder: Path
    tokenizer: Path
    backbone: Path
    projectors: Path
    face: Path
    voice: Path
    calibration: Path
    adapter: Path | None = None


def load_assets(model: str | os.PathLike[str], *, adapter: Path | None = None, verify: bool = False) -> ModelAssets:
    """Find the files of the embedded model or of a model folder; the first that is missing is named.

    ``adapter`` is a PEFT folder used in place of the model's own; it may bring its own ``projectors.safetensors`` and
    ``calibration.json``. ``verify`` compares every file with ``sha256.json``.
    """
    folder = ASSETS / model if isinstance(model, str) and model == "nano" else Path(model)
    if not folder.is_dir():
        raise UnknownNameError("model", str(model), ("nano", "or the folder of a model"))
    if verify:
        verify_manifest(folder)
    own = adapter if adapter is not None else folder / "adapter"
    if adapter is not None and not (adapter / "adapter_config.json").is_file():
        raise CheckpointError(f"{adapter} is not an adapter folder: adapter_config.json is missing", field="adapter")

    def of(name: str) -> Path:
        brought = own / name
        path = brought if adapter is not None and brought.is_file() else folder / name
        if not path.exists():
            raise CheckpointError(f"the model in {folder} lacks {name}", field="model")
        return path

    return ModelAssets(
        name=folder.name,
        folder=folder,
        tokenizer=of("tokenizer.json"),
        backbone=of("backbone"),
        projectors=of("projectors.safetensors"),
        face=of("face.safetensors"),
        voice=of("voice.safetensors"),
        calibration=of("calibration.json"),
        adapter=own if (own / "adapter_config.json").is_file() else None,
    )

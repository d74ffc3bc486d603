"""nano's encoders as makers of utterance vectors: the face net, the measured voice, the backbone after the words.

``face`` [D + 8] is the mean over the pictures of embedding and log-probabilities; ``voice`` [102] the functionals as
they are measured, which no training set has touched; ``words`` [W] the state of nano's LLaMA before the label.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path

import numpy as np

from emollama import prosody
from emollama.encoders.face import FaceEncoder
from emollama.fusion.prompted_text import PromptedText
from emollama.types import Audio, Clip

NANO = Path(__file__).parents[1] / "assets" / "nano"
MODALITIES = ("face", "voice", "words")


class NanoVectors:
    """Loads each encoder when it is first asked for."""

    def __init__(self, folder: Path = NANO) -> None:
        self.folder = folder

    @cached_property
    def _face(self) -> FaceEncoder:
        return FaceEncoder.load(self.folder / "face.safetensors")

    @cached_property
    def _words(self) -> PromptedText:
        return PromptedText.load_nano(self.folder)

    def version(self, modality: str) -> str:
        """Return a name of what makes a modality's vectors: it changes with the weights."""
        files = {"face": ("face.safetensors",), "voice": (), "words": ("tokenizer.json", "backbone/model.safetensors")}
        digest = hashlib.sha256(b"1")
        for name in files[modality]:
            digest.update((self.folder / name).read_bytes())
        if modality == "voice":
            digest.update(repr(prosody.FUNCTIONAL_NAMES).encode())
        return digest.hexdigest()[:12]

    def face(self, crops: np.ndarray) -> np.ndarray | None:
        """Return the vector of a track's crops [T, S, S, 3] uint8, or ``None`` of none."""
        return self.each_face(crops).mean(0) if len(crops) else None

    def each_face(self, crops: np.ndarray) -> np.ndarray:
        """Return the vectors [T, D + 8] of single crops."""
        read = self._face.embed(crops)
        return np.concatenate((read.embedding, read.log_probabilities), axis=1).astype(np.float32)

    def voice(self, audio: Audio) -> np.ndarray | None:
        """Return the functionals [102], or ``None`` where no voice is heard."""
        measured = prosody.measure(audio)
        if not measured.segments or measured.functionals is None:
            return None
        return np.asarray(measured.functionals, np.float32)

    def words(self, text: str, *, cues: str | None = None) -> np.ndarray | None:
        return self._words.vector(text, cues=cues)

    def read(self, clip: Clip) -> Mapping[str, np.ndarray]:
        """Return the vectors of what a clip has; its faces are those that were followed already (``tracks``)."""
        found: dict[str, np.ndarray | None] = {}
        main = next((track for track in clip.tracks or () if track.is_main), None)
        if main is not None:
            found["face"] = self.face(main.crops)
        if clip.audio is not None:
            found["voice"] = self.voice(clip.audio)
        if clip.transcript is not None:
            found["words"] = self.words(clip.transcript.text)
        return {name: vector for name, vector in found.items() if vector is not None}

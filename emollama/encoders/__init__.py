"""Encoders: one file each; `ENCODERS` names the class, imported only when a model is built."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

# name -> "module:Class"
ENCODERS: Mapping[str, str] = MappingProxyType(
    {
        "face": "emollama.encoders.face:FaceEncoder",
        "voice": "emollama.encoders.voice:VoiceEncoder",
        "whisper": "emollama.encoders.whisper:WhisperEncoder",
    }
)

"""Encoders: one file each; `ENCODERS` names the class, imported only when a model is built."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

# name -> "module:Class"
ENCODERS: Mapping[str, str] = MappingProxyType(
    {
        "clip": "emollama.encoders.clip:ClipEncoder",
        "emovclip": "emollama.encoders.emovclip:EmoVclipEncoder",
        "eva": "emollama.encoders.eva:EvaEncoder",
        "face": "emollama.encoders.face:FaceEncoder",
        "face_mae": "emollama.encoders.face_mae:FaceMaeEncoder",
        "hubert": "emollama.encoders.hubert:HubertEncoder",
        "text": "emollama.encoders.text:TextEncoder",
        "video_mae": "emollama.encoders.video_mae:VideoMaeEncoder",
        "voice": "emollama.encoders.voice:VoiceEncoder",
        "wav2vec2": "emollama.encoders.wav2vec2:Wav2Vec2Encoder",
        "whisper": "emollama.encoders.whisper:WhisperEncoder",
    }
)

"""Published checkpoints that are pickles -> folders that this project loads.

A converter accounts for every key of its file: it becomes a tensor of ours, is known to be dead and dropped by name, or
is an error. Pickles are opened here and nowhere else, by torch's reader of tensors alone or by one that imports no name
(`pickled_module`); neither runs code.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

# name -> module:function of (checkpoint, out, **options); imported only when asked for
CONVERTERS: Mapping[str, str] = MappingProxyType(
    {
        "emotion-llama": "emollama.converters.emotion_llama:convert_emotion_llama",
        "eva-clip-g": "emollama.converters.vision:convert_eva",
        "face-mae": "emollama.converters.vision:convert_face_mae",
        "hsemotion": "emollama.converters.hsemotion:convert_hsemotion",
        "hubert": "emollama.converters.hubert:convert_hubert",
        "video-mae": "emollama.converters.vision:convert_video_mae",
    }
)

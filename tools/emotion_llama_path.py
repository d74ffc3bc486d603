"""An mp4's way to the 260 tokens of Emotion-LLaMA at full size, with random weights, one encoder in memory at a time.

    python tools/emotion_llama_path.py --json docs/logs/emotion-llama-path.json

Shows that the encoders, at their published sizes, run over a raw clip and fill the prompt; not what they see, which
wants the published weights. Wants about 5 GB of memory and some minutes of one core.
"""

from __future__ import annotations

import argparse
import gc
import time
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch

from emollama.checkpoint import ASSETS
from emollama.config import EMOTION_LLAMA_7B
from emollama.encoders import ENCODERS
from emollama.faces import track_faces
from emollama.media import read_clip
from emollama.projectors import build_projector
from eval.report import provenance, write_json


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--clip", type=Path, default=ASSETS / "sample" / "sample.mp4")
    parser.add_argument("--fps", type=float, default=5.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, required=True)
    options = parser.parse_args()
    clip = read_clip(options.clip, fps=options.fps, end=5.0)
    assert clip.frames is not None
    assert clip.audio is not None
    track = next(track for track in track_faces(clip.frames, audio=clip.audio) if track.is_main)
    given: dict[str, Any] = {"frames": clip.frames.images[:1], "face": track.crops, "audio": clip.audio}
    torch.manual_seed(options.seed)
    encoders, tokens = [], {}
    for config in EMOTION_LLAMA_7B.encoders:
        module, _, name = ENCODERS[config.kind].partition(":")
        encoder = getattr(import_module(module), name).build()
        began = time.perf_counter()
        found = encoder.encode(given[config.reads])
        seconds = time.perf_counter() - began
        tokens |= found
        encoders.append(
            {
                "encoder": config.kind,
                "parameters": sum(parameter.numel() for parameter in encoder.model.parameters()),
                "streams": {stream: list(array.shape) for stream, array in found.items()},
                "seconds": round(seconds, 1),
            }
        )
        del encoder
        gc.collect()
    projected, counts = [], {}
    for stream in EMOTION_LLAMA_7B.streams:
        projector = build_projector(stream.width, EMOTION_LLAMA_7B.backbone.hidden_size, stream.projector)
        counts[stream.name] = sum(parameter.numel() for parameter in projector.parameters())
        with torch.inference_mode():
            projected.append(projector(torch.from_numpy(np.ascontiguousarray(tokens[stream.name]))[None])[0])
    rows = torch.cat(projected)
    result = {
        "clip": options.clip.name,
        "crops": len(track.crops),
        "sound_seconds": round(clip.audio.seconds, 2),
        "encoders": encoders,
        "projections": counts,
        "tokens": list(rows.shape),
        "all_finite": bool(rows.isfinite().all()),
        "all_different": len({row.numpy().tobytes() for row in rows}) == len(rows),
    }
    write_json(options.json, {"task": "emotion_llama_path", **provenance(), "result": result})


if __name__ == "__main__":
    main()

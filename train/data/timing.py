"""How long a clip takes to encode here, measured on a few of the data set's own clips with the embedded model."""

from __future__ import annotations

from emollama.manifest import Manifest, Sample
from train.data.cost import Speed, measure_encoding


def time_nano(manifest: Manifest, *, num: int = 3) -> Speed:
    """Encode ``num`` clips of different size with nano, as training will, and return what was measured."""
    from train.clip_task import ClipOptions
    from train.features import clip_of
    from train.trainees.nano import NanoTrainee

    trainee = NanoTrainee(ClipOptions(), manifest.labels or ("neutral", "other"))
    with_clips = [sample for sample in manifest.samples if sample.clip is not None and sample.split != "test"]

    def size(sample: Sample) -> float:
        # Bytes stand for length: opening every clip to put three of them in order would cost more than the three.
        path = manifest.clip_path(sample)
        return float(path.stat().st_size) if path is not None and path.is_file() else 0.0

    return measure_encoding(with_clips, lambda sample: trainee.read(clip_of(manifest, sample)), size=size, num=num)

import io
import json

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from emollama.datasets import emodb
from emollama.errors import DatasetError


def flac(samples, *, rate=16_000):
    file = io.BytesIO()
    with av.open(file, "w", format="flac") as container:
        stream = container.add_stream("flac", rate=rate, layout="mono")
        frame = av.AudioFrame.from_ndarray((samples[None] * 32767).astype(np.int16), format="s16", layout="mono")
        frame.rate = rate
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            container.mux(packet)
    return file.getvalue()


def row(name, emotion, *, speaker="03", encoded=None):
    tone = 0.2 * np.sin(2 * np.pi * 200 * np.arange(8000) / 16_000).astype(np.float32)
    return {
        "name": name,
        "speaker": speaker,
        "sex": "male",
        "sentence": "a01",
        "emotion": emotion,
        "sample_rate": 16_000,
        "seconds": 0.5,
        "flac": flac(tone) if encoded is None else encoded,
    }


@pytest.fixture
def folder(tmp_path):
    def make(rows):
        path = tmp_path / "speech" / "emodb.parquet"
        path.parent.mkdir(exist_ok=True)
        pq.write_table(pa.Table.from_pylist(rows), path)
        return tmp_path

    return make


def test_recordings_are_decoded_and_boredom_is_left_out(folder):
    data = folder([row("a", "anger"), row("b", "boredom"), row("c", "fear", speaker="08")])
    first, second = emodb.read(data)
    assert (first.name, first.emotion, second.speaker) == ("a", "anger", "08")
    assert first.audio.seconds == pytest.approx(0.5)
    assert np.abs(first.audio.samples).max() == pytest.approx(0.2, abs=0.01)
    assert [u.name for u in emodb.read(data, with_boredom=True)] == ["a", "b", "c"]
    assert len(emodb.read(data / "speech" / "emodb.parquet")) == 2  # the file itself may be named, too


def test_another_rate_is_resampled():
    assert emodb.decode(flac(np.zeros(24_000, np.float32), rate=48_000), name="x").seconds == pytest.approx(
        0.5, abs=0.01
    )


def test_the_manifest_has_a_line_a_recording(folder, tmp_path):
    data = folder([row("a", "anger"), row("b", "boredom")])
    assert emodb.prepare(data, tmp_path / "emodb.jsonl") == 1
    (line,) = (tmp_path / "emodb.jsonl").read_text().splitlines()
    assert json.loads(line) == {"id": "a", "speaker": "03", "sentence": "a01", "label": "anger", "seconds": 0.5}


def test_what_is_wrong_is_said(folder, tmp_path):
    with pytest.raises(DatasetError, match="EMOLLAMA_DATA"):
        emodb.read(tmp_path)
    with pytest.raises(DatasetError, match="row 0: emotion is 'joy'"):
        emodb.read(folder([row("a", "joy")]))
    with pytest.raises(DatasetError, match="row 1: the recording cannot be decoded"):
        emodb.read(folder([row("a", "anger"), row("b", "fear", encoded=b"junk")]))

import io
import json

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from emollama.datasets.emodb import FOLDS
from emollama.encoders.voice import VoiceEncoder
from emollama.errors import DatasetError
from emollama.labels import EMODB_6
from eval.parts.emodb import evaluate


def flac(samples):
    file = io.BytesIO()
    with av.open(file, "w", format="flac") as container:
        stream = container.add_stream("flac", rate=16_000, layout="mono")
        frame = av.AudioFrame.from_ndarray((samples[None] * 32767).astype(np.int16), format="s16", layout="mono")
        frame.rate = 16_000
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            container.mux(packet)
    return file.getvalue()


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    silence = flac(np.zeros(4000, np.float32))
    path = tmp_path_factory.mktemp("data") / "other-speakers.parquet"
    rows = [
        {
            "name": f"{speaker}{emotion}", "speaker": speaker, "sex": "male", "sentence": "a01", "emotion": emotion,
            "sample_rate": 16_000, "seconds": 0.25, "flac": silence,
        }
        for fold in FOLDS for speaker in fold for emotion in (*EMODB_6, "boredom")
    ]  # fmt: skip
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def opinions(path, *, right):
    """An out-of-fold file that is right about the speakers in ``right`` and says anger of all others."""
    logs = {}
    for fold in FOLDS:
        for speaker in fold:
            for emotion in EMODB_6:
                said = np.full(6, 0.02)
                said[EMODB_6.index(emotion) if speaker in right else 0] = 0.9
                logs[f"{speaker}{emotion}"] = np.log(said).tolist()
    path.write_text(json.dumps({"labels": EMODB_6, "log_probabilities": logs}))
    return path


def test_cross_validation_is_the_mean_of_the_folds(table, tmp_path):
    figures = evaluate(table, out_of_fold=opinions(tmp_path / "oof.json", right=(*FOLDS[0], FOLDS[1][0])))
    assert figures["folds"]["+".join(FOLDS[0])] == pytest.approx(1)
    assert figures["folds"]["+".join(FOLDS[1])] == pytest.approx((1 + 5 * 0.5) / 6)
    assert figures["folds"]["+".join(FOLDS[2])] == pytest.approx(1 / 6)
    assert figures["uar"] == pytest.approx(np.mean(list(figures["folds"].values())))
    assert figures["recordings"] == 48
    assert figures["recall"]["anger"] == pytest.approx(1)


def test_a_recording_without_a_voice_counts_as_wrong(table):
    seen = []
    figures = evaluate(table, model=VoiceEncoder.build(), progress=lambda done, total: seen.append((done, total)))
    assert figures["without_voice"] == 48
    assert figures["uar"] == figures["war"] == 0
    assert seen[-1] == (48, 48)


def test_out_of_fold_files_that_do_not_fit_are_refused(table, tmp_path):
    with pytest.raises(DatasetError, match="emollama train nano_voice"):
        evaluate(table, out_of_fold=tmp_path / "absent.json")
    (tmp_path / "oof.json").write_text(json.dumps({"labels": EMODB_6, "log_probabilities": {}}))
    with pytest.raises(DatasetError, match="lacks 48 recordings"):
        evaluate(table, out_of_fold=tmp_path / "oof.json")

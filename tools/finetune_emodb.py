"""Fine-tune through a running service with the official ``openai`` client alone, and measure what it brought.

    python tools/finetune_emodb.py --data ../shared/data --hold-out 15,16 --json docs/logs/finetune-emodb.json

EmoDB (Parquet, see README) is made into a zip of clips with their seven labels, of which nano has never heard boredom.
Two speakers are held out; the service is started, the zip uploaded, a job created and followed by its events, and every
recording of the two speakers is posted to /analyze with the base and with the new model. ``--unheard-voice`` first
trains the voice branch without the two speakers (recipe ``nano_voice``, some minutes) and gives the service that nano,
so that no part of either model has heard them (the instruct stage of nano left out 15 and 16).
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import typer
from openai import OpenAI

from emollama import metrics
from emollama.checkpoint import ASSETS
from emollama.datasets.emodb import EMOTIONS
from emollama.labels import NANO_LABELS
from eval.report import provenance, write_json

Row = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--hold-out", default="15,16", help="Two speakers that the job does not hear.")
    parser.add_argument(
        "--unheard-voice", action="store_true", help="Give the service a voice branch without them, too."
    )
    parser.add_argument("--json", type=Path, default=None)
    given = parser.parse_args()
    held_out = tuple(given.hold_out.split(","))
    with tempfile.TemporaryDirectory(prefix="emollama-finetune-") as place:
        result = prove(given.data, held_out, Path(place), unheard_voice=given.unheard_voice)
    typer.echo(json.dumps(result, indent=2))
    if given.json is not None:
        write_json(given.json, {"task": "finetune_emodb", **provenance(), "result": result})


def prove(data: Path, held_out: tuple[str, ...], place: Path, *, unheard_voice: bool) -> dict[str, Any]:
    table = pq.read_table(data / "speech" / "emodb.parquet")
    rows: list[Row] = table.to_pylist()
    model = ASSETS / "nano"
    if unheard_voice:
        model = without_speakers(table, held_out, place)
    heard = [row for row in rows if row["speaker"] not in held_out]
    tested = [row for row in rows if row["speaker"] in held_out]
    bundle = write_bundle(heard, place / "bored.zip")
    url, server = serve(model, place)
    try:
        client = OpenAI(base_url=f"{url}/v1", api_key="unused")
        started = time.monotonic()
        with bundle.open("rb") as file:
            uploaded = client.files.create(file=file, purpose="fine-tune")
        job = client.fine_tuning.jobs.create(model=model.name, training_file=uploaded.id, suffix="bored", seed=1)
        seen: list[str] = []
        while True:
            events = client.fine_tuning.jobs.list_events(job.id, limit=100).data
            for event in reversed(events):
                if event.id not in seen:
                    seen.append(event.id)
                    typer.echo(f"{time.monotonic() - started:6.1f} s  {event.message}", err=True)
            job = client.fine_tuning.jobs.retrieve(job.id)
            if job.status in ("succeeded", "failed", "cancelled"):
                break
            time.sleep(2)
        seconds = time.monotonic() - started
        if job.fine_tuned_model is None:
            raise SystemExit(f"the job ended as {job.status}: {job.error}")
        base = measure(url, tested, model=model.name, labels=EMOTIONS)
        tuned = measure(url, tested, model=job.fine_tuned_model, labels=None)
        pictures = clear_faces(data)
        faces = {name: look(url, pictures, model=name) for name in (model.name, job.fine_tuned_model)}
    finally:
        server.terminate()
        server.wait(60)
    return {
        "held_out_speakers": list(held_out),
        "voice_branch_heard_them": not unheard_voice,
        "trained_on": len(heard),
        "tested_on": len(tested),
        "fine_tuned_model": job.fine_tuned_model,
        "hyperparameters": job.hyperparameters.model_dump() if job.hyperparameters else None,
        "trained_tokens": job.trained_tokens,
        "seconds_from_upload_to_success": round(seconds, 1),
        "num_events": len(seen),
        "base": base,
        "tuned": tuned,
        "faces_kept": {"pictures": len(pictures), "base": faces[model.name], "tuned": faces[job.fine_tuned_model]},
        "macro_f1_gain": round(tuned["macro_f1"] - base["macro_f1"], 4),
    }


def write_bundle(rows: list[Row], path: Path) -> Path:
    """A zip of ``manifest.jsonl`` and the clips, as a user would make it."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as bundle:
        lines = [{"manifest_version": 1, "name": "EmoDB", "license": "CC0", "labels": list(EMOTIONS)}]
        for row in rows:
            name = f"clips/{row['name']}.flac"
            bundle.writestr(name, row["flac"])
            lines.append({"id": row["name"], "clip": name, "label": row["emotion"], "speaker": row["speaker"]})
        bundle.writestr("manifest.jsonl", "".join(json.dumps(line) + "\n" for line in lines))
    return path


def without_speakers(table: pa.Table, held_out: tuple[str, ...], place: Path) -> Path:
    """A copy of nano whose voice branch was trained without some speakers."""
    kept = table.filter(pc.invert(pc.is_in(table["speaker"], value_set=pa.array(held_out))))
    (place / "data" / "speech").mkdir(parents=True)
    pq.write_table(kept, place / "data" / "speech" / "emodb.parquet")
    fold = json.dumps(
        [sorted(set(kept["speaker"].to_pylist()))[:2]]
    )  # a fold to validate on; the export has no part in it
    command = [
        sys.executable, "-m", "train.cli", "nano_voice", f"task.folds={fold}", f"run_dir={place / 'voice'}",
        f"export_dir={place / 'voice-export'}", f"task.cache={place / 'voice-features'}", "--data", str(place / "data"),
    ]  # fmt: skip
    subprocess.run(command, check=True, stdout=sys.stderr)
    model = place / "nano"
    shutil.copytree(ASSETS / "nano", model)
    for name in ("voice.safetensors", "voice.json"):
        shutil.copyfile(place / "voice-export" / name, model / name)
    return model


def serve(model: Path, place: Path) -> tuple[str, subprocess.Popen[bytes]]:
    """Start ``emollama serve`` on a free port and return its address when it is ready."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    name = "nano" if model == ASSETS / "nano" else str(model)
    environment = {
        **os.environ, "EMOLLAMA_PORT": str(port), "EMOLLAMA_MODEL": name, "EMOLLAMA_DATA_DIR": str(place / "service"),
        "EMOLLAMA_LOG_LEVEL": "warning", "EMOLLAMA_ORG": "acme",
    }  # fmt: skip
    server = subprocess.Popen([sys.executable, "-m", "emollama.cli", "serve"], env=environment, stdout=sys.stderr)
    url = f"http://127.0.0.1:{port}"
    for _ in range(600):
        try:
            if httpx.get(f"{url}/ready").status_code == 200:
                return url, server
        except httpx.TransportError:
            pass
        time.sleep(0.2)
    server.terminate()
    raise SystemExit("the service did not become ready")


def measure(url: str, rows: list[Row], *, model: str, labels: tuple[str, ...] | None) -> dict[str, Any]:
    """Post every recording to /analyze and score the answers; the rationales are counted, too."""
    predicted, words, sentences, replaced = [], [], [], 0
    with httpx.Client(base_url=url, timeout=120) as client:
        for row in rows:
            form = {"model": model, "timeline": "false"} | ({} if labels is None else {"labels": ",".join(labels)})
            answer = client.post("/analyze", files={"file": (f"{row['name']}.flac", row["flac"])}, data=form)
            answer.raise_for_status()
            document = answer.json()
            label = document["emotion"]["label"]
            predicted.append(EMOTIONS.index(label) if label in EMOTIONS else len(EMOTIONS))
            words.append(len(document["rationale"].split()))
            sentences.append(document["rationale"].count(". ") + 1)
            replaced += any("replaced" in warning for warning in document["warnings"])
    truth = np.array([EMOTIONS.index(row["emotion"]) for row in rows])
    guess = np.array(predicted)
    classes = len(EMOTIONS) + 1  # the last one is "no answer"
    f1 = metrics.per_class_f1(truth, guess, num_classes=classes)[: len(EMOTIONS)]
    recall = metrics.per_class_recall(truth, guess, num_classes=classes)[: len(EMOTIONS)]
    return {
        "model": model,
        "macro_f1": round(float(np.mean(f1)), 4),
        "accuracy": round(float((truth == guess).mean()), 4),
        "recall": {name: round(float(value), 4) for name, value in zip(EMOTIONS, recall, strict=True)},
        "rationale_words_median": float(np.median(words)),
        "rationale_sentences_least": int(min(sentences)),
        "rationales_replaced": replaced,
    }


def clear_faces(data: Path, count: int = 240) -> list[tuple[bytes, str]]:
    """Every so-manieth FER+ validation picture on whose expression more than half of the voters agree."""
    rows = pq.read_table(data / "faces" / "ferplus-valid.parquet").to_pylist()
    clear = [(row["png"], row["votes"]) for row in rows if max(row["votes"][: len(NANO_LABELS)]) > 5]
    chosen = clear[:: len(clear) // count][:count]
    return [(png, NANO_LABELS[int(np.argmax(votes[: len(NANO_LABELS)]))]) for png, votes in chosen]


def look(url: str, pictures: list[tuple[bytes, str]], *, model: str) -> float:
    """Accuracy over nano's own labels on faces, of which the job saw none: is what the base knew still there?"""
    right = 0
    form = {"model": model, "labels": ",".join(NANO_LABELS)}
    with httpx.Client(base_url=url, timeout=120) as client:
        for png, truth in pictures:
            answer = client.post("/analyze", files={"file": ("face.png", png)}, data=form).raise_for_status().json()
            right += answer["emotion"]["label"] == truth
    return round(right / len(pictures), 4)


if __name__ == "__main__":
    main()

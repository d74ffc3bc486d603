"""Stands in for `train.job`: the same files, events, signals and exit codes, no training and no heavy import.

``n_epochs`` times ``batch_size`` is the number of steps, ``learning_rate_multiplier`` the seconds of one. A
checkpoint is made every second step, an adapter is exported every fourth. The suffix may ask for something special:

    crash        kills itself at the third step whenever it starts without a checkpoint beyond it
    diverge      ends with an error of its own
    stubborn     does not listen to SIGTERM
    hollow       exports an adapter without weights
    waits        stops after the eleventh step until there is a file "go" in the run directory
    frugal       keeps the adapters of two checkpoints
    orphan       leaves a process behind when it is killed
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import time
from pathlib import Path
from typing import Any

run = Path(sys.argv[1])
job = json.loads((run / "job.json").read_text())
epochs = 2 if job["n_epochs"] == "auto" else job["n_epochs"]
batch_size = 4 if job["batch_size"] == "auto" else job["batch_size"]
total = epochs * batch_size
pause = 0.0 if job["learning_rate_multiplier"] == "auto" else job["learning_rate_multiplier"]
mode = job["suffix"] or ""
stopped = False


def log(event: str, **figures: Any) -> None:
    with (run / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"event": event, "time": time.time(), **figures}) + "\n")


def stop(*_: Any) -> None:
    global stopped
    stopped = mode != "stubborn"


def save(step: int) -> None:
    folder = run / "checkpoints" / f"step-{step}"
    folder.mkdir(parents=True, exist_ok=True)
    link = run / "checkpoints" / "last.new"
    link.symlink_to(folder.name)
    os.replace(link, run / "checkpoints" / "last")


def export(folder: Path, *, loss: float) -> None:
    partial = folder.with_name(folder.name + ".partial")
    partial.mkdir(parents=True, exist_ok=True)
    (partial / "adapter_config.json").write_text("{}")
    (partial / "ADAPTER_CARD.md").write_text("# An adapter\n")
    if mode != "hollow":
        (partial / "adapter_model.safetensors").write_text(repr(loss))
    os.replace(partial, folder)


signal.signal(signal.SIGTERM, stop)
# Two trainers at once in one directory would be found by who looks at this file.
with (run / "starts.log").open("a") as starts:
    starts.write(f"start {os.getpid()}\n")
assert Path(job["manifest"]).is_file()
assert job["validation_manifest"] is None or Path(job["validation_manifest"]).is_file()

last = run / "checkpoints" / "last"
step = int(os.readlink(last).rpartition("-")[2]) if last.is_symlink() else 0
if mode == "orphan" and os.fork() == 0:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    time.sleep(600)
(run / "config.json").write_text(json.dumps({"epochs": epochs, "batch_size": batch_size}))
if step == 0:
    log("features", done=2, total=4)
    log("features", done=4, total=4)
    log("start", total_steps=total, parameters=100, trained=10)
else:
    log("resume", step=step)
loss = 1.0 / max(1, step)
while step < total and not stopped:
    time.sleep(pause)
    if mode == "waits" and step == 11 and not (run / "go").exists():
        time.sleep(0.01)
        continue
    step += 1
    loss = 1.0 / step
    seconds_left = pause * (total - step)
    log("step", step=step, epoch=0, loss=loss, tokens_per_second=100.0, seconds=0.5, seconds_left=seconds_left)
    if mode == "crash" and step == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    if mode == "diverge" and step == 2:
        document = {"code": "loss_not_finite", "message": "the loss is not finite at step 2", "param": None}
        (run / "error.json").write_text(json.dumps(document))
        sys.exit(3)
    if step % 4 == 0:
        export(run / "exports" / f"step-{step}", loss=loss)
        if mode == "frugal":
            shutil.rmtree(run / "exports" / f"step-{step - 8}", ignore_errors=True)
        log("validate", step=step, loss=loss * 2, macro_f1=0.5, accuracy=0.5, best=True)
        log("checkpoint", step=step, export=f"exports/step-{step}")
    if step % 2 == 0 and mode != "crash":
        save(step)
if stopped and step < total:
    save(step)
    log("interrupt", step=step)
    sys.exit(130)
export(run / "export", loss=loss)
log("end", step=step)

"""Several processes, and processes that are killed: always the curve of one that was left alone."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml
from safetensors.torch import load_file

from train.run_dir import read_metrics

ROOT = Path(__file__).parents[2]
SCRIPT = Path(__file__).with_name("tiny_run.py")
CONFIGS = ROOT / "train" / "accelerate"
FSDP2 = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}
KILLED = -signal.SIGKILL


def environment() -> dict[str, str]:
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    return os.environ | {"PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


def do(folder: Path, *jobs: dict) -> list[list[int]]:
    """Do jobs of tiny_run.py; ``run_dir`` is a name in ``folder``. Returns the exit statuses of each."""
    file = folder / "jobs.json"
    file.write_text(json.dumps([job | {"run_dir": str(folder / job["run_dir"])} for job in jobs]))
    done = subprocess.run(
        [sys.executable, str(SCRIPT), str(file)], capture_output=True, text=True, env=environment(), check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def curve(run_dir: Path, event: str = "step") -> list[tuple[int, float]]:
    return [(line["step"], line["loss"]) for line in read_metrics(run_dir, events=[event])]


def assert_same_curve(one: Path, other: Path, *, within: float) -> None:
    for event in ("step", "validate"):
        expected, actual = curve(one, event), curve(other, event)
        assert [step for step, _ in actual] == [step for step, _ in expected]
        assert [loss for _, loss in actual] == pytest.approx([loss for _, loss in expected], abs=within)
    ours, theirs = load_file(one / "export" / "tiny.safetensors"), load_file(other / "export" / "tiny.safetensors")
    for name, tensor in ours.items():
        assert (theirs[name] - tensor).abs().max() < within, name


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Nine weighted batches an epoch, so that the last step of each has one batch less than the others."""
    folder = tmp_path_factory.mktemp("runs")
    kills = ["loss:4", "fsync:9", "replace:6", "fsync:17", "loss:9"]
    kills += [f"time:{random.Random(5).uniform(0.1, 1.5):.2f}" for _ in range(2)]
    averaged, sharp = ["ema_decay=0.8"], ["sam_rho=0.05", "checkpoint_every_steps=2"]
    statuses = do(
        folder,
        {"run_dir": "single", "overrides": ["accumulate_steps=2"]},
        {"run_dir": "ddp", "processes": 2},
        {"run_dir": "fsdp2", "processes": 2, "environment": FSDP2, "overrides": ["keep_exports=1"]},
        {"run_dir": "unkilled", "overrides": ["checkpoint_every_steps=3"]},
        {"run_dir": "killed", "overrides": ["checkpoint_every_steps=3"], "tries": [*kills, ""]},
        # One strategy begins, is killed, and another one goes on.
        {"run_dir": "moved", "processes": 2, "environment": FSDP2, "tries": ["loss:7"], "overrides": averaged},
        {"run_dir": "moved", "overrides": ["accumulate_steps=2", *averaged], "tries": ["loss:11"]},
        {"run_dir": "moved", "processes": 2, "environment": FSDP2, "overrides": averaged},
        {"run_dir": "unmoved", "overrides": ["accumulate_steps=2", *averaged]},
        {"run_dir": "sharp", "overrides": ["accumulate_steps=2", *sharp]},
        {"run_dir": "sharp-ddp", "processes": 2, "overrides": sharp},
        {"run_dir": "sharp-moved", "processes": 2, "overrides": sharp, "tries": ["loss:12"]},  # in a second pass
        {"run_dir": "sharp-moved", "overrides": ["accumulate_steps=2", *sharp]},
    )
    assert [set(each) for each in statuses[:4]] == [{0}] * 4
    assert statuses[4][:5] == [KILLED] * 5
    assert [each[-1] for each in statuses[4:]] == [0, KILLED, KILLED, 0, 0, 0, 0, KILLED, 0]
    return folder


def test_two_processes_have_the_curve_of_one_that_accumulates_two_batches(runs):
    assert_same_curve(runs / "single", runs / "ddp", within=1e-5)
    assert len(curve(runs / "ddp")) == 15  # ceil(9 / 2) steps in each of three epochs: no batch is dropped


def test_sharded_processes_have_the_curve_of_one(runs):
    assert_same_curve(runs / "single", runs / "fsdp2", within=1e-5)
    whole = load_file(runs / "single" / "checkpoints" / "last" / "model.safetensors")
    gathered = load_file(runs / "fsdp2" / "checkpoints" / "last" / "model.safetensors")
    assert {name: tensor.shape for name, tensor in gathered.items()} == {n: t.shape for n, t in whole.items()}
    assert (runs / "fsdp2" / "exports" / "step-15" / "tiny.safetensors").is_file()


@pytest.mark.parametrize("name", ["sharp-ddp", "sharp-moved"])
def test_two_processes_climb_to_the_same_sharpest_point_as_one(runs, name):
    """One gradient decides the direction, that of all batches of all processes."""
    assert_same_curve(runs / "sharp", runs / name, within=1e-5)
    plain, sharp = curve(runs / "single"), curve(runs / name)
    assert sharp[0] == pytest.approx(plain[0], abs=1e-5)  # the first loss is of the same weights
    assert abs(sharp[-1][1] - plain[-1][1]) > 1e-3


def test_a_run_that_is_killed_again_and_again_follows_the_undisturbed_one(runs):
    assert_same_curve(runs / "unkilled", runs / "killed", within=1e-6)
    lines = [json.loads(line) for line in (runs / "killed" / "metrics.jsonl").read_text().splitlines()]
    reached = 0
    resumed = []
    for line in lines:
        if line["event"] == "resume":
            resumed.append(reached - line["step"])
        reached = line.get("step", reached)
    assert len(resumed) >= 5
    assert max(resumed) > 0  # steps were lost and done again ...
    assert max(resumed) <= 3  # ... but never more than lie between two checkpoints


def test_a_run_goes_on_under_another_strategy(runs):
    assert_same_curve(runs / "unmoved", runs / "moved", within=1e-5)  # with averaged weights, in parts and whole
    averages = [load_file(runs / name / "checkpoints" / "last" / "ema.safetensors") for name in ("unmoved", "moved")]
    for name, tensor in averages[0].items():
        assert (averages[1][name] - tensor).abs().max() < 1e-5
    assert len(read_metrics(runs / "moved", events=["resume"])) == 2


@pytest.mark.slow
@pytest.mark.parametrize(("name", "kind"), [("ddp_cpu", "ddp"), ("fsdp2", "fsdp2")])
def test_the_strategy_comes_from_the_file_given_to_the_launcher(tmp_path, runs, name, kind):
    command = ["-m", "accelerate.commands.launch", "--config_file", str(CONFIGS / f"{name}.yaml")]
    command += ["--main_process_port", "0", str(SCRIPT), str(tmp_path / "run")]
    done = subprocess.run([sys.executable, *command], env=environment(), check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    start = read_metrics(tmp_path / "run", events=["start"])[0]
    assert (start["strategy"], start["processes"]) == (kind, 2)
    assert_same_curve(runs / "single", tmp_path / "run", within=1e-5)


@pytest.mark.parametrize("file", sorted(CONFIGS.glob("*.yaml")), ids=lambda file: file.stem)
def test_the_launcher_understands_every_file(file, monkeypatch):
    from accelerate.commands.config import load_config_from_file
    from accelerate.utils import DistributedType

    config = load_config_from_file(str(file))
    kinds = {"ddp": "MULTI_GPU", "ddp_cpu": "MULTI_GPU", "fsdp2": "FSDP"}
    assert config.distributed_type == DistributedType(kinds.get(file.stem, "DEEPSPEED"))
    if file.stem == "fsdp2":
        assert config.fsdp_config["fsdp_version"] == 2
    if file.stem.startswith("deepspeed"):
        assert config.deepspeed_config["zero_stage"] == int(file.stem[-1])
        assert config.deepspeed_config["gradient_accumulation_steps"] == 1
    known = vars(config).keys()
    assert yaml.safe_load(file.read_text()).keys() <= known  # nothing that accelerate would leave unread


@pytest.mark.slow
@pytest.mark.skipif(find_spec("deepspeed") is None, reason="DeepSpeed is not installed")
@pytest.mark.parametrize("stage", ["2", "3"])
def test_deepspeed_has_the_curve_of_one_process_and_goes_on_after_a_kill(tmp_path, runs, stage):
    zero = {"ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_DEEPSPEED_ZERO_STAGE": stage, "DS_ACCELERATOR": "cpu"}
    job = {"run_dir": "zero", "processes": 2, "environment": zero, "tries": ["loss:7", ""]}
    assert do(tmp_path, job) == [[KILLED, KILLED, 0, 0]]
    assert_same_curve(runs / "single", tmp_path / "zero", within=1e-5)

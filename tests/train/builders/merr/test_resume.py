import json
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from emollama.manifest import read_manifest
from train.builders.merr.observation import Observation

SCRIPT = Path(__file__).with_name("killable_run.py")


def test_a_killed_run_goes_on_where_it_was(
    tmp_path: Path, endpoint: Any, completion: Any, seen: Callable[..., Observation], good: str
) -> None:
    (tmp_path / "observation.json").write_text(json.dumps(seen().to_json_dict()))
    killed, after = False, 4

    def reply(body: dict[str, Any], n: int) -> Any:
        if n > after and not killed:
            time.sleep(0.5)  # the process is killed while it waits for these
        (moment,) = set(re.findall(r"Face at ([\d.]+) s", body["messages"][1]["content"]))
        return 200, {}, completion(good.replace("1.2 s", f"{moment} s"))

    endpoint.reply = reply
    command = [sys.executable, str(SCRIPT), str(tmp_path), endpoint.url]
    with subprocess.Popen(command, stderr=subprocess.PIPE) as process:
        while len(endpoint.bodies) < after + 1:
            assert process.poll() is None
            time.sleep(0.005)
        process.kill()
        process.communicate()
    killed = True
    asked = len(endpoint.bodies)
    subprocess.run(command, check=True)
    # every record is whole, and only what was in flight (two samples at most) was asked a second time
    for file in (tmp_path / "run").rglob("*.json"):
        json.loads(file.read_text())
    prompts = [json.dumps(body, sort_keys=True) for body in endpoint.bodies]
    assert len(set(prompts)) == 12
    assert len(prompts) - 12 <= min(2, asked)
    rows = read_manifest(tmp_path / "m.instructions.jsonl").samples
    assert [row.id for row in rows] == [f"s{n}.{grain}" for n in range(12) for grain in ("coarse", "fine")]

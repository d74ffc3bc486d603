"""`emollama jobs`: fine-tuning jobs of a running service, over HTTP; ``EMOLLAMA_API_KEY`` is sent when it is set.

Exit codes: 0 done, 1 the job that was followed did not succeed, 2 the service refused or is not there.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

if TYPE_CHECKING:
    import httpx

app = typer.Typer(
    add_completion=False, no_args_is_help=True, rich_markup_mode=None, help="Fine-tune on your own clips, by a service."
)

_JOBS = "/v1/fine_tuning/jobs"
_FAILED, _REFUSED = 1, 2
_COLORS = {"succeeded": "green", "failed": "red", "cancelled": "red", "running": "cyan", "paused": "yellow"}

Server = Annotated[
    str, typer.Option("--server", envvar="EMOLLAMA_SERVER", metavar="URL", help="Where the service listens.")
]
JobId = Annotated[str, typer.Argument(metavar="JOB", help="Id of the job: ftjob-...")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
_LOCAL = "http://127.0.0.1:8000"


@app.command()
def create(
    training: Annotated[str, typer.Argument(metavar="DATA", help="A manifest, zip, tar or tar.gz; or a file's id.")],
    model: Annotated[str, typer.Option(help="The base model.")] = "nano",
    validation: Annotated[str | None, typer.Option(help="The same for validation.")] = None,
    suffix: Annotated[str | None, typer.Option(help="A word of yours in the new model's name.")] = None,
    seed: Annotated[int | None, typer.Option(help="Makes the run repeatable.")] = None,
    epochs: Annotated[int | None, typer.Option(help="Default: chosen from the data.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Default: chosen from the data.")] = None,
    learning_rate_multiplier: Annotated[float | None, typer.Option(help="Default: chosen from the data.")] = None,
    metadata: Annotated[list[str] | None, typer.Option(metavar="KEY=VALUE", help="Notes of yours; repeatable.")] = None,
    follow: Annotated[bool, typer.Option("--follow", help="Stay and show what happens.")] = False,
    server: Server = _LOCAL,
) -> None:
    """Upload a data set, have it checked, and queue a job; prints the job's id."""
    chosen = {
        "n_epochs": epochs,
        "batch_size": batch_size,
        "learning_rate_multiplier": learning_rate_multiplier,
    }
    notes = dict(_pair(text) for text in metadata or ())
    with _client(server) as client:
        body = {
            "model": model,
            "training_file": _file_id(client, training),
            "validation_file": None if validation is None else _file_id(client, validation),
            "suffix": suffix,
            "seed": seed,
            "metadata": notes or None,
            "method": {
                "type": "supervised",
                "supervised": {"hyperparameters": {name: value for name, value in chosen.items() if value is not None}},
            },
        }
        job = _call(client, "POST", _JOBS, json=body)
        typer.echo(job["id"])
        if follow:
            _follow(client, job["id"])


@app.command("list")
def list_jobs(
    limit: Annotated[int, typer.Option(min=1, max=100, help="How many, newest first.")] = 20,
    as_json: AsJson = False,
    server: Server = _LOCAL,
) -> None:
    """List the jobs, newest first."""
    with _client(server) as client:
        rows = _call(client, "GET", _JOBS, params={"limit": limit})["data"]
    if as_json:
        typer.echo(json.dumps(rows, indent=2))
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None)
    for name in ("job", "status", "base", "made", "new model"):
        # Names are there to be copied: on a narrow terminal they go on in the next line rather than lose their end.
        table.add_column(name, overflow="fold", no_wrap=name == "job", min_width=30 if name == "job" else None)
    for row in rows:
        status = Text(row["status"], style=_COLORS.get(row["status"], ""))
        table.add_row(row["id"], status, Text(row["model"]), _time(row["created_at"]), row["fine_tuned_model"] or "")
    Console().print(table)


@app.command()
def show(job: JobId, as_json: AsJson = False, server: Server = _LOCAL) -> None:
    """Show one job: how far it is, what it was given, what came of it, its checkpoints."""
    with _client(server) as client:
        found = _call(client, "GET", f"{_JOBS}/{job}")
        checkpoints = _call(client, "GET", f"{_JOBS}/{job}/checkpoints", params={"limit": 100})["data"]
    if as_json:
        typer.echo(json.dumps({**found, "checkpoints": checkpoints}, indent=2))
        return
    _show(found, checkpoints)


@app.command()
def events(
    job: JobId,
    follow: Annotated[bool, typer.Option("--follow", help="Stay until the job has ended.")] = False,
    as_json: AsJson = False,
    server: Server = _LOCAL,
) -> None:
    """Print what happened to a job, oldest first."""
    with _client(server) as client:
        if follow:
            _follow(client, job, as_json=as_json)
            return
        found: list[dict[str, Any]] = []
        after = None
        while True:
            params = {"limit": 1000} if after is None else {"limit": 1000, "after": after}
            page = _call(client, "GET", f"{_JOBS}/{job}/events", params=params)
            found += page["data"]
            if not page["has_more"]:
                break
            after = page["last_id"]
    for event in reversed(found):
        _print_event(event, as_json=as_json)


@app.command()
def cancel(job: JobId, server: Server = _LOCAL) -> None:
    """End a job; its checkpoints stay."""
    _ask(server, job, "cancel")


@app.command()
def pause(job: JobId, server: Server = _LOCAL) -> None:
    """Stop a job after a checkpoint, until it is resumed."""
    _ask(server, job, "pause")


@app.command()
def resume(job: JobId, server: Server = _LOCAL) -> None:
    """Let a paused job go on."""
    _ask(server, job, "resume")


def _ask(server: str, job: str, verb: str) -> None:
    with _client(server) as client:
        typer.echo(_call(client, "POST", f"{_JOBS}/{job}/{verb}")["status"])


def _client(server: str) -> httpx.Client:
    import os

    import httpx

    key = os.environ.get("EMOLLAMA_API_KEY", "")
    headers = {"authorization": f"Bearer {key}"} if key else {}
    # A big upload, and the check of what was uploaded, take their time; connecting does not.
    timeout = httpx.Timeout(3600.0, connect=10.0)
    return httpx.Client(base_url=server.rstrip("/"), headers=headers, timeout=timeout)


def _call(client: httpx.Client, method: str, path: str, **options: Any) -> Any:
    import httpx

    try:
        response = client.request(method, path, **options)
    except httpx.HTTPError as exc:
        _refuse(_unreachable(client, exc))
    if response.is_error:
        _refuse(*_complaints(response))
    return response.json()


def _unreachable(client: httpx.Client, exc: Exception) -> str:
    return f"no service answers at {client.base_url} ({type(exc).__name__}); `emollama serve` starts one"


def _complaints(response: httpx.Response) -> list[str]:
    """Return what a refusal says, one line a problem."""
    try:
        error = response.json()["error"]
        problems = error.get("problems", [])
    except (ValueError, KeyError, TypeError):
        return [f"{response.request.url} answered with status {response.status_code}"]
    if not problems:
        return [str(error["message"])]
    lines = []
    for problem in problems:
        where = problem["file"] if problem["line"] is None else f"{problem['file']}:{problem['line']}"
        named = f"{problem['field']}: " if problem["field"] else ""
        lines.append(f"{where}: {problem['severity']}: {named}{problem['message']} -> {problem['remedy']}")
    return lines


def _refuse(*lines: str) -> NoReturn:
    for line in lines:
        typer.echo(f"error: {line}", err=True)
    raise typer.Exit(_REFUSED)


def _pair(text: str) -> tuple[str, str]:
    key, sign, value = text.partition("=")
    if not key or not sign:
        _refuse(f"--metadata {text!r} is not KEY=VALUE")
    return key, value


def _file_id(client: httpx.Client, given: str) -> str:
    """Return the id of a file: the given one, or that of the upload of a file of this machine."""
    path = Path(given)
    if not path.is_file():
        if given.startswith("file-"):
            return given
        _refuse(f"{given} is not a file, and not the id of an uploaded one (file-...)")
    with path.open("rb") as content:
        form = {"purpose": "fine-tune"}
        return str(_call(client, "POST", "/v1/files", files={"file": (path.name, content)}, data=form)["id"])


def _follow(client: httpx.Client, job: str, *, as_json: bool = False) -> None:
    """Print events as they come, and leave with the job's outcome; a stream that breaks off is taken up again."""
    import httpx

    after: str | None = None
    while True:
        headers = {} if after is None else {"last-event-id": after}
        path = f"{_JOBS}/{job}/events"
        try:
            with client.stream("GET", path, params={"stream": "true"}, headers=headers) as response:
                if response.is_error:
                    response.read()
                    _refuse(*_complaints(response))
                for event in _events_of(response):
                    after = event["id"]
                    _print_event(event, as_json=as_json)
        except httpx.ConnectError as exc:
            _refuse(_unreachable(client, exc))
        except httpx.TransportError:
            pass  # the service was restarted; the job goes on
        found = _call(client, "GET", f"{_JOBS}/{job}")
        if found["status"] in ("succeeded", "failed", "cancelled"):
            raise typer.Exit(0 if found["status"] == "succeeded" else _FAILED)


def _events_of(response: httpx.Response) -> Iterator[dict[str, Any]]:
    for line in response.iter_lines():
        text = line.removeprefix("data: ")
        if text != line and text != "[DONE]":
            yield json.loads(text)


def _print_event(event: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(event))
        return
    level = "" if event["level"] == "info" else f"{event['level']}: "
    typer.echo(f"{_time(event['created_at'])}  {level}{event['message']}")


def _show(job: dict[str, Any], checkpoints: list[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    chosen = job["method"]["supervised"]["hyperparameters"]
    rows = {
        "job": job["id"],
        "status": Text(job["status"], style=_COLORS.get(job["status"], "")),
        "base": job["model"],
        "new model": job["fine_tuned_model"],
        "training file": job["training_file"],
        "validation file": job["validation_file"],
        "made": _time(job["created_at"]),
        "ended": job["finished_at"] and _time(job["finished_at"]),
        "expected end": job["estimated_finish"] and _time(job["estimated_finish"]),
        "trained tokens": job["trained_tokens"],
        "seed": job["seed"],
        "hyper-parameters": ", ".join(f"{name} {value}" for name, value in chosen.items()),
        "metadata": ", ".join(f"{key}={value}" for key, value in job["metadata"].items()),
        "result files": ", ".join(job["result_files"]),
        "error": job["error"] and f"{job['error']['code']}: {job['error']['message']}",
    }
    table = Table(show_header=False, box=None)
    for name, value in rows.items():
        if value not in (None, ""):
            table.add_row(Text(name, style="dim"), value if isinstance(value, Text) else Text(str(value)))
    for checkpoint in reversed(checkpoints):
        metrics = ", ".join(f"{name} {value:.4g}" for name, value in checkpoint["metrics"].items() if value is not None)
        label = Text(f"checkpoint {checkpoint['step_number']}", style="dim")
        table.add_row(label, Text(f"{checkpoint['fine_tuned_model_checkpoint']}  {metrics}"))
    Console().print(table)


def _time(seconds: float) -> str:
    from datetime import datetime

    return datetime.fromtimestamp(seconds).strftime("%Y-%m-%d %H:%M:%S")

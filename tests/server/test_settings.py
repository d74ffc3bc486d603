"""Settings from the environment, and the command that takes them."""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
import uvicorn
from pydantic import ValidationError
from typer.testing import CliRunner

from server.cli import app as command
from server.cli import server_config
from server.models import ModelHost, ModelSpec, load_analyzer
from server.settings import Settings

SECRET = "whsec_" + "a2tr" * 8


@pytest.fixture
def own_logging() -> Iterator[None]:
    """Take away what the command sets up for its process: it writes to a stream that is closed with the test."""
    root = logging.getLogger()
    before = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = before


def test_the_defaults_leave_no_hole() -> None:
    settings = Settings()
    assert settings.host == "127.0.0.1"
    assert settings.is_loopback
    assert settings.cors_origins == ()
    assert settings.adapters == {}


def test_the_environment_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "PORT": "9000", "MAX_UPLOAD_MB": "1.5", "CORS_ORIGINS": "https://a.example,https://b.example",
        "ADAPTERS": "shop=/srv/shop, talk=/srv/talk", "TEMP_DIR": "", "DOCS": "false", "DATA": "not a setting",
    }.items():  # fmt: skip
        monkeypatch.setenv(f"EMOLLAMA_{name}", value)
    settings = Settings()
    assert settings.port == 9000
    assert settings.max_upload_bytes == 1_572_864
    assert settings.cors_origins == ("https://a.example", "https://b.example")
    assert settings.adapters == {"shop": Path("/srv/shop"), "talk": Path("/srv/talk")}
    assert settings.temp_dir is None
    assert settings.docs is False


@pytest.mark.parametrize(
    "wrong",
    [
        {"port": 70000}, {"max_upload_mb": 0}, {"concurrency": 0}, {"queue_size": -1}, {"root_path": "no-slash"},
        {"root_path": "/slash/"}, {"adapters": "shop"}, {"adapters": {"a b": Path("x")}}, {"log_level": "loud"},
        {"unknown": 1}, {"org": "Two Words"}, {"org": ""}, {"job_concurrency": 0}, {"file_expire_days": 0},
        {"webhook_url": "ftp://a.example", "webhook_secret": SECRET}, {"webhook_url": "https://a.example/hook"},
        {"webhook_url": "https://me:word@a.example", "webhook_secret": SECRET}, {"webhook_secret": "whsec_c2hvcnQ="},
        {"webhook_secret": "secret"}, {"job_niceness": 20},
        {"auth": "none"}, {"admin_key": "short"}, {"key_rate": 0}, {"media_domains": "*"},
        {"media_domains": "10.0.0.1"},
    ],
)  # fmt: skip
def test_a_wrong_value_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Settings(**wrong)


def test_secrets_are_not_shown() -> None:
    url = "postgresql+psycopg://me:word@db.example/emollama"
    settings = Settings(
        webhook_url="https://a.example/hook", webhook_secret=SECRET, database_url=url, admin_key="an admin's key " * 3
    )
    assert SECRET not in repr(settings)
    assert "word" not in repr(settings)
    assert "an admin's key" not in repr(settings)


def test_data_lies_in_the_users_folder_unless_told_otherwise(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert Settings(data_dir=tmp_path).data_folder() == tmp_path
    monkeypatch.delenv("EMOLLAMA_DATA_DIR")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    if sys.platform == "linux":
        assert Settings().data_folder() == tmp_path / "emollama"
    assert Settings(file_expire_days=0.5).file_expire_seconds == 43_200


@pytest.mark.parametrize(
    ("host", "is_loopback"),
    [("127.0.0.1", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("::", False), ("box", False)],
)
def test_who_can_reach_the_service_is_known(host: str, is_loopback: bool) -> None:
    assert Settings(host=host).is_loopback is is_loopback


def test_two_models_may_not_share_a_name() -> None:
    with pytest.raises(ValueError, match="same name"):
        ModelHost([ModelSpec(name="a", base="a"), ModelSpec(name="a", base="a")], load=load_analyzer)


def test_the_command_says_which_setting_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EMOLLAMA_MAX_SECONDS", "-1")
    result = CliRunner().invoke(command, ["--port", "70000"])
    assert result.exit_code == 2
    assert "setting port is 70000" in result.output
    assert "setting max_seconds is '-1'" in result.output
    monkeypatch.setenv("EMOLLAMA_PURPOSE", "workplace")
    told = CliRunner().invoke(command, []).output
    assert "setting purpose is ('workplace',): purpose is 'workplace', which is prohibited by" in told


@pytest.mark.usefixtures("own_logging")
def test_the_command_hands_its_options_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    started: list[uvicorn.Config] = []
    monkeypatch.setattr(uvicorn.Server, "run", lambda self: started.append(self.config))
    monkeypatch.setenv("EMOLLAMA_PORT", "1")
    monkeypatch.setenv("EMOLLAMA_SHUTDOWN_SECONDS", "3")
    result = CliRunner().invoke(command, ["--port", "8123", "--model", "other", "--log-format", "text"])
    assert result.exit_code == 0, result.output
    config = started[0]
    assert (config.host, config.port, config.timeout_graceful_shutdown) == ("127.0.0.1", 8123, 3)
    assert config.server_header is False
    assert "warning" not in result.output


@pytest.mark.usefixtures("own_logging")
def test_listening_to_the_world_without_keys_must_be_meant(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(typer.Exit):
        server_config(Settings(host="0.0.0.0"))
    assert "EMOLLAMA_AUTH=keys" in capsys.readouterr().err
    server_config(Settings(host="0.0.0.0", auth="open"))
    assert "need no API key" in capsys.readouterr().err
    server_config(Settings(host="0.0.0.0", auth="keys"))
    assert capsys.readouterr().err == ""


def test_the_command_module_costs_nothing_to_import() -> None:
    code = (
        "import sys, server.cli; "
        "sys.exit(any(name in sys.modules for name in ('fastapi', 'uvicorn', 'torch', 'numpy', 'pydantic')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

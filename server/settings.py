"""Every setting of the service in one class, read from the environment (``EMOLLAMA_*``) and checked once.

A settings object is made by the process (or the test) and handed to `server.app.create_app`; nothing else reads the
environment. The defaults are for one person's machine: the service listens on the loopback address only, because it
asks nobody for a key until it is told to (``EMOLLAMA_AUTH``).
"""

from __future__ import annotations

import dataclasses
import ipaddress
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from server.confined_process import WorkerLimits
from server.fetch import FetchPolicy, is_domain
from server.signing import Endpoint, is_secret
from server.trust.purposes import require_allowed, require_reason

if TYPE_CHECKING:
    from emollama.media import MediaLimits
    from server.live.room import LiveLimits

_MEGABYTE = 1024 * 1024
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:@-]{0,99}")
_ORG = re.compile(r"[a-z0-9][a-z0-9-]{0,31}")
_DAY_SECONDS = 86_400

LogLevel = Literal["debug", "info", "warning", "error"]


class Settings(BaseSettings):
    """Settings of one server process; the field ``host`` is read from ``EMOLLAMA_HOST``, and so on."""

    model_config = SettingsConfigDict(env_prefix="EMOLLAMA_", env_ignore_empty=True, frozen=True, extra="forbid")

    host: str = Field("127.0.0.1", description="Address to listen on.")
    port: int = Field(8000, ge=0, le=65535, description="Port to listen on; 0 takes a free one.")
    root_path: str = Field("", description="Path prefix under which a reverse proxy publishes the service.")
    cors_origins: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="Web origins that may call the service from a browser, comma-separated; none by default."
    )

    auth: Literal["off", "keys", "open"] = Field(
        "off",
        description="keys: every request but /health and the page needs an API key; off: none does, on the loopback "
        "address only; open: none does, anywhere.",
    )
    admin_key: SecretStr | None = Field(
        None, description="The operator's own key, of at least 32 characters; it may do everything."
    )
    key_rate: int | None = Field(
        None, ge=1, description="Requests a minute of a key that was made without a rate; unlimited if unset."
    )

    purpose: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        description="What emotions are read for here, comma-separated; a request must say which if there are several.",
    )
    purpose_reason: str = Field(
        "",
        max_length=200,
        description="What an exception for medical or safety reasons at work or in education rests on.",
    )
    require_purpose: bool = Field(False, description="Refuse requests of which nobody declared what they are for.")
    require_consent: bool = Field(False, description="Refuse clips without a reference to a consent.")
    controller: str | None = Field(None, max_length=200, description="Who is responsible, as the notice names them.")
    contact: str | None = Field(
        None, max_length=300, description="How they are reached about rights, as the notice says it."
    )
    audit: bool = Field(True, description="Keep the audit log: who had what done, when and why; never what was in it.")

    model: str = Field(
        "nano", min_length=1, description="Model that answers when a request names none: a name, or a model's folder."
    )
    device: str = Field("cpu", min_length=1, description='Torch device, such as "cpu" or "cuda:0".')
    engine: Literal["auto", "lean", "paged"] = Field(
        "auto",
        description="What decodes: our own runtime (lean), or transformers' continuous batching (paged), which is for "
        "large presets on a GPU; auto is lean, because adapters share its weights.",
    )
    adapters: Annotated[Mapping[str, Path], NoDecode] = Field(
        {}, description="LoRA adapters served beside the model, as name=folder pairs, comma-separated."
    )

    adapter_root: Path | None = Field(
        None, description="Folder under which /v1/load_lora_adapter finds adapters; it loads none if unset."
    )
    adapters_in_memory: int = Field(
        4, ge=1, description="Fine-tuned adapters held in memory; the one that was asked least recently makes room."
    )

    max_upload_mb: float = Field(100.0, gt=0, description="Largest file of a request but to /v1/analyses, in MiB.")
    max_seconds: float = Field(300.0, gt=0, description="Longest clip but at /v1/analyses, in seconds.")
    max_field_kb: int = Field(64, ge=1, description="Largest text field of a request, in KiB.")
    max_uploads: int = Field(8, ge=1, description="Uploads received at the same time; more are told to come back.")
    upload_timeout_seconds: float = Field(120.0, gt=0, description="Time in which an upload must be complete.")

    media_domains: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="Hosts from which clips are fetched by URL, comma-separated: host or *.domain; none by default."
    )
    media_allow_http: bool = Field(False, description="Fetch clips over http, too; anyone on the way may change them.")
    media_fetch_seconds: float = Field(30.0, gt=0, description="Time in which a clip must be fetched.")

    chat_cache_mb: float = Field(256.0, gt=0, description="Memory for clips that may be asked about again, in MiB.")
    chat_cache_clips: int = Field(256, ge=1, description="Clips that are held for further questions.")
    chat_cache_seconds: float = Field(
        1800.0, gt=0, description="Time after its last question when a clip is forgotten."
    )

    media_workers: int = Field(
        2,
        ge=0,
        description="Processes that decode clips; 0 decodes in the service itself, which a hostile file may end.",
    )
    media_decode_seconds: float = Field(60.0, gt=0, description="Time in which a clip must be decoded.")
    media_memory_mb: int = Field(1536, ge=256, description="Memory that a process may hold while it decodes, in MiB.")

    concurrency: int = Field(
        4, ge=1, description="Clips under way at the same time; some are decoded while others are judged."
    )
    queue_size: int = Field(16, ge=0, description="Clips that may wait for a place; more are told to come back.")
    request_timeout_seconds: float = Field(
        120.0, gt=0, description="Longest time from accepted upload to answer, waiting for a place included."
    )
    live_sessions: int = Field(4, ge=0, description="Live sessions at the same time; 0 takes none.")
    live_workers: int = Field(1, ge=1, description="Processes that look at the pictures of live sessions.")
    live_seconds: float = Field(1800.0, gt=0, description="Longest live session, in seconds.")
    live_idle_seconds: float = Field(30.0, gt=0, description="Silence after which a live session is over.")
    live_picture_kb: int = Field(512, ge=16, description="Largest message of a live session, in KiB.")
    live_picture_pixels: int = Field(
        1280 * 720, ge=1024, description="Most pixels that a picture of a live session may have."
    )
    live_messages_per_second: int = Field(
        60, ge=1, description="Pictures and sounds a second that a live session may send."
    )
    stream_heartbeat_seconds: float = Field(
        5.0, gt=0, description="Silence after which a stream says that it is still there."
    )
    shutdown_seconds: int = Field(20, ge=0, description="Time that running requests get when the process is stopped.")

    report_workers: int = Field(1, ge=1, description="Videos and summaries of /v1/reports written at the same time.")
    report_queue_size: int = Field(4, ge=0, description="Of those, how many may wait; more are told to come back.")
    report_seconds: float = Field(
        600.0, gt=0, description="Longest time from accepted upload to a written video or summary, waiting included."
    )

    temp_dir: Path | None = Field(
        None, description="Where uploads lie while they are analysed; system default if unset."
    )
    data_dir: Path | None = Field(
        None, description="Where files, jobs and adapters are kept; the user's data folder if unset."
    )
    database_url: SecretStr | None = Field(
        None, description="Database of files and jobs, such as postgresql+psycopg://...; SQLite in the data folder."
    )

    analysis_workers: int = Field(
        1, ge=0, description="Clips of /v1/analyses worked on at the same time; 0 leaves them to other processes."
    )
    analysis_queue_size: int = Field(
        100, ge=1, description="Clips of one owner that may wait at /v1/analyses; more are told to come back."
    )
    analysis_max_seconds: float = Field(
        7200.0,
        gt=0,
        le=14_400,
        description="Longest clip of /v1/analyses, in seconds; at most four hours.",
    )
    analysis_max_mb: float = Field(
        2048.0, gt=0, description="Largest clip of /v1/analyses, in MiB; never less than EMOLLAMA_MAX_UPLOAD_MB."
    )
    analysis_upload_seconds: float = Field(
        1800.0, gt=0, description="Time in which a clip for /v1/analyses must be received or fetched."
    )
    analysis_timeout_seconds: float = Field(7200.0, gt=0, description="Time in which such a clip must be analysed.")
    analysis_retention_days: float = Field(
        7.0, gt=0, description="Age at which results of /v1/analyses are deleted, unless the request says sooner."
    )
    analysis_webhooks: Literal["off", "public", "any"] = Field(
        "public",
        description="Where requests may send webhooks: nowhere, to public https addresses, or anywhere, also in our "
        "own network.",
    )

    jobs: bool = Field(True, description="Run fine-tuning jobs in this process; others may run them if it does not.")
    job_recipe: str = Field("instruct", min_length=1, description="Recipe of `emollama train` that jobs follow.")
    job_concurrency: int = Field(1, ge=1, description="Jobs that this process runs at the same time.")
    job_lease_seconds: float = Field(
        60.0, gt=0, description="Silence after which another process takes over a job; renewed three times as often."
    )
    job_poll_seconds: float = Field(0.5, gt=0, description="How often the queue and a running job are looked at.")
    job_grace_seconds: float = Field(
        60.0, ge=0, description="Time a trainer gets to save a checkpoint before it is killed."
    )
    job_max_restarts: int = Field(
        3, ge=0, description="Restarts of a crashed trainer without progress before the job has failed."
    )
    job_niceness: int = Field(10, ge=0, le=19, description="How much trainers yield to requests; 0 is not at all.")
    max_bundle_mb: float = Field(1024.0, gt=0, description="Largest file for fine-tuning, in MiB.")
    max_unpacked_mb: float = Field(8192.0, gt=0, description="Largest total of an archive's unpacked files, in MiB.")
    bundle_timeout_seconds: float = Field(
        3600.0, gt=0, description="Time in which an upload for fine-tuning must be complete."
    )
    submit_seconds: float = Field(
        60.0, ge=0, description="Time for checking a job's data before the answer; more is checked after it."
    )
    file_expire_days: float | None = Field(
        None, gt=0, description="Age at which uploaded files are deleted, unless the upload says; never if unset."
    )
    org: str = Field("emollama", description="Name of the organisation in the names of fine-tuned models.")

    webhook_url: str | None = Field(None, description="Address that is told when a job has ended.")
    webhook_secret: SecretStr | None = Field(
        None, description="Key that signs webhooks: whsec_ and 24 to 64 bytes in base64."
    )
    webhook_allow_private: bool = Field(False, description="Allow a webhook address in a private network.")

    docs: bool = Field(True, description="Serve the interactive API page at /docs.")
    log_level: LogLevel = Field("info", description="Lowest level that is logged.")
    log_format: Literal["json", "text"] = Field("json", description="One JSON object a line, or text for a terminal.")

    @field_validator("purpose")
    @classmethod
    def _check_purpose(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(dict.fromkeys(require_allowed(name).name for name in value))

    @field_validator("cors_origins", "media_domains", "purpose", mode="before")
    @classmethod
    def _split_list(cls, value: Any) -> Any:
        return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value

    @field_validator("media_domains")
    @classmethod
    def _check_domains(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        value = tuple(entry.lower() for entry in value)
        for entry in value:
            if not is_domain(entry):
                raise ValueError(f"{entry!r} is not a host; allowed: host.example, *.host.example")
        return value

    @field_validator("adapters", mode="before")
    @classmethod
    def _split_adapters(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        pairs = [part.strip().partition("=") for part in value.split(",") if part.strip()]
        if any(not name or not folder for name, _, folder in pairs):
            raise ValueError(f"adapters is {value!r}; allowed: name=folder pairs, comma-separated")
        return {name.strip(): Path(folder.strip()) for name, _, folder in pairs}

    @field_validator("adapters")
    @classmethod
    def _check_adapter_names(cls, value: Mapping[str, Path]) -> Mapping[str, Path]:
        for name in value:
            if not _NAME.fullmatch(name):
                raise ValueError(f"adapter name {name!r} is not allowed; letters, digits and . _ : @ - only")
        return value

    @field_validator("root_path")
    @classmethod
    def _check_root_path(cls, value: str) -> str:
        if value and (not value.startswith("/") or value.endswith("/")):
            raise ValueError(f"root_path is {value!r}; allowed: empty, or /prefix without a slash at the end")
        return value

    @field_validator("admin_key")
    @classmethod
    def _check_admin_key(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and (len(value.get_secret_value()) < 32 or not value.get_secret_value().isascii()):
            raise ValueError("admin_key must have at least 32 characters, all of them ASCII")
        return value

    @field_validator("org")
    @classmethod
    def _check_org(cls, value: str) -> str:
        if not _ORG.fullmatch(value):
            raise ValueError(f"org is {value!r}; allowed: 1 to 32 lower-case letters, digits and -")
        return value

    @field_validator("webhook_url")
    @classmethod
    def _check_webhook_url(cls, value: str | None) -> str | None:
        if value is None:
            return None
        parts = urlsplit(value)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.username or parts.fragment:
            raise ValueError("webhook_url must be an http or https address without a user name")
        return value

    @field_validator("webhook_secret")
    @classmethod
    def _check_webhook_secret(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and not is_secret(value.get_secret_value()):
            raise ValueError("webhook_secret must be whsec_ and 24 to 64 bytes in base64")
        return value

    @model_validator(mode="after")
    def _check_reason(self) -> Settings:
        require_reason(self.purpose, self.purpose_reason, field="purpose_reason")
        return self

    @model_validator(mode="after")
    def _check_webhook(self) -> Settings:
        if self.webhook_url is not None and self.webhook_secret is None:
            raise ValueError("webhook_url is set without webhook_secret: nobody could tell a webhook from a forgery")
        return self

    @property
    def max_upload_bytes(self) -> int:
        return int(self.max_upload_mb * _MEGABYTE)

    @property
    def analysis_max_bytes(self) -> int:
        return max(self.max_upload_bytes, int(self.analysis_max_mb * _MEGABYTE))

    @property
    def chat_cache_bytes(self) -> int:
        return int(self.chat_cache_mb * _MEGABYTE)

    @property
    def analysis_retention_seconds(self) -> float:
        return self.analysis_retention_days * _DAY_SECONDS

    @property
    def max_bundle_bytes(self) -> int:
        return int(self.max_bundle_mb * _MEGABYTE)

    @property
    def max_unpacked_bytes(self) -> int:
        return int(self.max_unpacked_mb * _MEGABYTE)

    @property
    def file_expire_seconds(self) -> int | None:
        return None if self.file_expire_days is None else round(self.file_expire_days * _DAY_SECONDS)

    def data_folder(self) -> Path:
        """Return the folder of files, jobs and adapters."""
        if self.data_dir is not None:
            return self.data_dir
        from platformdirs import user_data_path

        return user_data_path("emollama", appauthor=False)

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach the service."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    def media_limits(self) -> MediaLimits:
        """Return the decoder's limits under these settings."""
        from emollama.media import MediaLimits

        return MediaLimits(max_bytes=self.max_upload_bytes, max_seconds=self.max_seconds)

    def long_limits(self) -> MediaLimits:
        """Return those of a clip that is read window by window."""
        from emollama.media_windows import LONG_LIMITS

        most = max(self.max_seconds, self.analysis_max_seconds)
        return dataclasses.replace(LONG_LIMITS, max_bytes=self.analysis_max_bytes, max_seconds=most)

    def webhook_endpoint(self) -> Endpoint | None:
        """Return the operator's address for webhooks, if there is one."""
        if self.webhook_url is None or self.webhook_secret is None:
            return None
        secret = self.webhook_secret.get_secret_value()
        return Endpoint(url=self.webhook_url, secret=secret, allow_private=self.webhook_allow_private)

    def worker_limits(self) -> WorkerLimits:
        """Return what decoding one clip may cost under these settings."""
        return WorkerLimits(
            seconds=self.media_decode_seconds,
            long_seconds=self.analysis_timeout_seconds,
            cpu_seconds=2 * math.ceil(self.media_decode_seconds),
            memory_bytes=self.media_memory_mb * _MEGABYTE,
        )

    def live_limits(self) -> LiveLimits:
        """Return what a live session may cost under these settings."""
        from server.live.room import LiveLimits

        return LiveLimits(
            seconds=self.live_seconds,
            idle_seconds=self.live_idle_seconds,
            picture_bytes=self.live_picture_kb * 1024,
            picture_pixels=self.live_picture_pixels,
            messages_per_second=self.live_messages_per_second,
        )

    def report_limits(self) -> WorkerLimits:
        """Return what writing one video may cost under these settings."""
        return dataclasses.replace(
            self.worker_limits(), seconds=self.report_seconds, cpu_seconds=4 * math.ceil(self.report_seconds)
        )

    def fetch_policy(self) -> FetchPolicy:
        """Return from where clips may be fetched under these settings."""
        return FetchPolicy(
            domains=self.media_domains,
            allow_http=self.media_allow_http,
            max_bytes=self.max_upload_bytes,
            max_fetches=self.max_uploads,
            total_seconds=self.media_fetch_seconds,
        )

    def analysis_fetch_policy(self) -> FetchPolicy:
        """Return the same for clips that are analysed later, which may be larger and take longer to come."""
        return dataclasses.replace(
            self.fetch_policy(), max_bytes=self.analysis_max_bytes, total_seconds=self.analysis_upload_seconds
        )

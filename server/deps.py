"""What a handler may ask for: the pieces that `server.app` put on ``app.state``, as typed dependencies."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Protocol, cast

from fastapi import Depends, Request

from server.analyses.intake import Intake
from server.analyses.service import AnalysisService
from server.auth import Principal
from server.chat.desk import Desk
from server.erasure import Memory
from server.fetch import Fetcher
from server.gate import Gate
from server.idempotency import Idempotency
from server.ingest import Inbox
from server.jobs.service import JobService
from server.layout import DataFolder
from server.media_worker import Decoding
from server.metrics import Metrics
from server.models import ModelHost
from server.reports.desk import ReportDesk
from server.settings import Settings
from server.store import Store

if TYPE_CHECKING:
    from emollama.media import MediaLimits
    from emollama.stages import StageEvent
    from emollama.types import Analysis, Clip


class Analyzing(Protocol):
    """What the service needs of an analyzer: `emollama.analyze.Analyzer`, or a stand-in in a test.

    `analyze` blocks, may be called by several threads at once, asks ``cancelled`` now and then and stops when it
    says so; so does iterating over `stages`, which tells what is known on the way.
    """

    def stages(
        self,
        source: Path | bytes | Clip | None,
        *,
        name: str | None = None,
        transcript: str | None = None,
        labels: str | Sequence[str] | None = None,
        language: str | None = None,
        timeline: bool = True,
        limits: MediaLimits | None = None,
        cancelled: Callable[[], bool] | None = None,
    ) -> Generator[StageEvent, None, None]: ...

    def analyze(
        self,
        source: Path | bytes | Clip | None,
        *,
        name: str | None = None,
        transcript: str | None = None,
        labels: str | Sequence[str] | None = None,
        language: str | None = None,
        timeline: bool = True,
        limits: MediaLimits | None = None,
        cancelled: Callable[[], bool] | None = None,
    ) -> Analysis: ...


def _settings(request: Request) -> Settings:
    return cast(Settings, request.app.state.settings)


def _models(request: Request) -> ModelHost:
    return cast(ModelHost, request.app.state.models)


def _gate(request: Request) -> Gate:
    return cast(Gate, request.app.state.gate)


def _inbox(request: Request) -> Inbox:
    return cast(Inbox, request.app.state.inbox)


def _bundle_inbox(request: Request) -> Inbox:
    return cast(Inbox, request.app.state.bundle_inbox)


def _fetcher(request: Request) -> Fetcher:
    return cast(Fetcher, request.app.state.fetcher)


def _chat(request: Request) -> Desk:
    return cast(Desk, request.app.state.chat)


def _principal(request: Request) -> Principal:
    return cast(Principal, request.state.principal)


def _decoder(request: Request) -> Decoding:
    return cast(Decoding, request.app.state.decoder)


def _metrics(request: Request) -> Metrics:
    return cast(Metrics, request.app.state.metrics)


def _store(request: Request) -> Store:
    return cast(Store, request.app.state.store)


def _data(request: Request) -> DataFolder:
    return cast(DataFolder, request.app.state.data)


def _jobs(request: Request) -> JobService:
    return cast(JobService, request.app.state.jobs)


def _analyses(request: Request) -> AnalysisService:
    return cast(AnalysisService, request.app.state.analyses)


def _intake(request: Request) -> Intake:
    return cast(Intake, request.app.state.intake)


def _report_desk(request: Request) -> ReportDesk:
    return cast(ReportDesk, request.app.state.reports)


def _idempotency(request: Request) -> Idempotency:
    return cast(Idempotency, request.app.state.idempotency)


def _memory(request: Request) -> Memory:
    return cast(Memory, request.app.state.memory)


SettingsDep = Annotated[Settings, Depends(_settings)]
ModelsDep = Annotated[ModelHost, Depends(_models)]
GateDep = Annotated[Gate, Depends(_gate)]
InboxDep = Annotated[Inbox, Depends(_inbox)]
BundleInboxDep = Annotated[Inbox, Depends(_bundle_inbox)]
FetcherDep = Annotated[Fetcher, Depends(_fetcher)]
DecoderDep = Annotated[Decoding, Depends(_decoder)]
MetricsDep = Annotated[Metrics, Depends(_metrics)]
ChatDep = Annotated[Desk, Depends(_chat)]
PrincipalDep = Annotated[Principal, Depends(_principal)]
StoreDep = Annotated[Store, Depends(_store)]
DataDep = Annotated[DataFolder, Depends(_data)]
JobsDep = Annotated[JobService, Depends(_jobs)]
AnalysesDep = Annotated[AnalysisService, Depends(_analyses)]
ReportDeskDep = Annotated[ReportDesk, Depends(_report_desk)]
IntakeDep = Annotated[Intake, Depends(_intake)]
IdempotencyDep = Annotated[Idempotency, Depends(_idempotency)]
MemoryDep = Annotated[Memory, Depends(_memory)]

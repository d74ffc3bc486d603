"""`create_app`: the service as an ASGI application, with everything it needs made in its lifespan.

    uvicorn --factory server.app:create_app --timeout-graceful-shutdown 20        (or: emollama serve)

The model is loaded in the background, so that the process answers `/health` at once; `/ready` tells when it is there.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import functools
import logging
import threading
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from fastapi.middleware.cors import CORSMiddleware

from emollama import __version__
from emollama.generate import Engine
from server import errors
from server.analyses.intake import MAX_FIELD_BYTES, Intake
from server.analyses.service import AnalysisService
from server.auth import AuthMiddleware, KeyRing
from server.chat.cache import ClipCache
from server.chat.desk import Desk
from server.deps import Analyzing
from server.erasure import Memory
from server.fetch import Fetcher
from server.gate import Gate
from server.idempotency import Idempotency
from server.ingest import Inbox, UploadLimits
from server.installed import InstalledAdapters
from server.jobs.catalog import AdapterCatalog
from server.jobs.service import TRAINER, JobService
from server.layout import DataFolder
from server.live.room import LiveRoom
from server.media_worker import IS_SUPPORTED, Decoding, InProcess, MediaPool
from server.metrics import Live, Metrics
from server.middleware import EdgeMiddleware
from server.models import AnalyzerLoader, Load, ModelHost, ModelSpec
from server.records.jobs import count_by_status
from server.reports.desk import ReportDesk
from server.routes import ROUTERS, docs
from server.schemas.analyses import DONE_EXAMPLE, QUEUED_EXAMPLE, analysis_schemas
from server.schemas.analysis import EXAMPLE
from server.schemas.chat import chat_schemas
from server.schemas.fine_tuning import request_schemas
from server.schemas.stages import stage_schemas
from server.scratch import Scratch
from server.settings import Settings
from server.store import Store
from server.trust.auditing import AuditMiddleware
from server.trust.declared import CONSENT_HEADER
from server.trust.gate import PurposeMiddleware
from server.trust.journal import Journal
from server.trust.purposes import HEADER
from server.webhooks import Deliverer

logger = logging.getLogger("server.app")

_TAKEN_HEADERS = ("Authorization", "Content-Type", "Idempotency-Key", "X-Request-Id", HEADER, CONSENT_HEADER)
_PICTURES_PER_PROCESS = 100_000  # about three hours of a camera

_DESCRIPTION = """Reads the emotion that a person in a clip appears to show from face, voice and words, and says what
it rests on. An expression is not an inner state: the answers describe how someone appears.

Every error has the shape `{"error": {"message", "type", "param", "code"}}`. A clip sent to `/analyze` is deleted when
its answer is sent, one sent to `/v1/analyses` when it has been analysed; a file for fine-tuning is kept until it is
deleted or expires.
"""


def model_specs(settings: Settings) -> list[ModelSpec]:
    """Return the names that requests may use: the model (a folder goes by its name, not its path) and its adapters."""
    base = settings.model
    specs = [ModelSpec(name=Path(base).name, base=base)]
    return specs + [ModelSpec(name=name, base=base, adapter=path) for name, path in settings.adapters.items()]


def open_store(settings: Settings, data: DataFolder) -> Store:
    """Make the data folder and open the database; blocks."""
    data.create()
    url = settings.database_url
    store = Store(f"sqlite:///{data.database}" if url is None else url.get_secret_value())
    try:
        data.bind(store.database_id)
    except BaseException:
        store.close()
        raise
    return store


def open_decoder(settings: Settings, metrics: Metrics) -> Decoding:
    """Start the processes that decode uploads, unless there are to be none."""
    if not settings.media_workers:
        return InProcess()
    if not IS_SUPPORTED:
        logger.warning("clips are decoded in the service itself: this system has no limits for processes")
        return InProcess()
    return MediaPool(settings.media_workers, limits=settings.worker_limits(), ended=metrics.observe_worker_end)


def open_live_eyes(settings: Settings, metrics: Metrics) -> MediaPool | None:
    """Start the processes that look at the pictures of live sessions, unless pictures are decoded here."""
    if not (settings.live_sessions and settings.media_workers and IS_SUPPORTED):
        return None
    limits = dataclasses.replace(settings.worker_limits(), seconds=5.0, cpu_seconds=10, niceness=0)
    return MediaPool(
        settings.live_workers, limits=limits, ended=metrics.observe_worker_end, clips_per_process=_PICTURES_PER_PROCESS
    )


class _Service(FastAPI):
    def openapi(self) -> dict[str, Any]:
        """Return the OpenAPI document with whole examples: the framework drops what is null in them."""
        document = super().openapi()
        for operations in document["paths"].values():
            for operation in operations.values():
                for answer in operation["responses"].values():
                    content = answer.get("content", {}).get("application/json", {})
                    for code, example in content.get("examples", {}).items():
                        example["value"] = errors.envelope(code)
        document["components"]["schemas"].update(
            {**request_schemas(), **chat_schemas(), **analysis_schemas(), **stage_schemas()}
        )
        whole = {
            ("/analyze", "post", "200"): EXAMPLE,
            ("/v1/analyses", "post", "202"): QUEUED_EXAMPLE,
            ("/v1/analyses/{analysis_id}", "get", "200"): DONE_EXAMPLE,
        }
        for (path, method, status), example in whole.items():
            answer = document["paths"][path][method]["responses"][status]
            answer["content"]["application/json"]["example"] = example
        return document


def create_app(
    settings: Settings | None = None,
    analyzer: Analyzing | None = None,
    *,
    load: Load | None = None,
    trainer: Sequence[str] = TRAINER,
    decoder: Decoding | None = None,
) -> FastAPI:
    """Build the application.

    ``analyzer`` answers instead of a loaded model, ``load`` replaces how one is loaded, and ``trainer`` is the command
    of a fine-tuning job, to which its run directory is appended. ``decoder`` decodes uploads instead of processes of
    their own; a stand-in for the analyzer or for loading one gets them as they are.
    """
    settings = settings or Settings()
    if decoder is None and (analyzer is not None or load is not None):
        decoder = InProcess()
    if load is None:
        given = analyzer
        load = AnalyzerLoader(device=settings.device, engine=settings.engine) if given is None else lambda spec: given

    def load_watched(spec: ModelSpec) -> Analyzing:
        loaded = load(spec)
        replies = getattr(getattr(getattr(loaded, "parts", None), "engine", None), "replies", None)
        if isinstance(replies, Engine):
            replies.on_step = functools.partial(app.state.metrics.observe_batch, "decode")
        return loaded

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        specs = model_specs(settings)
        data = DataFolder(settings.data_folder().absolute())
        store = await asyncio.to_thread(open_store, settings, data)
        scratch, incoming = Scratch(settings.temp_dir), Scratch(data.incoming)
        gate = Gate(concurrency=settings.concurrency, queue_size=settings.queue_size)
        bases = {specs[0].name: settings.model}
        catalog = AdapterCatalog(store, data, bases=bases)
        shelf = InstalledAdapters(store, root=settings.adapter_root, bases=[spec.base for spec in specs])
        models = ModelHost(
            specs, load=load_watched, catalog=catalog, shelf=shelf, max_adapters=settings.adapters_in_memory
        )
        jobs = JobService(settings, store, data, models, bases=bases, trainer=trainer)
        deliverer = Deliverer(
            store,
            settings.webhook_endpoint(),
            poll_seconds=settings.job_poll_seconds,
            clients_private=settings.analysis_webhooks == "any",
        )
        limits = UploadLimits(
            max_file_bytes=settings.max_upload_bytes,
            max_field_bytes=settings.max_field_kb * 1024,
            timeout_seconds=settings.upload_timeout_seconds,
        )
        app.state.settings, app.state.models, app.state.gate = settings, models, gate
        app.state.inbox = Inbox(scratch, limits=limits, max_uploads=settings.max_uploads)
        app.state.scratch_root = str(scratch.root)
        app.state.keys = KeyRing(
            store,
            is_required=settings.auth == "keys",
            admin_key=None if settings.admin_key is None else settings.admin_key.get_secret_value(),
            per_minute=settings.key_rate,
        )
        app.state.metrics = Metrics(
            Live(
                running=lambda: gate.num_running,
                waiting=lambda: gate.num_waiting,
                models=lambda: len(models.names),
                jobs=lambda: count_by_status(store),
                sessions=lambda: app.state.live.num_sessions,
            )
        )
        app.state.chat = Desk(
            scratch,
            ClipCache(
                max_bytes=settings.chat_cache_bytes,
                max_clips=settings.chat_cache_clips,
                seconds=settings.chat_cache_seconds,
            ),
            max_clip_bytes=settings.max_upload_bytes,
            max_bodies=settings.max_uploads,
        )
        decoding = decoder or open_decoder(settings, app.state.metrics)
        app.state.decoder = decoding
        app.state.live = LiveRoom(
            max_sessions=settings.live_sessions,
            limits=settings.live_limits(),
            looking=None if decoder is not None else open_live_eyes(settings, app.state.metrics),
            stopping=app.state.stopping,
        )
        app.state.reports = ReportDesk.of(settings, ended=app.state.metrics.observe_worker_end)
        app.state.fetcher = Fetcher(settings.fetch_policy())
        app.state.store, app.state.data, app.state.jobs = store, data, jobs
        bundle_limits = dataclasses.replace(
            limits, max_file_bytes=settings.max_bundle_bytes, timeout_seconds=settings.bundle_timeout_seconds
        )
        app.state.bundle_inbox = Inbox(incoming, limits=bundle_limits, max_uploads=settings.max_uploads)
        app.state.idempotency = Idempotency(store)
        analysis_limits = dataclasses.replace(
            limits,
            max_file_bytes=settings.analysis_max_bytes,
            max_field_bytes=max(limits.max_field_bytes, MAX_FIELD_BYTES),
            timeout_seconds=settings.analysis_upload_seconds,
        )
        app.state.intake = Intake(
            incoming,
            limits=analysis_limits,
            max_uploads=settings.max_uploads,
            store=store,
            data=data,
            fetcher=Fetcher(settings.analysis_fetch_policy()),
        )
        analyses = AnalysisService(
            settings, store, data, models, gate=gate, decoder=decoding, metrics=app.state.metrics
        )
        app.state.analyses = analyses

        def forget_uploads() -> None:
            scratch.sweep()
            incoming.sweep()

        app.state.memory = Memory(
            forget_clips=app.state.chat.cache.forget, forget_adapter=models.forget, forget_uploads=forget_uploads
        )
        journal = Journal(store) if settings.audit else None
        app.state.journal = journal
        if journal is not None:
            await asyncio.to_thread(journal.start)
        jobs.start()
        analyses.start()
        deliverer.start()
        loading = asyncio.create_task(models.load_all())
        if analyzer is not None:
            await loading
        try:
            yield
        finally:
            loading.cancel()
            await asyncio.gather(loading, return_exceptions=True)
            app.state.stopping.set()
            await gate.close()
            await app.state.reports.gate.close()
            await asyncio.to_thread(analyses.stop)
            await asyncio.to_thread(jobs.stop)
            await asyncio.to_thread(deliverer.stop)
            await asyncio.to_thread(models.close)
            await asyncio.to_thread(decoding.close)
            await asyncio.to_thread(app.state.live.close)
            scratch.close()
            incoming.close()
            if journal is not None:
                await asyncio.to_thread(journal.stop)
            store.close()

    app = _Service(
        title="EmoLLaMA",
        version=__version__,
        description=_DESCRIPTION,
        license_info={"name": "Apache-2.0", "identifier": "Apache-2.0"},
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        openapi_url="/openapi.json" if settings.docs else None,
    )
    app.state.stopping = threading.Event()
    errors.install(app)
    for router in ROUTERS.values():
        app.include_router(router)
    if settings.docs:
        app.include_router(docs.router)
    app.add_middleware(PurposeMiddleware)
    app.add_middleware(AuthMiddleware)
    app.add_middleware(AuditMiddleware)
    app.add_middleware(EdgeMiddleware)
    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(settings.cors_origins),
            allow_methods=["GET", "POST", "DELETE"],
            allow_headers=[*_TAKEN_HEADERS],
            expose_headers=["X-Request-Id", "Retry-After", "Location", "Idempotent-Replayed"],
        )
    return app

"""A file as an answer, and what is held for it: let go when the last byte was sent, or nobody takes them any more."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path

from starlette.responses import FileResponse
from starlette.types import Message, Receive, Scope, Send

_STALL_SECONDS = 30.0


class HeldFileResponse(FileResponse):
    """``held`` is closed at the end, whatever the end is; the file may lie in what it removes."""

    def __init__(self, path: Path, *, held: AsyncExitStack, media_type: str, filename: str) -> None:
        super().__init__(path, media_type=media_type, filename=filename, headers={"Cache-Control": "no-store"})
        self._held = held

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def patient(message: Message) -> None:
            async with asyncio.timeout(_STALL_SECONDS):
                await send(message)

        async with self._held:
            try:
                await super().__call__(scope, receive, patient)
            except (TimeoutError, OSError):
                # Nobody reads what could be said about it; the server closes a connection whose answer is incomplete.
                scope.setdefault("state", {}).setdefault("log", {})["error_code"] = "client_closed_request"

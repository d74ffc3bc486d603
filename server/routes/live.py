"""`WS /v1/live`: a camera and a microphone in, readings and reasons out (`server.live`, ``docs/live.md``)."""

from __future__ import annotations

from fastapi import APIRouter, WebSocket

from server.live.protocol import PATH
from server.live.visit import Visit

router = APIRouter()


@router.websocket(PATH)
async def live(websocket: WebSocket) -> None:
    """Serve one client until its session is over."""
    await Visit(websocket, websocket.app.state.live).run()

"""A camera and a microphone over a WebSocket: `WS /v1/live`, whose protocol is in ``docs/live.md``."""

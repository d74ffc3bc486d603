"""Answers that come in pieces: the writer of server-sent events, and how work in a thread feeds it."""

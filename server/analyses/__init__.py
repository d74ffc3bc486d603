"""Analyses that are asked for now and read later: taken, queued, worked on beside `/analyze`, kept for a while."""

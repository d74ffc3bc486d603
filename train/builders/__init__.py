"""Builders of instruction data from real samples."""

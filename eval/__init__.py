"""Evaluation: benchmark tasks, their report, and the speed benchmark."""

"""Builders of instruction data: from readings that were measured to questions and answers."""

"""Heads for ABAW's tasks on the kept readings of a face model, and of sound; see `train.recipes.abaw`."""

"""What becomes of a manifest before training: it is unpacked, checked, divided, and its cost is told."""

"""What the database holds, as frozen dataclasses and small functions that read and write them."""

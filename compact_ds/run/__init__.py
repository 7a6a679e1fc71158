"""What surrounds the steps of a run: its files, its checkpoints, its signs of life, and what ended it."""

"""One run: its state, optimizer and teacher, schedules, checkpoints, log, and what is checked before it starts.

The files in the folder of a run are listed in docs/training.md.
"""

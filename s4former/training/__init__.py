"""One run: its state, optimizer and teacher, schedules, checkpoints, log, and what is checked before it starts."""

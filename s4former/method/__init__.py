"""S4Former: the training step, its views and pseudo labels, PatchShuffle, PASA, losses, mixing and thresholds."""

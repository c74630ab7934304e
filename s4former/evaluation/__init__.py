"""Images in, class maps and scores out: windows, scales, metrics and pictures."""

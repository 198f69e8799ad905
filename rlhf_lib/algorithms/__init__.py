"""Training loops, one a file, each readable from top to bottom: sample → score → estimate → update → log."""

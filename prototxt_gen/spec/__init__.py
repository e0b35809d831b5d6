"""Floor 1: nets written in Python."""

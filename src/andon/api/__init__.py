"""Floor 7: the own HTTP faces."""

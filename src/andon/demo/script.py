"""The script: what goes wrong, and when. Only the demo's acts read it; nothing that watches, triages or answers knows of it."""

LAUNCH, FAULTY, SHIFTED, END = "2011-08-01", "2011-08-08", "2011-09-07", "2011-12-26"
TRAINING, GATE = ("2011-01-16", "2011-07-04"), ("2011-07-04", "2011-08-01")
FIX_AFTER_DAYS, LONGEST_FAULT_DAYS = 2, 12
"""Upstream mends a fault two days after it is told, or by itself after twelve."""

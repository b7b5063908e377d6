"""Small real data sets that ship with Andon, for the demo and the documentation."""

from __future__ import annotations

from pathlib import Path

DATA = Path(__file__).parent / "data"

"""What the stock client sent in some of the scenarios, written by ``recording``: one file each, one request a line."""

from __future__ import annotations

from pathlib import Path

import msgspec

from tests.wire.mlflow.differential.cases import Case, Step


def cases() -> list[Case]:
    """All of them."""
    files = sorted(Path(__file__).parent.glob("*.json"))
    return [Case(f"recorded/{file.stem}", msgspec.json.decode(file.read_bytes(), type=list[Step])) for file in files]

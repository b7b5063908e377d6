"""A line of small releases in a folder, and nothing running yet."""

from __future__ import annotations

from pathlib import Path

import pytest

from andon.store import Store
from tests.unit.serving.line import Line


@pytest.fixture
def line(disk_store: Store, tmp_path: Path) -> Line:
    return Line(disk_store, tmp_path / "scratch")

"""The rig over a store in memory."""

from __future__ import annotations

import pytest

from andon.core.clocks import ManualClock
from andon.store import Store
from tests.unit.rollouts.rig import Rig


@pytest.fixture
def rig(store: Store, clock: ManualClock) -> Rig:
    return Rig(store, clock)

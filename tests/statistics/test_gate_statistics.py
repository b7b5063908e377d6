"""The gate's intervals keep their promise on errors that depend on each other in time. Seeds and bounds are stated here."""

from __future__ import annotations

import numpy as np

from andon.gates import paired_difference

SEED = 20_261_122
TRIALS = 1_000


def _hourly_difference(rng: np.random.Generator, days: int) -> np.ndarray:
    """Differences with a shared daily part and an hour-to-hour correlation of 0.7: what weather does to hourly errors."""
    n = days * 24
    noise = rng.normal(0, 1, n)
    series = np.empty(n)
    series[0] = noise[0]
    for i in range(1, n):
        series[i] = 0.7 * series[i - 1] + noise[i]
    return series + np.repeat(rng.normal(0, 1, days), 24)


def test_the_block_interval_covers_and_the_naive_one_does_not() -> None:
    rng = np.random.default_rng(SEED)
    block, hit, naive_hit = np.arange(28 * 24) // 24, 0, 0
    for _ in range(TRIALS):
        difference = _hourly_difference(rng, 28)
        found = paired_difference(difference, np.zeros_like(difference), block)
        assert found is not None
        assert found.interval is not None
        assert found.interval.low is not None
        assert found.interval.high is not None
        hit += found.interval.low <= 0 <= found.interval.high
        naive_hit += abs(difference.mean()) <= 1.96 * difference.std() / np.sqrt(len(difference))
    assert 0.92 <= hit / TRIALS <= 0.97  # stated 0.95; adjacent days share a little at midnight
    assert naive_hit / TRIALS < 0.6


def test_the_stated_detectable_difference_is_detected_four_times_of_five() -> None:
    rng = np.random.default_rng(SEED + 1)
    block = np.arange(28 * 24) // 24
    sizes = [paired_difference(_hourly_difference(rng, 28), np.zeros(28 * 24), block) for _ in range(200)]
    typical = float(np.median([found.detectable for found in sizes if found is not None and found.detectable is not None]))
    called = 0
    for _ in range(TRIALS):
        difference = _hourly_difference(rng, 28) + typical
        found = paired_difference(difference, np.zeros_like(difference), block)
        assert found is not None
        assert found.interval is not None
        assert found.interval.low is not None
        called += found.interval.low > 0
    assert 0.74 <= called / TRIALS <= 0.86

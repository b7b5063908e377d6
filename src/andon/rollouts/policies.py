"""The policy of a service's rollouts: ``policy:rollout/SERVICE`` if it is registered, else the defaults."""

from __future__ import annotations

import msgspec

from andon import registry
from andon.core.clocks import HOUR_US, SECOND_US
from andon.core.errors import InvalidInput, NotFound
from andon.gates.losses import LOSSES
from andon.logs.labels import is_outcome_name
from andon.rollouts.analysis.records import AnalysisPolicy, check_policy
from andon.rollouts.strategies import duration_us
from andon.store import Store

PREFIX = "rollout/"


class RolloutPolicy(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a rollout compares, and how patiently.

    A metric of ``analysis.metrics`` that is called ``mae``, ``mse``, ``error-rate``, ``brier`` or ``log-loss`` is the loss of the labels
    that came; any other is the named outcome (see ``andon label``).
    """

    analysis: AnalysisPolicy = AnalysisPolicy()
    delays: dict[str, str] = {}
    """Metric -> how long after its request a value still counts, such as ``{"mae": "7d"}``; units are compared when that is over, in both
    arms alike. Without an entry: one minute."""
    settle: str = "10s"
    """How long a slow answer is waited for before the units that arrived with it are compared; less once both arms are seen to be quick."""
    longest: str = "3d"
    """When a canary is expected to take longer than this at the present traffic, ``andon deploy`` offers another way."""

    def delay_us(self, metric: str) -> int:
        """How long a metric's values take to count, microseconds."""
        return duration_us(self.delays[metric], f"delays.{metric}") if metric in self.delays else 60 * SECOND_US

    def metric_is_loss(self, metric: str) -> bool:
        """Whether a metric is the loss of labels, rather than a named outcome."""
        return metric in LOSSES


def check_rollout_policy(policy: RolloutPolicy) -> None:
    """Raise ``InvalidInput`` naming the field that cannot be meant."""
    check_policy(policy.analysis)
    known = {metric.name for metric in policy.analysis.metrics}
    for name in known:
        if not policy.metric_is_loss(name) and not is_outcome_name(name):
            told = f"a metric is a loss ({', '.join(LOSSES)}) or the name of an outcome, of a-z, 0-9, '.', '_' and '-'"
            raise InvalidInput(told, field="analysis.metrics", got=name[:80])
    for name in policy.delays:
        if name not in known:
            raise InvalidInput("a delay is of a metric in analysis.metrics", field=f"delays.{name}", got=name)
        policy.delay_us(name)
    if duration_us(policy.settle, "settle") > HOUR_US:
        raise InvalidInput("a slow answer is waited for an hour at most", field="settle", got=policy.settle)
    duration_us(policy.longest, "longest")


def rollout_policy(store: Store, service: str) -> RolloutPolicy:
    """What a service's rollouts go by."""
    try:
        return registry.manifest_of(registry.get(store, f"policy:{PREFIX}{service}"), RolloutPolicy)
    except NotFound:
        return RolloutPolicy()

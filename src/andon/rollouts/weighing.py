"""From the analysis' verdicts to what a decision asks: is anybody hurt, what is not proven yet, can the arms be compared at all?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import msgspec

from andon.core.verdicts import Verdict
from andon.rollouts.analysis import AnalysisPolicy, AnalysisState, compare, judge, required_checks
from andon.rollouts.gathering import Memory
from andon.rollouts.pairing import agreement
from andon.rollouts.policies import RolloutPolicy
from andon.rollouts.records import Judgement, Rollout
from andon.rollouts.strategies import AB, Shadow

RATIO = "sample-ratio"


def verdicts_of(state: Rollout, memory: Memory, policy: RolloutPolicy, now_us: int) -> tuple[Verdict, ...]:
    """What is known of the candidate at this look; none before the first unit. Checks are called ``rollout/…``."""
    if memory.analysis is None or not memory.analysis.last_us:
        return ()
    found = judge(memory.analysis, policy.analysis, subject=state.candidate)
    if isinstance(state.strategy, Shadow):  # every request is answered by both
        found = (*(verdict for verdict in found if verdict.check != RATIO), *agreement(memory.pairs, policy))
    return tuple(
        msgspec.structs.replace(verdict, subject=state.candidate, check=f"rollout/{verdict.check}", at_us=now_us) for verdict in found
    )


def weigh(state: Rollout, verdicts: Sequence[Verdict], policy: AnalysisPolicy, analysis: AnalysisState | None) -> Judgement:
    """The judgement that these verdicts add up to."""
    if not verdicts or analysis is None:
        return Judgement()
    by_check = {verdict.check.removeprefix("rollout/"): verdict for verdict in verdicts}
    ratio = by_check.pop(RATIO, None)
    if isinstance(state.strategy, Shadow):
        return Judgement(unproven=("a shadow proves nothing about users",))  # it hurts nobody: its verdicts are for people to read
    if ratio is not None and ratio.status == "fail":
        return Judgement(mismatch=f"sample-ratio: {ratio.message}")
    decides = f"metric/{state.strategy.metric}" if isinstance(state.strategy, AB) and state.strategy.rule == "winner" else ""
    harm = tuple(f"{check}: {one.message}" for check, one in by_check.items() if one.status == "fail" and check != decides)
    required = required_checks(policy)
    unproven = [
        f"{check}: {by_check[check].message if check in by_check else 'not judged'}"
        for check in required
        if check not in by_check or by_check[check].status != "pass"
    ]
    if not required:
        unproven.append("policy: it requires nothing to be proven")
    if ratio is None or ratio.status != "pass":
        unproven.append("sample-ratio: " + ("not known" if ratio is None else ratio.message))
    winner = _winner(analysis, policy, state.strategy.metric) if isinstance(state.strategy, AB) and decides else ""
    return Judgement(harm=harm, unproven=tuple(unproven), winner=winner)


def _winner(analysis: AnalysisState, policy: AnalysisPolicy, metric: str | None) -> Literal["", "candidate", "control"]:
    """Whose the metric is: two-sided, at any look; wrong with chance ``alpha_promote`` at most when there is no difference."""
    if metric is None:
        return ""
    (found,) = compare(analysis, policy, metric, alpha=policy.alpha_promote)
    return "candidate" if found.finding == "better" else "control" if found.finding == "worse" else ""

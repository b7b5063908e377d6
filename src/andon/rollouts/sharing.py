"""The split that a rollout's state asks for: a pure function, so that what the ledger holds can be compared with what it should."""

from __future__ import annotations

from andon.releases import CANDIDATE, CONTROL, PRODUCTION, Arm, Mirror, Split
from andon.releases.splits import WHOLE
from andon.rollouts.records import Rollout
from andon.rollouts.strategies import AB, Canary, Shadow, Strategy, share_of


def split_of(state: Rollout) -> Split | None:
    """Who answers what; None when production answers everything and nothing is to be kept warm.

    A unit's place depends on the rollout alone, so a growing share only adds units, and the control that stays at the end is of those
    that never saw the candidate before.
    """
    if state.over:
        return None
    strategy = state.strategy
    arms: tuple[Arm, ...] = (Arm(channel=PRODUCTION, release=state.production, share=WHOLE),)
    mirrors: tuple[Mirror, ...] = ()
    warm: tuple[str, ...] = ()
    if isinstance(strategy, Shadow):
        share = share_of(strategy.share) if state.step >= 0 else 0
        mirrors = (Mirror(release=state.candidate, share=share, most_rows_s=strategy.most_rows_s),)
    elif state.phase == "keeping":
        share = share_of(strategy.holdback) if isinstance(strategy, Canary) else 0
        arms, warm = _shared(state.production, Arm(channel=CONTROL, release=state.baseline, share=share, upper=True)), (state.baseline,)
    elif state.step >= 0:
        arms = _shared(state.production, Arm(channel=CANDIDATE, release=state.candidate, share=_share(strategy, state.step)))
    else:
        warm = (state.candidate,)
    return Split(
        rollout=state.id,
        salt=state.id,
        arms=arms,
        mirrors=mirrors,
        warm=warm,
        key=getattr(strategy, "key", None),
        slices=tuple((state.policy.get("analysis") or {}).get("slices") or ()),
        stage=state.stage,
    )


def _shared(production: str, other: Arm) -> tuple[Arm, ...]:
    first = Arm(channel=PRODUCTION, release=production, share=WHOLE - other.share)
    return (first, other) if other.share else (first,)


def _share(strategy: Strategy, step: int) -> int:
    if isinstance(strategy, Canary):
        return share_of(strategy.steps[step])
    return share_of(strategy.share) if isinstance(strategy, AB) else 0

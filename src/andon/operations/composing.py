"""Ensembles and cascades, with the default store."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from andon.core.actors import Actor, current_actor
from andon.core.addresses import Address
from andon.operations.session import current_store
from andon.store import Store

if TYPE_CHECKING:
    from andon.models.composing import How, Members, Rule
    from andon.registry import Version


def ensemble(
    name: str,
    members: Members,
    *,
    how: How = "mean",
    weights: Sequence[float] | None = None,
    final: str | Address | None = None,
    show_members: bool = False,
    allow_pickle: bool = False,
    why: str = "",
    store: Store | None = None,
    actor: Actor | None = None,
) -> Version:
    """Several model versions that all answer, combined, as the next version of ``model:NAME``; release and deploy it like any model.

    ``members`` are models (``["model:trees@3", "model:linear@1"]``, or a mapping of name -> model). ``how`` is ``mean`` (floats averaged
    with the ``weights``, labels voted on), ``vote``, or ``stacked`` with a ``final`` model over the members' outputs (``MEMBER_OUTPUT``).
    ``show_members`` adds each member's outputs to the answer. Raises ``InvalidInput`` or ``Incompatible`` naming what does not fit.
    """
    from andon.models.composing import register_ensemble

    return register_ensemble(
        store or current_store(),
        name,
        members,
        how=how,
        weights=weights,
        final=final,
        show_members=show_members,
        allow_pickle=allow_pickle,
        actor=actor or current_actor(),
        reason=why,
    )


def cascade(
    name: str,
    members: Members,
    *,
    confidence: str,
    thresholds: float | Sequence[float],
    rule: Rule = "margin",
    allow_pickle: bool = False,
    why: str = "",
    store: Store | None = None,
    actor: Actor | None = None,
) -> Version:
    """Several model versions, cheapest first, as the next version of ``model:NAME``: rows that a member is unsure of go on to the next.

    A member is sure of a row when its confidence reaches the threshold: ``|p - 0.5|`` of the output ``confidence`` (rule ``margin``), the
    largest output whose name begins with it (``max``), or the output itself (``output``). The answer's ``answered_by`` names the member.
    Raises ``InvalidInput`` or ``Incompatible`` naming what does not fit.
    """
    from andon.models.composing import register_cascade

    return register_cascade(
        store or current_store(),
        name,
        members,
        confidence=confidence,
        thresholds=thresholds,
        rule=rule,
        allow_pickle=allow_pickle,
        actor=actor or current_actor(),
        reason=why,
    )

"""Labels that arrive after the prediction, as every face takes them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from andon.core.actors import Actor, current_actor
from andon.core.addresses import Address
from andon.core.clocks import to_us
from andon.core.errors import InvalidInput
from andon.logs import Label, record_labels
from andon.operations.session import current_store
from andon.store import Store

LINES_AT_ONCE = 10_000


def labels(
    service: str | Address,
    items: Sequence[Mapping[str, Any]],
    *,
    store: Store | None = None,
    actor: Actor | None = None,
) -> int:
    """Record labels, each ``{"request_id", "label", "row"?, "event_time"?, "name"?}``; on disk when this returns. Returns how many.

    ``event_time`` is when the label became known, in the data's own time (default: now). A later one corrects an earlier one from then on:
    what was judged before stays as it was said. With a ``name`` it is another outcome of the request (``revenue``, ``clicked``), which
    rollouts compare and monitors do not read. Labels of requests that were never answered are kept and match nothing. Raises ``NotFound``
    when there is no such service, and ``InvalidInput`` naming the first bad label; none is kept then.
    """
    store = store or current_store()
    name = _service(store, service)
    read = [read_label(item, position) for position, item in enumerate(items)]
    return record_labels(store, name, read, actor=actor or current_actor())


def labels_from_lines(service: str | Address, lines: Iterable[bytes], *, store: Store, actor: Actor | None = None) -> int:
    """Record labels from JSON lines, ten thousand at a time; what came before a bad line is kept, and the error says which line."""
    _service(store, service)
    count, pending = 0, list[dict[str, Any]]()
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            pending.append(msgspec.json.decode(line, type=dict[str, Any]))
        except msgspec.DecodeError as error:
            raise InvalidInput(f"line {number} is not a JSON object: {error}", field=f"line {number}", kept=count) from None
        if len(pending) == LINES_AT_ONCE:
            count += labels(service, pending, store=store, actor=actor)
            pending = []
    return count + labels(service, pending, store=store, actor=actor)


def read_label(item: Mapping[str, Any], position: int) -> Label:
    """One label as a caller wrote it. Raises ``InvalidInput`` naming the field."""
    unknown = item.keys() - {"request_id", "label", "row", "event_time", "name"}
    if unknown:
        raise InvalidInput(f"a label has no field {sorted(unknown)[0]!r}", field=f"labels[{position}]")
    for name, kinds in (("request_id", (str,)), ("label", (int, float, bool, str))):
        if not isinstance(item.get(name), kinds):
            raise InvalidInput(f"a label needs {name}", field=f"labels[{position}].{name}", got=repr(item.get(name))[:40])
    asked = item["request_id"]
    if not 0 < len(asked) <= 200 or not asked.isascii() or not asked.isprintable() or " " in asked:  # as serving has them
        told = "a request id is 1 to 200 printable ASCII characters without spaces"
        raise InvalidInput(told, field=f"labels[{position}].request_id", got=repr(asked)[:40])
    row = item.get("row", 0)
    if not isinstance(row, int) or isinstance(row, bool) or not 0 <= row < 2**31:
        raise InvalidInput("a row is a whole number from 0", field=f"labels[{position}].row", got=repr(row)[:40])
    when = item.get("event_time")
    event_us = None if when is None else to_us(when, field=f"labels[{position}].event_time")
    outcome = item.get("name")
    if outcome is not None and not isinstance(outcome, str):
        raise InvalidInput("the name of an outcome is text", field=f"labels[{position}].name", got=repr(outcome)[:40])
    return Label(request_id=asked, label=item["label"], row=row, event_us=event_us, name=outcome)


def _service(store: Store, service: str | Address) -> str:
    """The service's name. Raises ``NotFound`` with close names: labels of a service that is not there would match nothing, ever."""
    from andon.operations.showing.services import check_service

    name = Address.parse(service, kind="service").name
    check_service(store, name)
    return name

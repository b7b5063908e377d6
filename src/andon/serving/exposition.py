"""Families of metrics, and their text: Prometheus' own format 0.0.4, and OpenMetrics 1.0.

A family that is ``own`` is about one process (its memory, its queue); the others count, and sums over processes mean something. Sums of
seconds are kept as whole nanoseconds, so that adding them in another order makes no other number: a counter never goes down.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate
from typing import Literal

import msgspec

Kind = Literal["counter", "gauge", "histogram", "info"]
Labels = tuple[tuple[str, str], ...]
Sample = tuple[str, Labels, int | float]
"""What follows the family's name (such as ``_bucket``), labels, and the value."""
UNITS = ("seconds", "bytes")


class Family(msgspec.Struct, frozen=True):
    """Samples of one name. A counter's name ends in ``_total``, a histogram's samples are cumulative buckets, a sum and a count."""

    name: str
    kind: Kind
    said: str
    samples: list[Sample]
    own: bool = False
    nano: bool = False
    """Whether sums are whole nanoseconds, and to be shown in seconds."""


def counter(name: str, said: str, values: Mapping[Labels, int | float], *, own: bool = False) -> Family:
    """A family of counters; ``name`` ends in ``_total``."""
    return Family(name, "counter", said, [("", labels, value) for labels, value in values.items()], own)


def gauge(name: str, said: str, values: Mapping[Labels, int | float], *, own: bool = True) -> Family:
    """A family of gauges."""
    return Family(name, "gauge", said, [("", labels, value) for labels, value in values.items()], own)


def histogram(
    name: str, said: str, bounds: Sequence[float], values: Mapping[Labels, tuple[Sequence[int], int]], *, nano: bool = False
) -> Family:
    """A family of histograms: for each label set the counts between the bounds (one more than there are), and the sum."""
    samples: list[Sample] = []
    for labels, (counts, total) in values.items():
        for bound, count in zip((*(f"{bound:.12g}" for bound in bounds), "+Inf"), accumulate(counts), strict=True):
            samples.append(("_bucket", (*labels, ("le", bound if bound == "+Inf" else repr(float(bound)))), count))
        samples += [("_sum", labels, total), ("_count", labels, sum(counts))]
    return Family(name, "histogram", said, samples, nano=nano)


def labels(**values: str) -> Labels:
    """Labels in the order given.

    >>> labels(service="bikes")
    (('service', 'bikes'),)
    """
    return tuple(values.items())


def together(snapshots: Iterable[tuple[str, Sequence[Family]]]) -> list[Family]:
    """The families of several processes, each with its name, as those of one: what counts is added up, what is a process's own gets
    the label ``replica``."""
    found: dict[str, Family] = {}
    sums: dict[str, dict[tuple[str, Labels], int | float]] = {}
    for replica, families in snapshots:
        for family in families:
            found.setdefault(family.name, family)
            values = sums.setdefault(family.name, {})
            for suffix, named, value in family.samples:
                key = (suffix, (*named, ("replica", replica)) if family.own else named)
                values[key] = values.get(key, 0) + value
    return [
        msgspec.structs.replace(family, samples=[(suffix, named, value) for (suffix, named), value in sums[name].items()])
        for name, family in found.items()
    ]


def text(families: Iterable[Family], *, openmetrics: bool = False) -> str:
    """The exposition; families without samples are left out.

    >>> print(text([counter("rows_total", "Rows.", {(): 3})], openmetrics=True), end="")
    # HELP rows Rows.
    # TYPE rows counter
    rows_total 3
    # EOF
    """
    lines: list[str] = []
    for family in families:
        if family.samples:
            lines += _lines(family, openmetrics)
    return "\n".join([*lines, "# EOF" if openmetrics else ""]) + ("\n" if openmetrics else "")


def _lines(family: Family, openmetrics: bool) -> list[str]:
    name, kind = family.name, family.kind
    if openmetrics:
        name = name.removesuffix("_total" if kind == "counter" else "_info" if kind == "info" else "")
    elif kind == "info":
        kind = "gauge"
    said = family.said.replace("\\", "\\\\").replace("\n", "\\n")
    lines = [f"# HELP {name} {said.replace(chr(34), chr(92) + chr(34)) if openmetrics else said}", f"# TYPE {name} {kind}"]
    unit = name.rpartition("_")[2]
    if openmetrics and unit in UNITS:
        lines.append(f"# UNIT {name} {unit}")
    for suffix, named, value in family.samples:
        inside = ",".join([f"{key}={_quoted(said)}" for key, said in named])
        shown = f"{value // 10**9}.{value % 10**9:09.0f}" if family.nano and suffix == "_sum" else _number(value)
        lines.append(f"{family.name}{suffix}{{{inside}}} {shown}" if inside else f"{family.name}{suffix} {shown}")
    return lines


def _number(value: float) -> str:
    return str(value) if isinstance(value, int) else f"{value:.12g}"


def _quoted(said: str) -> str:
    escaped = said.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'


TEXT_TYPE = b"text/plain; version=0.0.4; charset=utf-8"
OPENMETRICS_TYPE = b"application/openmetrics-text; version=1.0.0; charset=utf-8"


def wants_openmetrics(accept: str) -> bool:
    """Whether an ``Accept`` header would rather have OpenMetrics than text (RFC 9110, section 12.5.1); on a tie the first named.

    >>> wants_openmetrics("application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.3,*/*;q=0.1")
    True
    >>> wants_openmetrics("text/plain, application/openmetrics-text;q=0.2"), wants_openmetrics("*/*")
    (False, False)
    """
    best, chosen = 0.0, False
    for part in accept.split(","):
        kind, *params = (piece.strip().lower() for piece in part.split(";"))
        given = {key.strip(): value.strip().strip('"') for key, _, value in (param.partition("=") for param in params)}
        try:
            weight = float(given.get("q", "1"))
        except ValueError:
            weight = 0.0
        is_openmetrics = kind == "application/openmetrics-text" and given.get("version", "1.0.0") in ("1.0.0", "0.0.1")
        if weight > best and (is_openmetrics or kind in ("text/plain", "text/*", "*/*")):
            best, chosen = weight, is_openmetrics
    return chosen

"""One way to make SVG: every attribute and every text is escaped here, so nothing that people named can become markup."""

from __future__ import annotations

from collections.abc import Iterable

from markupsafe import Markup, escape

EMPTY = Markup("")


def element(tag: str, content: str | Iterable[str] = (), /, **attributes: object) -> Markup:
    """``<tag …>content</tag>``. Attributes: ``class_`` is ``class``, ``_`` is ``-`` elsewhere; None is left out; floats get one decimal.

    >>> element("text", "<b>", class_="a", text_anchor="end", x=1.25)
    Markup('<text class="a" text-anchor="end" x="1.2">&lt;b&gt;</text>')
    """
    named = "".join(f' {_name(key)}="{_value(value)}"' for key, value in attributes.items() if value is not None)
    inside = escape(content) if isinstance(content, str) else EMPTY.join(content)
    return Markup(f"<{tag}{named}>{inside}</{tag}>")  # noqa: S704 - all of it was escaped above; tags are literals of ours


def _name(key: str) -> str:
    return key.rstrip("_").replace("_", "-")


def _value(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.1f}".removesuffix(".0")
    return str(escape(value))


def path(points: Iterable[tuple[float, float | None]]) -> str:
    """The ``d`` of a line through points; None lifts the pen."""
    parts, pen = [], False
    for x, y in points:
        if y is None:
            pen = False
            continue
        parts.append(f"{'L' if pen else 'M'}{x:.1f} {y:.1f}")
        pen = True
    return "".join(parts)

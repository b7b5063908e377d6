"""How numbers, times and states are said on the board. Filters of the templates; everything returns text, which the templates escape."""

from __future__ import annotations

import datetime as dt
import json
import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

from markupsafe import Markup

from andon.board.svg import EMPTY, element
from andon.core.addresses import ID_KINDS, VERSIONED_KINDS, Address
from andon.core.errors import AndonError
from andon.operations.showing.incidents import said_once

FIRST_US, LAST_US = -62_135_596_800_000_000, 253_402_300_799_000_000  # the years 1 and 9999
DAY_S = 86_400
INSTANT = re.compile(r"(\d{4})-(\d\d)-(\d\d)(?:T| at | )(\d\d):(\d\d)(?::\d\d(?:\.\d+)?)?(?:Z|\+00:00)?(?!\d)")
DATE = re.compile(r"(?<![\w-])(\d{4})-(\d\d)-(\d\d)(?![\w-])")
_VERSIONED = "|".join(sorted(VERSIONED_KINDS - {"service"}))
_WHOLE = "|".join(sorted(ID_KINDS | {"service"}))
NAMED = re.compile(rf"\b(?:(?:{_WHOLE}):[\w./-]*\w(?:@\w[\w-]*)?|(?:{_VERSIONED}):[\w./-]*\w@\w[\w-]*)")
"""Addresses in a sentence. What has versions is named with one: ``features:hours`` may as well be a Python function."""
LIGHT_WORDS = {"green": "good", "yellow": "watch", "red": "stop", "grey": "no signal"}
LIKE = {"pass": "green", "warn": "yellow", "fail": "red", "undecided": "grey"}
SHAPES = {
    "green": element("circle", cx=8, cy=8, r=6.5, fill="currentColor"),
    "yellow": element("path", d="M8 1.2 15.3 14.2H.7Z", fill="currentColor", stroke="currentColor", stroke_linejoin="round"),
    "red": element("rect", x=1.5, y=1.5, width=13, height=13, rx=1.5, fill="currentColor"),
    "grey": element("circle", cx=8, cy=8, r=5.5, fill="none", stroke="currentColor", stroke_width="2.2"),
}
TOWER = (("red", "M-3.2-3.2H3.2V3.2H-3.2Z"), ("yellow", "M0-4 4.4 3.6H-4.4Z"), ("green", "M-3.4 0a3.4 3.4 0 1 0 6.8 0a3.4 3.4 0 1 0-6.8 0"))


def lamp(state: str, size: str = "") -> Markup:
    """The lamp of a light or a verdict: disc, triangle, square or open ring, so that it reads without colour."""
    light = LIKE.get(state, state)
    return element("svg", [SHAPES.get(light, SHAPES["grey"])], class_=f"lamp is-{light} {size}", viewBox="0 0 16 16", aria_hidden="true")


def tower(light: str, height: int = 64) -> Markup:
    """The andon itself: a stack light of three lamps, with the one that is lit."""
    parts = []
    for index, (colour, drawn) in enumerate(TOWER):
        y, lit = 3 + index * 19, colour == light
        if lit:
            parts.append(element("rect", class_=f"on-{colour} halo", x=-1, y=y - 3, width=30, height=23, rx=7))
        parts.append(element("rect", class_=f"on-{colour}" if lit else "off", x=4, y=y, width=20, height=17, rx=4))
        if lit:
            parts.append(element("path", class_="mark", d=drawn, transform=f"translate(14 {y + 8.5})"))
    parts.append(element("rect", class_="post", x=12, y=60, width=4, height=8, rx=1))
    words, width = LIGHT_WORDS.get(light, light), height * 28 // 68
    return element("svg", parts, class_="tower", width=width, height=height, viewBox="0 0 28 68", role="img", aria_label=words)


def number(value: Any) -> str:
    """A number with about three digits that matter; a dash for none.

    >>> number(0.123456), number(41873), number(None), number(1.0)
    ('0.123', '41,873', '–', '1')
    """
    if value is None:
        return "–"
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    if isinstance(value, int) or (float(value).is_integer() and abs(value) < 1e15):
        return f"{int(value):,}"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.2f}" if abs(value) >= 1 else f"{value:.3g}"


def size(value: int) -> str:
    """Bytes, said.

    >>> size(412_887)
    '403 KiB'
    """
    amount = float(value)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if amount < 1024 or unit == "GiB":
            return f"{amount:.0f} {unit}" if unit in ("B", "KiB") else f"{amount:.1f} {unit}"
        amount /= 1024
    return f"{amount:.1f} GiB"


def moment(at_us: int) -> dt.datetime:
    """A UTC datetime; instants beyond what a calendar holds are clamped to it."""
    return dt.datetime(1970, 1, 1, tzinfo=dt.UTC) + dt.timedelta(
        microseconds=max(-62_135_596_800_000_000, min(at_us, 253_402_300_799_000_000))
    )


def instant(at_us: int | None) -> str:
    """``2011-09-07 00:00`` in UTC."""
    return "–" if at_us is None else f"{moment(at_us):%Y-%m-%d %H:%M}"


def day(at_us: int) -> str:
    """``7 Sep 2011``."""
    at = moment(at_us)
    return f"{at.day} {at:%b} {at.year}"


def date_time(at_us: int | None) -> str:
    """``7 Sep 2011``, and the time of day unless it is midnight."""
    if at_us is None:
        return "–"
    at = moment(at_us)
    return day(at_us) if (at.hour, at.minute) == (0, 0) else f"{day(at_us)} {at:%H:%M}"


def plain(text: str) -> str:
    """A sentence of a check, for people: instants as dates, and a times sign.

    >>> plain("loss is 1.90 x as expected since 2011-10-19T00:00:00Z")
    'loss is 1.90 × as expected since 19 Oct 2011'
    """
    text = INSTANT.sub(_dated, text)
    return re.sub(r"(\d) x (?=\w)", r"\1 × ", DATE.sub(_dated, text))


def _dated(found: re.Match[str]) -> str:
    parts = [int(part) for part in found.groups()]
    try:
        at = dt.datetime(*parts, tzinfo=dt.UTC)  # type: ignore[misc,arg-type]
    except ValueError:  # 2011-19-39 is no date: leave it as it was written
        return found.group()
    return date_time(int(at.timestamp()) * 1_000_000)


def linked(text: str) -> Markup:
    """A sentence, said plainly, with every address in it a link to its page."""
    return EMPTY.join(_linked(plain(text)))


def sentence(text: str) -> str:
    """A sentence with a large first letter and a full stop; one that begins with an address keeps it as it is."""
    text = text.strip()
    if not text:
        return ""
    first = text[0] if NAMED.match(text) else text[0].upper()
    return first + text[1:] + ("" if text[-1] in ".!?…" else ".")


def _linked(text: str) -> Iterator[Markup]:
    done = 0
    for found in NAMED.finditer(text):
        to = href(found.group())
        yield Markup.escape(text[done : found.start()])
        yield Markup.escape(found.group()) if to == "#" else element("a", found.group(), class_="link", href=to)
        done = found.end()
    yield Markup.escape(text[done:])


def unit(text: str) -> str:
    """A unit beside its number: ``x expected loss`` has a times sign."""
    return f"× {text[2:]}" if text.startswith("x ") else text.replace(" x ", " × ")


def lasting(us: int | None) -> str:
    """A duration: ``40 ms``, ``1.2 s``, ``94 s``, ``6 min``, ``3.2 h``, ``12 d``."""
    if us is None:
        return "–"
    seconds = us / 1e6
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 10:
        return f"{seconds:.1f} s"
    for limit, name, divisor in ((90, "s", 1.0), (5400, "min", 60.0), (172_800, "h", 3600.0)):
        if seconds < limit:
            return f"{seconds / divisor:.{0 if divisor == 1.0 else 1}f}".removesuffix(".0") + f" {name}"
    return f"{seconds / DAY_S:.0f} d"


def ago(at_us: int | None, now_us: int) -> Markup:
    """A ``<time>`` that says how long ago; the page's script keeps it true."""
    if at_us is None:
        return element("span", "–")
    seconds = max(0, now_us - at_us) / 1e6
    if seconds < 45:
        said = "just now"
    elif seconds < 3600:
        said = f"{max(1, round(seconds / 60))} min ago"
    elif seconds < DAY_S:
        said = f"{round(seconds / 3600)} h ago"
    else:
        said = f"{round(seconds / DAY_S)} d ago" if seconds < 30 * DAY_S else day(at_us)
    return element("time", said, datetime=f"{moment(at_us):%Y-%m-%dT%H:%M:%SZ}", title=f"{instant(at_us)} UTC", data_ago=at_us)


def when(at_us: int, event_us: int | None, now_us: int) -> Markup:
    """When something was: how long ago, or, in a replay, the event time that it is about and then when it was recorded."""
    told = ago(at_us, now_us)
    if event_us is None or abs(at_us - event_us) < DAY_S * 1_000_000:
        return told
    title = f"event time {instant(event_us)} UTC"
    about = element("time", date_time(event_us), class_="event", datetime=f"{moment(event_us):%Y-%m-%dT%H:%M:%SZ}", title=title)
    return about + element("span", [Markup(" · "), told], class_="recorded", title="when it was recorded")


def outcome(row: Any) -> str:
    """How an incident stands: ``open``, or how long it took, in event time where that is known."""
    if row.closed_us is None:
        return "open"
    timed = row.closed_event_us is not None and row.opened_event_us is not None
    start, end = (row.opened_event_us, row.closed_event_us) if timed else (row.opened_us, row.closed_us)
    return f"resolved after {lasting(max(0, end - start))}"


def beyond(row: Any) -> str:
    """An incident's sentence without the words that its headline says."""
    said, headline = row.title, row.headline.removeprefix("A ")
    if said.casefold().startswith(headline.casefold()):
        return said[len(headline) :].strip(" :.") if said != row.headline else ""
    return str(said)


def who(actor: str) -> str:
    """A person by name; anything else with its kind."""
    return actor.removeprefix("person:")


def short(digest: str | None) -> str:
    """The first digits of a digest."""
    return "–" if not digest else digest[:15] + ("…" if len(digest) > 15 else "")


def href(address: str) -> str:
    """The page of an address; ``#`` for what has none.

    >>> href("release:bikes@3"), href("policy:gate/default@1")
    ('/releases/bikes/3', '/registry/policy/gate%2Fdefault?at=1')
    """
    try:
        at = Address.parse(address)
    except AndonError:
        return "#"
    name = quote(at.name, safe="")
    suffix = at.version if at.version is not None else at.alias
    if at.kind == "release":
        return f"/releases/{name}/{suffix or 'latest'}"
    if at.kind == "service":
        return f"/services/{name}"
    if at.kind == "experiment":
        return f"/runs?experiment={name}"
    if at.kind in ID_KINDS:
        return f"/{at.kind}s/{name}"
    assert at.kind in VERSIONED_KINDS
    return f"/registry/{at.kind}/{name}" + (f"?at={suffix}" if suffix else "")


def pretty(value: Any) -> str:
    """A JSON-like value on several lines."""
    return json.dumps(value, indent=2, ensure_ascii=False, default=str)


def brief(value: Any) -> str:
    """A value in a table's cell."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int | float):
        return number(value)
    if isinstance(value, str) and value.startswith("b3:"):
        return short(value)
    text = plain(value) if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 160 else text[:157] + "…"


def printed(text: str) -> str:
    """What a terminal would show of printed text: a carriage return begins its line anew (a progress bar is one line).

    >>> printed("10 %\\r20 %\\r\\nnext\\r\\n")
    '20 %\\nnext\\n'
    """
    return re.sub(r"[^\n]*\r(?=[^\n])", "", re.sub(r"\r+\n", "\n", text))


def cellular(value: Any) -> str:
    """A cell of somebody's table: numbers as they are."""
    if isinstance(value, float):
        return f"{value:.6g}"
    return "–" if value is None else str(value)


FILTERS = {
    "printed": printed, "cellular": cellular,
    "lamp": lamp, "tower": tower, "number": number, "size": size, "instant": instant, "day": day, "lasting": lasting, "ago": ago,
    "who": who, "short": short, "href": href, "pretty": pretty, "brief": brief, "when": when,
    "plain": plain, "linked": linked, "date_time": date_time, "unit": unit, "outcome": outcome, "beyond": beyond,
    "once": said_once, "sentence": sentence,
    "light_word": lambda light: LIGHT_WORDS.get(light, light),
}  # fmt: skip

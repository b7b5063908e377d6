"""Templates: Jinja with autoescape on, and the words and drawings that they use."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from litestar import Response

from andon.board import charts, words
from andon.board.statics import static_url
from andon.core.errors import AndonError
from andon.store import Store

RUN_LIGHTS = {"running": "grey", "finished": "green", "failed": "red", "killed": "red"}


@lru_cache(maxsize=1)
def environment() -> Environment:
    """The templates, compiled once per process."""
    made = Environment(
        loader=PackageLoader("andon.board"), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    made.filters |= words.FILTERS | {"sparkline": charts.sparkline, "meter": charts.meter}
    made.globals |= {"static": static_url, "run_lights": RUN_LIGHTS, "section": "", "home": ""}
    return made


def page(template: str, store: Store, *, status: int = 200, **context: Any) -> Response[str]:
    """A whole page. ``section`` marks the navigation."""
    text = environment().get_template(template).render(now_us=store.clock.now_us(), home=store.settings.home, **context)
    return Response(text, status_code=status, media_type="text/html")


def error_page(request: Any, error: AndonError) -> Response[str]:
    """What a browser is told when something is not there or not possible."""
    back = request.headers.get("referer", "") if request.method == "POST" else ""
    text = environment().get_template("error.html").render(error=error, back=_own_path(back), now_us=0)
    return Response(text, status_code=error.status, media_type="text/html")


def _own_path(url: str) -> str:
    """The path of a URL of our own; a way back is never a way out."""
    from urllib.parse import urlsplit

    path = urlsplit(url).path
    return path if path.startswith("/") and not path.startswith("//") else ""

"""The board: one web page that says what is green, what is red, and why. Server-rendered; ``routes()`` goes into ``andon.api.app``."""

from __future__ import annotations

from typing import Any


def routes() -> list[Any]:
    """The Litestar handlers of every page, form and static file."""
    from andon.board import forms, pages, rollout_pages, run_pages, statics

    return [*pages.ROUTES, *run_pages.ROUTES, *rollout_pages.ROUTES, *forms.ROUTES, statics.get_static]

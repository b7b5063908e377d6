"""Static files: a fixed set of names, read once, named by their content so that browsers may keep them."""

from __future__ import annotations

from functools import lru_cache
from importlib import metadata, resources
from typing import Any

from litestar import Request, Response, get
from litestar.params import FromPath

from andon.core.digests import digest_bytes
from andon.core.errors import NotFound

MEDIA = {"css": "text/css; charset=utf-8", "js": "text/javascript; charset=utf-8", "svg": "image/svg+xml"}
NAMES = ("board.css", "board.js", "theme.js", "icon.svg", "runs.css", "runs.js", "columns.js", "plots.js")
KEEP = "public, max-age=31536000, immutable"


@lru_cache(maxsize=len(NAMES))
def _file(name: str) -> tuple[bytes, str]:
    data = (resources.files("andon.board") / "static" / name).read_bytes()
    return data, digest_bytes(data)[3:15]


@lru_cache(maxsize=1)
def _plotly() -> tuple[bytes, str]:
    """Plotly's own bundle, from the installed package, compressed once; importing plotly itself is slow and not needed."""
    import gzip

    distribution = metadata.distribution("plotly")
    path = distribution.locate_file("plotly/package_data/plotly.min.js")
    with open(str(path), "rb") as file:  # noqa: PTH123 - a SimplePath has no open()
        return gzip.compress(file.read(), 5), distribution.version


def static_url(name: str) -> str:
    """Where a page asks for a file; changes with the file."""
    return f"/static/{name}?v={_file(name)[1]}"


def plotly_url() -> str:
    """Where a page asks for Plotly's bundle."""
    return f"/static/plotly.min.js?v={metadata.version('plotly')}"


@get("/static/{name:str}", include_in_schema=False, sync_to_thread=True)
def get_static(request: Request[Any, Any, Any], name: FromPath[str]) -> Response[bytes]:
    """One of the named files, and nothing else."""
    if name == "plotly.min.js":
        data, version = _plotly()
        headers = {"cache-control": KEEP, "etag": f'"{version}"', "content-encoding": "gzip"}
        return Response(data, media_type=MEDIA["js"], headers=headers)
    if name not in NAMES:
        raise NotFound("there is no such file", path=name[:80])
    data, digest = _file(name)
    keep = KEEP if request.query_params.get("v") == digest else "no-cache"
    return Response(data, media_type=MEDIA[name.rpartition(".")[2]], headers={"cache-control": keep, "etag": f'"{digest}"'})

"""The pages of runs: the table, the comparison, one run with its files, and the small forms on them."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import quote, urlencode

import msgspec
from litestar import Response, get, post
from litestar.params import FromPath, FromQuery, URLEncodedBody
from litestar.response import Redirect, Stream

from andon.api.guard import CONTENT_POLICY, SANDBOX_POLICY
from andon.api.reading import Given
from andon.api.writing import By
from andon.board.graphs import lineage_graph
from andon.board.rendering import page
from andon.board.statics import plotly_url
from andon.board.trees import file_tree
from andon.core.addresses import Address
from andon.core.errors import AndonError, InvalidInput
from andon.operations import showing
from andon.operations.showing.files import image_ending
from andon.operations.showing.logs import STREAMS
from andon.registry import set_tag
from andon.store import Store
from andon.tracking import delete_run, get_experiment, restore_run

CHARTS, LINES = 3, 6
GALLERY = 12
TAIL_BYTES = 64 * 1024
NOTE = "mlflow.note.content"
"""The tag that MLflow's own pages keep a run's description in."""
MANY, GROUPS = 200, 100


@get("/runs", include_in_schema=False, sync_to_thread=True)
def runs_page(
    store: Given,
    experiment: FromQuery[str] = "",
    filter: FromQuery[str] = "",  # noqa: A002 - the name in the URL
    order: FromQuery[str] = "",
    view: FromQuery[str] = "active",
    column: FromQuery[list[str] | None] = None,
    group: FromQuery[str] = "",
    token: FromQuery[str] = "",
    done: FromQuery[str] = "",
) -> Response[str]:
    """Runs."""
    asked = Asked(
        experiment=experiment,
        filter=filter.strip(),
        order=order,
        view="deleted" if view == "deleted" else "active",
        column=None if column is None else tuple(one for one in column if one),
        group=group,
        token=token,
    )
    return show_runs(store, asked, done=done)


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """What the URL of the table asks for."""

    experiment: str = ""
    filter: str = ""
    order: str = ""
    view: str = "active"
    column: tuple[str, ...] | None = None
    group: str = ""
    token: str = ""

    def url(self, **changed: Any) -> str:
        """The table's URL with some of it changed; a change of anything but the page begins at its first page."""
        other = msgspec.structs.replace(self, **({"token": ""} | changed))
        pairs = [(key, getattr(other, key)) for key in ("experiment", "filter", "order", "group", "token")]
        pairs += [("view", other.view)] if other.view != "active" else []
        given = [(key, value) for key, value in pairs if value]
        given += [("column", one) for one in other.column or ()] if other.column is not None else []
        if other.column == ():
            given.append(("column", ""))
        return "/runs" + ("?" + urlencode(given, quote_via=quote) if given else "")

    def sorted_by(self, column: showing.Column) -> str:
        """The URL that sorts by a column: a number's best guess first, and the other way when it is sorted by it already."""
        return self.url(order=f"{column.sort} {'DESC' if self.order == f'{column.sort} ASC' else 'ASC'}")

    def way(self, column: showing.Column) -> str:
        """``ascending``, ``descending`` or nothing."""
        return {f"{column.sort} ASC": "ascending", f"{column.sort} DESC": "descending"}.get(self.order, "") if column.sort else ""


def show_runs(store: Store, asked: Asked, *, done: str = "", problem: AndonError | None = None) -> Response[str]:
    """The table; what is wrong with a filter is said at its box, and what was typed is kept."""
    wrong: AndonError | None = None
    table: showing.RunsTable | None = None
    experiments = showing.experiment_rows(store)
    try:
        table = showing.runs_table(
            store,
            experiment=asked.experiment or None,
            filter=asked.filter,
            order_by=[asked.order] if asked.order else [],
            deleted=asked.view == "deleted",
            columns=asked.column,
            group=asked.group,
            page_token=asked.token or None,
        )
    except AndonError as error:
        if error.status >= 500:
            raise
        wrong = error
    failed = problem or wrong
    return page(
        "runs.html",
        store,
        status=200 if failed is None else failed.status,
        section="runs",
        asked=asked,
        experiments=experiments,
        table=table,
        wrong=wrong,
        at=None if wrong is None else where_wrong(asked.filter, wrong),
        problem=problem,
        done=done,
        many=MANY,
        most_groups=GROUPS,
        shown=() if table is None else tuple(one.name for one in table.columns),
    )


def where_wrong(text: str, error: AndonError) -> tuple[int, int] | None:
    """From where to where a filter is wrong: what the error says, or the first place of the words that it quotes."""
    if error.fields.get("field", "filter") != "filter" or not text:
        return None
    position = error.fields.get("position")
    if isinstance(position, int) and 0 <= position <= len(text):
        return position, len(text)
    message = str(error.message)
    told = [found.strip("'\"") for found in re.findall(r"(?:Got value|Found|found|string value) (\S+)", message)]
    for quoted in [*(one.rstrip(".'\"") for one in told), *sorted(message.split("'")[1::2], key=len, reverse=True)]:
        found = text.rfind(quoted) if quoted and quoted != text else -1
        if found >= 0:
            return found, found + len(quoted)
    return (len(text), len(text)) if "end" in str(error.message) else None


class Picked(msgspec.Struct, frozen=True, kw_only=True):
    """The selected rows of the table."""

    run: list[str] | str = ""

    @property
    def ids(self) -> list[str]:
        """The ids, checked."""
        given = [self.run] if isinstance(self.run, str) else self.run
        found = [Address.parse(one, kind="run").name for one in given if one]
        if not found:
            raise InvalidInput("select at least one run", field="run", next_step="tick the boxes at the left of the table")
        return found


@post("/runs/delete", include_in_schema=False, sync_to_thread=True)
def post_delete(store: Given, actor: By, data: URLEncodedBody[Picked], back: FromQuery[str] = "/runs") -> Redirect:
    """Hide the selected runs."""
    ids = data.ids
    for one in ids:
        delete_run(store, one, actor=actor)
    return _to(_back(back, f"deleted {len(ids)}"))


@post("/runs/restore", include_in_schema=False, sync_to_thread=True)
def post_restore(store: Given, actor: By, data: URLEncodedBody[Picked], back: FromQuery[str] = "/runs") -> Redirect:
    """Bring the selected runs back."""
    ids = data.ids
    for one in ids:
        restore_run(store, one, actor=actor)
    return _to(_back(back, f"restored {len(ids)}"))


def _back(path: str, done: str) -> str:
    """The table that the form was on; nowhere else."""
    path = path if path == "/runs" or path.startswith("/runs?") else "/runs"
    return f"{path}{'&' if '?' in path else '?'}done={quote(done)}"


@get("/compare", include_in_schema=False, sync_to_thread=True)
def compare_page(store: Given, run: FromQuery[list[str] | None] = None) -> Response[str]:
    """Runs side by side."""
    view = showing.compare_view(store, run or [])
    ids = [one.id for one in view.runs]
    without = {one: "/compare?" + urlencode([("run", other) for other in ids if other != one]) for one in ids}
    drawn = sorted((one for one in view.metrics if one.points > 1), key=lambda one: (one.aim is None, one.key)) or view.metrics
    names = [one.name or one.id for one in view.runs]
    labels = {one.id: name if names.count(name) == 1 else f"{name} …{one.id[-4:]}" for one, name in zip(view.runs, names, strict=True)}
    made = page(
        "compare.html",
        store,
        section="runs",
        view=view,
        without=without,
        labels=labels,
        drawn=[one.key for one in drawn],
        plotly=plotly_url(),
    )
    return _with_plots(made)


@get("/runs/{id:str}", include_in_schema=False, sync_to_thread=True)
def run_page(store: Given, id: FromPath[str], done: FromQuery[str] = "") -> Response[str]:  # noqa: A002 - the name in the path
    """One run."""
    return show_run(store, id, done=done)


def show_run(
    store: Store, id_: str, *, done: str = "", problem: AndonError | None = None, typed: dict[str, str] | None = None
) -> Response[str]:
    """A run's page, maybe with what went wrong and what had been typed."""
    view = showing.run_view(store, Address.parse(f"run:{id_}"))
    lineage = showing.lineage_view(store, f"run:{id_}")
    running = view.run.status == "running"
    logs = [showing.run_log(store, f"run:{id_}", stream, limit=TAIL_BYTES) for stream in STREAMS]
    own = {key: value for key, value in view.tags.items() if not key.startswith("mlflow.")}
    made = page(
        "run.html",
        store,
        status=200 if problem is None else problem.status,
        section="runs",
        view=view,
        running=running,
        done=done,
        problem=problem,
        typed=typed or {},
        note=(typed or {}).get("note", view.tags.get(NOTE, "")),
        tags=own,
        client={key: value for key, value in view.tags.items() if key.startswith("mlflow.") and key != NOTE},
        lineage=lineage,
        graph=lineage_graph(lineage),
        made=sorted({edge.child for edge in view.made if not edge.child.startswith("run:")}),
        chart_groups=chart_groups(view.series),
        logs=[one for one in logs if one.known or running],
        logged=any(one.known for one in logs),
        tree=file_tree(view.artifacts),
        pictures=pictures(store, view.artifacts),
        plotly=plotly_url(),
        missing=[one for one in view.completeness if not one.present],
    )
    return _with_plots(made)


def _with_plots(made: Response[str]) -> Response[str]:
    """Plotly's bundle adds a style element of its own, so these pages alone allow inline styles; scripts stay as strict as everywhere."""
    made.headers["content-security-policy"] = CONTENT_POLICY.replace("style-src 'self'", "style-src 'self' 'unsafe-inline'")
    return made


def pictures(store: Store, artifacts: tuple[Any, ...]) -> list[Any]:
    """The first pictures among a run's files: by name; their route looks at their bytes."""
    named = [one for one in artifacts if image_ending(one.path) and 0 < one.size_bytes <= 8 << 20]
    return [one for one in named[: 4 * GALLERY] if store.blobs.has(one.digest)][:GALLERY]


def chart_groups(series: tuple[showing.SeriesRow, ...]) -> list[list[str]]:
    """Metrics of several points that share an axis: those of about one size, the largest group first; at most three charts of six lines."""
    groups: list[tuple[float, list[str]]] = []
    drawn = [one for one in series if one.count > 1]
    for one in sorted(drawn, key=lambda one: one.key.startswith("system/")):
        high = max(abs(one.max or 0.0), abs(one.min or 0.0))
        for size, keys in groups:
            if len(keys) < LINES and size / 30 <= high <= size * 30:
                keys.append(one.key)
                break
        else:
            groups.append((high, [one.key]))
    return [keys for _, keys in sorted(groups, key=lambda group: -len(group[1]))[:CHARTS]]


class Edited(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A change of a note or a tag."""

    note: str = ""
    key: str = ""
    value: str = ""
    remove: str = ""


@post("/runs/{id:str}/note", include_in_schema=False, sync_to_thread=True)
def post_note(store: Given, actor: By, id: FromPath[str], data: URLEncodedBody[Edited]) -> Response[str] | Redirect:  # noqa: A002 - the name in the path
    """Keep a note; an empty one removes it."""
    text = data.note.replace("\r\n", "\n").strip()
    before = showing.run_view(store, Address.parse(f"run:{id}")).tags.get(NOTE)
    try:
        if text != (before or ""):
            set_tag(store, f"run:{id}", NOTE, text or None, actor=actor)
    except AndonError as error:
        return show_run(store, id, problem=error, typed={"note": data.note})
    return _to(f"/runs/{quote(id)}?done=note#note")


@post("/runs/{id:str}/tags", include_in_schema=False, sync_to_thread=True)
def post_tag(store: Given, actor: By, id: FromPath[str], data: URLEncodedBody[Edited]) -> Response[str] | Redirect:  # noqa: A002 - the name in the path
    """Set a tag, or remove one."""
    showing.run_view(store, Address.parse(f"run:{id}"))  # there is such a run
    try:
        key = (data.remove or data.key).strip()
        set_tag(store, f"run:{id}", key, None if data.remove else data.value.strip(), actor=actor)
    except AndonError as error:
        return show_run(store, id, problem=error, typed={"key": data.key, "value": data.value})
    return _to(f"/runs/{quote(id)}?done=tag#tags")


@get("/runs/{id:str}/files/{path:path}", include_in_schema=False, sync_to_thread=True)
def file_page(store: Given, id: FromPath[str], path: FromPath[str]) -> Response[str]:  # noqa: A002 - the name in the path
    """One file of a run, as far as it can be shown."""
    view = showing.run_view(store, Address.parse(f"run:{id}"))
    shown = showing.preview(store, f"run:{id}", _path(path))
    numeric = [
        any(_is_number(row[place]) for row in shown.rows) and all(row[place] is None or _is_number(row[place]) for row in shown.rows)
        for place in range(len(shown.columns))
    ]
    tree = file_tree(view.artifacts, opened=shown.path)
    return page("file.html", store, section="runs", view=view, file=shown, tree=tree, numeric=numeric)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


@get("/runs/{id:str}/images/{path:path}", include_in_schema=False, sync_to_thread=True)
def get_image(store: Given, id: FromPath[str], path: FromPath[str]) -> Response[bytes]:  # noqa: A002 - the name in the path
    """A picture of a run, told by its first bytes; nothing that could hold a script."""
    data, media_type = showing.read_image(store, f"run:{id}", _path(path))
    headers = {"content-disposition": "inline", "content-security-policy": SANDBOX_POLICY, "cache-control": "private, max-age=300"}
    return Response(data, media_type=media_type, headers=headers)


@get("/runs/{id:str}/artifacts/{path:path}", include_in_schema=False, sync_to_thread=True)
def get_artifact(store: Given, id: FromPath[str], path: FromPath[str]) -> Stream:  # noqa: A002 - the name in the path
    """A run's file, to be saved and never shown: it holds whatever the run wrote."""
    found = showing.artifact_of(store, f"run:{id}", _path(path))
    stream = store.blobs.open(found.digest)
    name = quote(found.path.rpartition("/")[2], safe="")
    headers = {
        "content-disposition": f"attachment; filename*=UTF-8''{name}",
        "content-security-policy": SANDBOX_POLICY,
        "content-length": str(found.size_bytes),
    }
    return Stream(iter(lambda: stream.read(1 << 16), b""), media_type="application/octet-stream", headers=headers)


@get("/experiments/{number:int}", include_in_schema=False, sync_to_thread=True)
def experiment_page(store: Given, number: FromPath[int]) -> Redirect:
    """An experiment by its number, as MLflow clients name it: the table of its runs."""
    return _to(Asked(experiment=get_experiment(store, number).name).url())


@get("/logged-models/{id:str}", include_in_schema=False, sync_to_thread=True)
def logged_model_page(store: Given, id: FromPath[str]) -> Redirect:  # noqa: A002 - the name in the path
    """A logged model is shown on the page of the run that made it."""
    return _to(f"/runs/{quote(showing.run_of_model(store, id), safe='')}#made")


def _path(path: str) -> str:
    return path.lstrip("/").replace("%2F", "/")


def _to(path: str) -> Redirect:
    return Redirect(path, status_code=303)


ROUTES = [
    runs_page, post_delete, post_restore, compare_page, run_page, post_note, post_tag, file_page, get_image, get_artifact,
    experiment_page, logged_model_page,
]  # fmt: skip

"""Writes what the docs say about the code from the code: ``docs/reference/*.md``, ``docs/figures.md``, and the claims in the README.

::

    python docs/generate.py            # writes what has changed (make docs)
    python docs/generate.py --check    # writes nothing; exit 1 and a diff when something is stale
"""

from __future__ import annotations

import ast
import difflib
import importlib
import importlib.util
import inspect
import json
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
REFERENCE = ROOT / "docs" / "reference"
NOTE = "<!-- Written by docs/generate.py from the code: change the code, then run `make docs`. -->\n"
MARKS = ("<!-- figures: begin (make docs) -->", "<!-- figures: end -->")


def pages() -> dict[Path, str]:
    """Every page that is written here, and what it should say now."""
    makers = {"settings": settings_page, "errors": errors_page, "cli": cli_page, "api": api_page}
    written = {REFERENCE / f"{name}.md": page for name, make in makers.items() if (page := make()) is not None}
    readme = ROOT / "README.md"
    return written | {ROOT / "docs" / "figures.md": figures_page(), readme: with_claims(readme.read_text(encoding="utf-8"))}


# --- settings


def settings_page() -> str:
    """One heading for each field of ``Settings``, with the docstring below the field."""
    from andon.core import settings

    tree = ast.parse(inspect.getsource(settings))
    body = next(node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == "Settings").body
    out = [NOTE, "# Settings\n"]
    out.append(
        f"Read from `{settings.FILE_NAME}` in the home folder, then from the environment, then from what the caller or the command line "
        "passes; the later wins. The home folder is `ANDON_HOME`, else the nearest `.andon` at or above the working directory.\n"
    )
    for field, after in zip(body, [*body[1:], None], strict=True):
        if not isinstance(field, ast.AnnAssign):
            continue
        assert isinstance(field.target, ast.Name)
        name = field.target.id
        said = after.value.value if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant) else ""
        given = getattr(settings.Settings, "__struct_defaults__", ())
        names = settings.Settings.__struct_fields__
        default = dict(zip(names[len(names) - len(given) :], given, strict=True)).get(name, "the home folder that was found")
        out.append(f"## `{name}`\n\n{_paragraph(str(said))}\n")
        rows = [("environment", f"`ANDON_{name.upper()}`"), ("type", _type(field.annotation)), ("default", _value(default))]
        out.append("\n".join(f"- {key}: {value}" for key, value in rows) + "\n")
    return "\n".join(out)


def _type(annotation: ast.expr) -> str:
    """``Annotated[int, Meta(ge=1)]`` as `int`, with ``ge=1`` beside it."""
    if isinstance(annotation, ast.Subscript) and ast.unparse(annotation.value).endswith("Annotated"):
        assert isinstance(annotation.slice, ast.Tuple)
        inner, *metas = annotation.slice.elts
        signs = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}
        limits = [f"{signs.get(k.arg or '', k.arg)} {ast.unparse(k.value)}" for m in metas if isinstance(m, ast.Call) for k in m.keywords]
        return f"`{ast.unparse(inner)}`, {', '.join(limits)}"
    return f"`{ast.unparse(annotation)}`"


def _value(value: Any) -> str:
    if isinstance(value, tuple):
        return ", ".join(f"`{item}`" for item in value)
    return f"`{json.dumps(value)}`" if not isinstance(value, str) or not value.startswith("the ") else value


# --- errors


def errors_page() -> str:
    """One heading for each error code."""
    from andon.core.errors import AndonError

    out = [NOTE, "# Errors\n"]
    out.append(
        "Every error has a stable code, a message in plain words, the fields it is about and, where there is one, the next step. The HTTP "
        "API answers with the status below and this body; the CLI prints the same and exits with the code below.\n"
    )
    shape = AndonError("what happened", next_step="what to do", field="which one").envelope()
    out.append(f"```json\n{json.dumps(shape, indent=2)}\n```\n")
    for kind in error_tree(AndonError):
        above = next((base.code for base in kind.__mro__[1:] if issubclass(base, AndonError) and base is not AndonError), None)
        out.append(f"## `{kind.code}`\n\n{_paragraph(inspect.getdoc(kind) or '')}\n")
        rows = [("HTTP status", f"{kind.status}"), ("exit code", f"{kind.exit_code}"), ("in Python", f"`{kind.__name__}`")]
        rows += [("is a", f"[`{above}`](#{above})")] if above and above != kind.code else []
        rows += [("next step", kind.default_next_step)] if kind.default_next_step else []
        out.append("\n".join(f"- {key}: {value}" for key, value in rows) + "\n")
    return "\n".join(out)


def error_tree(root: type[Any]) -> Iterator[type[Any]]:
    """Every error that has a code of its own: those of ``core.errors`` in the order of its drawing, then those that a module adds."""
    for file in sorted((ROOT / "src").rglob("*.py")):
        if re.search(r"^    code = \"", file.read_text(encoding="utf-8"), re.MULTILINE):
            importlib.import_module(".".join(file.relative_to(ROOT / "src").with_suffix("").parts))
    found = list(_with_codes(root))
    yield from sorted(found, key=lambda kind: "" if kind.__module__ == root.__module__ else kind.__module__)


def _with_codes(kind: type[Any]) -> Iterator[type[Any]]:
    if "code" in vars(kind) and kind.__module__.startswith("andon."):
        yield kind
    for below in kind.__subclasses__():
        yield from _with_codes(below)


# --- the command line


def cli_page() -> str | None:
    """One heading for each command, with its arguments and options."""
    main = _module("andon.cli.main")
    if main is None:
        return None
    out = [NOTE, "# Command line\n"]
    for path, command in commands(main.cli):
        words = " ".join(("andon", *path))
        out.append(f"## `{words}`\n\n{_paragraph(inspect.cleandoc(command.help or command.short_help or ''))}\n")
        arguments = [p for p in command.params if p.param_type_name == "argument" and not getattr(p, "hidden", False)]
        options = [p for p in command.params if p.param_type_name == "option" and not p.hidden]
        usage = [words, *(["[OPTIONS]"] if options else []), *(_argument(p) for p in arguments)]
        usage += ["COMMAND …"] if hasattr(command, "commands") else []
        out.append(f"```console\n$ {' '.join(usage)}\n```\n")
        if options:
            rows = [[_option(p), _cell(p.help or ""), _default(p)] for p in options]
            out.append(_table(["option", "what it does", "default"], rows))
    return "\n".join(out)


def commands(group: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """The group itself, then every visible command below it, by name."""
    import click

    yield path, group
    if isinstance(group, click.Group):
        context = click.Context(group, info_name=" ".join(("andon", *path)))
        for name in sorted(group.list_commands(context)):
            command = group.get_command(context, name)
            if command is not None and not command.hidden:
                yield from commands(command, (*path, name))


def _argument(param: Any) -> str:
    name = (param.metavar or param.name).upper() + ("…" if param.nargs == -1 else "")
    return name if param.required else f"[{name}]"


def _option(param: Any) -> str:
    names = ", ".join(f"`{name}`" for name in (*param.opts, *param.secondary_opts))
    if param.is_flag or param.count:
        return names
    choices = getattr(param.type, "choices", None)
    shown = "|".join(str(choice) for choice in choices) if choices else (param.metavar or param.type.name.removesuffix(" range")).upper()
    return f"{names} {_cell(shown)}" + (" (repeatable)" if param.multiple else "") + (" (required)" if param.required else "")


def _default(param: Any) -> str:
    value = param.default
    if param.secondary_opts and isinstance(value, bool):
        return f"`{param.opts[0] if value else param.secondary_opts[0]}`"
    if callable(value) or value in (None, (), "") or repr(value) == "Sentinel.UNSET" or (param.is_flag and not value):
        return ""
    return f"`{_cell(str(value))}`"


# --- the HTTP API


def api_page() -> str | None:
    """One heading for each route of the control plane, with its methods, parameters and answers as far as OpenAPI knows them."""
    app = the_app()
    if app is None:
        return None
    schema = app.openapi_schema.to_schema()
    documented, records = schema["paths"], schema.get("components", {}).get("schemas", {})
    out = [NOTE, "# HTTP API\n"]
    out.append("Served by `andon up`. Errors have the shape and the codes of [the errors page](errors.md).\n")
    for method, path, handler in endpoints(app):
        operation = documented.get(path, {}).get(method.lower(), {})
        said = operation.get("description") or inspect.getdoc(handler) or operation.get("summary") or ""
        out.append(f"## `{method} {path}`\n\n{_paragraph(said)}\n")
        rows = [
            [f"`{p['name']}`", p["in"], _schema(p.get("schema", {})), "yes" if p.get("required") else ""]
            for p in operation.get("parameters", [])
        ]
        for content in operation.get("requestBody", {}).get("content", {}).values():
            record = records.get(content["schema"].get("$ref", "").rsplit("/", 1)[-1], {})
            fields, needed = record.get("properties", {}), record.get("required", [])
            rows += [[f"`{name}`", "body", _schema(field), "yes" if name in needed else ""] for name, field in fields.items()]
        if rows:
            out.append(_table(["parameter", "in", "type", "required"], rows))
        answers = {code: answer for code, answer in operation.get("responses", {}).items() if code < "400"}
        if answers:
            kinds = {code: [_schema(c.get("schema", {})) for c in answer.get("content", {}).values()] for code, answer in answers.items()}
            out.append("Answers: " + "; ".join(f"{code} {' or '.join(shown)}".strip() for code, shown in kinds.items()) + "\n")
    out.append("## Records\n\nWhat the answers above hold.\n")
    for name in sorted(_reached({operation for item in documented.values() for operation in _refs(item, answers_only=True)}, records)):
        fields = records[name].get("properties", {})
        lines = [[f"`{field}`", _schema(schema)] for field, schema in fields.items()]
        out.append(f"### {name}\n\n" + _table(["field", "type"], lines))
    return "\n".join(out)


def _refs(schema: Any, *, answers_only: bool = False) -> Iterator[str]:
    """Names of the records that a piece of an OpenAPI document refers to."""
    if isinstance(schema, list):
        for item in schema:
            yield from _refs(item, answers_only=answers_only)
    elif isinstance(schema, dict):
        for key, value in schema.items():
            if key == "$ref":
                yield str(value).rsplit("/", 1)[-1]
            elif not (answers_only and key in ("requestBody", "parameters")):
                yield from _refs(value, answers_only=answers_only)


def _reached(names: set[str], records: dict[str, Any]) -> set[str]:
    """``names`` and every record that their fields refer to."""
    reached, waiting = set[str](), {name for name in names if name in records}
    while waiting:
        reached |= waiting
        waiting = {name for record in waiting for name in _refs(records[record]) if name in records} - reached
    return reached


def the_app() -> Any:
    """The control plane's application over a store in memory, or None while there is no such module."""
    module = _module("andon.api.app")
    if module is None:
        return None
    from andon.store import memory_store

    store = memory_store()
    return module.create_app(store, store.settings)


def endpoints(app: Any) -> list[tuple[str, str, Any]]:
    """Every route as (method, path, handler), by path. Bare ASGI routes and mounts have the method ``ANY``."""
    found: dict[tuple[str, str], Any] = {}
    for route in app.routes:
        path = route.path_format
        if hasattr(route, "route_handler_map"):
            for method, handler in route.route_handler_map.items():
                found.setdefault((str(method), path), _function(handler))
        else:
            found.setdefault(("ANY", path), _function(route.route_handler))
    own = ((method, path, handler) for (method, path), handler in found.items() if method != "OPTIONS")
    return sorted((item for item in own if not item[1].startswith("/schema")), key=lambda item: (item[1], item[0]))


def _function(handler: Any) -> Any:
    handler = handler[0] if isinstance(handler, tuple) else handler
    function = getattr(handler.fn, "value", handler.fn)
    return getattr(function, "func", function)  # a plain function is wrapped to run in a thread


def _schema(schema: dict[str, Any]) -> str:
    if "$ref" in schema:
        return f"`{schema['$ref'].rsplit('/', 1)[-1]}`"
    several = schema.get("oneOf") or schema.get("anyOf")
    if several:
        return " or ".join(dict.fromkeys(_schema(item) for item in several if item.get("type") != "null"))
    if schema.get("type") == "array":
        return f"list of {_schema(schema.get('items', {}))}"
    kind = schema.get("type", "any")
    return " or ".join(kind) if isinstance(kind, list) else str(kind)


# --- figures, and what the README says of them


CLAIMS: tuple[tuple[str, dict[str, Any], str, str], ...] = (
    (
        "serving_7_us",
        {"server": "andon", "processes": 1, "connections": 64},
        "A 7 µs ONNX model, 64 connections, one process",
        "{requests/s:,.0f} requests/s, p99 {p99 ms:.1f} ms, each validated, logged and counted: {of the floor:.2f} of bare uvicorn with "
        "ONNX Runtime, {of the best peer:.1f} times the best of six serving tools",
    ),
    (
        "serving_7_us",
        {"server": "andon", "processes": 2, "connections": 64},
        "the same, two processes",
        "{requests/s:,.0f} requests/s: {of the floor:.2f} of two bare ones, {of the best peer:.1f} times the best tool",
    ),
    (
        "serving_1_ms",
        {"server": "andon", "processes": 1, "connections": 64},
        "A scikit-learn forest of 1 ms, which Andon saves as ONNX",
        "{requests/s:,.0f} requests/s, {of the best peer:.0f} times the best tool with the same forest",
    ),
    (
        "serving_overload",
        {"server": "andon serve", "of peak offered": 3.0},
        "Three times what the model can answer, a deadline of 200 ms",
        "{of peak:.2f} of the closed-loop peak in time, p99 {p99 ms:.0f} ms; the rest refused within {p50 of refusals ms:.1f} ms",
    ),
    (
        "rollouts_live",
        {"move": "roll back in a canary"},
        "Roll back under load",
        "{p50 ms:.0f} ms from the call to the last answer of the bad release; {failed} requests failed",
    ),
    (
        "rollouts_errors",
        {"": "ours, every request"},
        "A canary looked at after every request",
        "aborted by mistake: {identical, steady 1 %} of identical ones; noticed when errors double (share, median request): {2x, steady}",
    ),
    ("cold_start", {"what": "asleep: forked from the zygote"}, "Asleep to the first answer", "{median:.0f} ms"),
    (
        "tracking",
        {"work": "create_run /s"},
        "MLflow's own client, `create_run`",
        "{andon:,.0f} a second, {against the best peer} MLflow's",
    ),
    ("tracking_capacity", {"work": "raw points 1"}, "Metric points over HTTP, durable", "{a second, or ms:,.0f} a second"),
    ("ledger", {"": "durable commits/s, 1 writer"}, "Durable ledger commits", "{andon:,.0f} a second, one writer"),
)
"""What the README says: the result, the row, what it is, and the sentence of its columns."""


def with_claims(readme: str) -> str:
    """The README with the claims of ``bench/results/*.json`` between its marks."""
    before, _, rest = readme.partition(MARKS[0])
    _, _, after = rest.partition(MARKS[1])
    if not rest:
        return readme
    return f"{before}{MARKS[0]}\n\n{claims()}\n{MARKS[1]}{after}"


def claims() -> str:
    """A line for each claim whose benchmark has been kept."""
    out = []
    for name, wanted, what, said in CLAIMS:
        file = ROOT / "bench" / "results" / f"{name}.json"
        if file.exists():
            bench = json.loads(file.read_text(encoding="utf-8"))
            rows = [dict(zip(bench["columns"], row, strict=True)) for row in bench["rows"]]
            row = next(row for row in rows if wanted.items() <= row.items())
            out.append([what, said.format_map(row)])
    return _table(["what", "measured"], out) if out else "No benchmark has been kept yet: `make bench` writes them to `bench/results/`.\n"


def figures_page() -> str:
    """The table of each kept benchmark, folded under its title."""
    kept = [json.loads(file.read_text(encoding="utf-8")) for file in sorted((ROOT / "bench" / "results").glob("*.json"))]
    out = [
        NOTE,
        "# Figures\n",
        "Measured side by side with the bare library or the peer, in one run, by the scripts in `bench/`; again with `make bench`. "
        "The floor is the bare library doing the same work.\n",
    ]
    for bench in kept:
        rows = [[_figure(value) for value in row] for row in bench["rows"]]
        machine = bench.get("machine", {})
        where = f"{machine.get('cores')} cores, Python {machine.get('python')}, {machine.get('at')}"
        out.append(f"<details>\n<summary>{_cell(bench['title'])}</summary>\n\n{_table(bench['columns'], rows)}")
        out.append(f"{_paragraph(bench['method'])} (`bench/{bench.get('script') or bench['name'] + '.py'}`; {where})\n\n</details>\n")
    return "\n".join(out)


def _figure(value: Any) -> str:
    """A number with as many digits as mean something: 3 for what is measured, all for what is counted."""
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else _cell(str(value))


# --- all of them


def _module(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name and name.startswith(error.name):
            return None
        raise


def _paragraph(text: str) -> str:
    return text.replace("``", "`").replace("\b", "").strip()


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "\\|").replace("``", "`").split())


def _table(head: list[str], rows: Iterable[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def stale() -> list[str]:
    """A diff for each page that the code has outrun, and a line for each page that nothing writes any more."""
    found = []
    expected = pages()
    for file, text in expected.items():
        now = file.read_text(encoding="utf-8") if file.exists() else ""
        shown = file.relative_to(ROOT).as_posix()
        if now != text:
            found.append("\n".join(difflib.unified_diff(now.splitlines(), text.splitlines(), shown, "the code", lineterm="", n=1)))
    found += [f"{file.relative_to(ROOT)}: nothing writes this page" for file in REFERENCE.glob("*.md") if file not in expected]
    return found


def main() -> int:
    """Write, or with ``--check`` only say what is stale."""
    if "--check" in sys.argv:
        found = stale()
        print("\n".join(found) or "the reference is current")
        return bool(found)
    REFERENCE.mkdir(exist_ok=True)
    for file, text in pages().items():
        if not file.exists() or file.read_text(encoding="utf-8") != text:
            file.write_text(text, encoding="utf-8")
            print(f"wrote {file.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

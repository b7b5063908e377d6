"""The docs as a contract: the reference is current, examples run, links lead somewhere, and no tracked file tells what it should not."""

from __future__ import annotations

import ast
import functools
import importlib.util
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import click
import pytest

ROOT = Path(__file__).parents[2]
LONG_MODULE, LONG_FUNCTION = 600, 80
"""Lines at which code needs a reason, in ``long_code.txt``."""
WORTH_A_LOOK_MODULE, WORTH_A_LOOK_FUNCTION = 400, 60
LONG_CODE = Path(__file__).with_name("long_code.txt")


@functools.cache
def tracked_files() -> list[Path]:
    """Files that git tracks, or would after ``git add``; where there is no git, everything but caches."""
    listed = subprocess.run(["git", "ls-files", "-co", "--exclude-standard", "-z"], cwd=ROOT, capture_output=True, check=False)
    if listed.returncode == 0 and listed.stdout:
        found = [ROOT / name for name in listed.stdout.decode().split("\0") if name]
    else:
        skipped = {".venv", "__pycache__", ".git", ".andon", ".mypy_cache", ".ruff_cache", ".pytest_cache", ".hypothesis", "build", "dist"}
        found = [file for file in ROOT.rglob("*") if not skipped & set(file.relative_to(ROOT).parts)]
    return sorted(file for file in found if file.is_file())


def written_docs() -> list[Path]:
    """Markdown that people read."""
    return [file for file in tracked_files() if file.suffix == ".md"]


def shown(file: Path) -> str:
    return file.relative_to(ROOT).as_posix()


# --- the reference says what the code does


@functools.cache
def generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def headings(page: str) -> set[str]:
    text = (ROOT / "docs" / "reference" / page).read_text(encoding="utf-8")
    return {match[1] for match in re.finditer(r"^## `(.+)`$", text, re.MULTILINE)}


def test_the_reference_is_current() -> None:
    stale = generator().stale()
    assert not stale, "\n" + "\n".join(stale) + "\nrun: make docs"


def test_every_setting_has_a_heading_and_says_what_it_is() -> None:
    from andon.core.settings import Settings

    assert set(Settings.__struct_fields__) == headings("settings.md")
    text = (ROOT / "docs" / "reference" / "settings.md").read_text(encoding="utf-8")
    assert "`\n\n\n" not in text, "a setting has no docstring"


def test_every_error_code_has_a_heading_and_codes_are_told_apart() -> None:
    import andon.core.errors as errors

    kinds = list(generator().error_tree(errors.AndonError))
    codes = [kind.code for kind in kinds]
    assert len(codes) == len(set(codes)), "two errors share a code"
    assert set(codes) == headings("errors.md")
    drawn = errors.__doc__ or ""
    missing = [kind.__name__ for kind in kinds if kind.__module__ == errors.__name__ and f"{kind.__name__} " not in drawn]
    assert not missing, f"the drawing in core/errors.py lacks {', '.join(missing)}"


def test_every_command_and_option_has_its_place() -> None:
    main = generator()._module("andon.cli.main")
    if main is None:
        pytest.skip("there is no command line yet")
    text = (ROOT / "docs" / "reference" / "cli.md").read_text(encoding="utf-8")
    sections = dict(zip(re.findall(r"^## `(.+)`$", text, re.MULTILINE), re.split(r"^## .+$", text, flags=re.MULTILINE)[1:], strict=True))
    for path, command in generator().commands(main.cli):
        name = " ".join(("andon", *path))
        assert name in sections, name
        assert command.help, f"{name} has no help text"
        for param in command.params:
            if param.param_type_name == "option" and not param.hidden:
                assert f"`{param.opts[0]}`" in sections[name], f"{name} {param.opts[0]}"
                assert param.help, f"{name} {param.opts[0]} has no help text"


def test_commands_in_the_docs_are_commands() -> None:
    """Every ``$ andon …`` that a page shows is taken by the command line (parsed, not run)."""
    main = generator()._module("andon.cli.main")
    if main is None:
        pytest.skip("there is no command line yet")
    wrong = []
    for file in written_docs():
        text = "" if file.parent.name == "reference" else file.read_text(encoding="utf-8")
        for line in re.findall(r"^\$ andon (.+)$", text, re.MULTILINE):
            try:
                with main.cli.make_context("andon", shlex.split(line, comments=True), resilient_parsing=False) as context:
                    name, command, rest = main.cli.resolve_command(context, [*context._protected_args, *context.args])
                    command.make_context(name, rest, parent=context)
            except (click.ClickException, click.exceptions.Exit) as error:
                wrong.append(f"{shown(file)}: andon {line}: {error}")
    assert not wrong, "\n" + "\n".join(wrong)


def test_every_endpoint_has_a_heading() -> None:
    app = generator().the_app()
    if app is None:
        pytest.skip("there is no HTTP API yet")
    assert {f"{method} {path}" for method, path, _ in generator().endpoints(app)} == headings("api.md")


def test_every_path_of_a_service_has_a_heading() -> None:
    """The data plane is bare ASGI, so its page is written by hand."""
    from andon.api.serving_app import ServingApp
    from andon.core.settings import Settings

    routes = ServingApp(None, Settings(home="nowhere"))._routes  # type: ignore[arg-type]
    text = (ROOT / "docs" / "serving.md").read_text(encoding="utf-8")
    missing = [f"{method} {path}" for path, (method, _) in routes.items() if f"## `{method} {path}`" not in text]
    assert not missing, f"docs/serving.md lacks {', '.join(missing)}"


# --- examples run


FENCE = re.compile(r"^```(\w+)?([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def examples() -> Iterator[tuple[str, str]]:
    """For each page with Python in it, all of it in order: a later fence may use what an earlier one made."""
    for file in written_docs():
        blocks = [
            match[3] for match in FENCE.finditer(file.read_text(encoding="utf-8")) if match[1] == "python" and "no-run" not in match[2]
        ]
        if blocks:
            yield shown(file), "\n".join(blocks)


@pytest.mark.parametrize(("page", "code"), [pytest.param(page, code, id=page) for page, code in examples()])
def test_examples_run(page: str, code: str, tmp_path: Path) -> None:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("ANDON_")} | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, f"{page}:\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"


def test_fences_say_what_they_hold() -> None:
    for file in written_docs():
        for match in FENCE.finditer(file.read_text(encoding="utf-8")):
            assert match[1], f"{shown(file)}: a fence has no language: {match[3][:60]!r}"


# --- links lead somewhere


LINK = re.compile(r"(?<!!)\[[^\]]+\]\(([^)\s]+)\)")


def anchors(text: str) -> set[str]:
    """The anchors of a page's headings, as code hosts make them."""
    without_code = FENCE.sub("", text)
    titles = re.findall(r"^#+ (.+)$", without_code, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-") for title in titles}


def test_internal_links_resolve() -> None:
    broken = []
    for file in written_docs():
        text = file.read_text(encoding="utf-8")
        for target in LINK.findall(FENCE.sub("", text)):
            if re.match(r"[a-z]+:", target):
                continue
            path, _, anchor = target.partition("#")
            there = (file.parent / path).resolve() if path else file
            if not there.exists():
                broken.append(f"{shown(file)}: {target}: there is no such file")
            elif anchor and anchor not in anchors(there.read_text(encoding="utf-8")):
                broken.append(f"{shown(file)}: {target}: there is no such heading")
    assert not broken, "\n" + "\n".join(broken)


def test_make_targets_in_the_docs_exist() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    for file in written_docs():
        for target in re.findall(r"`make ([a-z]+)", file.read_text(encoding="utf-8")):
            assert target in targets, f"{shown(file)}: make {target}"


# --- what tracked files do not say


# Each pattern is put together here, so that this file does not hold what it looks for.
FORBIDDEN = {
    "names a package registry's host": "|".join(
        re.escape(name + "." + ending)
        for name, ending in [
            ("pypi", "org"),
            ("python" + "hosted", "org"),
            ("deb." + "debian", "org"),
            ("registry.npmjs", "org"),
            ("anaconda", "org"),
            ("proxy.golang", "org"),
            ("crates", "io"),
            ("ghcr", "io"),
        ]
    ),
    "holds an absolute path of a machine": "|".join(
        rf"(?<![\w.~-])/{top}/(?=[\w.])"
        for top in ("wor" + "k", "roo" + "t", "hom" + "e", "User" + "s", "opt/pyp" + "i", "opt/wheel" + "s", "tmp/ven" + "v")
    ),
    "speaks of how the work was arranged": "|".join(["shared/" + "design", r"\bissue " + r"#?\d", r"\bclosing " + "note"]),
}


@pytest.mark.parametrize("what", FORBIDDEN)
def test_tracked_files_do_not(what: str) -> None:
    pattern = re.compile(FORBIDDEN[what], re.IGNORECASE)
    found = []
    for file in tracked_files():
        try:
            text = file.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        found += [f"{shown(file)}:{n}: {match[0]}" for n, line in enumerate(text.splitlines(), 1) if (match := pattern.search(line))]
    assert not found, "\n" + "\n".join(found)


def test_the_patterns_find_what_they_are_for() -> None:
    for what, sample in {
        "names a package registry's host": "https://files.python" + "hosted.org/x",
        "holds an absolute path of a machine": 'open("/hom' + 'e/ana/x")',
        "speaks of how the work was arranged": "see issue" + " #12",
    }.items():
        assert re.search(FORBIDDEN[what], sample)
    assert not re.search(FORBIDDEN["holds an absolute path of a machine"], "docs/home/x https://a.example/home/b ./work/c")


def test_shared_data_is_only_reached_by_name() -> None:
    """Data outside the repository may be used where a person named its place, and nothing may need it."""
    folder = "shared/" + "data"
    for file in tracked_files():
        if file.suffix in {".py", ".md", ".toml", ".sh"} or file.name in {"Makefile", "run"}:
            text = file.read_text(encoding="utf-8")
            assert folder not in text or "ANDON_SHARED_DATA" in text, f"{shown(file)} names {folder} without ANDON_SHARED_DATA"


def test_lock_files_hold_hashes_and_nothing_else() -> None:
    pins = {}
    for name in ("requirements.lock", "requirements-dev.lock"):
        text = (ROOT / name).read_text(encoding="utf-8")
        lines = re.sub(r" \\\n", " ", text).splitlines()
        assert all(re.fullmatch(r"[a-z0-9.\[\]_-]+==\S+( ;[^\\]+?)?( +--hash=sha256:[0-9a-f]{64})+", line) for line in lines), name
        pins[name] = {line.split(" --hash", 1)[0].split(" ;")[0].strip() for line in lines}  # markers widen with what else needs it
    assert pins["requirements.lock"] <= pins["requirements-dev.lock"], "the two lock files disagree: make lock"
    heavy = {pin for pin in pins["requirements.lock"] if re.match(r"(tensorflow|mlflow|pandas|jax)==", pin)}
    heavy |= {pin for pin in pins["requirements-dev.lock"] if pin.startswith("torch==")}
    assert not heavy, f"{', '.join(heavy)} in the lock: too heavy for everybody"


# --- code stays short


def lengths() -> Iterator[tuple[str, int, int, int]]:
    """Modules and functions of ``src``: name, lines, the limit, and the length that is worth a look."""
    for file in sorted((ROOT / "src").rglob("*.py")):
        text = file.read_text(encoding="utf-8")
        yield shown(file), text.count("\n"), LONG_MODULE, WORTH_A_LOOK_MODULE
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                took = (node.end_lineno or node.lineno) - node.lineno + 1
                yield f"{shown(file)}::{node.name}", took, LONG_FUNCTION, WORTH_A_LOOK_FUNCTION


def test_long_code_has_a_reason() -> None:
    reasons = {}
    for line in LONG_CODE.read_text(encoding="utf-8").splitlines():
        if line.strip() and not line.startswith("#"):
            name, _, reason = line.partition("  ")
            assert reason.strip(), f"long_code.txt: {name} needs a reason after two spaces"
            reasons[name] = reason.strip()
    measured = list(lengths())
    worth_a_look = [f"{lines:5} {name}" for name, lines, _, look in measured if lines > look]
    print("worth a look:", *sorted(worth_a_look, reverse=True), sep="\n")
    long = {name for name, lines, limit, _ in measured if lines > limit}
    unexplained = [f"{name}: {lines} lines, the limit is {limit}" for name, lines, limit, _ in measured if name in long - reasons.keys()]
    assert not unexplained, "\n" + "\n".join(unexplained) + "\nshorten it, or give the reason in tests/project/long_code.txt"
    assert not reasons.keys() - long, f"no longer long, take out of long_code.txt: {', '.join(sorted(reasons.keys() - long))}"

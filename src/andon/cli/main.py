"""The ``andon`` command."""

from __future__ import annotations

import os
import sys
from typing import Any

import click

from andon.cli.output import Group, fail
from andon.core.errors import AndonError

COMMANDS = {
    "alias": "andon.cli.registry:alias",
    "cord": "andon.cli.incidents:cord",
    "delete": "andon.cli.upkeep:delete",
    "demo": "andon.cli.demo:demo",
    "deploy": "andon.cli.releases:deploy",
    "diff": "andon.cli.registry:diff",
    "doctor": "andon.cli.upkeep:doctor",
    "du": "andon.cli.upkeep:du",
    "export": "andon.cli.moving:export",
    "gc": "andon.cli.upkeep:gc",
    "history": "andon.cli.registry:history",
    "import": "andon.cli.moving:bring",
    "label": "andon.cli.serving:label",
    "lineage": "andon.cli.registry:lineage",
    "ls": "andon.cli.registry:ls",
    "policy": "andon.cli.policies:policy",
    "predict": "andon.cli.predicting:predict",
    "release": "andon.cli.releases:release",
    "restore": "andon.cli.upkeep:restore",
    "rollback": "andon.cli.releases:rollback",
    "rollout": "andon.cli.rollouts:rollout",
    "run": "andon.cli.runs:run",
    "serve": "andon.cli.serving:serve",
    "show": "andon.cli.registry:show",
    "stream": "andon.cli.predicting:stream",
    "tag": "andon.cli.registry:tag",
    "up": "andon.cli.serving:up",
    "upgrade": "andon.cli.serving:upgrade",
    "waive": "andon.cli.releases:waive",
    "watch": "andon.cli.incidents:watch",
}
USAGE = 64
TRACEBACK = "ANDON_TRACEBACK"
"""Set in the environment, an unexpected exception comes with its traceback."""


@click.group(cls=Group, commands_in=COMMANDS, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="andon", message="andon %(version)s")
def cli() -> None:
    """The production line for machine learning: runs, registry, gates, releases, serving, monitoring, incidents and rollback.

    Things are named by address: model:bikes@3, service:bikes@production, run:01J…
    """


def main(args: list[str] | None = None) -> None:
    """Run the command and exit with its status."""
    sys.exit(invoke(args))


def invoke(args: list[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    given = sys.argv[1:] if args is None else args
    as_json = "--json" in (given[: given.index("--")] if "--" in given else given)
    try:
        status: Any = cli.main(args=given, prog_name="andon", standalone_mode=False)
    except AndonError as error:
        return fail(error, as_json=as_json)
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        return USAGE
    except click.ClickException as error:
        error.show()
        return USAGE
    except (click.Abort, KeyboardInterrupt):
        return 130
    except BrokenPipeError:
        # Whoever read us (head, less) has seen enough; keep the interpreter from complaining about it at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:  # a defect is told in one line and an exit code, not as a verdict's 1
        if os.environ.get(TRACEBACK, "") not in ("", "0"):
            raise
        return fail(_unexpected(error), as_json=as_json)
    return status if isinstance(status, int) else 0


def _unexpected(error: Exception) -> AndonError:
    said = (str(error).strip().splitlines() or [""])[0]
    name = type(error).__name__
    return AndonError(
        f"internal error: {name}: {said}" if said else f"internal error: {name}",
        next_step=f"please report it; run again with {TRACEBACK}=1 for the traceback",
    )

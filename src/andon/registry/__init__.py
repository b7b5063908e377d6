"""The registry kernel: versions, aliases, tags, lineage and diff, the same for every kind.

A kind adds a manifest schema and verbs of its own; it never re-implements these. Verbs take a ``Store``; those ending in ``_in`` take the
connection of a ledger transaction instead, so that callers can do several in one.
"""

from andon.registry.aliases import (
    ANY,
    alias_revision,
    aliases_of,
    aliases_of_in,
    move_alias,
    move_alias_in,
    moves,
    read_alias_in,
    remove_alias,
    remove_alias_in,
)
from andon.registry.diffs import Change, diff, diff_values
from andon.registry.entries import (
    create_entry_in,
    delete_entry_in,
    describe_entry_in,
    entry_in,
    entry_titled_in,
    retitle_in,
    touch_entry_in,
)
from andon.registry.finding import get, get_in, resolve, resolve_in
from andon.registry.lineage import Direction, Edge, Graph, lineage, link_in, living_children_in, parents_in
from andon.registry.records import Entry, Move, Parent, TagChange, Version
from andon.registry.tags import set_tag, set_tag_in, tag_history, tags_of
from andon.registry.verdicts import get_verdict, record_verdicts_in, verdicts_on
from andon.registry.versions import (
    delete,
    delete_in,
    entries,
    manifest_of,
    register,
    register_in,
    versions,
)

__all__ = [
    "ANY",
    "Change",
    "Direction",
    "Edge",
    "Entry",
    "Graph",
    "Move",
    "Parent",
    "TagChange",
    "Version",
    "alias_revision",
    "aliases_of",
    "aliases_of_in",
    "create_entry_in",
    "delete",
    "delete_entry_in",
    "delete_in",
    "describe_entry_in",
    "diff",
    "diff_values",
    "entries",
    "entry_in",
    "entry_titled_in",
    "get",
    "get_in",
    "get_verdict",
    "lineage",
    "link_in",
    "living_children_in",
    "manifest_of",
    "move_alias",
    "move_alias_in",
    "moves",
    "parents_in",
    "read_alias_in",
    "record_verdicts_in",
    "register",
    "register_in",
    "remove_alias",
    "remove_alias_in",
    "resolve",
    "resolve_in",
    "retitle_in",
    "set_tag",
    "set_tag_in",
    "tag_history",
    "tags_of",
    "touch_entry_in",
    "verdicts_on",
    "versions",
]

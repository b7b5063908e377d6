"""Where Andon answers otherwise than the real server, on purpose.

Each entry says what it covers and why; a test fails for one that covers nothing any more.
"""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import NamedTuple

from tests.wire.mlflow.differential.comparing import Unlike


class Difference(NamedTuple):
    """All but the reason are shell patterns: of the case's name, ``METHOD path``, the place in the answer, and what each said, as text."""

    reason: str
    case: str = "*"
    request: str = "*"
    where: str = "*"
    real: str = "*"
    ours: str = "*"

    def covers(self, case: str, found: Unlike) -> bool:
        """Whether this is the difference that was found."""
        pairs = (
            (case, self.case),
            (found.request, self.request),
            (found.where, self.where),
            (str(found.real), self.real),
            (str(found.ours), self.ours),
        )
        return all(fnmatchcase(text, pattern) for text, pattern in pairs)


KIND = "`sqlstate` and `error_class` are further names of an error's kind, which the client derives from the code when they are absent"
CRASHED = "the real server crashed; what was asked for cannot be, and we say so"
HALF = (
    "a field of a wrong type, or too large for its kind: the real server stops reading there, keeps defaults for this and all that follows,"
    " and says yes; we refuse the message and name the field"
)
TORN = "the real server answers with its database's error text; we say what is wrong"
PATHS = (
    "a path that could mean another file somewhere (backslash, empty part, dot, drive, scheme, NUL, not UTF-8) is refused, not looked for"
)
PARTS = "multipart upload works here; the real server has it for cloud stores only"
CAMEL = "camelCase is taken for every field; the real server reads it, but not where it checks for required fields"
NOBODY = "a run for which no user was named is the server's own actor's"

DIFFERENCES: tuple[Difference, ...] = (
    Difference(KIND, where="body.sqlstate"),
    Difference(KIND, where="body.error_class"),
    Difference(CRASHED, where="status", real="500 *", ours="400 *"),
    Difference(TORN, where="*", real="400 BAD_REQUEST: *sqlite3.*", ours="4?? *"),
    Difference(
        "text that is not JSON is called so; the real server reads it as an empty message",
        "frame/bodies",
        where="body.error_code",
        ours="*not JSON*",
    ),
    Difference(
        "text that is not JSON is called so; the real server reads it as an empty message", "frame/bodies", where="field", ours="*not JSON*"
    ),
    Difference(
        "JSON is read whatever the content type says: a browser cannot reach us across origins all the same",
        "frame/types",
        where="status",
        real="400 *Content-Type*",
    ),
    Difference("health is told as JSON, and to GET only", "frame/server", "* /health"),
    Difference("a version is not a page", request="GET /version", where="kind"),
    Difference("neither a gateway, nor uploads or downloads past the server", request="GET */server-info"),
    Difference(CAMEL, "frame/queries", where="status", real="400 *Missing value*"),
    Difference(CAMEL, "spoiled/*", where="status", real="400 *Missing value*", ours="200 *"),
    Difference(CAMEL, "spoiled/*", where="*", real="400 *Missing value*", ours="404 *"),
    Difference("an experiment named Default was always there: it has no time of its making", where="body.experiment*_time", ours="absent"),
    Difference("a name is on one line", "experiments/odd-names", where="status", real="200 *", ours="*on one line*"),
    *(
        Difference(HALF, case, where="status", real="200 *", ours="400 INVALID_PARAMETER_VALUE: Invalid value*")
        for case in ("spoiled/*", "metrics/odd-*", "metrics/history-pages", "batches/limits", "experiments/search", "search/runs")
    ),
    Difference("several fields are wrong; the real server names view_type, whichever it is", where="field", real="*'view_type'*"),
    Difference(
        "which attributes take a list is told the other way round",
        where="field",
        real="Only [[]'*'] attributes support comparison with a list*",
    ),
    Difference(NOBODY, where="body.*user_id", real="", ours="ana"),
    Difference("a run without a start began when it was made", where="body.*start_time", real="0", ours="<now>"),
    Difference("NUL cannot be kept in every engine", "runs/tags", where="*", ours="*NUL*"),
    Difference("NUL cannot be kept in every engine", "runs/tags", where="body.run.data.tags.length", real="*\\x00*"),
    Difference(
        "bare NaN and Infinity are read; the real server stops reading there, and keeps 0 at time 0",
        "metrics/odd-values",
        "GET */metrics/get-history",
        real="0*",
    ),
    Difference(
        "bare NaN and Infinity are read; the real server stops reading there, and keeps 0 at time 0", "metrics/odd-values", "GET */runs/get"
    ),
    Difference("true is no number", "metrics/odd-values", "GET */metrics/get-history", "body.metrics", ours="absent"),
    Difference("what was refused as too large is not there", "metrics/odd-times", "GET */metrics/get-history", "body.metrics.length"),
    Difference("an order that is not one is refused with 400", "search/runs", where="status", real="200 {}", ours="*ends in a dot*"),
    Difference(
        "a version's number is never given again: what it named is in lineage and in releases",
        "models/life",
        where="body.model_version.version",
        real="1",
        ours="3",
    ),
    Difference("a prompt's versions are prompts", "prompts/life", where="status", real="200 *", ours="*registered as a prompt*"),
    Difference(
        "linking a model to a run once more changes nothing, so that a retry is safe",
        where="status",
        request="POST */runs/outputs",
        real="400 BAD_REQUEST*",
        ours="200 {}",
    ),
    Difference(
        "a logged model's status can be searched by its name", "logged/life", "POST */logged-models/search", "body.models", real="absent"
    ),
    Difference(
        "every endpoint has its mirror under /ajax-api; the real server's files have not",
        "files/of-the-board",
        "* /ajax-api/2.0/mlflow/*get-artifact",
        "status",
        real="404 *",
        ours="200 *",
    ),
    Difference("a wrong method is 405 everywhere", "traces/otlp", "GET /v1/traces", "status", real="404 *", ours="405 *"),
    Difference(
        "how long a trace took is what its client told; the real server rounds the spans' ends otherwise, and lets them win",
        "recorded/tracing",
        where="*.execution_duration",
    ),
    Difference("an evaluation dataset's digest is made from its times", "datasets/life", where="*.digest"),
    Difference(
        "a logged model says which versions were made from it; the protocol has the field, and the real server leaves it empty",
        where="body.model.info.registrations",
        real="absent",
    ),
    Difference(
        "a page of fewer than no rows has none, and there is more",
        "spoiled/get/registered-models/search",
        where="body.next_page_token",
        real="absent",
    ),
    Difference(
        "a name of at most 500 characters, as for every other name", "logged/odd", where="status", real="200 *", ours="*maximum length*"
    ),
    Difference(HALF, where="*", real="400 *", ours="400 INVALID_PARAMETER_VALUE: Invalid value for parameter '*': Expected *"),
    Difference(HALF, "spoiled/post/runs/log-batch", where="field", ours="Invalid value for parameter '*': Expected *"),
    Difference(HALF, "spoiled/post/model-versions/create", where="body.model_version.version"),
    Difference(HALF, "batches/limits", "GET */runs/get", "body.run.data.metrics.length"),
    Difference(HALF, "spoiled/patch/logged-models/model", where="status", real="200 *", ours="*Unknown model status*"),
    Difference(HALF, "spoiled/post/v3/traces", where="body.trace.trace_info.*", real="absent"),
    Difference(HALF, "spoiled/post/v3/traces", where="body.trace.trace_info.state", real="STATE_UNSPECIFIED", ours="OK"),
    Difference("null is as good as absent", "spoiled/post/v3/traces/search", where="status", real="500 *", ours="200 {}"),
    Difference(
        "a trace has an id, and a tag a key", "spoiled/post/v3/traces", where="status", real="200 *", ours="*Missing value*trace_id*"
    ),
    Difference("a trace has an id, and a tag a key", "spoiled/post/runs/create", where="status", real="200 *", ours="*(field: key*"),
    Difference(
        "a run of no experiment is Default's, as the documentation has it",
        where="status",
        request="POST */runs/create",
        real="400 BAD_REQUEST*FOREIGN KEY*",
        ours="200 *",
    ),
    Difference(
        "a tag given twice has the value given last",
        "runs/created-with",
        where="status",
        request="POST */runs/create",
        real="400 BAD_REQUEST*UNIQUE*",
        ours="200 *",
    ),
    Difference(
        "a parameter logged again with the value it has changes nothing, so that a retry is safe",
        "spoiled/post/logged-models/model/params",
        where="status",
        real="400 BAD_REQUEST*",
        ours="200 {}",
    ),
    Difference(
        "the path says which model; the real server asks for it in the body once more, and goes by that",
        where="status",
        request="PATCH */logged-models/<<model>>",
        real="404 *",
        ours="200 *",
    ),
    Difference(PATHS, "artifacts/evil", where="status", real="404 *", ours="400 INVALID_PARAMETER_VALUE: Invalid path"),
    Difference(PATHS, "artifacts/evil", where="status", real="200 *", ours="400 INVALID_PARAMETER_VALUE: Invalid path"),
    Difference(PATHS, "artifacts/evil", "GET */artifacts", "body.files.length"),
    Difference(PARTS, "artifacts/in-parts", where="status", real="501 *"),
    Difference(
        "a trace tag may be deleted by query too", "traces/life", "DELETE */tags", "status", real="400 *Missing value*", ours="200 {}"
    ),
    Difference("a trace tag may be deleted by query too", "traces/life", where="body.*tags*"),
    Difference(
        "traces without spans are left out of a batch", "traces/life", "GET */traces/batchGet", "status", real="500 *", ours="200 *"
    ),
    Difference("a missing header is a bad request, as everything missing is", "traces/otlp", where="status", real="422 *", ours="400 *"),
)

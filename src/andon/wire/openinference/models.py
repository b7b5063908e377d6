"""What both transports ask of a replica: which model is meant, run a request through it, and what there is to say of it.

A replica serves one service, so the repository holds one model. Its name is the service's and its versions are the releases that are
loaded here; the one without a version is what the service's channel points to.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary, ref

import msgspec

from andon.core.errors import Conflict, InvalidInput, NotFound, Unavailable
from andon.models.records import Signature
from andon.releases import PRODUCTION
from andon.serving.asking import Query
from andon.serving.callers import Caller
from andon.serving.front import Choice, Front
from andon.serving.loading import Loaded
from andon.serving.tracing import Face, http_face
from andon.serving.validation import RowCodec
from andon.wire.openinference.binding import Binding
from andon.wire.openinference.datatypes import Datatype
from andon.wire.openinference.requests import InferRequest, Wanted

if TYPE_CHECKING:
    import numpy as np

ASKED_FOR = "asked-for"
"""The channel that answers are logged with when a request names a version that is not in production: nobody's traffic but the caller's."""


INFER = http_face("POST", "/v2/models/{model}/infer")
MODEL_INFER = Face(
    "inference.GRPCInferenceService/ModelInfer",
    {"rpc.system": "grpc", "rpc.service": "inference.GRPCInferenceService", "rpc.method": "ModelInfer"},
)
"""What traces say of how a request came in."""


class Asker(msgspec.Struct, frozen=True):
    """Who asks, as the transport knows it."""

    request_id: str | None = None
    """For a request that says none itself."""
    key: str | None = None
    """The user or session that a split assigns; a request's own parameter ``key`` goes first."""
    deadline_s: float | None = None
    """When they stop waiting, on the event loop's clock."""
    caller: Caller | None = None
    """Their connection, where its end can be seen."""
    client: str | None = None
    """Whom the queue is shared out between."""
    size_bytes: int = 0
    traceparent: bytes | None = None
    face: Face = INFER


class Inference(Query, kw_only=True):
    """A request that has met its release, and how it is to be answered."""

    name: str
    """The model, as the request named it."""
    binding: Binding
    wanted: tuple[Wanted, ...]


class Outcome(msgspec.Struct, frozen=True):
    """An answered request."""

    name: str
    loaded: Loaded
    request_id: str
    outputs: list[tuple[Wanted, Datatype, np.ndarray[Any, Any]]]


class Models:
    """The models of one front."""

    def __init__(self, front: Front) -> None:
        self.front = front
        self._bindings: WeakKeyDictionary[Loaded, Binding] = WeakKeyDictionary()
        self._last: tuple[Callable[[], Loaded | None], Binding] = (lambda: None), Binding(RowCodec(Signature((), ())))

    def loaded(self, name: str, version: str = "") -> Loaded:
        """The release that a name and a version mean. Raises ``NotFound``, or ``Unavailable`` while nothing is loaded."""
        if name != self.front.service:
            raise NotFound(
                f"this replica serves the model {self.front.service!r}", next_step=f"ask for {self.front.service}", got=name[:100]
            )
        if not version:
            return self.front.loaded()
        found = self.front.version(version)
        if found is None:
            raise NotFound(f"version {version[:40]} is not loaded here", next_step="leave the version out for the one in production")
        return found

    def ready(self, name: str, version: str = "") -> None:
        """Raises ``Unavailable`` when a model cannot answer now, or ``NotFound``."""
        loaded = self.loaded(name, version)
        if not loaded.runner.healthy or self.front.draining:
            raise Unavailable(f"{loaded.address} is not ready")

    def server_ready(self) -> None:
        """Raises ``Unavailable`` with the reason why this replica takes no traffic."""
        reason = self.front.not_ready()
        if reason is not None:
            raise Unavailable(reason)

    def prepare(self, name: str, version: str, request: InferRequest, asker: Asker) -> Inference:
        """Everything that can be refused before anything is run. Raises ``InvalidInput``, ``NotFound`` or ``Unavailable``.

        Give it to the front next, without an ``await`` in between: so the release cannot be retired meanwhile.
        """
        front = self.front
        request_id = request.id or asker.request_id or front.new_id()
        deadline_s = asker.deadline_s
        if request.timeout_s is not None:
            until = asyncio.get_running_loop().time() + request.timeout_s
            deadline_s = until if deadline_s is None else min(until, deadline_s)
        read_by = self.loaded(name, version)
        binding = self._binding(read_by)
        columns, n = binding.columns(request)
        if read_by is front.loaded():
            choice = front.choose(request_id, request.key or asker.key, columns=columns)
            if choice.loaded is not read_by:
                if version:
                    choice = Choice(read_by, PRODUCTION)
                binding = self._binding(choice.loaded)
        else:
            choice = Choice(read_by, ASKED_FOR)
        return Inference(
            choice=choice,
            n=n,
            request_id=request_id,
            columns=columns,
            deadline_s=deadline_s,
            raw=True,
            caller=asker.caller,
            client=asker.client,
            size_bytes=asker.size_bytes,
            traceparent=asker.traceparent,
            face=asker.face,
            name=name,
            binding=binding,
            wanted=binding.wanted(request),
        )

    def outcome(self, inference: Inference, outputs: Mapping[str, np.ndarray[Any, Any]]) -> Outcome:
        """What the front answered, as it was asked for. Raises ``ModelFailed`` for an output that does not fit its datatype."""
        given = inference.binding.answer(outputs, inference.wanted)
        return Outcome(inference.name, inference.choice.loaded, inference.request_id, given)

    def _binding(self, loaded: Loaded) -> Binding:
        if self._last[0]() is loaded:
            return self._last[1]
        binding = self._bindings.get(loaded)
        if binding is None:
            binding = self._bindings[loaded] = Binding(loaded.codec)
        self._last = ref(loaded), binding
        return binding

    def meant(self, name: str, version: str = "") -> list[Loaded]:
        """The releases that a name alone means, or the one that its version does. Raises ``NotFound`` or ``Unavailable``."""
        loaded = self.loaded(name, version)
        return [loaded] if version else self.front.held()

    def load(self, name: str, *, configured: bool = False) -> None:
        """The repository's ``load``: fine for what is held. Raises ``NotFound``, or ``InvalidInput`` when files or a config are sent."""
        if configured:
            raise InvalidInput(
                "a replica takes no files and no configuration from clients",
                field="parameters",
                next_step="register the model and release it",
            )
        self.loaded(name)

    def unload(self, name: str) -> None:
        """The repository's ``unload``: always refused, since the only model here holds production. Raises ``Conflict`` or ``NotFound``."""
        loaded = self.loaded(name)
        raise Conflict(
            f"{loaded.address} is in production and is not unloaded by a client",
            next_step=f"deploy another release to service:{name}, or stop this replica",
        )

    def index(self, *, only_ready: bool = False) -> list[dict[str, str]]:
        """The repository's index: each release that is loaded here; or, when there is none, the model with the reason."""
        name = self.front.service
        problem = self.front.not_ready()
        rows = []
        for loaded in self.front.held():
            well = loaded.runner.healthy and not self.front.draining
            reason = "" if well else (problem or "the process that runs it ended and is being started again")
            rows.append({"name": name, "version": loaded.version, "state": "READY" if well else "UNAVAILABLE", "reason": reason})
        if not rows:
            rows.append({"name": name, "version": "", "state": "UNAVAILABLE", "reason": problem or ""})
        return [row for row in rows if row["state"] == "READY" or not only_ready]

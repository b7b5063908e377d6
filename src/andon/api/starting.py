"""How ``andon serve`` begins: the socket first, then whichever servers are wanted.

Starting is mostly importing, so only what is wanted is imported: a supervisor of a number of replicas that the command names needs neither
the servers nor the ledger, and its replicas need them once, in the process that they are forked from.
"""

from __future__ import annotations

import contextlib
import gc
import os
import sys
from collections.abc import Callable

from andon.api.handover import Handover, handed_over, replace_program
from andon.api.listening import inherit, open_listener
from andon.autoscaling import ServingPolicy, bounded, policy_of
from andon.core.settings import Settings


def serve(
    settings: Settings,
    service: str,
    *,
    host: str | None = None,
    port: int | None = 0,
    grpc_port: int | None = None,
    bounds: tuple[int, int] | None = None,
    supervised: bool = False,
    ready: Callable[[str], None] | None = None,
) -> None:
    """Serve ``service`` until SIGTERM or SIGINT. ``ready`` is called with the URL once it listens (default: print one line).

    ``port`` 0 is any free one, None the one this service had last if that is free. With ``grpc_port`` (0: any free one) it also speaks gRPC
    there, and says so in a line of its own. ``bounds`` are the fewest and the most processes there are to be (default: what
    ``policy:serving/SERVICE`` says, else this one alone); with ``supervised`` even a single one is looked after by another process. On
    SIGHUP the program is replaced by its newer self, which takes over the socket.

    Raises ``PortTaken``, and what ``open_store`` raises. A service whose channel points nowhere, or to a release that cannot be loaded,
    is served all the same: ``/health`` says why it is not ready, and the next move of the channel is followed.
    """
    before = handed_over()
    host = settings.host if host is None else host
    listener = open_listener(settings, service, host, port) if before is None else inherit(before.listener)
    say = (ready or announce(service)) if before is None else lambda _: None
    supervised = supervised or (before is not None and before.supervised)
    spare()
    after: Handover | None = None
    with contextlib.closing(listener):
        if bounds is not None and (supervised or _several(ServingPolicy(min_replicas=bounds[0], max_replicas=bounds[1]))):
            policy, supervised = bounded(ServingPolicy(), bounds), True  # where the rest of it matters, the journal reads it
        else:
            from andon.store import open_store

            with open_store(settings) as store:
                policy = bounded(policy_of(store, service) or ServingPolicy(), bounds)
                supervised = supervised or _several(policy)
                if not supervised:
                    from andon.api.serving_server import serve_alone

                    after = serve_alone(store, service, listener, say, before=before, grpc_port=grpc_port)
        if supervised:
            from andon.api.supervising import Supervisor

            Supervisor(settings, service, listener, policy, bounds=bounds, grpc_port=grpc_port, before=before).run(say)
        elif after is not None:
            replace_program(after)


def _several(policy: ServingPolicy) -> bool:
    return policy.max_replicas > 1 or policy.min_replicas != 1


def spare() -> None:
    """Spend less on the way to the first answer; said before the libraries are imported.

    The garbage collector looks seldom: modules make many objects and next to no garbage (60 of 360 ms; a front sets it as it wants it once
    its release is loaded). Arrow, of which serving needs no more than a log's batches, takes its memory from the C library: pools of
    its own hold 4 MB from the start.
    """
    gc.set_threshold(100_000, 20, 50)
    os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")


def announce(service: str) -> Callable[[str], None]:
    """Print the one line that scripts wait for."""

    def say(url: str) -> None:
        sys.stdout.write(f"andon: service:{service} on {url}\n")
        sys.stdout.flush()

    return say

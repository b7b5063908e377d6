"""Floor 4, the runtime: releases that answer. A front holds them, runners execute them, a swap drops nothing."""

from andon.serving.front import Answer, Front

__all__ = ["Answer", "Front"]

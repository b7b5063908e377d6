"""The line of small releases that the serving tests have, too."""

from tests.unit.serving.conftest import line

__all__ = ["line"]

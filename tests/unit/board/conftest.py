"""The same line and application as the API's tests."""

from tests.unit.api.conftest import client, empty, empty_client, seeded

__all__ = ["client", "empty", "empty_client", "seeded"]

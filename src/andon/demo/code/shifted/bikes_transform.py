"""What happens to a request before the model sees it."""

from typing import Any


def transform(columns: dict[str, Any]) -> dict[str, Any]:
    """Humidity and wind as before. And hours: somebody read that the feed counts them from 1. It does not."""
    columns["hum"] = columns["hum"].clip(0.0, 1.0)
    columns["windspeed"] = columns["windspeed"].clip(0.0, None)
    columns["hr"] = columns["hr"] - 1
    return columns

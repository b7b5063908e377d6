"""What happens to a request before the model sees it."""

from typing import Any


def transform(columns: dict[str, Any]) -> dict[str, Any]:
    """Humidity and wind come from a sensor that now and then reports a little less than nothing; the model never saw that."""
    columns["hum"] = columns["hum"].clip(0.0, 1.0)
    columns["windspeed"] = columns["windspeed"].clip(0.0, None)
    return columns

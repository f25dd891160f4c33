"""The sensor of the trigger `quality`."""

from sensors.shell import trigger_sensor

quality_sensor = trigger_sensor(
    "quality",
    "Requests a rebuild where three eval runs in a row were bad: recall under the floor, or p95 30 % over promotion.",
)

"""The sensor of the trigger `growth`."""

from sensors.shell import trigger_sensor

growth_sensor = trigger_sensor(
    "growth", "Requests a rebuild where a tenant has 30 % more contents than its live build was made with."
)

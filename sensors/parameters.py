"""The sensor of the trigger `parameters`."""

from sensors.shell import trigger_sensor

parameters_sensor = trigger_sensor(
    "parameters", "Requests a rebuild where the configured index parameters are not the live build's."
)

"""The sensor of the trigger `churn`."""

from sensors.shell import trigger_sensor

churn_sensor = trigger_sensor(
    "churn", "Requests a rebuild where more than 20 % of the live build's contents were deleted since."
)

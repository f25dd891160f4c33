"""The sensor of the trigger `model`: the run back-fills, builds, measures and promotes."""

from assets.jobs import CHAIN
from sensors.shell import trigger_sensor

model_change_sensor = trigger_sensor(
    "model",
    "Requests a run where the configured embedder is not the live version's: it embeds, builds, measures, promotes.",
    assets=CHAIN,
)

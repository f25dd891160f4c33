"""All triggers' sensors, one per file."""

from sensors.churn import churn_sensor
from sensors.growth import growth_sensor
from sensors.model_change import model_change_sensor
from sensors.parameters import parameters_sensor
from sensors.quality import quality_sensor

TRIGGER_SENSORS = (growth_sensor, churn_sensor, parameters_sensor, model_change_sensor, quality_sensor)

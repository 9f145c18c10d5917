"""Looking into a model: functions from a model to plain values, which `views` draws."""

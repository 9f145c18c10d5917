"""Inspection of a model: functions from a loaded model to plain values, which `views` renders."""

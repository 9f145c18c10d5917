"""Reports: benchmarks, the doctor, edits, settings and the card of a model."""

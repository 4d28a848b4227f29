"""Benchmarks that print figures and ratios: ``./gantry bench [ONLY=part,part] [RUNS=5]``."""

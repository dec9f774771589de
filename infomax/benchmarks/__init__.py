"""Benchmarks: what a README says of speed, memory or accuracy, as commands that others can run."""

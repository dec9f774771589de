"""Benchmarks: the measurements of speed, memory and accuracy in README and docs/, as commands."""

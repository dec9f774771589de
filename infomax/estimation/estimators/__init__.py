"""Estimators that are not objectives: the default, densities, neighbours."""

"""Ordinal learning-rate schedules: see ``maths.py`` for the executable definition."""

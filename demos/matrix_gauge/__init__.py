"""Parallel transport by matrix groups: ``maths.py`` is the executable definition."""

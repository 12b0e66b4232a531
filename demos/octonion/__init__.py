"""Quaternions and octonions: ``maths.py`` is the executable definition."""

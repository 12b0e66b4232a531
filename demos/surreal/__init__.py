"""Orders of magnitude that dominate: ``maths.py`` is the executable definition."""

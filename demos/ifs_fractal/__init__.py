"""Iterated function systems as memory: ``maths.py`` is the executable definition."""

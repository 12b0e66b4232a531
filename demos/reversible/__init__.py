"""Reversible computation: see ``demo.py`` for the demo, ``maths.py`` for the executable definition."""

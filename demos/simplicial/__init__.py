"""Higher-order attention: ``maths.py`` is the executable definition."""

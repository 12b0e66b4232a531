"""Max-plus algebra: see ``demo.py`` for the demo, ``maths.py`` for the executable definition."""

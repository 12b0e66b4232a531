"""P-adic digits and prefix kernels: ``maths.py`` is the executable definition."""

"""JAX demonstrations: each framework's mathematics, its laws, a lesson, its limits. No torch here."""

"""Braids: words and moves, invariants of the knots that they close to, and the attention that carries them."""

"""Sums over the balls of a tree: every key's value, weighted per level, added up for the queries that share a prefix.

``naive`` is the executable definition (all pairs), ``blocked`` the same in linear time: running sums per ball between
blocks of tokens, all pairs inside a block; ``cpu`` the same in C++, token by token. ``tree`` names the balls and keeps
their sums. ``operators`` picks a form and registers it with ``torch.library``; ``cost`` counts without importing torch.

Differs from the textbook form, which sorts keys by their digits and subtracts running sums at the edges of each ball:
there the rounding of one ball's sum depends on what the others hold, the future included. Here it does not.
"""

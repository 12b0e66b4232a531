"""Causal sums under a product of two inner products: linear attention in a tensor product space.

``naive`` is the executable definition (all pairs), ``blocked`` the same in linear time: all pairs inside a block of
tokens, one matrix of sums per key head between blocks. ``operators`` registers it with ``torch.library``; ``cost``
counts without importing torch.
"""

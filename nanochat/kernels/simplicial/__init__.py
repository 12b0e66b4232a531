"""2-simplicial attention: softmax over pairs of keys, one from each of two causal windows.

``naive`` is the executable definition, ``blocked`` the same by matrix products over blocks of queries with a backward
pass of its own; ``operators`` registers it with ``torch.library``. ``cost`` counts operations without importing torch.
"""

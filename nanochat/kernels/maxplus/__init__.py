"""Max-plus kernels: tropical attention and the tropical matrix product, each with its own backward.

``naive`` is the executable definition, ``blocked`` the same in pure PyTorch and tiles, ``cpu`` the same in C++;
``operators`` picks one and registers it with ``torch.library``. ``cost`` counts operations without importing torch.
"""

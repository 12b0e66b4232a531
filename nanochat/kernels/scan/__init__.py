"""Prefix products of rotations, and what they do to blocks of channels.

``naive`` is the executable definition, ``chunked`` the same in PyTorch with closed-form gradients, ``cpu`` the same
in C++; ``operators`` picks one and registers it with ``torch.library``. ``cost`` counts operations, without torch.
"""

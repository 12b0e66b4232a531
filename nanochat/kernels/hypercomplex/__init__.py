"""Quaternions and octonions along one axis of a tensor, and attention whose values they turn.

``table`` generates the multiplication signs, ``naive`` is the executable definition, ``fast`` agrees with it and
multiplies no pairs of tokens; ``cost`` counts operations without importing torch.
"""

"""Infinitesimals, and an optimizer that follows the gradient flow: the nonstandard demo."""

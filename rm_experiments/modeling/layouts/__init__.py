"""How sequences become rows of a forward pass: padded, packed, or packed with the prompt computed once.

A layout changes how rewards are computed, never which ones: `padded` is the reference that the others equal.
"""

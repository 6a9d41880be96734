"""What a federation is worth: hospitals that differ, the ways of training on them, and statistics of their patients.

sites (whose cases) -> recipes (how to learn from them) -> training (the same loop for all) -> statistics
"""

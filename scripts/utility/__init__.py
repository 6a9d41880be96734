"""What a federation is worth: hospitals that differ, the ways of training on them, and statistics of their patients.

sites (who comes where) -> patients (their cases) -> recipes (how to learn) -> federation -> results, statistics
"""

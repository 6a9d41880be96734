"""Whole commands, whose parts have tests of their own."""

from support.fixtures import untraced

__all__ = ["untraced"]

"""The server and the site of every participation test."""

from support.fixtures import server, site

__all__ = ["server", "site"]

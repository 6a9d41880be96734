"""The server and the site of every end-to-end test."""

from support.fixtures import server, site

__all__ = ["server", "site"]

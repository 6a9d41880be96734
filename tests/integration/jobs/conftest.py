"""The server and the site of every participation test."""

from support.fixtures import server, site, untraced

__all__ = ["server", "site", "untraced"]

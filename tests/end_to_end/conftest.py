"""The server, the site and the browser of every end-to-end test."""

from support.fixtures import server, site, tab, untraced

__all__ = ["server", "site", "tab", "untraced"]

"""`fedsite audit verify`: this site's own records, or a file that some site has exported."""

from pathlib import Path
from typing import Any

from fedsite.errors import UsageError
from fedsite.jobs.site import open_site, open_state


def verify_own(
    config_path: Path | None, *, key: str = "", since: Path | None = None, server: bool = False
) -> dict[str, Any]:
    """Recomputes both chains of this site; holds them against an earlier export and the server's receipts if asked.

    Raises RecordsDamaged naming what does not hold, ServerBrokeProtocol when it is the server that has forgotten.
    """
    if key:
        raise UsageError("--key is for a FILE.", "This site's own key: fedsite identity show")
    anchors = []
    if since is not None:
        from fedsite.jobs.audit import audit_file

        anchors.append(audit_file.checkpoint_of(since).anchor("the earlier export"))
    with open_state(config_path) as state:
        data: dict[str, Any] = {"records": state.verify(anchors)}
    if server:
        from fedsite.jobs.round import receipts

        with open_site(config_path) as site, site.client() as client:
            data["receipts"] = receipts.compare(site, site.pinned, client)
    return data


def verify_file(path: Path, *, key: str = "", since: Path | None = None, server: bool = False) -> dict[str, Any]:
    """Recomputes an exported audit or ledger; no site needs to be here. Raises RecordsDamaged, DataNotFit."""
    if server:
        raise UsageError("--server compares this site's own records.", "Leave out the FILE.")
    from fedsite.jobs.audit import audit_file, ledger_file

    if audit_file.is_one(path):
        return audit_file.verify(path, key, since)
    if key or since:
        raise UsageError("--key and --since are for what fedsite audit export has written.", "Leave them out.")
    return ledger_file.verify(path)

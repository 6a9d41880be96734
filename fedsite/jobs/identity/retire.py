"""`fedsite identity retire`: this machine can no longer act as the site; what the site has promised stays."""

from fedsite.jobs.lock import only_run
from fedsite.jobs.site import Site
from fedsite.site import versions
from fedsite.site.identity import Pinned


def retire(site: Site) -> Pinned:
    """Removes every private key and certificate; gives what stays pinned. Harmless to repeat.

    The ledger, the audit, the pseudonyms' key and the pinned federation stay: a new invitation brings the site back.
    Raises NotAuthorised when it was never enrolled, TryAgainLater while a run is at work.
    """
    with only_run(site.state.folder), only_run(site.files.folder):
        pinned = site.pinned
        site.state.audit("identity retired", site=pinned.site, federation=pinned.federation)
        versions.retire(site.files)
        return pinned

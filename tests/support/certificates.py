"""Certificates of another age than a test has time for."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

from cryptography.hazmat.primitives.serialization import Encoding
from support.federation import Server, running
from support.site import Site

from fedsite.server import federation as federations
from fedsite.server.members import enrolment as admissions
from fedsite.site import versions
from fedsite.site.identity import Choice, IdentityFiles
from fedsite.site.secrets import Place
from fedsite.wire import enrolment
from fedsite.wire.messages import utc_now

IN_A_FILE = Choice(Place("file"))


@contextmanager
def generous(folder: Path) -> Iterator[Server]:
    """A federation whose server issues more certificates in an hour than a site may ask for in a week."""
    command = [sys.executable, str(Path(__file__).with_name("generous_server.py"))]
    with running(folder, command) as server:
        yield server


def files_of(site: Site) -> IdentityFiles:
    return IdentityFiles(site.state / "identity")


def grow_old(server: Server, site: Site, days: float, name: str = "site-a", choice: Choice = IN_A_FILE) -> None:
    """Puts into a site's use a key whose certificate the server has issued so many days ago."""
    federation = federations.open_federation(server.folder, lambda: utc_now() - timedelta(days=days))
    files, key = files_of(site), enrolment.new_key()
    version = versions.begin(files, choice, lambda passphrase: enrolment.key_to_pem(key, passphrase))
    request = enrolment.signing_request(key, name).public_bytes(Encoding.DER)
    version.certificate.write_bytes(enrolment.to_pem([admissions.reenrol(federation, name, request)]))
    versions.switch(files, version)
    federation.database.close()

"""What every job of an enrolled site opens first: configuration, state, ledger, identity, and the client."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError

from fedsite.errors import ConfigurationError, UsageError
from fedsite.jobs import devices, tasks, trail
from fedsite.privacy.ledger import Ledger, Terms
from fedsite.site import config as configuration
from fedsite.site import identity
from fedsite.site.config import PrivacySettings, SiteConfig, TrainingSettings
from fedsite.site.identity import IdentityFiles, Pinned, Version
from fedsite.site.pseudonyms import Pseudonyms
from fedsite.site.state import State

if TYPE_CHECKING:
    from fedsite.dicom.index import Index
    from fedsite.wire.client import FederationClient
    from fedsite.wire.transport import Exchange, TlsIdentity, Witness


Warn = Callable[[str], None]


def unheard(warning: str) -> None:
    """For those whom nobody listens to: the audit tells of what is warned of, too."""


@dataclass(frozen=True)
class Site:
    """An initialised site; `pinned` asks for enrolment only when it is used."""

    config: SiteConfig
    state: State
    ledger: Ledger
    warn: Warn = unheard
    """Told what wants a person's attention and stops nothing."""

    @property
    def files(self) -> IdentityFiles:
        """Where the identity lies."""
        return IdentityFiles(self.state.folder / "identity")

    @property
    def pinned(self) -> Pinned:
        """What the site holds the federation to. Raises NotAuthorised before enrolment."""
        return identity.pinned(self.files)

    @property
    def device(self) -> str:
        """Where what needs one device computes. Raises ConfigurationError when it is not there."""
        return devices.one(self.config.training)

    def on_devices(self, numbers: str) -> "Site":
        """The same site for one run on other devices, such as `0,1`. Raises UsageError."""
        if not re.fullmatch(r"\d{1,3}(,\d{1,3})*", numbers):
            raise UsageError("--devices takes numbers, such as 0,1.", "nvidia-smi lists the GPUs of this machine.")
        settings = self.config.training.model_dump() | {"devices": [int(number) for number in numbers.split(",")]}
        try:
            training = TrainingSettings.model_validate(settings)
        except ValidationError:
            raise UsageError("--devices names a device twice, or too many.", "Name each one once.") from None
        return replace(self, config=self.config.model_copy(update={"training": training}))

    @cached_property
    def version(self) -> Version:
        """The key and certificate that this command shows: renewed first, where it is time for that."""
        from fedsite.jobs.identity import renew

        renew.renew_if_due(self)
        return self.files.current

    def client(self) -> "FederationClient":
        """A client that shows this site's certificate. Raises NotAuthorised before enrolment."""
        return client_of(self.files, self.config, self.pinned.server, self.witness, self.version)

    def witness(self, exchange: "Exchange") -> None:
        """Writes a request to the server into the audit: every one, whether it was answered or not."""
        trail.write_request(self.state, exchange)


def tls_of(files: IdentityFiles, version: Version) -> "TlsIdentity":
    """What a version of an identity shows and trusts. Raises NotAuthorised without one."""
    from fedsite.wire.transport import TlsIdentity

    identity.sealed_key(version)
    return TlsIdentity(version.certificate, version.key, version.passphrase(), files.authority)


def client_of(
    files: IdentityFiles, config: SiteConfig, server: str, witness: "Witness", version: Version
) -> "FederationClient":
    """A client that shows the certificate of one version, whatever the state of the records beside it."""
    from fedsite.jobs.network import proxy_for
    from fedsite.wire.client import FederationClient

    tls = tls_of(files, version)
    proxy, patience = proxy_for(config.network, server), config.network.patience_seconds
    return FederationClient(server, tls, proxy=proxy, patience=patience, witness=witness)


@contextmanager
def open_site(config_path: Path | None, warn: Warn = unheard, *, looking: bool = False) -> Iterator[Site]:
    """Opens the site that the configuration describes. Raises ConfigurationError, NotAuthorised, RecordsDamaged.

    Who is only `looking` changes nothing of an older fedsite's records (`State.open`).
    """
    with open_loaded(configuration.load(config_path), warn, looking=looking) as site:
        yield site


@contextmanager
def open_loaded(config: SiteConfig, warn: Warn = unheard, *, looking: bool = False) -> Iterator[Site]:
    """The same, for whoever must know the configuration even where the site cannot be opened."""
    tasks.add_own(config.paths.tasks)
    with State.open(config.paths.state, looking=looking) as state:
        ledger = Ledger(state)
        require_same_terms(config.privacy, ledger.terms)
        trail.note_policy(state, config.policy)
        yield Site(config, state, ledger, warn)


def require_same_terms(written: PrivacySettings, terms: Terms) -> None:
    """A ledger's terms never change: a file that says something else would promise what nobody keeps."""
    for key, value in written.model_dump().items():
        if value != getattr(terms, key):
            raise ConfigurationError(
                f"privacy.{key} is {value:g} in the configuration; this site's ledger was created with"
                f" {getattr(terms, key):g}.",
                "A ledger's terms never change: write the ledger's value. To spend less, set policy.maximum_epsilon.",
            )


def header_index(state: Path, pseudonyms: Pseudonyms) -> "Index":
    """What earlier scans read of DICOM headers, in the state folder, sealed under a key of this site."""
    from fedsite.dicom.index import Index

    return Index(state / "index" / "headers.db", pseudonyms.derived_key("index of DICOM headers"))


@contextmanager
def open_state(config_path: Path | None, *, looking: bool = True) -> Iterator[State]:
    """The state folder alone, for an auditor who needs nothing else to be in order."""
    with State.open(configuration.load(config_path).paths.state, looking=looking) as state:
        yield state


@contextmanager
def open_ledger(config_path: Path | None) -> Iterator[tuple[Ledger, SiteConfig]]:
    """The ledger and the configuration, to be looked at."""
    with open_site(config_path, looking=True) as site:
        yield site.ledger, site.config

"""Secrets of an unattended machine: random, in a place that is chosen once and recorded; no other is ever read.

credentials  `fedsite-passphrase` in $CREDENTIALS_DIRECTORY, which systemd gives to a service (systemd.exec(5))
file         a file of 0600 that belongs to the user who runs fedsite
keyring      an entry that one of three keyrings of Linux desktops holds; never one that only keyring's configuration or
             environment names, since that may ask a person, chain others, keep plain text, or keep nothing
"""

import os
import re
import secrets
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from fedsite.errors import ConfigurationError, NotAuthorised, RecordsDamaged
from fedsite.files import PRIVATE_FILE, is_private, write_atomically
from fedsite.site.waiting import Result, within

if TYPE_CHECKING:
    from keyring.backend import KeyringBackend

Storage = Literal["credentials", "file", "keyring"]
Wanted = Literal["auto", "credentials", "file", "keyring"]

CREDENTIAL = "fedsite-passphrase"
KEYRINGS = (
    "keyring.backends.SecretService.Keyring",
    "keyring.backends.kwallet.DBusKeyring",
    "keyring.backends.libsecret.Keyring",
)
KEYRING_SECONDS = 5.0
_SECRET = re.compile(rb"[0-9a-f]{64}")
_ENTRY = re.compile(r"[0-9a-f]{16}")
_OTHERS = "Unlock it; or keep the passphrase where nobody is needed: --key-storage file or credentials (README)."
_BY_SERVICE = (
    "Run this command as the service does, with systemd's LoadCredentialEncrypted= (README), or choose another place:"
    " fedsite enroll --key-storage file, with a new invitation."
)


@dataclass(frozen=True)
class Place:
    """Where one passphrase lies. Raises ValueError where nothing could."""

    storage: Storage
    keyring: str = ""
    entry: str = ""

    def __post_init__(self) -> None:
        known = self.storage in ("credentials", "file") and (self.keyring, self.entry) == ("", "")
        known |= self.storage == "keyring" and self.keyring in KEYRINGS and bool(_ENTRY.fullmatch(self.entry))
        if not known:
            raise ValueError("no place of a passphrase")


def choose(wanted: Wanted) -> Place:
    """The place for a new passphrase. Raises ConfigurationError where no keyring can be used, or nobody can tell.

    `auto` never takes a keyring: those open when a person logs in, which an unattended machine must not wait for.
    """
    if wanted == "keyring":
        return Place("keyring", _usable_keyring(), secrets.token_hex(8))
    if wanted == "auto":
        return Place("file" if _credential() is None else "credentials")
    return Place(wanted)


def beside(place: Place) -> Place:
    """A place of the same kind for the passphrase of the next key: no two keys share one, except systemd's."""
    return replace(place, entry=secrets.token_hex(8)) if place.storage == "keyring" else place


def create(place: Place, folder: Path) -> None:
    """Puts a new passphrase into its place (systemd's own lies there already). Raises as `read` does."""
    if place.storage == "file":
        create_secret(folder / "passphrase")
    elif place.storage == "keyring":
        made = secrets.token_hex(32)
        _ask_keyring(place.keyring, lambda keyring: keyring.set_password("fedsite", place.entry, made))
    read(place, folder)


def read(place: Place, folder: Path) -> str:
    """The passphrase from the place that was recorded for it, and from nowhere else.

    Raises ConfigurationError when the place cannot be reached without a person, RecordsDamaged when what lies there
    is no secret or not this user's alone, NotAuthorised when it is gone.
    """
    if place.storage == "file":
        return read_secret(folder / "passphrase").decode()
    if place.storage == "credentials":
        return _read_credential()
    found = _ask_keyring(place.keyring, lambda keyring: keyring.get_password("fedsite", place.entry))
    if found is None or not _SECRET.fullmatch(found.encode()):
        raise NotAuthorised("This site's entry is not in the keyring.", "Enrol this site again with a new invitation.")
    return found


def forget(place: Place, folder: Path) -> None:
    """Removes a passphrase; what systemd gives is not ours. Raises ConfigurationError when the keyring is closed."""
    if place.storage == "file":
        (folder / "passphrase").unlink(missing_ok=True)
    elif place.storage == "keyring":
        _ask_keyring(place.keyring, lambda keyring: keyring.delete_password("fedsite", place.entry))


# --- files ----------------------------------------------------------------------------------------------------------


def create_secret(path: Path) -> bytes:
    """Writes 256 random bits (as 64 hexadecimal digits) and gives them; keeps what is there already."""
    if path.exists():
        return read_secret(path)
    secret = secrets.token_hex(32).encode()
    write_atomically(path, secret, PRIVATE_FILE)
    return secret


def read_secret(path: Path) -> bytes:
    """Reads a secret. Raises RecordsDamaged when others could read it too, NotAuthorised when it is absent."""
    if not path.exists():
        raise NotAuthorised(
            f"{path.name} is not in the state folder.",
            "Bring it back from a backup. A key is had anew: fedsite enroll --invitation FILE",
        )
    if not is_private(path):
        raise RecordsDamaged(
            f"{path} can be read by others, or belongs to another user.",
            f"Find out why; then: chmod 600 {path}. If someone may have read it, retire this identity and enrol anew.",
        )
    secret = path.read_bytes().strip()
    if not _SECRET.fullmatch(secret):
        raise RecordsDamaged(f"{path} is not a secret that fedsite wrote.", "Restore it from a backup, or enrol anew.")
    return secret


# --- systemd's credentials ------------------------------------------------------------------------------------------


def service_environment() -> dict[str, str]:
    """Of this process's environment, what a service manager gives to a service whose environment is empty."""
    folder = os.environ.get("CREDENTIALS_DIRECTORY")
    return {"CREDENTIALS_DIRECTORY": folder} if folder else {}


def _credential() -> Path | None:
    folder = service_environment().get("CREDENTIALS_DIRECTORY")
    path = Path(folder, CREDENTIAL) if folder else None
    try:
        return path if path and path.is_absolute() and path.is_file() else None
    except OSError as error:
        raise ConfigurationError(
            f"$CREDENTIALS_DIRECTORY names a folder that cannot be looked into: {error.strerror}.", _BY_SERVICE
        ) from None


def _read_credential() -> str:
    path = _credential()
    if path is None:
        raise ConfigurationError(
            f"This site's key opens with the credential {CREDENTIAL}, which nobody gave to this command.", _BY_SERVICE
        )
    status = path.lstat()
    # systemd shows a file of root's to the service's user by an access list, whose mask stands in the group's bits.
    if status.st_uid not in (0, os.geteuid()) or status.st_mode & 0o027:
        raise RecordsDamaged(
            f"The credential {CREDENTIAL} can be read by others, or belongs to another user.",
            "Let systemd give it (LoadCredentialEncrypted=); see README.",
        )
    secret = path.read_bytes().strip()
    if not _SECRET.fullmatch(secret):
        raise ConfigurationError(
            f"The credential {CREDENTIAL} is not 64 hexadecimal digits.", "Make it with: openssl rand -hex 32"
        )
    return secret.decode()


# --- keyrings -------------------------------------------------------------------------------------------------------


def _usable_keyring() -> str:
    for name in KEYRINGS:
        with suppress(ConfigurationError):
            _ask_keyring(name, lambda keyring: None)
            return name
    raise ConfigurationError("No keyring that fedsite uses can be reached here without a person.", _OTHERS)


def _ask_keyring(name: str, act: "Callable[[KeyringBackend], Result]") -> Result:
    """Asks one keyring something. A locked one may wait for a person's answer for ever, but nobody waits for it here.

    Raises ConfigurationError when it is locked, cannot be used, or has not answered in time.
    """
    try:
        return within(KEYRING_SECONDS, lambda: act(_open_keyring(name)))
    except TimeoutError:
        why = "it is locked and waits for a person"
    except Exception as error:  # noqa: BLE001 - whatever a keyring and its bus can raise
        # Of foreign errors the kind alone: what they say is not known not to hold the secret.
        why = type(error).__name__
    raise ConfigurationError(f"The keyring {name.split('.')[2]} cannot be used here: {why}.", _OTHERS)


def _open_keyring(name: str) -> "KeyringBackend":
    from keyring.core import load_keyring
    from secretstorage import Collection, dbus_init

    _find_session_bus()
    if name == KEYRINGS[0]:
        with closing(dbus_init()) as bus:
            if Collection(bus).is_locked():
                raise TimeoutError  # what asking would come to, once its question stands on somebody's screen
    return load_keyring(name)


def _find_session_bus() -> None:
    """Finds the bus where nobody says where it is, under cron: systemd keeps it in one place (user@.service(5))."""
    bus = Path(f"/run/user/{os.geteuid()}/bus")
    if bus.is_socket():
        os.environ.setdefault("DBUS_SESSION_BUS_ADDRESS", f"unix:path={bus}")

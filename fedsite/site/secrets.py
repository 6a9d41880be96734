"""Secrets of an unattended machine: random, in files that only the user who runs fedsite can read."""

import re
import secrets
from pathlib import Path

from fedsite.errors import NotAuthorised, RecordsDamaged
from fedsite.files import PRIVATE_FILE, is_private, write_atomically

_SECRET = re.compile(rb"[0-9a-f]{64}")


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
        raise NotAuthorised(f"{path.name} is not in the state folder.", "Enrol this site with: fedsite enroll")
    if not is_private(path):
        raise RecordsDamaged(
            f"{path} can be read by others, or belongs to another user.",
            f"Find out why; then: chmod 600 {path}. If someone may have read it, retire this identity and enrol anew.",
        )
    secret = path.read_bytes().strip()
    if not _SECRET.fullmatch(secret):
        raise RecordsDamaged(f"{path} is not a secret that fedsite wrote.", "Restore it from a backup, or enrol anew.")
    return secret

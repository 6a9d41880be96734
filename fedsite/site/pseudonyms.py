"""Keyed pseudonyms: the only names by which patients, studies and series appear in anything fedsite writes.

HMAC-SHA-256 (RFC 2104) under a 256-bit key that never leaves the state folder: stable at this site, unlinkable
between sites, and not to be found by trying every possible patient number.
"""

import base64
import hmac
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Pseudonyms:
    """Makes pseudonyms under one site's key."""

    key: bytes = field(repr=False)

    def patient(self, patient_id: str, issuer: str = "") -> str:
        """For a patient as identified by PatientID (0010,0020) and its issuer (0010,0021)."""
        return "p-" + self._name("patient", patient_id, issuer)

    def study(self, uid: str) -> str:
        """For a StudyInstanceUID (0020,000D)."""
        return "e-" + self._name("study", uid)

    def series(self, uid: str, part: str = "") -> str:
        """For a SeriesInstanceUID (0020,000E), or one part of a divided series."""
        return "s-" + self._name("series", uid, part)

    def path(self, text: str) -> str:
        """For a file's or folder's path."""
        return "f-" + self._name("path", text)

    def fraction(self, pseudonym: str) -> float:
        """A number in [0, 1) that depends on one pseudonym and the key alone: what the split goes by."""
        return int.from_bytes(self._digest("fraction", pseudonym)[:8], "big") / 2**64

    def derived_key(self, purpose: str) -> bytes:
        """A key of 256 bits for another purpose, from which nobody gets back to this one (HKDF-Expand, RFC 5869)."""
        return self._digest("derived key", purpose)

    def _name(self, *parts: str) -> str:
        return base64.b32encode(self._digest(*parts)[:10]).decode().lower()

    def _digest(self, *parts: str) -> bytes:
        # Lengths first, so that no two lists of parts give the same bytes.
        message = b"".join(b"%d:%s" % (len(part.encode()), part.encode()) for part in parts)
        return hmac.digest(self.key, message, "sha256")

"""The versions of this site's key and certificate: a new one is written beside the old one, tried, then switched to.

A kill at any point leaves one version in use, whole: `current` names it, and is replaced in one step. What is newer is
unfinished, and is taken up again; what is older has been replaced, and is removed.
"""

import shutil
from collections.abc import Callable
from contextlib import suppress

from fedsite.errors import FedsiteError
from fedsite.files import PRIVATE_FILE, PRIVATE_FOLDER, fsync_folder, make_folder, write_atomically
from fedsite.site import secrets
from fedsite.site.identity import Choice, IdentityFiles, Version


def pending(files: IdentityFiles) -> Version | None:
    """The version that was begun and is not in use yet: it awaits its certificate, or to be tried."""
    newest = max(_all(files), key=lambda version: version.number, default=None)
    if newest is None or newest.number <= files.current.number or not newest.key.is_file():
        return None
    return newest


def begin(files: IdentityFiles, choice: Choice, sealed_key: Callable[[str], bytes]) -> Version:
    """Begins a new version, in place of an unfinished one; `sealed_key` makes its key, encrypted by a passphrase.

    Raises CannotWrite, and what `secrets.create` raises; then nothing of it is left.
    """
    there, current = _all(files), files.current.number
    for unfinished in (version for version in there if version.number > current):
        remove(unfinished)
    version = files.version(max([current, *(one.number for one in there)]) + 1)
    make_folder(files.versions, PRIVATE_FOLDER)
    make_folder(version.folder, PRIVATE_FOLDER)
    try:
        write_atomically(version.folder / "choice.json", choice.to_json(), PRIVATE_FILE)
        secrets.create(choice.place, version.folder)
        write_atomically(version.key, sealed_key(version.passphrase()), PRIVATE_FILE)
        fsync_folder(files.versions)
        fsync_folder(files.folder)
    except BaseException:
        remove(version)
        raise
    return version


def switch(files: IdentityFiles, version: Version) -> None:
    """Puts a version into use, which must have worked, and removes those that it replaces."""
    write_atomically(files.pointer, b"%d\n" % version.number, PRIVATE_FILE)
    for replaced in [files.version(0), *(one for one in _all(files) if one != version)]:
        remove(replaced)


def retire(files: IdentityFiles) -> None:
    """Removes every key and certificate; what was pinned and the key of the pseudonyms stay."""
    for version in [files.version(0), *_all(files)]:
        remove(version)
    files.pointer.unlink(missing_ok=True)


def remove(version: Version) -> None:
    """Removes a version, its key first: without it the rest is of no use to anybody."""
    version.key.unlink(missing_ok=True)
    version.certificate.unlink(missing_ok=True)
    with suppress(FedsiteError):  # a passphrase without its key opens nothing
        secrets.forget(version.choice.place, version.folder)
    if version.number:
        shutil.rmtree(version.folder, ignore_errors=True)


def _all(files: IdentityFiles) -> list[Version]:
    try:
        names = [path.name for path in files.versions.iterdir()]
    except (FileNotFoundError, NotADirectoryError):
        return []
    return [files.version(int(name)) for name in names if name.isdecimal() and name[0] != "0"]

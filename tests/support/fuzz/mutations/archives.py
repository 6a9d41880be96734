"""Mutations that pack the files into zip archives, and archives that are up to something."""

import io
import struct
import zipfile

from support.fuzz.draft import Draft, mutation

QUICK_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
SLOW_METHODS = (zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)
LOCAL, CENTRAL, END = b"PK\3\4", b"PK\1\2", b"PK\5\6"


def _zipped(files: list[bytes], names: list[str], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in zip(names, files, strict=True):
            # A fixed date, so that a case makes the same bytes every day.
            entry = zipfile.ZipInfo(name, (2020, 2, 2, 2, 2, 2))
            archive.writestr(entry, content, method, 1)
    return buffer.getvalue()


def _plain_names(files: list[bytes]) -> list[str]:
    return [f"DICOM/IM{index:04d}" for index in range(len(files))]


@mutation
def zip_all(draft: Draft) -> None:
    """All files in one archive, by any method."""
    small = sum(map(len, draft.files)) < 1 << 18
    method = draft.random.choice((*QUICK_METHODS, *SLOW_METHODS) if small else QUICK_METHODS)
    draft.files[:] = [_zipped(draft.files, _plain_names(draft.files), method)]


@mutation
def zip_some(draft: Draft) -> None:
    """Some files in an archive, others twice, or in a second one."""
    half = draft.random.randint(0, len(draft.files))
    again = draft.files[half:] if draft.random.random() < 0.5 else draft.files
    draft.files[:] = [
        *draft.files[: draft.random.randint(0, half)],
        _zipped(draft.files[:half], _plain_names(draft.files[:half])),
        _zipped(again, _plain_names(again)),
    ]


@mutation
def zip_nested(draft: Draft) -> None:
    """An archive in an archive in an archive."""
    for _ in range(draft.random.choice([2, 3, 12])):
        draft.files[:] = [_zipped(draft.files, [f"{name}.zip" for name in _plain_names(draft.files)])]


@mutation
def zip_names(draft: Draft) -> None:
    """Members whose names lead out of the folder, are empty, equal, endless or no text."""
    strange = ("../../../../tmp/IM", "/etc/IM", "C:\\IM", "..", ".", "a/../b", "IM\n\x1b[31m", "x" * 5000, "ü^Näme/IM")
    names = [
        draft.random.choice(strange) + str(index * draft.random.randint(0, 1)) for index in range(len(draft.files))
    ]
    draft.files[:] = [_unwarned(draft.files, names)]


@mutation
def zip_bomb(draft: Draft) -> None:
    """A member that inflates to a thousand times its size, beside the others."""
    size = draft.random.choice([1 << 20, 20 << 20, 100 << 20])
    start = draft.random.choice([b"", draft.files[0], b"\0" * 128 + b"DICM"])
    files = [*draft.files, start + bytes(size)]
    draft.files[:] = [_zipped(files, _plain_names(files))]


@mutation
def zip_claims(draft: Draft) -> None:
    """Sizes, checksums, offsets, flags or methods in the archive's directory lie."""
    content = bytearray(_zipped(draft.files, _plain_names(draft.files)))
    mark, reach = draft.random.choice([(CENTRAL, 46), (LOCAL, 30), (END, 22)])
    places = [place for place in range(len(content)) if content.startswith(mark, place)]
    for place in draft.random.sample(places, draft.random.randint(1, len(places))):
        spot = place + 4 + 2 * draft.random.randrange((reach - 4) // 2)
        struct.pack_into("<H", content, spot, draft.random.choice([0, 1, 8, 9, 14, 99, 0x7FFF, 0xFFFF]))
    draft.files[:] = [bytes(content)]


@mutation
def zip_damaged(draft: Draft) -> None:
    """An archive that is cut, has noise in it, or stands behind something else."""
    content = _zipped(draft.files, _plain_names(draft.files))
    place = draft.random.randrange(len(content))
    noise = draft.random.randbytes(draft.random.randint(1, 50))
    kinds = (content[:place], content[:place] + noise + content[place + len(noise) :], noise + content, content + noise)
    draft.files[:] = [draft.random.choice(kinds)]


@mutation
def zip_many(draft: Draft) -> None:
    """Thousands of tiny members."""
    files = [*draft.files, *([b"x"] * draft.random.choice([1000, 5000]))]
    draft.files[:] = [_zipped(files, _plain_names(files), zipfile.ZIP_STORED)]


def _unwarned(files: list[bytes], names: list[str]) -> bytes:
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that two names are equal
        return _zipped(files, names)

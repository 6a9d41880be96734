"""How an image was derived, as codes say it, in the words of ImageType: so that nothing later asks which of both spoke.

DerivationCodeSequence (0008,9215), alone or within the derivation image functional group (PS3.3 C.7.6.16.2.6), with
codes of PS3.16 (CID 7203 Image Derivation, CID 7180 and what was part of 7203 before).
"""

from collections.abc import Iterator

from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.tag import BaseTag

from fedsite.dicom.header.values import tag_of, value_at

_WORDS = {
    "110808": "FA",
    "110809": "FA",  # relative anisotropy: as little an image to learn from as the fractional one
    "113041": "ADC",
    "113044": "FA",
    "113045": "EADC",
    "113072": "MPR",
    "113073": "CURVED MPR",
    "113074": "PROJECTION IMAGE",
    "113075": "PROJECTION IMAGE",
    "113078": "MIP",
    "113079": "MINIP",
    "113290": "ADC",
}

_DERIVATION_CODES = tag_of("DerivationCodeSequence")
_DERIVATION_IMAGE = tag_of("DerivationImageSequence")
_SCHEME, _VALUE = tag_of("CodingSchemeDesignator"), tag_of("CodeValue")


def derivation_words(dataset: Dataset) -> tuple[str, ...]:
    """The words for what the codes of an image, or of one item of its functional groups, say."""
    sources = [dataset, *_items(dataset, _DERIVATION_IMAGE)]
    codes = [code for source in sources for code in _items(source, _DERIVATION_CODES)]
    texts = [str(value_at(code, _VALUE)).strip() for code in codes if str(value_at(code, _SCHEME)).strip() == "DCM"]
    return tuple(dict.fromkeys(_WORDS[text] for text in texts if text in _WORDS))


def _items(dataset: Dataset, tag: BaseTag) -> Iterator[Dataset]:
    value = value_at(dataset, tag)
    if isinstance(value, Sequence):
        yield from value

from dataclasses import dataclass
from pathlib import Path

import pytest

from fedsite.dataset.pairing import pair, possible_names


@dataclass(frozen=True)
class Image:
    id: str
    keys: frozenset[str]


ONE = Image("s-1", frozenset({"1.2.3", "1.2", "ACC1", "PAT1"}))
TWO = Image("s-2", frozenset({"1.2.4", "1.2", "ACC2", "PAT1"}))


@pytest.mark.parametrize(
    "word",
    ["", "_mask", "_msk", "_label", "_labels", "_lesion", "_seg", "-mask", "_MASK", ".roi", "_lesion_mask", " Mask"],
)
def test_trailing_words_are_taken_off(word):
    assert "1.2.3" in possible_names(f"1.2.3{word}")


def test_a_name_that_ends_like_a_trailing_word_stays_possible():
    assert possible_names("unmask") == {"unmask"}
    assert "PAT_mask" in possible_names("PAT_mask_seg")


def test_a_word_alone_names_nothing():
    assert "" not in possible_names("_mask")


@pytest.mark.parametrize("name", ["1.2.3.nii.gz", "1.2.3_mask.nii", "ACC1_lesion.nii.gz"])
def test_a_mask_is_paired_by_any_key(name):
    pairing = pair([Path(name)], [ONE, TWO])
    assert pairing.masks == {"s-1": [Path(name)]}
    assert not pairing.contested
    assert pairing.unpaired == 0


@pytest.mark.parametrize("name", ["PAT1.nii.gz", "1.2_mask.nii.gz"])
def test_a_mask_that_fits_two_images_is_contested(name):
    pairing = pair([Path(name)], [ONE, TWO])
    assert pairing.contested == {"s-1": {"s-1", "s-2"}, "s-2": {"s-1", "s-2"}}


def test_two_masks_of_one_image_are_both_told():
    pairing = pair([Path("1.2.3.nii"), Path("ACC1_mask.nii")], [ONE, TWO])
    assert len(pairing.masks["s-1"]) == 2


def test_masks_of_nothing_are_counted():
    assert pair([Path("9.9.nii"), Path("1.2.33.nii"), Path("1.2.3.nii")], [ONE]).unpaired == 2


def test_identifiers_are_not_shown():
    assert "1.2.3" not in repr(pair([Path("1.2.3.nii")], [ONE]))

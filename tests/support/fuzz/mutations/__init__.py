"""The mutations, by name: small functions that spoil a draft, each with a generator of its own.

What a mutation makes depends on its name, the series and the case's number alone, so that adding one does not change
what the kept cases of the others are.
"""

from support.fuzz.draft import MUTATIONS
from support.fuzz.mutations import archives, raw, series, structure, values, voxels

# How often a kind is drawn. Values and slices first: what is wrong there is what could get through.
_WEIGHTS = {values: 5, series: 6, structure: 4, voxels: 4, raw: 3, archives: 2}

KINDS = {
    module.__name__.rpartition(".")[2]: tuple(
        name for name, function in MUTATIONS.items() if function.__module__ == module.__name__
    )
    for module in _WEIGHTS
}
WEIGHTS = dict(zip(KINDS, _WEIGHTS.values(), strict=True))

"""One case: a clean series, the mutations that spoil it, a number. A line of text holds all of it."""

from collections.abc import Mapping
from dataclasses import dataclass
from random import Random

from support.fuzz.draft import MUTATIONS, Corpus, Draft
from support.fuzz.mutations import KINDS, WEIGHTS

# How many mutations a case has: mostly one, so that what is found is understood.
_DEPTHS = (1, 1, 1, 1, 2, 2, 3)


@dataclass(frozen=True)
class Case:
    """A case. From its line come the same bytes again, as long as its series and its mutations stay as they are."""

    series: str
    mutations: tuple[str, ...]
    number: int

    def __str__(self) -> str:
        return f"{self.series} {'+'.join(self.mutations) or 'nothing'} {self.number}"

    @classmethod
    def read(cls, line: str) -> "Case":
        """The case of a line: `SERIES MUTATION+MUTATION NUMBER`."""
        series, mutations, number = line.split()
        return cls(series, () if mutations == "nothing" else tuple(mutations.split("+")), int(number))

    @classmethod
    def drawn(cls, seed: int, number: int, names: Mapping[str, object]) -> "Case":
        """Case `number` of the run with this seed, over the series with these names."""
        random = Random(f"{seed} {number}")
        kinds = random.choices(list(KINDS), list(WEIGHTS.values()), k=random.choice(_DEPTHS))
        mutations = tuple(random.choice(KINDS[kind]) for kind in kinds)
        return cls(random.choice(sorted(names)), mutations, random.randrange(1 << 32))

    def files(self, corpus: Corpus) -> list[bytes]:
        """The mutated files."""
        draft = Draft(list(corpus[self.series]), Random(), corpus)
        for place, name in enumerate(self.mutations):
            draft.random = Random(f"{self.series} {name} {place} {self.number}")
            if draft.files:
                MUTATIONS[name](draft)
        return draft.files

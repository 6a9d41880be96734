"""What a mutation works on: the files of one series, a generator of its own, and other series to borrow from."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import wraps
from random import Random

from support.fuzz.elements import Element, File, parse, serialise

Corpus = Mapping[str, tuple[bytes, ...]]

POSITION, ORIENTATION, SPACING, THICKNESS = 0x00200032, 0x00200037, 0x00280030, 0x00180050
SERIES, STUDY, SOP_INSTANCE, FRAME_OF_REFERENCE = 0x0020000E, 0x0020000D, 0x00080018, 0x00200052
ROWS, COLUMNS, FRAMES = 0x00280010, 0x00280011, 0x00280008


@dataclass
class Draft:
    """A case in the making. Mutations change `files` in place; `corpus` are the clean series by name."""

    files: list[bytes]
    random: Random
    corpus: Corpus


@dataclass
class Trees:
    """The files of a draft that parse, as trees; a mutation may take some away and add others."""

    files: list[File]
    random: Random
    corpus: Corpus

    def planes(self, tag: int) -> list[Element]:
        """The elements with this tag in all files, at any depth: one a slice, or one for all."""
        return [element for file in self.files for element in file.find(tag) if element.content]

    def some(self, elements: list[Element]) -> list[Element]:
        """One of them, some, or all: each is as likely."""
        if not elements:
            return []
        number = self.random.choice([1, self.random.randint(1, len(elements)), len(elements)])
        return self.random.sample(elements, number)

    def some_files(self) -> list[File]:
        """One file, some, or all."""
        number = self.random.choice([1, self.random.randint(1, len(self.files)), len(self.files)])
        return self.random.sample(self.files, number)


Mutation = Callable[[Draft], None]

# Every mutation by its name.
MUTATIONS: dict[str, Mutation] = {}


def mutation(change: Mutation) -> Mutation:
    """Registers a mutation."""
    assert change.__name__ not in MUTATIONS
    MUTATIONS[change.__name__] = change
    return change


def on_trees(change: Callable[[Trees], None]) -> Mutation:
    """Registers a mutation of parsed files; files that do not parse (any more) stay as they are."""

    @mutation
    @wraps(change)
    def mutate(draft: Draft) -> None:
        parsed: list[File] = []
        left: list[bytes] = []
        for content in draft.files:
            try:
                parsed.append(parse(content))
            except ValueError:
                left.append(content)
        if parsed:
            trees = Trees(parsed, draft.random, draft.corpus)
            change(trees)
            draft.files[:] = [*map(serialise, trees.files), *left]

    return mutate


def floats(element: Element) -> list[float]:
    """The numbers of a decimal string; none where it does not hold numbers."""
    try:
        return [float(part) for part in element.content.split(b"\\")]
    except ValueError:
        return []


def decimal_string(values: list[float]) -> bytes:
    """A decimal string of even length."""
    text = "\\".join(f"{value:.9f}"[:16] for value in values).encode()
    return text + b" " * (len(text) % 2)

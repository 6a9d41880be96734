"""The calendar of spending: what each month cost. Reads what the ledger has recorded; nothing is computed anew."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby

from fedsite.privacy.ledger import Spent
from fedsite.site.state import Record


@dataclass(frozen=True)
class Month:
    """A month in which something was charged. `epsilon` is the binding total at its end, `rise` the month's part of it;
    both are None once something has left without noise.
    """

    month: str
    releases: int
    epsilon: float | None
    rise: float | None


def calendar(charges: Iterable[Record]) -> Iterator[Month]:
    """The months (`2026-11`) in which something was charged, in the order of the ledger.

    The totals of the filter are not sums: a first charge also pays for turning a divergence into an epsilon.
    """
    before: float | None = 0.0
    for month, records in groupby(charges, key=lambda record: record.time[:7]):
        found = list(records)
        after = Spent(**found[-1].body["after"]).epsilon
        rise = None if after is None or before is None else after - before
        yield Month(month, len(found), after, rise)
        before = after

"""What the audit is told beside what jobs do: every request to the server, the policy in force, every refusal."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from fedsite.errors import FedsiteError
from fedsite.site.chain import canonical_json
from fedsite.site.policy import Policy
from fedsite.site.state import State

if TYPE_CHECKING:
    from fedsite.wire.transport import Exchange

REQUEST, POLICY, REFUSED = "request", "policy", "refused"
LONGEST_REASON = 1000  # some of it may be the server's


def write_request(state: State, exchange: "Exchange") -> None:
    """A request to the server: body bytes each way, seconds, and by how many this clock is ahead of the server's."""
    ahead = None if exchange.ahead is None else round(exchange.ahead)
    facts = {**asdict(exchange), "seconds": round(exchange.seconds, 3), "ahead": ahead}
    state.audit(REQUEST, **facts)


def note_policy(state: State, policy: Policy) -> None:
    """Writes down the policy where it is not the one that was last in force, and which of its keys have changed."""
    now: dict[str, Any] = policy.model_dump(mode="json")
    known = state.newest(POLICY)
    before = known.body["policy"] if known else {}
    if now != before:
        changed = sorted(key for key in now.keys() | before.keys() if now.get(key) != before.get(key))
        digest = hashlib.sha256(canonical_json(now).encode()).hexdigest()
        state.audit(POLICY, sha256=digest, changed=changed if known else [], policy=now)


@contextmanager
def refusals(state: State, *kinds: type[FedsiteError]) -> Iterator[None]:
    """Writes down an error of these kinds that ends what is done inside, and lets it go on."""
    try:
        yield
    except kinds as error:
        state.audit(REFUSED, code=error.code, message=error.message[:LONGEST_REASON])
        raise

"""What stays at a site, through power cuts at each boundary of a round: it advances with the receipt, once, or not.

In one process, so that torch is imported once: a cut is an exception that nobody catches, at the moments at which
test_killed_round.py kills real processes. One series for each algorithm: every round is cut off once and then ended.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.federation import Server, plan_file
from support.site import Site, prepare_blobs

from fedsite.errors import RecordsDamaged
from fedsite.files import sha256_of
from fedsite.jobs.models import initial, kept
from fedsite.jobs.progress import Progress
from fedsite.jobs.round import participate
from fedsite.jobs.site import open_site
from fedsite.server.exchange import participation
from fedsite.server.rounds import reports
from fedsite.site.policy import NO_PRIVACY_SENTENCE
from fedsite.site.state import State
from fedsite.wire.messages import Ticket
from fedsite.wire.payload import tensors_of
from fedsite.wire.plans import read_draft
from fedsite.wire.signing import TICKET, open_envelope, public_key

REACH = 2 * 0.1
LOCAL = {"steps": 2, "learning_rate": 0.1, "batch_size": 1, "patch_voxels": [16, 16, 16]}
LOCAL |= {"optimizer": "sgd", "momentum": 0.0}
MOMENTS = [
    ("before", "trained"),
    ("after", "reserved"),
    ("before", "released"),
    ("after", "released"),
    ("before", "acknowledged"),
    ("after", "acknowledged"),
]


class PowerCut(BaseException):
    """The machine goes dark."""


@contextmanager
def cut(moment: str, state: str) -> Iterator[None]:
    """A power cut before a round's state is written, or at the first moment at which it is durable."""
    write, transaction = State.put_round, State.transaction
    reached = False

    def put_round(self: State, federation: str, number: int, to: str, body: dict[str, Any]) -> None:
        nonlocal reached
        if (moment, state) == ("before", to):
            raise PowerCut
        write(self, federation, number, to, body)
        reached = reached or (moment, state) == ("after", to)
        if reached and not self._database.in_transaction:
            raise PowerCut

    @contextmanager
    def committed(self: State) -> Iterator[None]:
        with transaction(self):
            yield
        if reached and not self._database.in_transaction:
            raise PowerCut

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(State, "put_round", put_round)
        patch.setattr(State, "transaction", committed)
        with pytest.raises(PowerCut):
            yield


@contextmanager
def quietly(_step: str) -> Iterator[Progress]:
    """A step that nobody watches."""
    yield lambda done, total, note="": None


def take_part(site: Site) -> str:
    with open_site(site.config) as opened:
        return participate.take_part(opened, quietly).outcome


def in_force(site: Site, plan_sha256: str) -> Path | None:
    with State.open(site.state) as state:
        return kept.current(state, "test-federation", plan_sha256)


def values(path: Path | None) -> dict[str, np.ndarray]:
    return {name: np.array(found, dtype=np.float64) for name, found in tensors_of(path).items()} if path else {}


@pytest.fixture
def ready(server: Server, site: Site) -> Site:
    if not site.data.exists():
        prepare_blobs(site, patients=1, held_out=1, size=24)
    allowed = {"algorithms": ["scaffold", "personal"], "no_privacy": NO_PRIVACY_SENTENCE}
    site.configure(policy=allowed, training={"evaluate": False})
    return site


def open_series(server: Server, folder: Path, enough: int = 1, **changes: Any) -> tuple[int, str]:
    """A round for each moment and one more; gives the first one's number and the plan's digest."""
    rules = {"quorum": 1, "enough": enough, "deadline_seconds": 600}
    plan = plan_file(folder, local=LOCAL, rounds=rules, **changes)
    initial.init(read_draft(plan), folder / "model.safetensors", seed=0)
    number = server.open_series(plan, folder / "model.safetensors", len(MOMENTS) + 1)
    return number, reports.round_report(server.federation, number)["plan_sha256"]


def control_of_server(server: Server, number: int) -> dict[str, np.ndarray]:
    """The control that a round's ticket names."""
    federation = server.federation
    envelope = participation.tickets(federation, number - 1).tickets[0]
    digest = open_envelope(envelope, Ticket, TICKET, [public_key(federation.round_key)]).control_sha256
    return values(federation.models.path(digest) if digest else None)


@pytest.mark.fault(
    part="site",
    what="a power cut of a SCAFFOLD round",
    where="six boundaries around charge, release and receipt",
    promised="the site's control advances with the receipt, once, or not at all",
)
def test_a_control_advances_once_with_the_receipt(server: Server, ready: Site, tmp_path: Path) -> None:
    """It is c_i - c - update / (K lr) of what was really released, and with one site the server's is the same."""
    first, plan = open_series(server, tmp_path, algorithm="scaffold")
    own: dict[str, np.ndarray] = {}
    for number, (moment, state) in enumerate(MOMENTS, start=first):
        server.wait_for(number)
        before, there = in_force(ready, plan), control_of_server(server, number)
        with cut(moment, state):
            take_part(ready)
        sealed = ready.state / "outbox" / f"round-{number}.safetensors"
        is_released = sealed.exists() and (moment, state) != ("before", "released")  # until then it is drawn anew
        update = values(sealed if is_released else None)
        if (moment, state) != ("after", "acknowledged"):
            assert in_force(ready, plan) == before, "without a receipt there is no new control"
            assert take_part(ready) == "uploaded"
        after = in_force(ready, plan)
        assert after != before
        for name, sent in update.items():
            expected = own.get(name, 0.0) - there.get(name, 0.0) - sent / REACH
            np.testing.assert_allclose(values(after)[name], expected, atol=1e-5)
        own = values(after)
        server.wait_for(number + 1)
        for name, value in control_of_server(server, number + 1).items():
            np.testing.assert_allclose(value, own[name], atol=1e-5)
    assert len(list((ready.state / "kept").iterdir())) <= 2, "what no round needs is removed"


def test_the_servers_control_is_the_mean_of_the_sites(server: Server, ready: Site, tmp_path: Path) -> None:
    """Both sides work it out by themselves, from the bytes that were released: halves, and with noise."""
    other = Site(tmp_path / "other")
    other.init()
    other.enroll(server.invite("site-b"))
    prepare_blobs(other, patients=1, held_out=1, size=24, seed=1)
    other.configure(policy={"algorithms": ["scaffold"]}, training={"evaluate": False})
    first, plan = open_series(server, tmp_path, enough=2, algorithm="scaffold", payload="float16")
    for number in (first, first + 1):
        server.wait_for(number)
        assert [take_part(site) for site in (ready, other)] == ["uploaded", "uploaded"]
        server.wait_for(number + 1)
        mine, theirs = (values(in_force(site, plan)) for site in (ready, other))
        for name, value in control_of_server(server, number + 1).items():
            np.testing.assert_allclose(value, (mine[name] + theirs[name]) / 2, atol=1e-5)
            assert np.abs(mine[name] - theirs[name]).max() > 1e-3


@pytest.mark.fault(
    part="site",
    what="a power cut of a round with layers that stay at home",
    where="six boundaries around charge, release and receipt",
    promised="they advance with the receipt, once, or not at all",
)
def test_layers_at_home_advance_once_with_the_receipt(server: Server, ready: Site, tmp_path: Path) -> None:
    no_noise = {"mechanism": "gaussian-update", "clip_norm": 1.0, "noise_multiplier": 0.0}
    first, plan = open_series(server, tmp_path, algorithm={"name": "personal", "keep": "head"}, privacy=no_noise)
    travels = tensors_of(tmp_path / "model.safetensors").keys()
    assert travels
    for number, (moment, state) in enumerate(MOMENTS, start=first):
        server.wait_for(number)
        before = in_force(ready, plan)
        with cut(moment, state):
            take_part(ready)
        trained = ready.round_state(number)[1].get("kept_sha256")
        sealed = ready.state / "outbox" / f"round-{number}.safetensors"
        assert not sealed.exists() or tensors_of(sealed).keys() == travels
        if (moment, state) != ("after", "acknowledged"):
            assert in_force(ready, plan) == before, "without a receipt the layers are those of before"
            assert take_part(ready) == "uploaded"
        after = in_force(ready, plan)
        assert after is not None
        assert after != before
        assert trained in (None, sha256_of(after)), "training again gives the same layers"
        assert tensors_of(after).keys() == {"model.2.conv.weight", "model.2.conv.bias"}
        if before is not None:
            assert before.exists()
            assert all((values(before)[name] != values(after)[name]).any() for name in values(after))


@pytest.mark.fault(
    part="site",
    what="a control that a site keeps is gone or damaged",
    where="a file in kept/, between two rounds",
    promised="the site stops (exit 74) rather than go on from another",
)
def test_what_is_kept_and_lost_stops_the_site(server: Server, ready: Site, tmp_path: Path) -> None:
    first, plan = open_series(server, tmp_path, algorithm="scaffold")
    take_part(ready)
    file = in_force(ready, plan)
    assert file is not None
    whole = file.read_bytes()
    file.write_bytes(whole[:-4] + b"\0\0\1\0")
    server.wait_for(first + 1)
    with pytest.raises(RecordsDamaged, match="gone or damaged"):
        take_part(ready)
    file.unlink()
    with pytest.raises(RecordsDamaged, match="gone or damaged"):
        take_part(ready)
    file.write_bytes(whole)
    assert take_part(ready) == "uploaded"

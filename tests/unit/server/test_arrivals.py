"""What the server tells a site of what it has had of it."""

import pytest
from support.federation import tensors

from fedsite.server.exchange import participation
from fedsite.server.problems import Refused
from fedsite.wire import signing
from fedsite.wire.messages import ParticipationRequest, Receipt
from fedsite.wire.plans import Plan

PROTOCOL = 1


def asked(bench, site: str, sequence: int):
    request = ParticipationRequest(protocol=PROTOCOL, ledger_sequence=sequence)
    return participation.participate(bench.federation, site, request)


def test_every_update_is_told_to_its_site_alone(bench, tmp_path) -> None:
    first = bench.open(count=2)
    bench.deliver("site-a", first, tensors(1, scale=0.01))
    update = tmp_path / "update"
    bench.deliver("site-b", first, tensors(2, scale=0.01))
    update.write_bytes((bench.folder / "update").read_bytes())
    found = participation.arrivals(bench.federation, "site-a", 0).arrivals
    assert [(one.round, one.ledger_sequence) for one in found] == [(first, first)]
    receipt = signing.open_envelope(
        found[0].receipt, Receipt, signing.RECEIPT, [signing.public_key(bench.federation.receipt_key)]
    )
    assert receipt.update_sha256 == found[0].update_sha256
    assert participation.arrivals(bench.federation, "site-a", first).arrivals == []
    assert participation.arrivals(bench.federation, "site-c", 0).arrivals == []


def test_an_update_that_only_began_to_arrive_is_told_without_a_receipt(bench) -> None:
    number = bench.open()
    bench.deliver("site-b", number, tensors(2, scale=0.01))
    bench.announce("site-a", number, bench.folder / "update")
    (found,) = participation.arrivals(bench.federation, "site-a", 0).arrivals
    assert found.receipt is None
    answer = asked(bench, "site-a", 0)
    assert (answer.receipts, answer.ledger_sequence) == ([], number)
    assert asked(bench, "site-a", number).ledger_sequence is None


def test_an_answer_without_news_is_that_of_an_older_server(bench) -> None:
    assert b"ledger_sequence" not in asked(bench, "site-a", 5).to_bytes()


def test_a_plan_is_had_by_its_digest(bench) -> None:
    number = bench.open()
    envelope = asked(bench, "site-a", 0).plan
    again = participation.plan(bench.federation, signing.digest(envelope))
    key = signing.public_key(bench.federation.plan_key)
    assert signing.open_envelope(again, Plan, signing.PLAN, [key]).plan == "test-plan"
    assert number
    with pytest.raises(Refused):
        participation.plan(bench.federation, "0" * 64)

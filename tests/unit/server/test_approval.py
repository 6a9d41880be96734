"""A person's yes before a site's first certificate: 202 until then (RFC 7030, 4.2.3)."""

import asyncio
import base64
from datetime import timedelta

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.serialization import Encoding

from fedsite.errors import UsageError
from fedsite.server.members import enrolment
from fedsite.server.problems import Refused
from fedsite.server.web.app import create_app
from fedsite.wire.enrolment import EST, Invitation, new_key, signing_request, spki_sha256


def invite(bench, site: str = "site-a", approval: bool | None = True) -> Invitation:
    return enrolment.invite(bench.federation, site, timedelta(hours=1), bench.federation.url, approval)


def ask(bench, invitation: Invitation, key: EllipticCurvePrivateKey):
    request = signing_request(key, invitation.site).public_bytes(Encoding.DER)
    return enrolment.enrol(bench.federation, invitation.site, invitation.secret, request)


def standing(bench, site: str = "site-a") -> enrolment.SiteStanding:
    return next(one for one in enrolment.standings(bench.federation) if one.site == site)


def test_a_key_waits_until_a_person_says_yes(bench) -> None:
    invitation, key = invite(bench), new_key()
    assert ask(bench, invitation, key) is None
    asked = bench.clock()
    bench.clock.pass_by(days=3)  # a weekend; the invitation itself has long expired
    assert ask(bench, invitation, key) is None
    sha256 = spki_sha256(key.public_key())
    assert standing(bench).status == "pending"
    assert standing(bench).pending == (enrolment.PendingKey(sha256, asked),)
    assert enrolment.approve(bench.federation, "site-a") == sha256
    assert standing(bench).pending == ()
    certificate = ask(bench, invitation, key)
    assert certificate is not None
    assert certificate.public_key() == key.public_key()
    assert ask(bench, invitation, key) == certificate
    assert standing(bench).status == "enrolled"


def test_another_key_is_refused_while_one_waits(bench) -> None:
    invitation = invite(bench)
    assert ask(bench, invitation, new_key()) is None
    with pytest.raises(Refused) as caught:
        ask(bench, invitation, new_key())
    assert caught.value.problem.type == "invitation-spent"


def test_an_invitation_that_nobody_has_used_expires(bench) -> None:
    invitation = invite(bench)
    bench.clock.pass_by(hours=2)
    with pytest.raises(Refused) as caught:
        ask(bench, invitation, new_key())
    assert caught.value.problem.type == "invitation-expired"
    assert standing(bench).pending == ()


def test_a_no_is_a_revocation(bench) -> None:
    invitation, key = invite(bench), new_key()
    assert ask(bench, invitation, key) is None
    enrolment.revoke(bench.federation, "site-a")
    assert standing(bench).status == "revoked"
    assert standing(bench).pending == ()
    with pytest.raises(UsageError, match="Nobody asks"):
        enrolment.approve(bench.federation, "site-a")
    with pytest.raises(Refused) as caught:
        ask(bench, invitation, key)
    assert caught.value.problem.type == "invitation-revoked"


def test_of_several_keys_one_must_be_named(bench) -> None:
    keys = [new_key(), new_key()]
    invitations = [invite(bench), invite(bench)]
    for invitation, key in zip(invitations, keys, strict=True):
        assert ask(bench, invitation, key) is None
    with pytest.raises(UsageError, match="2 keys ask"):
        enrolment.approve(bench.federation, "site-a")
    with pytest.raises(UsageError, match="No such key asks"):
        enrolment.approve(bench.federation, "site-a", "no hexadecimal")
    second = spki_sha256(keys[1].public_key())
    assert enrolment.approve(bench.federation, "site-a", second[:32].upper()) == second
    assert ask(bench, invitations[0], keys[0]) is None
    assert ask(bench, invitations[1], keys[1]) is not None
    assert standing(bench).status == "enrolled", "and its other key still asks"
    assert len(standing(bench).pending) == 1


def test_one_key_with_two_invitations_is_one_question(bench) -> None:
    key, invitations = new_key(), [invite(bench), invite(bench)]
    assert [ask(bench, one, key) for one in invitations] == [None, None]
    assert len(standing(bench).pending) == 1
    enrolment.approve(bench.federation, "site-a")
    assert None not in [ask(bench, one, key) for one in invitations]


def test_nobody_is_approved_for_another(bench) -> None:
    assert ask(bench, invite(bench, "site-a"), new_key()) is None
    for site in ("site-b", "", "%"):
        with pytest.raises(UsageError, match="Nobody asks"):
            enrolment.approve(bench.federation, site)


def test_the_federation_decides_where_the_invitation_does_not(bench) -> None:
    for federation_asks, invitation_asks, waits in (
        (True, None, True), (False, None, False), (True, False, False), (False, True, True),
    ):  # fmt: skip
        object.__setattr__(bench.federation, "approval", federation_asks)
        assert (ask(bench, invite(bench, "x", invitation_asks), new_key()) is None) == waits


def test_pending_is_202_with_when_to_ask_again(bench) -> None:
    invitation = invite(bench)
    app = create_app(bench.federation, lambda: None)

    async def post() -> httpx.Response:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="https://server") as http:
            request = base64.b64encode(signing_request(new_key(), "site-a").public_bytes(Encoding.DER))
            headers, auth = {"Content-Type": "application/pkcs10"}, ("site-a", invitation.secret)
            return await http.post(f"{EST}/simpleenroll", content=request, headers=headers, auth=auth)

    answer = asyncio.run(post())
    assert answer.status_code == 202
    assert int(answer.headers["retry-after"]) > 0
    assert answer.headers["content-type"].startswith("text/plain")
    assert "site-a awaits the coordinator's approval" in answer.text

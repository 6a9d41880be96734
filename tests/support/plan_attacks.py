"""What a hostile server can offer, one lie each: the table of attacks by plans and tickets."""

from collections.abc import Callable
from typing import Any

from support.offers import SECOND, STRANGER, THIRD, Liar, Lie

from fedsite.wire import signing
from fedsite.wire.messages import MAX_MESSAGE_BYTES, Envelope, Participation

Told = Callable[[Liar], None]


def lie(name: str, what: str, complaint: str, told: Told) -> Lie:
    """They all end alike."""
    return Lie(name, what, "refused (76), nothing fetched", complaint, told)


def with_plan(**changes: Any) -> Told:
    return lambda liar: liar.offers(liar.plan(**changes))


def with_ticket(**changes: Any) -> Told:
    return lambda liar: liar.offers(plan := liar.plan(), liar.ticket(plan, **changes))


def swapped(old: str, new: str) -> Told:
    """A plan whose JSON says something that Python's dictionaries cannot."""

    def text(content: str) -> str:
        assert content.count(old) == 1, content
        return content.replace(old, new)

    return with_plan(text=text)


def changed_after_signing(liar: Liar) -> None:
    good = liar.plan()
    content = signing._decode(good.payload).replace(b'"clip_norm": 1.0', b'"clip_norm": 9.0')
    assert content != signing._decode(good.payload)
    forged = signing.sign(content, signing.PLAN, [STRANGER]).model_copy(update={"signatures": good.signatures})
    liar.offers(forged)


def ticket_as_plan(liar: Liar) -> None:
    """What the coordinators' key has signed as something else is no plan."""
    content = signing._decode(liar.plan().payload)
    as_result = signing.sign(content, signing.RESULT, [liar.plan_key])
    relabelled = as_result.model_copy(update={"payloadType": signing.PLAN})
    liar.offers(relabelled)


def signed_by(*names: str) -> Told:
    """A plan with the signatures of these of a site's three coordinators."""

    def told(liar: Liar) -> None:
        keys = {"first": liar.plan_key, "second": SECOND, "third": THIRD, "stranger": STRANGER}
        liar.offers(liar.plan(keys=[keys[name] for name in names]))

    return told


def equivocated(liar: Liar) -> None:
    last = max(liar.past)
    plan = liar.plan()
    liar.offers(plan, liar.ticket(plan, last, liar.past[last - 1], model_sha256="f" * 64))


def another_plan_for_the_round(liar: Liar) -> None:
    last = max(liar.past)
    other = liar.plan(privacy={"noise_multiplier": 0.2})
    liar.offers(other, liar.ticket(other, last, liar.past[last - 1]))


def rolled_back(liar: Liar) -> None:
    plan = liar.plan()
    liar.offers(plan, liar.ticket(plan, max(liar.past) - 1, liar.past[max(liar.past) - 2]))


def replayed(liar: Liar) -> None:
    """The very ticket of the last round, for which the site holds its receipt."""
    liar.offers(liar.last_plan, liar.past[max(liar.past)])


def gap(links: Callable[[Liar, Envelope], list[Envelope]] = lambda _liar, _plan: []) -> Told:
    """Two rounds ahead; `links` is what the server shows for the one in between."""

    def told(liar: Liar) -> None:
        plan, middle = liar.plan(), liar.next_round
        between = liar.ticket(plan, middle)
        liar.offers(plan, liar.ticket(plan, middle + 1, between), links(liar, plan))

    return told


def forked_link(liar: Liar, plan: Envelope) -> list[Envelope]:
    return [liar.ticket(plan, liar.next_round, model_sha256="f" * 64)]


def forged_link(liar: Liar, plan: Envelope) -> list[Envelope]:
    return [liar.ticket(plan, liar.next_round, keys=[STRANGER])]


def half(name: str) -> Told:
    def told(liar: Liar) -> None:
        plan = liar.plan()
        whole = Participation(plan=plan, ticket=liar.ticket(plan))
        liar.says(whole.model_copy(update={name: None}).to_bytes())

    return told


def two_plans_in_one_answer(liar: Liar) -> None:
    plan = liar.plan()
    one = Participation(plan=plan, ticket=liar.ticket(plan)).model_dump_json()
    liar.says(f'{{"plan":{liar.plan(plan="other").model_dump_json()},{one[1:]}'.encode())


def too_large(liar: Liar) -> None:
    liar.says(b'{"plan":"' + b"A" * MAX_MESSAGE_BYTES + b'"}')


DEEP = '{"a": ' * 40 + "1" + "}" * 40

# fmt: off
ATTACKS = (
    # Whose word it is.
    lie("plan-signed-by-a-stranger", "a plan that none of the pinned keys has signed",
        "0 of 1 needed", with_plan(keys=[STRANGER])),
    lie("plan-signed-by-the-server", "a plan signed by the server's round key alone",
        "0 of 1 needed", lambda liar: liar.offers(liar.plan(keys=[liar.round_key]))),
    lie("plan-changed-after-signing", "a clip norm raised under a good signature",
        "0 of 1 needed", changed_after_signing),
    lie("plan-signed-as-something-else", "a coordinator's signature on the same bytes as another kind of message",
        "0 of 1 needed", ticket_as_plan),
    lie("plan-one-of-two", "one coordinator's signature where the site pinned two of three",
        "1 of 2 needed", signed_by("first")),
    lie("plan-one-of-two-twice", "the same coordinator's signature twice",
        "1 of 2 needed", signed_by("first", "first")),
    lie("plan-one-of-two-and-a-stranger", "one coordinator and a stranger",
        "1 of 2 needed", signed_by("second", "stranger")),
    lie("plan-of-another-federation", "a plan of another federation, signed by the right keys",
        "another federation's", with_plan(federation="others")),
    lie("ticket-signed-by-a-stranger", "a ticket that the plan's round key has not signed",
        "0 of 1 needed", with_ticket(keys=[STRANGER])),
    lie("ticket-of-another-plan", "a ticket of another plan than the one beside it",
        "belongs to another plan", lambda liar: liar.offers(liar.plan(), liar.ticket(liar.plan(plan="other")))),
    lie("ticket-of-another-federation", "a ticket of another federation",
        "another federation's", with_ticket(federation="others")),
    # When it was.
    lie("plan-expired", "a plan whose time is over",
        "plan has expired", with_plan(expires="2020-01-01T00:00:00Z")),
    lie("ticket-expired", "a round whose time is over",
        "ticket has expired", with_ticket(opened="2020-01-01T00:00:00Z", expires="2020-01-01T00:05:00Z")),
    lie("ticket-longer-than-its-plan", "a round that the server lets last a year where the plan says ten minutes",
        "more time than the plan", with_ticket(opened="2026-01-01T00:00:00Z", expires="2096-01-01T00:00:00Z")),
    lie("rollback", "a round before the last one that the site met",
        "went back to round 2", rolled_back),
    lie("replay", "the ticket of a round for which the site holds its receipt",
        "asks again for round 3", replayed),
    lie("plan-that-was-replaced", "a plan that another one has replaced, though it is signed and has not expired",
        "another one has replaced", lambda liar: liar.offers(liar.first_plan)),
    lie("equivocation-by-model", "another ticket for a round that the site knows: another model",
        "two different tickets for round 3", equivocated),
    lie("equivocation-by-plan", "another ticket for a round that the site knows: another plan",
        "two different tickets for round 3", another_plan_for_the_round),
    lie("chain-with-another-past", "a ticket that names another one before it",
        "chain of tickets is broken", with_ticket(previous_ticket="e" * 64)),
    lie("chain-without-a-past", "a ticket that names none before it",
        "chain of tickets is broken", with_ticket(previous_ticket=None)),
    lie("chain-with-a-gap", "a round is left out, and not shown when asked for",
        "chain of tickets has a gap", gap()),
    lie("chain-with-a-fork", "the round in between is shown with another model than its successor names",
        "chain of tickets is broken", gap(forked_link)),
    lie("chain-with-a-forged-link", "the round in between is signed by a stranger",
        "ticket of the chain is refused", gap(forged_link)),
    # What it says.
    lie("plan-unknown-field", "a field that the schema does not know",
        "Extra inputs", with_plan(hook="https://example.org")),
    lie("plan-asks-for-a-metric", "a wish for the site's Dice",
        "Extra inputs", with_plan(metrics=["dice"])),
    lie("plan-duplicate-key", "a signed plan with two clip norms",
        "key appears twice", swapped('"clip_norm": 1.0', '"clip_norm": 1.0, "clip_norm": 1e6')),
    lie("answer-duplicate-key", "an answer with two plans",
        "key appears twice", two_plans_in_one_answer),
    lie("plan-nan", "a noise multiplier that is no number",
        "NaN is no JSON number", with_plan(privacy={"noise_multiplier": float("nan")})),
    lie("plan-infinity", "an infinite clip norm",
        "Infinity is no JSON number", with_plan(privacy={"clip_norm": float("inf")})),
    lie("plan-number-too-large", "a clip norm of 1e999, which overflows to infinity",
        "number is too large", swapped('"clip_norm": 1.0', '"clip_norm": 1e999')),
    lie("plan-nested-deeply", "network settings 40 levels deep",
        "nested deeper", swapped('"settings": {', f'"settings": {{"b": {DEEP}, ')),
    lie("plan-too-large", "an answer of more than 1 MiB",
        "larger than", too_large),
    lie("plan-number-as-text", "a number in quotes",
        "valid number", swapped('"clip_norm": 1.0', '"clip_norm": "1.0"')),
    lie("plan-steps-out-of-range", "a thousand million steps",
        "local.steps", with_plan(local={"steps": 10**9})),
    lie("plan-negative-noise", "a noise multiplier below zero",
        "noise_multiplier", with_plan(privacy={"noise_multiplier": -1.0})),
    lie("plan-names-code", "a network named os.system",
        "os.system", with_plan(network={"name": "os.system", "settings": {}})),
    lie("plan-unknown-task", "a task that fedsite does not have",
        "no task", with_plan(task="face-recognition")),
    lie("plan-network-out-of-range", "a network of 4096 channels",
        "channels", with_plan(network={"settings": {"channels": [8, 4096]}})),
    lie("plan-early-stop-under-noise", "training that ends when held-out patients say so, under noise",
        "early_stop", with_plan(local={"steps": 9, "early_stop": {"every": 3, "patience": 1}})),
    lie("plan-noise-below-the-grid", "noise finer than the gate's grid",
        "finer than the gate's grid", with_plan(privacy={"noise_multiplier": 1e-9})),
    lie("plan-norm-below-honest-noise", "a norm bound that honest noise breaks, so that the site pays for a refusal",
        "norm of honest noise", with_plan(max_update_norm=1e-3)),
    lie("ticket-unknown-field", "a ticket with a field that the schema does not know",
        "Extra inputs", with_ticket(hook=1)),
    lie("ticket-huge-model", "a model of 8 EiB",
        "model_bytes", with_ticket(model_bytes=1 << 63)),
    lie("ticket-control-of-another-algorithm", "a control for fedavg, which has none",
        "names a control", with_ticket(control_sha256="0" * 64)),
    lie("half-an-offer-without-ticket", "a plan without a ticket",
        "half of an offer", half("ticket")),
    lie("half-an-offer-without-plan", "a ticket without a plan",
        "half of an offer", half("plan")),
)
# fmt: on

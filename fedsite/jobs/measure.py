"""`fedsite evaluate`: fetches the newest global model and measures it on the held-out patients, at home."""

from dataclasses import dataclass

from fedsite.errors import DataNotFit, ServerBrokeProtocol, TryAgainLater
from fedsite.files import sha256_of
from fedsite.jobs import local_work
from fedsite.jobs.round import Steps
from fedsite.jobs.site import Site
from fedsite.wire import signing
from fedsite.wire.messages import Envelope, MalformedMessage, Plan, Result


@dataclass(frozen=True)
class Measured:
    """Dice of one global model: per case (by pseudonym) and on average."""

    model_sha256: str
    after_round: int
    mean_dice: float
    dice: dict[str, float]


def newest_model(site: Site, step: Steps) -> Measured:
    """Measures the model that the newest aggregated round made.

    Raises TryAgainLater while this site has met no round or none is aggregated, ServerBrokeProtocol when the result
    is not signed for a plan that this site accepted, DataNotFit without held-out cases.
    """
    plans = _accepted_plans(site)
    with site.client() as client:
        envelope = client.result()
        if envelope is None or not plans:
            raise TryAgainLater("There is no aggregated model yet.", "Take part in a round first.")
        result, plan = _verified(envelope, plans)
        model = site.state.folder / "models" / f"{result.model_sha256}.safetensors"
        if not model.is_file() or sha256_of(model) != result.model_sha256:
            with step("Fetching the global model") as progress:
                client.download_model(result.model_sha256, result.model_bytes, model, progress)
    data = local_work.open_prepared(site, plan)
    with step("Measuring the global model at home") as progress:
        found = local_work.measure(plan, model, data, site.config.training.device, progress)
    if found is None:
        raise DataNotFit("There is no held-out case.", "Prepare more patients: a keyed hash holds out some of them.")
    body = {"round": result.round, "mean_dice": found.mean, "cases": len(found.dice), "dice": found.dice}
    site.state.put_evaluation(result.model_sha256, body)
    return Measured(result.model_sha256, result.round, found.mean, found.dice)


def _accepted_plans(site: Site) -> dict[str, Plan]:
    """The plans of rounds that this site verified when it met them, by digest."""
    pinned = site.pinned
    keys = [signing.pinned_key(key) for key in pinned.plan_keys]
    envelopes = [Envelope.model_validate(record.body["plan"]) for record in site.state.rounds(pinned.federation)]
    return {
        signing.digest(envelope): signing.open_envelope(envelope, Plan, signing.PLAN, keys, pinned.plan_threshold)
        for envelope in envelopes
    }


def _verified(envelope: Envelope, plans: dict[str, Plan]) -> tuple[Result, Plan]:
    for digest, plan in plans.items():
        try:
            result = signing.open_envelope(envelope, Result, signing.RESULT, [plan.round_key])
        except MalformedMessage:
            continue
        if result.plan_sha256 == digest and result.federation == plan.federation:
            return result, plan
    raise ServerBrokeProtocol(
        "The newest model is not signed for a plan that this site has accepted.", "Tell the coordinator."
    )

"""Which model is used at home, and how: the federation's newest, one from a file, or this site's personalised one.

A model is nothing without its plan: task, channels, preparation and network. What a model file becomes here is all
that prediction and personalisation know of it, so layers that a site keeps to itself are laid over it in one place.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from fedsite.errors import DataNotFit, ServerBrokeProtocol, TryAgainLater, UsageError
from fedsite.files import sha256_of
from fedsite.jobs.models import kept
from fedsite.jobs.plan import algorithms
from fedsite.jobs.progress import Steps
from fedsite.jobs.site import Site
from fedsite.tasks import networks
from fedsite.tasks.description import Task
from fedsite.wire import payload, signing
from fedsite.wire.messages import Envelope, MalformedMessage, Result
from fedsite.wire.plans import Plan, PlanDraft, read_draft

if TYPE_CHECKING:
    from torch import nn

Kind = Literal["global", "file", "personalised", "trained"]
_TITLES: dict[Kind, str] = {
    "global": "global model",
    "file": "model from a file",
    "personalised": "personalised model",
    "trained": "model trained here",
}


@dataclass(frozen=True)
class Model:
    """A model file with the plan that says how it is used. `after_round` is None where no round is known for it.

    `own` is the file of the layers that this site keeps to itself under the plan's algorithm, where there is one.
    """

    path: Path
    sha256: str
    plan: PlanDraft
    kind: Kind
    after_round: int | None = None
    own: Path | None = None

    @property
    def title(self) -> str:
        """What it is, for people."""
        made = _TITLES[self.kind]
        when = "in" if self.kind == "trained" else "after"
        return made if self.after_round is None else f"{made} {when} round {self.after_round}"


def newest(site: Site, step: Steps) -> Model:
    """The model that the newest aggregated round made, fetched where it is not here yet.

    Raises TryAgainLater while this site has met no round or none is aggregated, ServerBrokeProtocol when the result
    is not signed for a plan that this site accepted, Unreachable, NotAuthorised.
    """
    plans = accepted_plans(site)
    with site.client() as client:
        envelope = client.result()
        if envelope is None or not plans:
            raise TryAgainLater("There is no aggregated model yet.", "Take part in a round first.")
        result, plan = _verified(envelope, plans)
        path = site.state.folder / "models" / f"{result.model_sha256}.safetensors"
        if not path.is_file() or sha256_of(path) != result.model_sha256:
            with step("Fetching the global model") as progress:
                client.download_model(result.model_sha256, result.model_bytes, path, progress)
    own = kept.current(site.state, plan.federation, result.plan_sha256)
    return Model(path, result.model_sha256, plan, "global", result.round, own)


def chosen(site: Site, path: Path | None, plan: Path | None, step: Steps) -> Model:
    """The model that the operator names by its file, and perhaps its plan, else the newest one.

    Raises UsageError for a plan without a model, and what `from_file` and `newest` raise.
    """
    if path is not None:
        return from_file(site, path, plan)
    if plan is not None:
        raise UsageError("--plan says what a model of your own is for.", "Name that model, too: --model FILE.")
    return newest(site, step)


def from_file(site: Site, path: Path, plan: Path | None = None) -> Model:
    """A model that the operator names, for the plan in a file, else for the newest plan that this site has met.

    Raises SourceMissing, ConfigurationError when the plan cannot be used, UsageError where no plan is known.
    """
    sha256 = sha256_of(path)
    if plan is not None:
        return Model(path, sha256, read_draft(plan), "file")
    known = accepted_plans(site)
    if not known:
        raise UsageError("This site has met no plan yet.", "Name the plan that the model was made for: --plan FILE.")
    digest, newest_plan = list(known.items())[-1]
    own = kept.current(site.state, newest_plan.federation, digest)
    return Model(path, sha256, newest_plan, "file", own=own)


def task_of(model: Model) -> Task:
    """The plan's task, narrowed to the plan's channels. Raises OutOfRange."""
    return algorithms.check(model.plan)


def network_of(model: Model) -> "nn.Module":
    """The plan's network with the model's weights, on the CPU.

    Raises DataNotFit when the file is damaged or of another network, OutOfRange when the plan asks for what the task
    does not allow.
    """
    from fedsite.training import weights

    network = networks.build(task_of(model), model.plan.network.name, model.plan.network.settings)
    try:
        if model.kind == "personalised":  # with every layer, whatever the plan's algorithm
            weights.load(network, payload.tensors_of(model.path))
        else:
            algorithms.load(network, model.plan, model.path, model.own)
    except (MalformedMessage, ServerBrokeProtocol):
        raise DataNotFit(
            f"The {model.title} is damaged, or was made for another plan.",
            "Name the plan that it was made for: --plan.",
        ) from None
    return network


def accepted_plans(site: Site) -> dict[str, Plan]:
    """The plans of rounds that this site verified when it met them, by digest, the newest last."""
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

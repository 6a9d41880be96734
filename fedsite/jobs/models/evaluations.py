"""What this site remembers of how good models were: by the model's digest, in the state folder. It stays at home.

A record holds the measures of every case by pseudonym, so that they can be looked at again, and what they come to.
Nothing reads it but pages and commands for this site's people: no decision about a release may (privacy.md).
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from fedsite.dataset.manifest import Split
from fedsite.jobs.models.choice import Model
from fedsite.jobs.pages.curves import Point, RoundFacts
from fedsite.site.state import State
from fedsite.tasks.description import Task

if TYPE_CHECKING:
    from fedsite.training.metrics import Measures
    from fedsite.training.summary import Estimate, MeasuredCase, Summary

_BRIEF = ("mean_dice", "low", "high", "patients", "cases", "seconds")


@dataclass(frozen=True)
class Evaluation:
    """What a model was measured to be: every case, what they come to, the mean Dice, and how long it took.

    `data_sha256` is the digest of the manifest that names the cases, and `split` says which of them these are.
    """

    model: Model
    task: Task
    data_sha256: str
    split: Split
    cases: tuple["MeasuredCase", ...]
    summaries: tuple["Summary", ...]
    dice: "Estimate"
    seconds: float


def keep(state: State, found: Evaluation) -> None:
    """Keeps an evaluation under its model's digest, in place of an earlier one."""
    body = {
        "kind": found.model.kind,
        "round": found.model.after_round,
        "data_sha256": found.data_sha256,
        "mean_dice": found.dice.mean,
        "low": found.dice.low,
        "high": found.dice.high,
        "patients": found.dice.patients,
        "cases": len(found.cases),
        "seconds": round(found.seconds, 3),
        "summaries": [asdict(summary) for summary in found.summaries],
        "measures": measures_of(found.cases),
    }
    state.put_evaluation(found.model.sha256, body)


def measures_of(cases: Sequence["MeasuredCase"]) -> list[dict[str, Any]]:
    """The measures of every case as plain values, those included that follow from others."""
    return [
        {
            "id": case.id,
            "patient": case.patient,
            "scanner": case.scanner,
            "dice": case.dice,
            "structures": {name: _plain(found) for name, found in case.measures.items()},
        }
        for case in cases
    ]


def brief(state: State, model_sha256: str) -> dict[str, Any] | None:
    """A model's mean Dice, its interval, of how many, and the seconds that it took; None where it was not measured."""
    body = state.evaluation(model_sha256)
    return body and {key: body.get(key) for key in _BRIEF}


def brief_of_trained(state: State, number: int) -> dict[str, Any] | None:
    """The same of the model that this site trained in a round."""
    asked = ("trained", number)
    bodies = [body for body in state.evaluations().values() if (body.get("kind"), body.get("round")) == asked]
    return {key: bodies[-1].get(key) for key in _BRIEF} if bodies else None


def is_known(state: State, model_sha256: str, data_sha256: str) -> bool:
    """Whether a model was measured on just these prepared data."""
    body = state.evaluation(model_sha256)
    return body is not None and body.get("data_sha256") == data_sha256


def rounds(state: State, federation: str) -> tuple[RoundFacts, ...]:
    """What is known of each round, in order; of one round's models those that were measured last."""
    found: dict[int, dict[str, Any]] = {}
    for record in state.rounds(federation):
        training = record.body.get("training") or {}
        found[record.round] = {
            "state": record.state,
            "loss": tuple(training.get("loss", ())),
            "steps": training.get("steps", 0),
            "training_seconds": training.get("seconds", 0.0),
        }
    for body in state.evaluations().values():
        number = body.get("round")
        if body.get("kind") not in ("global", "trained") or number is None:
            continue
        point = Point(body["mean_dice"], body["low"], body["high"])
        found.setdefault(number, {})["shared" if body["kind"] == "global" else "trained"] = point
        paid = found.get(number + (body["kind"] == "global"))
        if paid is not None:
            paid["measuring_seconds"] = paid.get("measuring_seconds", 0.0) + body["seconds"]
    return tuple(RoundFacts(number, **found[number]) for number in sorted(found))


def newest_seconds(state: State) -> float:
    """How long the newest measuring took; 0 where nothing was measured yet."""
    return next((float(body.get("seconds", 0)) for body in reversed(state.evaluations().values())), 0.0)


def forget(state: State, patient: str) -> None:
    """Removes the measures of a patient who was withdrawn. What was averaged stays: it names nobody."""
    for model_sha256, body in state.evaluations().items():
        kept = [case for case in body.get("measures", []) if case["patient"] != patient]
        if len(kept) < len(body.get("measures", [])):
            state.put_evaluation(model_sha256, {**body, "measures": kept})


def _plain(found: "Measures") -> dict[str, Any]:
    return {
        **asdict(found),
        "volume_difference_ml": found.volume_difference_ml,
        "f1": found.f1,
        "precision": found.precision,
        "recall": found.recall,
    }

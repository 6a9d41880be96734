"""`fedsite evaluate`: fetches the newest global model and measures it on the held-out patients, at home."""

from dataclasses import dataclass

from fedsite.errors import DataNotFit
from fedsite.jobs import local_work, models
from fedsite.jobs.round import Steps
from fedsite.jobs.site import Site


@dataclass(frozen=True)
class Measured:
    """Dice of one global model: per case (by pseudonym) and on average."""

    model_sha256: str
    after_round: int
    mean_dice: float
    dice: dict[str, float]


def newest_model(site: Site, step: Steps) -> Measured:
    """Measures the model that the newest aggregated round made.

    Raises as `models.newest` does, and DataNotFit without held-out cases.
    """
    model = models.newest(site, step)
    data = local_work.open_prepared(site, model.plan)
    with step("Measuring the global model at home") as progress:
        found = local_work.measure(model.plan, model.path, data, site.config.training.device, progress)
    if found is None:
        raise DataNotFit("There is no held-out case.", "Prepare more patients: a keyed hash holds out some of them.")
    assert model.after_round is not None
    body = {"round": model.after_round, "mean_dice": found.mean, "cases": len(found.dice), "dice": found.dice}
    site.state.put_evaluation(model.sha256, body)
    return Measured(model.sha256, model.after_round, found.mean, found.dice)

"""The sample files are what the code writes and reads, and they go together."""

import math
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

import yaml

from fedsite.jobs.init import Answers, site_yaml
from fedsite.jobs.plan import charging
from fedsite.jobs.schedule import units
from fedsite.jobs.schedule.run import Run
from fedsite.jobs.schedule.times import Schedule
from fedsite.privacy import accountant
from fedsite.privacy.ledger import Terms
from fedsite.site import config, policy
from fedsite.tasks import networks, registry, request
from fedsite.wire.norms import largest_honest_norm
from fedsite.wire.plans import PlanDraft, read_draft

SAMPLES = Path(__file__).parents[3] / "sample_configs"
ROUNDS_OF_THE_COMMENT = 20


def keys(model: PlanDraft) -> dict[str, set[str]]:
    """The keys that a plan's file sets, by section."""
    sections = {name: getattr(model, name) for name in ("preparation", "network", "local", "privacy", "rounds")}
    return {"": model.model_fields_set, **{name: section.model_fields_set for name, section in sections.items()}}


def test_the_site_is_what_init_writes() -> None:
    sample = SAMPLES / "site.yaml"
    answers = Answers(
        state=Path("/var/lib/fedsite/state"),
        data=Path("/var/lib/fedsite/data"),
        tasks=("stroke-dwi",),
        epsilon=8.0,
        delta=1e-6,
        nominal_patients=200,
    )
    assert sample.read_text() == site_yaml(answers)


def test_the_site_shows_every_key() -> None:
    settings = yaml.safe_load((SAMPLES / "site.yaml").read_text())
    assert settings.pop("version") == config.VERSION
    shown = {f"{section}.{key}" for section, values in settings.items() for key in values}
    assert shown == {key for key in config.known_keys(config.SiteConfig) if "." in key}


def test_the_plan_shows_every_key() -> None:
    plan = read_draft(SAMPLES / "plan.yaml")
    assert keys(plan) == {
        "": set(PlanDraft.model_fields),
        **{name: set(type(getattr(plan, name)).model_fields) for name in keys(plan) if name},
    }


def test_the_plan_lies_within_its_task() -> None:
    plan = read_draft(SAMPLES / "plan.yaml")
    task = request.check(plan.task, plan.channels, plan.network.name, plan.network.settings, plan.local.patch_voxels)
    assert plan.preparation.input_state in task.input_states
    assert plan.expires > datetime.now(UTC) + timedelta(days=180), "give the sample a later date"


def test_honest_noise_passes_the_plans_norm() -> None:
    plan = read_draft(SAMPLES / "plan.yaml")
    task = registry.get(plan.task).narrowed(plan.channels)
    network = networks.build(task, plan.network.name, plan.network.settings)
    values = sum(tensor.numel() for tensor in network.state_dict().values())
    assert f"(here {values:,})" in (SAMPLES / "plan.yaml").read_text()
    honest = largest_honest_norm(plan, values)
    assert honest <= plan.max_update_norm <= 1.05 * honest


def test_the_other_mechanism_is_read_too() -> None:
    """As the comment says it; then the norm must be the one that the comment gives."""
    text = (SAMPLES / "plan.yaml").read_text()
    [other] = re.findall(r"^#   privacy: (\{mechanism: gaussian-update.*\})$", text, re.MULTILINE)
    plan = read_draft(SAMPLES / "plan.yaml")
    changed = PlanDraft.model_validate(plan.model_dump(by_alias=True) | {"privacy": yaml.safe_load(other)})
    assert changed.privacy.mechanism == "gaussian-update"
    assert largest_honest_norm(changed, 122_192) == 1.0 * (1 + 8.0 * (math.sqrt(122_192) + 6))


def test_the_sample_site_can_take_part_in_the_sample_plan() -> None:
    site = config.SiteConfig.model_validate(yaml.safe_load((SAMPLES / "site.yaml").read_text()))
    plan = read_draft(SAMPLES / "plan.yaml")
    order = accountant.best_order(site.privacy.epsilon, site.privacy.delta)
    terms = Terms(site.privacy.epsilon, site.privacy.delta, order, site.privacy.nominal_patients)
    asked = policy.Asked(
        federation=plan.federation,
        task=plan.task,
        algorithm=plan.algorithm,
        steps=plan.local.steps,
        epochs=charging.epochs(plan, terms),
        noise_multiplier=plan.privacy.noise_multiplier,
        download_bytes=1_000_000,
        upload_bytes=1_000_000,
        declared_weight=plan.weights == "declared",
    )
    policy.check(site.policy, asked)
    release = charging.release_for(plan, terms)
    assert release is not None
    text = (SAMPLES / "plan.yaml").read_text()
    rounds, steps = ROUNDS_OF_THE_COMMENT, ROUNDS_OF_THE_COMMENT * release.steps
    assert f"For {rounds} rounds" in text
    assert f"--noise-multiplier {release.sigma:g} --sampling-rate {release.sampling_rate:g}" in text
    assert f"--delta {site.privacy.delta:g} --steps {steps}" in text.replace("1e-6", "1e-06")
    spent = accountant.filter_epsilon(rounds * accountant.renyi(release, order), order, site.privacy.delta)
    assert spent <= site.privacy.epsilon


RUN = Run(
    Schedule(360),
    ("/opt/fedsite/bin/fedsite", "--quiet", "train-round", "--config", "/etc/fedsite/site.yaml"),
    Path("/var/lib/fedsite/state"),
    "hospital",
)


def test_the_units_are_what_schedule_install_writes() -> None:
    assert (SAMPLES / "fedsite.service").read_text() == units.service(RUN, "system")
    assert (SAMPLES / "fedsite.timer").read_text() == units.timer(RUN)

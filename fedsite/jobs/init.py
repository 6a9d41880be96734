"""`fedsite init`: writes a commented configuration and makes the state folder with its ledger."""

from dataclasses import dataclass
from pathlib import Path

import yaml
from pydantic import ValidationError

from fedsite.errors import ConfigurationError, UsageError
from fedsite.files import make_folder, write_atomically
from fedsite.privacy.ledger import Ledger, Terms
from fedsite.site import config as configuration
from fedsite.site import identity
from fedsite.site.config import SiteConfig
from fedsite.site.identity import IdentityFiles
from fedsite.site.policy import NO_PRIVACY_SENTENCE, WEAK_PRIVACY_SENTENCE
from fedsite.site.state import State


@dataclass(frozen=True)
class Answers:
    """What a person decides when a site is set up. The last three cannot be changed later."""

    state: Path
    data: Path
    tasks: tuple[str, ...]
    epsilon: float
    delta: float
    nominal_patients: int


def initialise(path: Path, answers: Answers) -> Terms:
    """Writes `path` and creates the state folder; gives the ledger's terms.

    Going on after an interruption is harmless: what is there already is kept, if it says the same. Raises
    ConfigurationError when the file or the ledger say something else, UsageError on values out of range,
    CannotWrite.
    """
    if not answers.delta * answers.nominal_patients < 1:
        raise UsageError(
            f"delta {answers.delta:g} is not below 1 / {answers.nominal_patients} patients.",
            "Choose a smaller delta: one patient in so many would otherwise lie outside the promise.",
        )
    if path.exists():
        raise ConfigurationError(f"{path} exists already.", "Edit it, or name another file with --config.")
    text = site_yaml(answers)
    _check(text)
    terms = _create_state(answers)
    make_folder(path.parent)
    write_atomically(path, text.encode())
    configuration.load(path)
    return terms


def _check(text: str) -> None:
    """The answers as the configuration will read them, before anything is written that cannot be changed."""
    try:
        SiteConfig.model_validate(yaml.safe_load(text))
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        key = ".".join(str(part) for part in first["loc"])
        raise UsageError(f"{key}: {first['msg']}.", "Nothing was written; give another value.") from None


def _create_state(answers: Answers) -> Terms:
    terms = Terms.chosen(answers.epsilon, answers.delta, answers.nominal_patients)
    there = (answers.state / "state.db").exists()
    with State.open(answers.state) if there else State.create(answers.state) as state:
        identity.create_pseudonyms(IdentityFiles(state.folder / "identity"))
        if state.last("ledger") is None:
            with state.transaction():
                state.audit("initialised")
                Ledger.create(state, terms)
        elif Ledger(state).terms != terms:
            raise ConfigurationError(
                f"The state folder {answers.state} has a ledger with other terms: {Ledger(state).terms}.",
                "A ledger's terms never change: give the same ones, or choose a new state folder.",
            )
    return terms


def site_yaml(answers: Answers) -> str:
    """The commented configuration, with the answers filled in."""
    values = {
        "state": _scalar(answers.state),
        "data": _scalar(answers.data),
        "tasks": yaml.safe_dump(list(answers.tasks), default_flow_style=True).strip(),
        "epsilon": _number(answers.epsilon),
        "delta": _number(answers.delta),
        "nominal_patients": str(answers.nominal_patients),
        "weak": WEAK_PRIVACY_SENTENCE,
        "none": NO_PRIVACY_SENTENCE,
    }
    return _TEMPLATE.format(**values)


def _number(value: float) -> str:
    """All digits, in a spelling that YAML 1.1 takes for a number: 8, 0.5, 1.0e-06."""
    text = repr(float(value)).removesuffix(".0")
    mantissa, exponent, power = text.partition("e")
    return f"{mantissa}.0e{power}" if exponent and "." not in mantissa else text


def _scalar(path: Path) -> str:
    return yaml.safe_dump(str(path), default_flow_style=True, width=10_000).removesuffix("...\n").strip()


_TEMPLATE = """\
# fedsite: this site's configuration. Every key: fedsite config schema; one key: fedsite config explain KEY
# A setting can be overridden by FEDSITE_SECTION__KEY, except paths.state and those of
# policy, privacy, notifications and hooks.

version: 1   # of this file's form

paths:
  state: {state}   # identity, ledger, audit. One per site and federation; back it up
  data: {data}   # prepared cases, manifest, report
  tasks: []   # this site's own tasks: files such as sample_configs/task.yaml

preparation:
  spacing_mm: null          # voxel size of prepared cases, such as [2, 2, 2]; null takes the task's own
  validation_fraction: 0.2  # share of patients held out at home, chosen by a keyed hash

training:
  device: auto     # auto takes the GPU if there is one; cpu, cuda
  devices: []      # numbers of the GPUs that share out each batch, such as [0, 1]; none takes one
  machines: 1      # how many train together; torchrun starts the others (see README)
  meeting: ""      # host:port of this one, where the others find it; on a closed network only
  evaluate: true   # measure on the held-out patients before and after training; before, false; it stays at home
  checkpoint_minutes: 5   # how often a training is kept on disk
  compile: false   # torch.compile takes minutes, and pays on some GPUs

personalization:          # what fedsite personalize does; its model never leaves
  steps: 200              # fewer where they no longer help
  learning_rate: 1.0e-04  # lower than a round's

network:
  proxy: null            # http://proxy:3128, or direct; null follows HTTPS_PROXY and NO_PROXY, which cron may lack
  proxy_login: null      # a file for this user's eyes only (chmod 600) with USER:PASSWORD
  proxy_ca: null         # a PEM file, where proxy is https:// and the operating system does not know its authority
  patience_seconds: 120  # how long a run keeps trying while nothing moves

notifications:                # who is told how train-round went; nothing of it depends on patients
  ping: null                  # a healthchecks address, https://hc-ping.com/...; a sign of life after each run
  webhook: null               # https://..., gets a JSON object for each of events; keep the address to yourself
  mail_to: []                 # such as [ward-it@hospital.example]; by this machine's own mail
  mail_from: null             # null: the user who runs fedsite
  events: [pending, failure]  # of webhook and mail; also start, success

hooks:                # this site's own programs around a round, by absolute path, without shell; see README
  before_round: null  # where it fails, the round is not begun
  after_round: null
  seconds: 300        # how long each may take

# What this site allows. A plan asks; the stricter of plan and policy wins.
policy:
  federations: null                 # such as [strokes]; null: the one that this site is enrolled in
  tasks: {tasks}
  algorithms: [fedavg]
  approve_plans: false              # true: fedsite approve PLAN, by a person, before a new plan's first round
  agreement_until: null             # the last day of taking part, such as 2027-12-31
  hours: []                         # such as [20:00-06:00]: train-round asks, trains and sends then alone
  days: []                          # such as [sat, sun]; a new one begins at midnight
  time_zone: null                   # of hours and days, such as Europe/Zurich; null: this machine's
  maximum_steps: 1000               # optimiser steps in one round
  maximum_epochs: null              # passes over as many patients as nominal_patients says
  maximum_gpu_minutes: null   # of one round's training; several GPUs add up
  maximum_download_megabytes: 1024
  maximum_upload_megabytes: 1024
  minimum_noise_multiplier: 0       # sigma; a plan with less noise is refused
  maximum_epsilon_per_round: null
  maximum_epsilon: null             # tightens the budget below; it can never widen it
  metrics: []                       # none, such as Dice, can leave
  require_deidentified_input: false # true leaves out DICOM images whose headers hold direct identifiers
  # Two sentences that a site writes here only if it means them:
  weak_privacy: ""                  # {weak}
  no_privacy: ""                    # {none}
  public_weight: null               # this site's weight where a plan takes declared ones; it becomes public

# The ledger's terms. They were fixed when the ledger was created and cannot be changed.
privacy:
  epsilon: {epsilon}
  delta: {delta}
  nominal_patients: {nominal_patients}   # typed, never counted; dp-sgd draws patients by it
"""

"""The plan of a series of rounds: what it may say, and how its coordinator writes it.

Plan and draft are closed schemas as all messages are; the draft is a YAML file, and the server adds its keys.
"""

import hashlib
import json
from datetime import date
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import yaml
from pydantic import AwareDatetime, ConfigDict, Field, Tag, model_validator

from fedsite.errors import ConfigurationError, SourceMissing
from fedsite.wire import server_rules
from fedsite.wire.forms import WORD, by_name
from fedsite.wire.messages import MAX_MESSAGE_BYTES, Closed, MalformedMessage, Name, PublicKey, Sha256, parse
from fedsite.wire.server_rules import Aggregation, Screen, ServerAdam, Stop

SCHEMA = 1
Millimetres = Annotated[float, Field(ge=0.2, le=10)]
Encoding = Literal["float32", "float16", "int8"]


class Preparation(Closed):
    """How the images of a plan were prepared; a site's prepared data must say the same."""

    input_state: Literal["whole-head", "skull-stripped"]
    spacing_mm: Annotated[tuple[Millimetres, Millimetres, Millimetres], Field(strict=False)]


class Network(Closed):
    """Name and settings of a network; their ranges stand in the task's description (`fedsite.tasks`)."""

    name: Name
    settings: Annotated[
        dict[Name, int | float | bool | Annotated[list[int], Field(max_length=16)]], Field(max_length=32)
    ]


class FedProx(Closed):
    """FedProx (Li et al. 2020): the local loss plus mu/2 ||w - w_global||^2."""

    name: Literal["fedprox"]
    mu: Annotated[float, Field(gt=0, le=1000)]


class PersonalLayers(Closed):
    """Each site has a head or decoder of its own, which stays at home (Arivazhagan et al. 2019, FedPer)."""

    name: Literal["personal"]
    keep: Literal["head", "decoder"]


PlainAlgorithm = Literal["fedavg", "scaffold", "fedbn"]
Algorithm = Annotated[
    Annotated[PlainAlgorithm, Tag(WORD)]
    | Annotated[FedProx, Tag("fedprox")]
    | Annotated[PersonalLayers, Tag("personal")],
    by_name(
        "algorithm",
        get_args(PlainAlgorithm),
        ("fedprox", "personal"),
        "fedavg, scaffold, fedbn, {name: fedprox, mu: M} or {name: personal, keep: head|decoder}",
    ),
]


class EarlyStopping(Closed):
    """Training ends when the held-out cases' Dice, measured `every` so many steps, has not risen `patience` times."""

    every: Annotated[int, Field(ge=1, le=100_000)]
    patience: Annotated[int, Field(ge=1, le=1000)]


class LocalWork(Closed):
    """What a site computes in one round. `steps: 0` is legal: nothing is trained, the release is pure noise.

    A step sees `batch_size` times `accumulation` patches, `batch_size` of them at once; under `dp-sgd` it sees the
    patches of the patients whom it samples, at most `batch_size` of one patient at once. `channel_dropout` is how often
    an optional channel is left out of a patch. `train` says which part of the network learns; the rest stays as the
    global model has it. With `ema` above 0 the weights that count are the exponential moving average, of this decay, of
    those after each step.
    """

    steps: Annotated[int, Field(ge=0, le=100_000)]
    batch_size: Annotated[int, Field(ge=1, le=1024)] = 2
    patch_voxels: Annotated[tuple[int, int, int], Field(strict=False)] = (40, 40, 40)
    optimizer: Literal["adam", "sgd"] = "adam"
    momentum: Annotated[float, Field(ge=0, lt=1, exclude_if=lambda momentum: momentum == 0.9)] = 0.9
    learning_rate: Annotated[float, Field(gt=0, le=10)] = 1e-3
    foreground_fraction: Annotated[float, Field(ge=0, le=1)] = 0.67
    seed: Annotated[int, Field(ge=0, lt=1 << 63)] = 0
    accumulation: Annotated[int, Field(ge=1, le=64, exclude_if=lambda count: count == 1)] = 1
    schedule: Annotated[Literal["constant", "cosine"], Field(exclude_if=lambda name: name == "constant")] = "constant"
    channel_dropout: Annotated[float, Field(ge=0, lt=1, exclude_if=lambda share: share == 0)] = 0.0
    early_stop: Annotated[EarlyStopping | None, Field(exclude_if=lambda rule: rule is None)] = None
    train: Annotated[Literal["all", "decoder", "head"], Field(exclude_if=lambda part: part == "all")] = "all"
    ema: Annotated[float, Field(ge=0, lt=1, exclude_if=lambda decay: decay == 0)] = 0.0

    @model_validator(mode="after")
    def _ends_one_way(self) -> "LocalWork":
        if self.ema and self.early_stop:
            raise ValueError("ema: not with early_stop, which ends with the weights that it measured")
        return self

    @model_validator(mode="after")
    def _patch_in_range(self) -> "LocalWork":
        if not all(16 <= side <= 512 and side % 8 == 0 for side in self.patch_voxels):
            raise ValueError("patch_voxels: each side is a multiple of 8 from 16 to 512")
        return self


class _Clipped(Closed):
    """What both mechanisms have: the clip norm C, and noise of standard deviation `noise_multiplier` times C."""

    clip_norm: Annotated[float, Field(gt=0, le=1e6)]
    noise_multiplier: Annotated[float, Field(ge=0, le=1e6)]


class GaussianUpdate(_Clipped):
    """The whole update of a round is clipped and noised once."""

    mechanism: Literal["gaussian-update"]
    sampling_rate: Literal[1] = 1
    steps: Literal[1] = 1


class DpSgd(_Clipped):
    """Each of the round's `local.steps` samples patients, clips the gradient of each of them and noises their sum.

    `batch_patients` is how many patients a step samples on average where a site has as many as it typed (its rate is
    this over that number), and what the noised sum is divided by. A patient who is sampled gives `patches_per_patient`
    patches, drawn from all of the patient's studies.
    """

    mechanism: Literal["dp-sgd"]
    batch_patients: Annotated[int, Field(ge=1, le=1_000_000)]
    patches_per_patient: Annotated[int, Field(ge=1, le=1024)] = 1


# The mechanism that the plan asks for. The site's policy may demand more noise, never less.
PrivacyAsked = Annotated[GaussianUpdate | DpSgd, Field(discriminator="mechanism")]


class RoundRules(Closed):
    """When a round ends: at its deadline if `quorum` updates are in, at once when `enough` are.

    An update whose upload had begun by the deadline may still end within `grace_seconds`, but not once the plan has
    expired; without that it is late. Late ones are refused: they are differences to a model that the next round does
    not start from.
    """

    quorum: Annotated[int, Field(ge=1, le=10_000)]
    enough: Annotated[int, Field(ge=1, le=10_000)] | None = None
    deadline_seconds: Annotated[int, Field(ge=1, le=366 * 86_400)]
    grace_seconds: Annotated[int, Field(ge=0, le=7 * 86_400, exclude_if=lambda seconds: seconds == 0)] = 0

    @model_validator(mode="after")
    def _enough_is_a_quorum(self) -> "RoundRules":
        if self.enough is not None and self.enough < self.quorum:
            raise ValueError("enough must not be below quorum")
        return self


class PlanDraft(Closed):
    """A plan as its coordinator writes it (YAML, `wire.plans`), before the server adds its keys."""

    schema_version: Literal[1] = Field(alias="schema")
    federation: Name
    plan: Name
    task: Name
    task_digest: Annotated[Sha256 | None, Field(exclude_if=lambda digest: digest is None)] = None
    channels: Annotated[list[Name], Field(min_length=1, max_length=8)]
    preparation: Preparation
    network: Network
    algorithm: Algorithm
    aggregation: Annotated[Aggregation, Field(exclude_if=lambda rule: rule == "mean")] = "mean"
    server_momentum: Annotated[float, Field(ge=0, lt=1, exclude_if=lambda momentum: momentum == 0)] = 0.0
    server_adam: Annotated[ServerAdam | None, Field(exclude_if=lambda rule: rule is None)] = None
    screen: Annotated[Screen | None, Field(exclude_if=lambda rule: rule is None)] = None
    local: LocalWork
    privacy: PrivacyAsked
    max_update_norm: Annotated[float, Field(gt=0, le=1e12)]
    weights: Literal["equal", "declared"] = "equal"
    maximum_weight: Annotated[float, Field(gt=0, le=1e6)] = 1.0
    payload: Encoding = "float32"
    rounds: RoundRules
    stop: Annotated[Stop, Field(exclude_if=lambda rules: rules == Stop())] = Stop()
    expires: AwareDatetime

    model_config = ConfigDict(serialize_by_alias=True)

    @model_validator(mode="after")
    def _scaffold_in_range(self) -> "PlanDraft":
        """A control is an update over steps times learning rate: a mean gradient only where nothing else moves."""
        local = self.local
        plain = local.optimizer == "sgd" and local.momentum == 0 and local.schedule == "constant"
        if self.algorithm == "scaffold" and not (plain and local.steps and not local.early_stop):
            raise ValueError(
                "scaffold needs local steps of optimizer sgd, momentum 0, schedule constant, no early_stop"
            )
        if self.algorithm == "scaffold" and self.weights != "equal":
            raise ValueError("scaffold needs equal weights")
        return self

    @model_validator(mode="after")
    def _the_servers_rules_fit(self) -> "PlanDraft":
        if found := server_rules.conflict(self):
            raise ValueError(found)
        return self

    @model_validator(mode="after")
    def _every_step_is_taken_under_noise(self) -> "PlanDraft":
        """When training ends would tell something of the held-out patients (privacy.md)."""
        private = self.privacy.noise_multiplier > 0 or isinstance(self.privacy, DpSgd)
        if self.local.early_stop is not None and private:
            raise ValueError(
                "local.early_stop: not under a private mechanism (dp-sgd, or privacy.noise_multiplier above 0), where"
                " nothing that depends on a patient may decide what is released"
            )
        return self

    @model_validator(mode="after")
    def _steps_are_private(self) -> "PlanDraft":
        """Under dp-sgd a step is one draw of patients: it can be neither left out nor put together from several."""
        if isinstance(self.privacy, DpSgd) and not (self.local.steps and self.local.accumulation == 1):
            raise ValueError(
                "privacy.mechanism dp-sgd needs local.steps of at least 1 and local.accumulation 1: how much a step"
                " sees is said by privacy.batch_patients and privacy.patches_per_patient"
            )
        return self

    @model_validator(mode="after")
    def _something_learns(self) -> "PlanDraft":
        kept = self.algorithm.keep if isinstance(self.algorithm, PersonalLayers) else None
        trained = self.local.train
        if (trained == "head" and kept) or trained == kept == "decoder":
            raise ValueError(f"local.train: {trained}: nothing of what travels would learn, the {kept} stays at home")
        return self

    @property
    def algorithm_name(self) -> str:
        """The algorithm in one word, as a site's policy names it."""
        return self.algorithm if isinstance(self.algorithm, str) else self.algorithm.name


class Plan(PlanDraft):
    """One signed document for a series of rounds, with the keys that its tickets and receipts are signed by."""

    round_key: PublicKey
    receipt_key: PublicKey


def read_draft(path: Path) -> PlanDraft:
    """Reads a plan file; raises SourceMissing when there is none, ConfigurationError naming the key that is wrong."""
    try:
        text = path.read_bytes()
    except OSError as error:
        raise SourceMissing(f"The plan {path} cannot be read: {error.strerror}.") from error
    if len(text) > MAX_MESSAGE_BYTES:
        raise ConfigurationError(f"The plan {path} is larger than {MAX_MESSAGE_BYTES} bytes.")
    try:
        content = yaml.safe_load(text)
        _require_known_schema(content, path)
        return parse(PlanDraft, json.dumps(content, default=_instant).encode())
    except yaml.YAMLError as error:
        raise ConfigurationError(f"The plan {path} is no YAML: {error}") from error
    except (MalformedMessage, TypeError) as error:
        raise ConfigurationError(
            f"The plan {path} cannot be used: {str(error).removeprefix('PlanDraft: ')}.",
            "See sample_configs/plan.yaml.",
        ) from error
    except (ValueError, AttributeError, LookupError, RecursionError):
        raise ConfigurationError(
            f"The plan {path} holds a value or key that YAML cannot build.", "Quote it, or mend it."
        ) from None


def _require_known_schema(content: object, path: Path) -> None:
    """Raises ConfigurationError for a newer file, before its unknown keys would be told one by one."""
    found = content.get("schema") if isinstance(content, dict) else None
    if isinstance(found, int) and found > SCHEMA:
        raise ConfigurationError(
            f"The plan {path} has schema {found}, a newer fedsite's; this fedsite knows {SCHEMA}.",
            "Install that fedsite here; or write the plan in this one's form: sample_configs/plan.yaml.",
        )


def complete(draft: PlanDraft, round_key: PublicKey, receipt_key: PublicKey) -> Plan:
    """The plan that is signed: the draft and the server's keys."""
    keys = {"round_key": round_key.model_dump(), "receipt_key": receipt_key.model_dump()}
    return Plan.model_validate(draft.model_dump(by_alias=True) | keys)


def kind(plan: PlanDraft) -> str:
    """The SHA-256 of what a plan asks of a site: of all that it says, but for its name, dates, seed and keys."""
    aside: dict[str, Any] = {"plan": True, "expires": True, "round_key": True, "receipt_key": True, "local": {"seed"}}
    asked = plan.model_dump(mode="json", by_alias=True, exclude=aside)
    return hashlib.sha256(json.dumps(asked, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _instant(value: object) -> str:
    """YAML reads an instant as a date; JSON spells it out."""
    if isinstance(value, date):
        return value.isoformat()
    raise TypeError(f"{type(value).__name__} has no place in a plan")

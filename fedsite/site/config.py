"""The site's configuration: one YAML file, one closed schema, found in fixed places, never in the current folder."""

import difflib
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import yaml
from platformdirs import user_config_path
from pydantic import AfterValidator, BaseModel, Field, ValidationError, model_validator

from fedsite import __version__
from fedsite.errors import ConfigurationError
from fedsite.site.policy import Policy
from fedsite.site.section import Section
from fedsite.site.unattended import HookSettings, NotificationSettings
from fedsite.site.values import AbsolutePath

VERSION = 1
SYSTEM_CONFIG = Path("/etc/fedsite/site.yaml")
# Another state folder would be another ledger, and with it another budget. Who is told, and what is run beside a round,
# a site writes down too.
NEVER_FROM_ENVIRONMENT = ("policy", "privacy", "ledger", "notifications", "hooks", "paths.state")
DIRECT = "direct"
LONGEST_ECHO = 60
_PROXY = re.compile(r"https?://([\w.-]+|\[[0-9A-Fa-f:.]+\])(:\d{1,5})?/?", re.ASCII)
# What yaml's constructors let through: a 13th month, a list as a key, !!bool 5, endless brackets.
_UNBUILDABLE = (ValueError, TypeError, AttributeError, LookupError, RecursionError)


Millimetres = Annotated[float, Field(ge=0.2, le=10)]


class Paths(Section):
    """Where fedsite keeps what it writes, and finds what this site adds."""

    state: AbsolutePath = Field(description="The state folder: identity, ledger, audit. One per site and federation.")
    data: AbsolutePath = Field(description="Where prepare-data puts cases, manifest and report.")
    tasks: list[AbsolutePath] = Field(
        default=[], description="This site's own tasks: YAML files, each derived from a task that comes with fedsite."
    )


class PreparationSettings(Section):
    """How prepare-data turns series into cases."""

    spacing_mm: tuple[Millimetres, Millimetres, Millimetres] | None = Field(
        default=None, description="Voxel size of the prepared cases; the task's own where this is not set."
    )
    validation_fraction: float = Field(
        default=0.2, ge=0, le=0.5, description="Share of patients held out at home, chosen by a keyed hash."
    )


class TrainingSettings(Section):
    """How this machine computes, and which others help it."""

    device: Literal["auto", "cpu", "cuda"] = Field(default="auto", description="auto takes the GPU if there is one.")
    devices: tuple[Annotated[int, Field(ge=0)], ...] = Field(
        default=(),
        max_length=64,
        description="Numbers of the GPUs that share out each batch, such as [0, 1]; on a CPU so many processes do.",
    )
    machines: int = Field(
        default=1, ge=1, le=64, description="How many machines train together; torchrun starts the others (README)."
    )
    meeting: str = Field(
        default="",
        pattern=r"^([\w.-]+:\d{1,5})?$",
        description="host:port of this machine, where the others find it. Unencrypted: on a closed network only.",
    )
    evaluate: bool | Literal["before"] = Field(
        default=True,
        description="Measure the model on the held-out patients before and after each round's training, at home;"
        " before leaves out the second.",
    )
    checkpoint_minutes: float = Field(
        default=5, gt=0, le=1440, description="How often a training is kept on disk, so that a kill costs no more."
    )
    compile: bool = Field(
        default=False, description="Let torch.compile build the network; it takes minutes, and pays on some GPUs."
    )

    @model_validator(mode="after")
    def _goes_together(self) -> "TrainingSettings":
        if len(set(self.devices)) < len(self.devices):
            raise ValueError("devices: one of them is named twice")
        if self.machines > 1 and not self.meeting:
            raise ValueError("machines: several need training.meeting, where they find each other")
        return self


class PersonalizationSettings(Section):
    """How fedsite personalize goes on training the global model on this site's own cases. Nothing of it leaves."""

    steps: int = Field(default=200, ge=1, le=100_000, description="Optimiser steps; fewer where they no longer help.")
    learning_rate: float = Field(default=1e-4, gt=0, le=1, description="Lower than a round's: it only has to adapt.")


def _proxy(text: str) -> str:
    """Whatever is wrong, the answer does not repeat it: it may hold a password."""
    if "@" in text:
        raise ValueError("must hold no user and no password: they belong into the file of network.proxy_login")
    if text != DIRECT and not _PROXY.fullmatch(text):
        raise ValueError(f"must be http://HOST:PORT, https://HOST:PORT or {DIRECT}")
    return text


class NetworkSettings(Section):
    """How this machine reaches the federation."""

    proxy: Annotated[str, AfterValidator(_proxy)] | None = Field(
        default=None,
        description="Forward proxy, http://HOST:PORT, or https:// where it speaks TLS itself; direct to use none;"
        " not set: as HTTPS_PROXY and NO_PROXY say, where they are set.",
    )
    proxy_login: AbsolutePath | None = Field(
        default=None,
        description="A file that only the user who runs fedsite may read, with USER:PASSWORD of the proxy in its line.",
    )
    proxy_ca: AbsolutePath | None = Field(
        default=None,
        description="The certificate (PEM) that vouches for an https:// proxy; not set: those of the operating system.",
    )
    patience_seconds: float = Field(
        default=120, gt=0, le=86_400, description="How long a run keeps trying while nothing moves."
    )

    @model_validator(mode="after")
    def _goes_together(self) -> "NetworkSettings":
        if self.proxy_login and self.proxy in (None, DIRECT):
            raise ValueError("proxy_login: it is for the proxy that network.proxy names, and none is named")
        if self.proxy_ca and not (self.proxy or "").startswith("https://"):
            raise ValueError("proxy_ca: it is for a proxy that speaks TLS: write https:// in network.proxy")
        return self


class PrivacySettings(Section):
    """The ledger's terms. They are fixed when the ledger is created and cannot be changed later."""

    epsilon: float = Field(gt=0, description="The budget over the lifetime of the ledger.")
    delta: float = Field(default=1e-6, gt=0, lt=0.1, description="Below 1 / patients.")
    nominal_patients: int = Field(
        ge=1,
        description="About how many patients this site has; typed, never counted. Under dp-sgd a patient is in a step"
        " with the chance of the plan's batch_patients over this.",
    )


class SiteConfig(Section):
    """The whole of site.yaml."""

    version: Literal[1] = Field(default=1, description="Of this file's form; a newer fedsite may know another.")
    paths: Paths
    # Factories: a default that is there already would have its class built before anybody asks for it.
    preparation: PreparationSettings = Field(default_factory=PreparationSettings)
    training: TrainingSettings = Field(default_factory=TrainingSettings)
    personalization: PersonalizationSettings = Field(default_factory=PersonalizationSettings)
    network: NetworkSettings = Field(default_factory=NetworkSettings)
    notifications: NotificationSettings = Field(default_factory=NotificationSettings)
    hooks: HookSettings = Field(default_factory=HookSettings)
    policy: Policy = Field(default_factory=Policy)
    privacy: PrivacySettings


def find(explicit: Path | None, environment: Mapping[str, str] = os.environ) -> Path:
    """The configuration file: --config, else $FEDSITE_CONFIG, else the user's, else the system's."""
    if explicit is not None or environment.get("FEDSITE_CONFIG"):
        path = explicit or Path(environment["FEDSITE_CONFIG"])
        if not path.is_file():
            raise ConfigurationError(f"There is no configuration at {path}.", "Name an existing file, or: fedsite init")
        return path
    candidates = [user_config_path("fedsite") / "site.yaml", SYSTEM_CONFIG]
    for path in candidates:
        if path.is_file():
            return path
    places = " nor ".join(str(path) for path in candidates)
    raise ConfigurationError(f"There is no configuration: neither {places} exists.", "Write one with: fedsite init")


def find_any(explicit: Path | None, environment: Mapping[str, str] = os.environ) -> Path | None:
    """The same; None where none was named and there is none."""
    try:
        return find(explicit, environment)
    except ConfigurationError:
        if explicit is not None or environment.get("FEDSITE_CONFIG"):
            raise
        return None


def load(explicit: Path | None = None, environment: Mapping[str, str] = os.environ) -> SiteConfig:
    """Reads, checks and freezes the configuration. Raises ConfigurationError naming key and mend."""
    path = find(explicit, environment)
    settings = read_yaml(path)
    _require_known_version(settings.get("version"), path.name)
    _apply_environment(settings, environment)
    try:
        return SiteConfig.model_validate(settings)
    except ValidationError as error:
        raise explain_invalid(error, SiteConfig, path.name) from None


def _require_known_version(found: object, name: str) -> None:
    """Raises ConfigurationError for a newer file, before its unknown keys would be told one by one."""
    if isinstance(found, int) and found > VERSION:
        raise ConfigurationError(
            f"{name} has version {found}, a newer fedsite's; this fedsite ({__version__}) knows {VERSION}.",
            "Install that fedsite again; or write the file anew in this one's form: sample_configs/site.yaml.",
        )


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML mapping from a file that nobody else can change; refuses duplicate keys. Raises ConfigurationError."""
    try:
        with path.open(encoding="utf-8") as file:
            check_owner(path, os.fstat(file.fileno()))  # of what is read, whatever the path leads to a moment later
            content = yaml.load(file, Loader=_UniqueKeys)  # noqa: S506 - a SafeLoader
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(
            f"{path} cannot be read.", "It must be a UTF-8 text file that you may read."
        ) from error
    except yaml.YAMLError as error:
        where = (
            f" (line {error.problem_mark.line + 1})"
            if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark
            else ""
        )
        raise ConfigurationError(f"{path} is not valid YAML{where}.", "Mend the line; indent with spaces.") from None
    except _UNBUILDABLE:
        raise ConfigurationError(
            f"{path} holds a value or key that YAML cannot build.", "Quote it, or mend it."
        ) from None
    if not isinstance(content, dict):
        raise ConfigurationError(f"{path} holds no settings.", "Compare it with sample_configs.")
    return content


def explain_invalid(error: ValidationError, schema: type[BaseModel], name: str, mend: str = "") -> ConfigurationError:
    """The first fault as an error that names its key's path and, for an unknown key, the nearest known one.

    `mend` stands in for that of site.yaml in a file of another schema.
    """
    first = error.errors(include_url=False)[0]
    path = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        near = _beside(first["loc"], schema) or _nearest(path, known_keys(schema) if len(first["loc"]) <= 2 else [])
        return ConfigurationError(f"{name}: unknown key {path}.", near or mend or _EVERY_KEY)
    if first["type"] == "missing":
        return ConfigurationError(f"{name}: {path} is missing.", "Add it; sample_configs shows every key.")
    key = ".".join(part for part in first["loc"] if isinstance(part, str))
    message = (
        f"{name}: {path}: {_in_words(first['type'], first.get('input')) or first['msg'].removeprefix('Value error, ')}."
    )
    return ConfigurationError(message, mend or f"fedsite config explain {key} tells what it means.")


def suggestion(key: str, schema: type[BaseModel]) -> str:
    """The mend for a key that does not exist: the nearest one that does."""
    return _nearest(key, known_keys(schema)) or _EVERY_KEY


def _in_words(fault: str, given: object) -> str:
    """What an operator makes of a fault that pydantic tells in a programmer's words; "" where it does not."""
    if fault in ("list_type", "tuple_type"):
        typed = isinstance(given, str) and given.isprintable() and len(given) < LONGEST_ECHO
        return f"must be a list, in brackets: [{given}]" if typed else "must be a list, in brackets; [] names nothing"
    return "is not written as it must be" if fault == "string_pattern_mismatch" else ""


_EVERY_KEY = "fedsite config schema lists the keys that there are."


def _nearest(key: str, known: list[str], prefix: str = "") -> str:
    near = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
    return f"Did you mean {prefix}{near[0]}?" if near else ""


def _beside(place: tuple[int | str, ...], schema: type[BaseModel]) -> str:
    """The nearest of the keys that may stand where one stands that is unknown, within mappings too."""
    annotation: Any = schema
    for part in place[:-1]:
        fields = getattr(annotation, "model_fields", None)
        annotation = fields[part].annotation if fields else get_args(annotation)[-1]
    return _nearest(str(place[-1]), list(annotation.model_fields), "".join(f"{part}." for part in place[:-1]))


def describe(key: str) -> dict[str, Any] | None:
    """Meaning, type and default of one key of site.yaml by its dotted path; None when there is no such key.

    Of a section, what it is about and which keys it has.
    """
    schema: type[BaseModel] = SiteConfig
    *sections, last = key.split(".")
    for section in sections:
        annotation = schema.model_fields[section].annotation if section in schema.model_fields else None
        if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
            return None
        schema = annotation
    if last not in schema.model_fields:
        return None
    part = schema.model_fields[last].annotation
    if isinstance(part, type) and issubclass(part, BaseModel):
        return {"key": key, "description": " ".join((part.__doc__ or "").split()), "keys": known_keys(part, f"{key}.")}
    described: dict[str, Any] = schema.model_json_schema()["properties"][last]
    fixed = not sections or sections[0] in NEVER_FROM_ENVIRONMENT or key in NEVER_FROM_ENVIRONMENT
    return {"key": key, **described, "environment": None if fixed else f"FEDSITE_{key.upper().replace('.', '__')}"}


def known_keys(schema: type[BaseModel], prefix: str = "") -> list[str]:
    """Every key of a schema by its dotted path."""
    keys: list[str] = []
    for name, field in schema.model_fields.items():
        keys.append(prefix + name)
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            keys += known_keys(field.annotation, f"{prefix}{name}.")
    return keys


def check_owner(path: Path, status: os.stat_result | None = None) -> None:
    """A file that somebody else can change would let them decide in the site's name: raises ConfigurationError."""
    status = status or path.stat()
    if status.st_uid not in (0, os.geteuid()):
        whose = "It must belong to root or to the user who runs."
        by_root = f" As root: chown root {path}, and let that user's group read it (README, Operations)."
        raise ConfigurationError(f"{path} belongs to another user.", whose + (by_root if os.geteuid() == 0 else ""))
    if status.st_mode & 0o022:
        whom = "every user" if status.st_mode & 0o002 else "every user of its group"
        raise ConfigurationError(f"{path} can be changed by {whom}.", f"Run: chmod go-w {path}")


def _apply_environment(settings: dict[str, Any], environment: Mapping[str, str]) -> None:
    """FEDSITE_SECTION__KEY overrides a setting, except where a site decides about its patients (law 3)."""
    for variable, value in environment.items():
        section, found, key = variable.removeprefix("FEDSITE_").lower().partition("__")
        if not variable.startswith("FEDSITE_") or not found:
            continue
        if section in NEVER_FROM_ENVIRONMENT or f"{section}.{key}" in NEVER_FROM_ENVIRONMENT:
            raise ConfigurationError(
                f"${variable} tries to set {section}.{key}.", "Only the configuration file can: unset the variable."
            )
        block = settings.setdefault(section, {})
        if isinstance(block, dict):
            try:
                block[key] = yaml.safe_load(value)
            except (yaml.YAMLError, *_UNBUILDABLE):
                raise ConfigurationError(f"${variable} is not valid YAML.", "Mend or unset the variable.") from None


class _UniqueKeys(yaml.SafeLoader):
    """YAML's safe loader, which silently takes the last of two equal keys, made to refuse them."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Called by yaml for every mapping."""
        seen: set[str] = set()
        for key, _ in node.value:
            if key.value in seen:
                raise yaml.MarkedYAMLError(problem=f"key {key.value} appears twice", problem_mark=key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)

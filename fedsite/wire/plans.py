"""The plan as its coordinator writes it: a YAML file, read into the closed schema of `messages.PlanDraft`."""

import json
from datetime import date
from pathlib import Path

import yaml

from fedsite.errors import ConfigurationError, SourceMissing
from fedsite.wire.messages import MAX_MESSAGE_BYTES, MalformedMessage, Plan, PlanDraft, PublicKey, parse


def read_draft(path: Path) -> PlanDraft:
    """Reads a plan file; raises SourceMissing when there is none, ConfigurationError naming the key that is wrong."""
    try:
        text = path.read_bytes()
    except OSError as error:
        raise SourceMissing(f"The plan {path} cannot be read: {error.strerror}.") from error
    if len(text) > MAX_MESSAGE_BYTES:
        raise ConfigurationError(f"The plan {path} is larger than {MAX_MESSAGE_BYTES} bytes.")
    try:
        return parse(PlanDraft, json.dumps(yaml.safe_load(text), default=_instant).encode())
    except yaml.YAMLError as error:
        raise ConfigurationError(f"The plan {path} is no YAML: {error}") from error
    except (MalformedMessage, TypeError) as error:
        raise ConfigurationError(
            f"The plan {path} cannot be used: {error}.", "See sample_configs/plan.yaml."
        ) from error


def complete(draft: PlanDraft, round_key: PublicKey, receipt_key: PublicKey) -> Plan:
    """The plan that is signed: the draft and the server's keys."""
    keys = {"round_key": round_key.model_dump(), "receipt_key": receipt_key.model_dump()}
    return Plan.model_validate(draft.model_dump(by_alias=True) | keys)


def _instant(value: object) -> str:
    """YAML reads an instant as a date; JSON spells it out."""
    if isinstance(value, date):
        return value.isoformat()
    raise TypeError(f"{type(value).__name__} has no place in a plan")

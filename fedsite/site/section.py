"""What every part of site.yaml has in common."""

from typing import Any, get_args

from pydantic import BaseModel, ConfigDict, ValidationInfo, field_validator


class Section(BaseModel):
    """A part of the configuration: immutable, and an unknown key is an error."""

    # Built when first used: the sections of a configuration are only ever used as parts of the whole.
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, defer_build=True)

    @field_validator("*", mode="before")
    @classmethod
    def _no_number(cls, value: object, field: ValidationInfo) -> object:
        """YAML reads `yes` and `on` as true, which pydantic would take for the number 1."""
        annotation: Any = cls.model_fields[str(field.field_name)].annotation
        if isinstance(value, bool) and {annotation, *get_args(annotation)} & {int, float}:
            raise ValueError(f"{str(value).lower()} (YAML also writes it yes, no, on, off) is no number")
        return value

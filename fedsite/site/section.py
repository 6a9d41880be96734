"""What every part of site.yaml has in common."""

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """A part of the configuration: immutable, and an unknown key is an error."""

    # Built when first used: the sections of a configuration are only ever used as parts of the whole.
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, defer_build=True)

"""A site's own task: a shipped one with some settings changed, from a YAML file that somebody at the site wrote.

What a task learns (its labels and regions) and how (its networks and loss) stay those of the shipped one. Nothing of
this comes from a server: a plan that names such a task is refused where no local file describes it.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from fedsite.errors import ConfigurationError
from fedsite.tasks import registry
from fedsite.tasks.description import Channel, Layout, Task

Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]{0,62}[a-z0-9]$")]
Word = Annotated[str, Field(pattern=r"^[A-Za-z0-9]{1,40}$")]
Sentence = Annotated[str, Field(min_length=1, max_length=400)]
Millimetres = Annotated[float, Field(ge=0.2, le=10)]
Side = Annotated[int, Field(ge=16, le=512, multiple_of=8)]
BValue = Annotated[float, Field(ge=0, le=20_000)]
Hounsfield = Annotated[float, Field(ge=-1100, le=4000)]


def _rising(bounds: tuple[float, float]) -> tuple[float, float]:
    if not bounds[0] < bounds[1]:
        raise ValueError("the first bound must lie below the second")
    return bounds


class Closed(BaseModel):
    """An unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class LocalChannel(Closed):
    """What is changed about a channel. A key that is left out stays as the shipped task has it."""

    name: Name | None = None
    summary: Sentence | None = None
    bids_suffix: Word | None = None
    b_values: Annotated[tuple[BValue, BValue], AfterValidator(_rising)] | None = None
    preferred_b_value: BValue | None = None
    contrast_agent: bool | None = None
    max_slice_mm: Millimetres | None = None
    axial: bool | None = None
    optional: bool | None = None
    windows: (
        Annotated[
            tuple[Annotated[tuple[Hounsfield, Hounsfield], AfterValidator(_rising)], ...],
            Field(min_length=1, max_length=8),
        ]
        | None
    ) = None


class LocalTask(Closed):
    """The whole of a task's file. `channels` are named as the shipped task names them; `without` leaves some out."""

    name: Name
    base: str
    title: Sentence | None = None
    notes: Sentence | None = None
    channels: dict[str, LocalChannel] = {}
    without: tuple[str, ...] = ()
    default_spacing_mm: tuple[Millimetres, Millimetres, Millimetres] | None = None
    default_patch_voxels: tuple[Side, Side, Side] | None = None
    body_part: Literal["", "HEAD"] | None = None
    allows_lossy: bool | None = None
    allows_reformats: bool | None = None


def derive(own: LocalTask) -> Task:
    """The description of a site's own task.

    Raises ConfigurationError naming the key whose value does not go with the shipped task.
    """
    base = registry.module(own.base, ConfigurationError).DESCRIPTION
    if base.name != own.base:
        raise _wrong(own, f"base: {own.base} is a site's own task.", "Derive it from a task that comes with fedsite.")
    known = {channel.name: channel for channel in base.channels}
    for key, names in (("channels", tuple(own.channels)), ("without", own.without)):
        for name in names:
            if name not in known:
                raise _wrong(own, f"{key}: {base.name} has no channel {name!r}.", f"It has {', '.join(known)}.")
    kept = [channel for channel in base.channels if channel.name not in own.without]
    if base.channels[0] not in kept:
        raise _wrong(own, f"without: {base.channels[0].name} is the image that all others are brought to.")
    changed = tuple(_changed(own, base, channel) for channel in kept)
    if len({channel.name for channel in changed}) < len(changed):
        raise _wrong(own, "channels: two of them have one name.")
    renamed = {before.name: after.name for before, after in zip(kept, changed, strict=True)}
    settings = own.model_dump(exclude={"base", "channels", "without"}, exclude_none=True)
    layouts = tuple(_renamed(layout, renamed) for layout in base.layouts)
    return replace(base, **settings, base=base.name, channels=changed, layouts=layouts)


def _changed(own: LocalTask, base: Task, channel: Channel) -> Channel:
    changes = own.channels.get(channel.name, LocalChannel()).model_dump(exclude_none=True)
    where = f"channels.{channel.name}"
    if "windows" in changes and channel.modality != "CT":
        raise _wrong(own, f"{where}.windows: {channel.modality} has no Hounsfield units.")
    if {"b_values", "preferred_b_value"} & changes.keys() and channel.b_values is None:
        raise _wrong(own, f"{where}: a channel that is no diffusion-weighted image has no b-values.")
    changed = replace(channel, **changes)
    if changed.optional and channel.name == base.channels[0].name:
        raise _wrong(own, f"{where}.optional: it is the image that all others are brought to.")
    if changed.b_values and not changed.b_values[0] <= changed.preferred_b_value <= changed.b_values[1]:
        raise _wrong(own, f"{where}.preferred_b_value: {changed.preferred_b_value:g} lies outside of its b_values.")
    return changed


def _renamed(layout: Layout, names: Mapping[str, str]) -> Layout:
    return replace(layout, images={names[name]: where for name, where in layout.images.items() if name in names})


def _wrong(own: LocalTask, what: str, mend: str = "") -> ConfigurationError:
    return ConfigurationError(f"The task {own.name}: {what}", mend or f"fedsite tasks show {own.base} shows its base.")

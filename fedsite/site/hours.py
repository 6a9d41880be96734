"""The hours in which a site takes part: when they are open, in a time zone that no environment variable chooses."""

import re
from datetime import UTC, datetime, tzinfo
from pathlib import Path
from typing import Annotated, Literal, get_args

from pydantic import AfterValidator, BeforeValidator, Field

MACHINES_ZONE = Path("/etc/localtime")
Day = Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
DAYS: tuple[Day, ...] = get_args(Day)
_SPAN = r"^([01]\d|2[0-3]):[0-5]\d-(([01]\d|2[0-3]):[0-5]\d|24:00)$"


def _is_span(given: object) -> object:
    # Here rather than by the pattern alone, which would be shown to people; unquoted 20:00 is a number to YAML.
    if not isinstance(given, str) or not re.match(_SPAN, given):
        raise ValueError("must be written as 20:00-06:00, hours and minutes of two digits, without spaces")
    return given


def _has_length(text: str) -> str:
    start, end = text.split("-")
    if start == end:
        raise ValueError("begins when it ends: for the whole day write 00:00-24:00")
    return text


def _is_known(name: str) -> str:
    _named(name)
    return name


# Such as 20:00-06:00, its end excluded; one that ends before it begins goes on after midnight.
Hours = Annotated[
    str,
    Field(pattern=_SPAN),
    BeforeValidator(_is_span),
    AfterValidator(_has_length),
]
TimeZone = Annotated[str, Field(pattern=r"^[A-Za-z0-9_+/-]{1,64}$"), AfterValidator(_is_known)]


def zone(name: str | None) -> tzinfo:
    """The time zone of that name (tz database); without one the machine's own, whatever $TZ says.

    A machine without /etc/localtime is in UTC, as it is for the C library. Raises ValueError on an unknown name.
    """
    from zoneinfo import ZoneInfo

    if name is not None:
        return _named(name)
    try:
        with MACHINES_ZONE.open("rb") as file:
            return ZoneInfo.from_file(file, key="this machine's time")
    except FileNotFoundError:
        return UTC


def are_open(hours: list[Hours], days: list[Day], moment: datetime) -> bool:
    """Whether a moment, in the site's own time, lies on one of the days and within one of the hours.

    None means all. After midnight the day is the new one: with `days: [fri]`, 20:00-06:00 is open in the first six
    hours of Friday and in its last four.
    """
    on_time = not hours or any(_within(text, moment.hour * 60 + moment.minute) for text in hours)
    return on_time and (not days or DAYS[moment.weekday()] in days)


def in_words(hours: list[Hours], days: list[Day]) -> str:
    """Such as `20:00-06:00 on sat, sun`."""
    when = ", ".join(hours) or "00:00-24:00"
    return f"{when} on {', '.join(days)}" if days else when


def read_hours(text: str) -> Hours:
    """Hours as a person types them. Raises ValueError on what site.yaml would refuse."""
    return _has_length(str(_is_span(text)))


def minutes_of(text: Hours) -> tuple[int, int]:
    """When they begin and end, in minutes after midnight."""
    start, end = (60 * int(clock[:2]) + int(clock[3:]) for clock in text.split("-"))
    return start, end


def _within(text: str, minute: int) -> bool:
    start, end = minutes_of(text)
    return start <= minute < end if start < end else minute >= start or minute < end


def _named(name: str) -> tzinfo:
    from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise ValueError("is no time zone that this machine knows, such as Europe/Zurich") from None

"""When a schedule starts a run: minutes of the week, in the time zone in which the site keeps its hours.

A window says when runs may start. Whether a run may go on is the policy's business (`policy.hours`), here as
everywhere: a schedule is a convenience, and starts nothing that the policy would not let work.
"""

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from functools import cached_property
from itertools import islice, repeat, takewhile

from fedsite.site import hours
from fedsite.site.hours import DAYS, Day, Hours
from fedsite.site.policy import Policy

DAY = 24 * 60
WEEK = 7 * DAY
MONDAY = datetime(2024, 1, 1)  # any Monday: minutes of the week have no date
WEEKEND: tuple[Day, Day] = ("sat", "sun")
MOST_JITTER_MINUTES = 30
SHARE_OF_JITTER = 4  # a start is late by at most a fourth of what it has time for


@dataclass(frozen=True)
class Schedule:
    """Every so many minutes within hours and days, and all through the weekend; at any time where none is named.

    `zone` is a name of the tz database; "" is this machine's own.
    """

    every: int
    hours: tuple[Hours, ...] = ()
    days: tuple[Day, ...] = ()
    weekends: bool = False
    zone: str = ""

    @staticmethod
    def of(policy: Policy, every: int, windows: Iterable[Hours], weekends: bool) -> "Schedule":
        """What an operator asks for; where no window is named, that of the policy's own hours and days."""
        zone, asked = policy.time_zone or "", tuple(windows)
        if asked or weekends:
            return Schedule(every, asked, (), weekends, zone)
        return Schedule(every, tuple(policy.hours), tuple(policy.days), False, zone)

    @property
    def place(self) -> tzinfo:
        """Where its hours are."""
        return hours.zone(self.zone or None)

    @cached_property
    def starts(self) -> tuple[int, ...]:
        """Minutes since Monday's midnight: each stretch of open time begins with one, others follow every so often.

        Where every hour is open each day is a stretch.
        """
        always = all(self._open)
        heads = {one for one in range(WEEK) if (one % DAY == 0 if always else self._open[one] > self._open[one - 1])}
        return tuple(
            sorted(start for head in heads for start in islice(self._stretch(head, heads), 0, None, self.every))
        )

    @cached_property
    def jitter_seconds(self) -> int:
        """By how much a start is late at most, by chance: sites that share a server shall not come all at once.

        A late start still lies within its window.
        """
        left = (one for one in range(1, self.every) if not all(self._open[(at + one) % WEEK] for at in self.starts))
        return min(60 * MOST_JITTER_MINUTES, 60 * next(left, self.every) // SHARE_OF_JITTER)

    def in_words(self) -> str:
        """Such as `every 6 h, 20:00-06:00 and all weekend`."""
        often = f"{self.every // 60} h" if self.every % 60 == 0 else f"{self.every} min"
        if not (self.hours or self.days or self.weekends):
            return f"every {often}"
        windows = hours.in_words(list(self.hours), list(self.days)) if self.hours or self.days else ""
        return f"every {often}, {' and '.join(filter(None, (windows, 'all weekend' if self.weekends else '')))}"

    def within(self, policy: Policy) -> list[int]:
        """Those of its starts at which the policy lets a run work."""
        return [one for one in self.starts if hours.are_open(policy.hours, policy.days, _moment(one))]

    def may_be_made_up(self, policy: Policy) -> bool:
        """Whether a start that was missed does no harm whenever it comes: what is closed here, the policy closes."""
        moments = ((is_open, _moment(minute)) for minute, is_open in enumerate(self._open))
        return not any(not is_open and hours.are_open(policy.hours, policy.days, when) for is_open, when in moments)

    @cached_property
    def _open(self) -> list[bool]:
        """Of every minute of the week, whether runs may start in it; that changes at midnight and at windows' ends."""
        clocks = {clock % DAY for text in self.hours for clock in hours.minutes_of(text)}
        changes = [day * DAY + clock for day in range(7) for clock in sorted({0, *clocks})]
        spans = zip(changes, [*changes[1:], WEEK], strict=True)
        return [is_open for start, end in spans for is_open in repeat(self._is_open(_moment(start)), end - start)]

    def _stretch(self, head: int, heads: Collection[int]) -> Iterator[int]:
        """The open minutes from a head to the next one, or to the end of open time."""
        yield head
        later = ((head + minutes) % WEEK for minutes in range(1, WEEK))
        yield from takewhile(lambda minute: self._open[minute] and minute not in heads, later)

    def _is_open(self, moment: datetime) -> bool:
        if self.weekends and DAYS[moment.weekday()] in WEEKEND:
            return True
        only_weekends = self.weekends and not (self.hours or self.days)
        return not only_weekends and hours.are_open(list(self.hours), list(self.days), moment)


@dataclass(frozen=True)
class Rule:
    """Starts that both cron and systemd can say in one line: every one of the minutes in all hours on all days.

    Days count from Monday, 0.
    """

    days: tuple[int, ...]
    hours: tuple[int, ...]
    minutes: tuple[int, ...]

    @property
    def cron(self) -> str:
        """The five fields of a crontab (crontab(5))."""
        days = ",".join(str((day + 1) % 7) for day in self.days)
        return f"{_field(self.minutes, 60)} {_field(self.hours, 24)} * * {'*' if len(self.days) == 7 else days}"

    def calendar(self, zone: str) -> str:
        """An expression of systemd's (systemd.time(7))."""
        days = "" if len(self.days) == 7 else ",".join(DAYS[day].capitalize() for day in self.days) + " "
        return f"{days}*-*-* {_field(self.hours, 24)}:{_field(self.minutes, 60)}:00{f' {zone}' if zone else ''}"


def rules(starts: Iterable[int]) -> list[Rule]:
    """The fewest lines that say them: what is alike on several days, and in several hours, stands together."""
    days_of: dict[int, list[int]] = {}
    for start in sorted(starts):
        days_of.setdefault(start % DAY, []).append(start // DAY)
    minutes_of: dict[tuple[tuple[int, ...], int], list[int]] = {}
    for clock, days in sorted(days_of.items()):
        minutes_of.setdefault((tuple(days), clock // 60), []).append(clock % 60)
    hours_of: dict[tuple[tuple[int, ...], tuple[int, ...]], list[int]] = {}
    for (on, hour), minutes in minutes_of.items():
        hours_of.setdefault((on, tuple(minutes)), []).append(hour)
    return [Rule(on, tuple(at), minutes) for (on, minutes), at in hours_of.items()]


def next_start(starts: Collection[int], zone: tzinfo, now: datetime) -> datetime:
    """The first start after an instant, in the zone. A time that its clocks leap over is the one they show instead."""
    midnight = datetime.combine(now.astimezone(zone).date(), datetime.min.time())
    days = (midnight + timedelta(days=day) for day in range(9))
    known = (day + timedelta(minutes=at % DAY) for day in days for at in sorted(starts) if at // DAY == day.weekday())
    moments = (moment.replace(tzinfo=zone).astimezone(UTC) for moment in known)
    return next(moment for moment in moments if moment > now).astimezone(zone)


def elsewhere(starts: Collection[int], zone: tzinfo, machine: tzinfo, now: datetime) -> tuple[int, ...]:
    """The same starts by a clock in another zone, which is all that cron knows.

    Where the two zones change their clocks on other days, each start stands there once for every difference between
    them in the year to come: one of them may be an hour off, and then the policy answers.
    """
    shifts = {_ahead(machine, zone, now + timedelta(days=day)) for day in range(366)}
    return tuple(sorted({(start + shift) % WEEK for start in starts for shift in shifts}))


def _ahead(machine: tzinfo, zone: tzinfo, moment: datetime) -> int:
    """By how many minutes one zone's clocks are ahead of another's."""
    ours, theirs = (moment.astimezone(one).utcoffset() or timedelta() for one in (machine, zone))
    return round((ours - theirs).total_seconds() / 60)


def _moment(minute: int) -> datetime:
    return MONDAY + timedelta(minutes=minute)


def _field(values: tuple[int, ...], whole: int) -> str:
    return "*" if len(values) == whole else ",".join(f"{value:02}" for value in values)

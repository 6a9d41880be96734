"""What goes on beside a run that nobody watches: who is told of it, and this site's own programs around a round."""

from typing import Literal

from pydantic import Field

from fedsite.site.section import Section
from fedsite.site.values import AbsolutePath, MailAddress, WebAddress

Event = Literal["start", "success", "pending", "failure"]


class NotificationSettings(Section):
    """Who is told how fedsite train-round went. What is told depends on no patient: no message, no number of theirs."""

    ping: WebAddress | None = Field(
        default=None,
        description="A service that misses signs of life, such as healthchecks (https://hc-ping.com/...): a POST there"
        " after each run, at /start when a round begins, at /fail after a failure.",
    )
    webhook: WebAddress | None = Field(
        default=None,
        description="Where a JSON object is sent (POST) for each of `events`. Keep the address to yourself.",
    )
    mail_to: list[MailAddress] = Field(
        default=[],
        max_length=20,
        description="Who gets mail for each of `events`, by this machine's sendmail, else its mail server (port 25).",
    )
    mail_from: MailAddress | None = Field(
        default=None, description="Whom such mail comes from; not set: the user who runs fedsite, on this machine."
    )
    events: list[Event] = Field(
        default=["pending", "failure"],
        description="What webhook and mail tell: start (a round begins), success (its update is at the server), pending"
        " (something waits, as a plan for a person), failure. Of what lasts, they tell once a day, and of its end.",
    )


class HookSettings(Section):
    """This site's own programs around a round. Each is run without shell and input, in a small environment of its own;
    what it prints goes nowhere.
    """

    before_round: AbsolutePath | None = Field(
        default=None,
        description="Run once a round is due and allowed. Where it fails (its code is not 0), the round is not begun.",
    )
    after_round: AbsolutePath | None = Field(
        default=None, description="Run when the round has ended or stopped, however it did ($FEDSITE_OUTCOME)."
    )
    seconds: float = Field(default=300, gt=0, le=86_400, description="How long each may take before it is killed.")

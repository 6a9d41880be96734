"""What the server remembers, as SQLAlchemy tables: the same on SQLite and on PostgreSQL (`database`).

The database is the truth; a file counts only once a row says so. Every writer therefore writes the file first,
fsynced and renamed, and the row after it: a crash between the two leaves a file that nobody mentions, and whoever
repeats the work writes the same file again. Whoever changes a table writes a migration (`migrations`).
"""

from datetime import UTC, datetime

from sqlalchemy import BigInteger, DateTime, Dialect, ForeignKey, Integer, String, UniqueConstraint
from sqlalchemy.orm import DeclarativeBase, Mapped, MappedAsDataclass, mapped_column
from sqlalchemy.types import TypeDecorator

REVISION = "0001"
"""The newest of the migrations, which these tables are the outcome of."""

WHOLE_NUMBER = BigInteger().with_variant(Integer(), "sqlite")
"""64 bits: SQLite's INTEGER always has them, PostgreSQL's has 32."""

TEXT = String().with_variant(String(collation="C"), "postgresql")
"""Compared by bytes, as SQLite does: the order in which updates are summed must depend on no locale."""


class Instant(TypeDecorator[datetime]):
    """An aware instant. SQLite forgets time zones, so it is given UTC and trusted to hold UTC."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002 - theirs
        """On the way in: to UTC."""
        return value and value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002 - theirs
        """On the way out: aware, and UTC."""
        return value and (value.astimezone(UTC) if value.tzinfo else value.replace(tzinfo=UTC))


class Table(MappedAsDataclass, DeclarativeBase, kw_only=True):
    """The root of all tables."""

    type_annotation_map = {datetime: Instant, int: WHOLE_NUMBER, str: TEXT}  # noqa: RUF012 - SQLAlchemy's own spelling


class FederationRow(Table):
    """The one row that says what this folder is. `hosts` are the names in the server's certificate, one a line.

    `approval`: a person says yes before an invited site gets its first certificate.
    """

    __tablename__ = "federation"
    name: Mapped[str] = mapped_column(primary_key=True)
    url: Mapped[str]
    hosts: Mapped[str]
    agreement: Mapped[str]
    created: Mapped[datetime]
    agreement_expires: Mapped[datetime | None] = mapped_column(default=None)
    approval: Mapped[bool] = mapped_column(default=False)


class InvitationRow(Table):
    """An invitation, its secret hashed. It serves one public key, `spki_sha256`, the first that asks with it.

    `asked`: when that was. `served`: when it was given its certificate. `approval`: a person must say yes first;
    `approved`: when that was.
    """

    __tablename__ = "invitations"
    secret_sha256: Mapped[str] = mapped_column(primary_key=True)
    site: Mapped[str]
    created: Mapped[datetime]
    expires: Mapped[datetime]
    approval: Mapped[bool] = mapped_column(default=False)
    spki_sha256: Mapped[str | None] = mapped_column(default=None)
    asked: Mapped[datetime | None] = mapped_column(default=None)
    approved: Mapped[datetime | None] = mapped_column(default=None)
    served: Mapped[datetime | None] = mapped_column(default=None)
    revoked: Mapped[datetime | None] = mapped_column(default=None)

    @property
    def pending(self) -> bool:
        """A key has asked, and a person's answer is awaited."""
        return self.asked is not None and self.approval and self.approved is None and self.revoked is None


class CertificateRow(Table):
    """A certificate that this federation's authority has issued to a site; a later one has a higher number.

    Its own dates are whole seconds and cannot tell two certificates of one second apart.
    """

    __tablename__ = "certificates"
    number: Mapped[int] = mapped_column(primary_key=True, init=False)
    sha256: Mapped[str] = mapped_column(unique=True)
    site: Mapped[str] = mapped_column(index=True)
    spki_sha256: Mapped[str]
    der: Mapped[bytes]
    issued: Mapped[datetime]
    expires: Mapped[datetime]
    revoked: Mapped[datetime | None] = mapped_column(default=None)


class SightingRow(Table):
    """When a site last showed its certificate."""

    __tablename__ = "sightings"
    site: Mapped[str] = mapped_column(primary_key=True)
    seen: Mapped[datetime]


class ModelRow(Table):
    """A global model. `round` is the one that made it, None for a model that a person brought."""

    __tablename__ = "models"
    sha256: Mapped[str] = mapped_column(primary_key=True)
    size: Mapped[int]
    created: Mapped[datetime]
    round: Mapped[int | None] = mapped_column(default=None)


class ControlRow(Table):
    """The server's control of SCAFFOLD that a round has made; its file lies beside the models, in their form."""

    __tablename__ = "controls"
    sha256: Mapped[str] = mapped_column(primary_key=True)
    round: Mapped[int]


class MomentsRow(Table):
    """FedAdam's moments that a round has made; their files lie beside the models until a later round of the series."""

    __tablename__ = "moments"
    round: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    first_sha256: Mapped[str]
    second_sha256: Mapped[str]


class ScreenRow(Table):
    """What a round's screen has found, as JSON (`screen.Verdict`), before anything was made of its updates.

    `held_until` is set where a person was to decide; `decision` says what became of the conspicuous ones, empty until
    that is known.
    """

    __tablename__ = "screens"
    round: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    verdict: Mapped[str]
    decision: Mapped[str] = mapped_column(default="")
    held_until: Mapped[datetime | None] = mapped_column(default=None)


class SeriesRow(Table):
    """A plan and how many rounds it runs for.

    `state` is `running`, `paused` or `ended` since `changed`; `reason` says why it does not run. `withheld`: its
    unfinished round is given to no site that has not had it.
    """

    __tablename__ = "series"
    id: Mapped[int] = mapped_column(primary_key=True, init=False)
    plan_sha256: Mapped[str]
    plan: Mapped[str]
    rounds: Mapped[int]
    changed: Mapped[datetime]
    state: Mapped[str] = mapped_column(default="running")
    reason: Mapped[str] = mapped_column(default="")
    withheld: Mapped[bool] = mapped_column(default=False)


class RoundRow(Table):
    """One round. `status` is one of messages.RoundStatus, `held` between closing and what follows (its screen waits
    for a person), or `aborted`, which sites are told as failed. `reason` says why it closed.

    It has made the model `result_sha256`, and SCAFFOLD's control `control_sha256`. Where its plan stops at small steps,
    `step_norm` is how far that model lies from the one before, and `step_values` how many values differ.
    """

    __tablename__ = "rounds"
    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    series_id: Mapped[int] = mapped_column(ForeignKey("series.id"))
    place_in_series: Mapped[int]
    ticket: Mapped[str]
    ticket_sha256: Mapped[str]
    model_sha256: Mapped[str] = mapped_column(ForeignKey("models.sha256"))
    opened: Mapped[datetime]
    expires: Mapped[datetime]
    status: Mapped[str] = mapped_column(default="open", index=True)
    closed: Mapped[datetime | None] = mapped_column(default=None)
    reason: Mapped[str] = mapped_column(default="")
    result_sha256: Mapped[str | None] = mapped_column(default=None)
    control_sha256: Mapped[str | None] = mapped_column(default=None)
    step_norm: Mapped[float | None] = mapped_column(default=None)
    step_values: Mapped[int | None] = mapped_column(default=None)


class AttendanceRow(Table):
    """What a site was told of a round, and what it answered short of an update."""

    __tablename__ = "attendance"
    round: Mapped[int] = mapped_column(ForeignKey("rounds.number"), primary_key=True)
    site: Mapped[str] = mapped_column(primary_key=True)
    offered: Mapped[datetime | None] = mapped_column(default=None)
    refused: Mapped[datetime | None] = mapped_column(default=None)
    refusal: Mapped[str] = mapped_column(default="")


class UploadRow(Table):
    """A site's one update for a round. `offset` counts fsynced bytes only.

    `state` is `receiving`, then `accepted` (there is a receipt), `refused` or `late` (`reason` says why). An accepted
    one that is in no model has been `left_out`, for the reason that stands there. `failures` counts how often all bytes
    came and were not those of the digest.
    """

    __tablename__ = "uploads"
    __table_args__ = (UniqueConstraint("round", "site"),)
    id: Mapped[str] = mapped_column(primary_key=True)
    round: Mapped[int] = mapped_column(ForeignKey("rounds.number"))
    site: Mapped[str]
    sha256: Mapped[str]
    size: Mapped[int]
    ledger_sequence: Mapped[int]
    weight: Mapped[float]
    created: Mapped[datetime]
    offset: Mapped[int] = mapped_column(default=0)
    failures: Mapped[int] = mapped_column(default=0)
    state: Mapped[str] = mapped_column(default="receiving")
    reason: Mapped[str] = mapped_column(default="")
    left_out: Mapped[str] = mapped_column(default="")
    received: Mapped[datetime | None] = mapped_column(default=None)
    receipt: Mapped[str | None] = mapped_column(default=None)

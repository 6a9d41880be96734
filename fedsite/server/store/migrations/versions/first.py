"""The first tables."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

INSTANT = sa.DateTime(timezone=True)
WHOLE_NUMBER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
TEXT = sa.String().with_variant(sa.String(collation="C"), "postgresql")


def upgrade() -> None:
    """From an empty database."""
    _sites()
    _models()
    _rounds()
    _uploads()


def _sites() -> None:
    op.create_table(
        "federation",
        sa.Column("name", TEXT, nullable=False),
        sa.Column("url", TEXT, nullable=False),
        sa.Column("hosts", TEXT, nullable=False),
        sa.Column("agreement", TEXT, nullable=False),
        sa.Column("created", INSTANT, nullable=False),
        sa.Column("agreement_expires", INSTANT, nullable=True),
        sa.Column("approval", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("name"),
    )
    op.create_table(
        "invitations",
        sa.Column("secret_sha256", TEXT, nullable=False),
        sa.Column("site", TEXT, nullable=False),
        sa.Column("created", INSTANT, nullable=False),
        sa.Column("expires", INSTANT, nullable=False),
        sa.Column("approval", sa.Boolean(), nullable=False),
        sa.Column("spki_sha256", TEXT, nullable=True),
        sa.Column("asked", INSTANT, nullable=True),
        sa.Column("approved", INSTANT, nullable=True),
        sa.Column("served", INSTANT, nullable=True),
        sa.Column("revoked", INSTANT, nullable=True),
        sa.PrimaryKeyConstraint("secret_sha256"),
    )
    op.create_table(
        "certificates",
        sa.Column("number", WHOLE_NUMBER, nullable=False),
        sa.Column("sha256", TEXT, nullable=False),
        sa.Column("site", TEXT, nullable=False),
        sa.Column("spki_sha256", TEXT, nullable=False),
        sa.Column("der", sa.LargeBinary(), nullable=False),
        sa.Column("issued", INSTANT, nullable=False),
        sa.Column("expires", INSTANT, nullable=False),
        sa.Column("revoked", INSTANT, nullable=True),
        sa.PrimaryKeyConstraint("number"),
        sa.UniqueConstraint("sha256"),
    )
    op.create_index("ix_certificates_site", "certificates", ["site"])
    op.create_table(
        "sightings",
        sa.Column("site", TEXT, nullable=False),
        sa.Column("seen", INSTANT, nullable=False),
        sa.PrimaryKeyConstraint("site"),
    )


def _models() -> None:
    op.create_table(
        "models",
        sa.Column("sha256", TEXT, nullable=False),
        sa.Column("size", WHOLE_NUMBER, nullable=False),
        sa.Column("created", INSTANT, nullable=False),
        sa.Column("round", WHOLE_NUMBER, nullable=True),
        sa.PrimaryKeyConstraint("sha256"),
    )
    op.create_table(
        "controls",
        sa.Column("sha256", TEXT, nullable=False),
        sa.Column("round", WHOLE_NUMBER, nullable=False),
        sa.PrimaryKeyConstraint("sha256"),
    )
    op.create_table(
        "moments",
        sa.Column("round", WHOLE_NUMBER, nullable=False, autoincrement=False),
        sa.Column("first_sha256", TEXT, nullable=False),
        sa.Column("second_sha256", TEXT, nullable=False),
        sa.PrimaryKeyConstraint("round"),
    )


def _rounds() -> None:
    op.create_table(
        "screens",
        sa.Column("round", WHOLE_NUMBER, nullable=False, autoincrement=False),
        sa.Column("verdict", TEXT, nullable=False),
        sa.Column("decision", TEXT, nullable=False),
        sa.Column("held_until", INSTANT, nullable=True),
        sa.PrimaryKeyConstraint("round"),
    )
    op.create_table(
        "series",
        sa.Column("id", WHOLE_NUMBER, nullable=False),
        sa.Column("plan_sha256", TEXT, nullable=False),
        sa.Column("plan", TEXT, nullable=False),
        sa.Column("rounds", WHOLE_NUMBER, nullable=False),
        sa.Column("changed", INSTANT, nullable=False),
        sa.Column("state", TEXT, nullable=False),
        sa.Column("reason", TEXT, nullable=False),
        sa.Column("withheld", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_table(
        "rounds",
        sa.Column("number", WHOLE_NUMBER, nullable=False, autoincrement=False),
        sa.Column("series_id", WHOLE_NUMBER, nullable=False),
        sa.Column("place_in_series", WHOLE_NUMBER, nullable=False),
        sa.Column("ticket", TEXT, nullable=False),
        sa.Column("ticket_sha256", TEXT, nullable=False),
        sa.Column("model_sha256", TEXT, nullable=False),
        sa.Column("opened", INSTANT, nullable=False),
        sa.Column("expires", INSTANT, nullable=False),
        sa.Column("status", TEXT, nullable=False),
        sa.Column("closed", INSTANT, nullable=True),
        sa.Column("reason", TEXT, nullable=False),
        sa.Column("result_sha256", TEXT, nullable=True),
        sa.Column("control_sha256", TEXT, nullable=True),
        sa.Column("step_norm", sa.Double(), nullable=True),
        sa.Column("step_values", WHOLE_NUMBER, nullable=True),
        sa.ForeignKeyConstraint(["series_id"], ["series.id"]),
        sa.ForeignKeyConstraint(["model_sha256"], ["models.sha256"]),
        sa.PrimaryKeyConstraint("number"),
    )
    op.create_index("ix_rounds_status", "rounds", ["status"])
    op.create_table(
        "attendance",
        sa.Column("round", WHOLE_NUMBER, nullable=False),
        sa.Column("site", TEXT, nullable=False),
        sa.Column("offered", INSTANT, nullable=True),
        sa.Column("refused", INSTANT, nullable=True),
        sa.Column("refusal", TEXT, nullable=False),
        sa.ForeignKeyConstraint(["round"], ["rounds.number"]),
        sa.PrimaryKeyConstraint("round", "site"),
    )


def _uploads() -> None:
    op.create_table(
        "uploads",
        sa.Column("id", TEXT, nullable=False),
        sa.Column("round", WHOLE_NUMBER, nullable=False),
        sa.Column("site", TEXT, nullable=False),
        sa.Column("sha256", TEXT, nullable=False),
        sa.Column("size", WHOLE_NUMBER, nullable=False),
        sa.Column("ledger_sequence", WHOLE_NUMBER, nullable=False),
        sa.Column("weight", sa.Double(), nullable=False),
        sa.Column("created", INSTANT, nullable=False),
        sa.Column("offset", WHOLE_NUMBER, nullable=False),
        sa.Column("failures", WHOLE_NUMBER, nullable=False),
        sa.Column("state", TEXT, nullable=False),
        sa.Column("reason", TEXT, nullable=False),
        sa.Column("left_out", TEXT, nullable=False),
        sa.Column("received", INSTANT, nullable=True),
        sa.Column("receipt", TEXT, nullable=True),
        sa.ForeignKeyConstraint(["round"], ["rounds.number"]),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("round", "site"),
    )

"""The one wording of a privacy guarantee: no epsilon is ever shown without unit, relation and delta."""

MEANINGFUL = 20.0
NOT_PRIVATE = "not private"
NO_MEANINGFUL_GUARANTEE = "no meaningful guarantee"


def scale(delta: float) -> str:
    """What every epsilon of a ledger is measured in: the caption of a table of them."""
    return f"epsilon {_measured(delta)}"


def guarantee(epsilon: float | None, delta: float) -> str:
    """States a guarantee in words; `epsilon` None means that something left without noise."""
    if epsilon is None:
        return f"{NOT_PRIVATE}: something left this site without noise"
    shown = f"{epsilon:,.0f}" if epsilon >= 1000 else f"{epsilon:.3g}"
    text = f"epsilon {shown} {_measured(delta)}"
    return f"{text}: {NO_MEANINGFUL_GUARANTEE}" if epsilon > MEANINGFUL else text


def _measured(delta: float) -> str:
    """Unit, relation and delta."""
    return f"per patient (add or remove one), delta {delta:g}"

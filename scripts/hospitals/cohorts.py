"""Who comes to a hospital: how large its strokes are, how old, and what else is seen in these brains."""

from dataclasses import dataclass

Span = tuple[float, float]


@dataclass(frozen=True)
class Cohort:
    """Ranges from which each patient is drawn uniformly (volumes: uniformly in their logarithm).

    `lesion_ml` is the volume of the acute infarct, `adc_drop` (mm2/s) and `t2_rise` (share of the signal at b = 0) its
    contrast: an infarct of hours has little T2, one of days has much. `spared` says how little chronic white matter
    disease there is: at 2 none, below 0 confluent. It is no infarct, but shines through on the trace image, more so the
    higher `chronic_t2_rise` is.
    """

    lesion_ml: Span = (4.0, 150.0)
    adc_drop: Span = (0.27e-3, 0.5e-3)
    t2_rise: Span = (0.05, 0.5)
    spared: Span = (0.0, 2.0)
    chronic_t2_rise: float = 0.45


ORDINARY = Cohort()

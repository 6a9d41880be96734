"""The ways of learning that are compared. In each of them every site takes the same number of steps, a lone one too."""

from dataclasses import dataclass, replace
from typing import Literal

from fedsite.wire.server_rules import Aggregation, NormBounded, ServerAdam, TrimmedMean

STEPS = 480
NETWORK = "unet"


@dataclass(frozen=True)
class Privacy:
    """dp-sgd, as a plan asks for it, and the number of patients that a site has typed (`nominal_patients`)."""

    clip_norm: float
    noise_multiplier: float
    batch_patients: int
    patients: int

    @property
    def sampling_rate(self) -> float:
        """How likely a patient is in a step."""
        return self.batch_patients / self.patients


@dataclass(frozen=True)
class Recipe:
    """How is learned: what the plans of a series of rounds say of it.

    `steps` is what each site takes in all rounds together, `batch_size` counts its patches, `schedule` is that of the
    learning rate within a round. In the last `late_rounds` (a share) a second plan goes on with a tenth of it. `mu` is
    FedProx's, `server_momentum` FedAvgM's, `server_adam` FedAdam's. Updates travel as `payload`. With `privacy` a step
    is one of dp-sgd, of a patch of each sampled patient.
    """

    name: str
    rounds: int = 1
    steps: int = STEPS
    batch_size: int = 2
    learning_rate: float = 0.1
    momentum: float = 0.9
    schedule: Literal["constant", "cosine"] = "constant"
    late_rounds: float = 0.0
    algorithm: Literal["fedavg", "fedprox", "scaffold", "fedbn"] = "fedavg"
    mu: float = 0.0
    server_momentum: float = 0.0
    aggregation: Aggregation = "mean"
    server_adam: ServerAdam | None = None
    payload: Literal["float32", "float16", "int8"] = "float32"
    privacy: Privacy | None = None
    channels: tuple[int, ...] = (8, 16, 32, 64)
    patch: tuple[int, int, int] = (40, 40, 40)

    @property
    def network(self) -> dict[str, object]:
        """The network's settings: FedBN needs a normalisation that has weights."""
        return {"channels": [*self.channels], **({"affine": 1} if self.algorithm == "fedbn" else {})}

    def shorter(self, steps: int) -> "Recipe":
        """The same with fewer steps, and no more rounds than these."""
        return replace(self, steps=steps, rounds=min(self.rounds, steps))

    def of_patches(self, factor: int) -> "Recipe":
        """The same with so many times the patches in each step: as many as a federation of so many sites sees."""
        return replace(self, batch_size=self.batch_size * factor)

    def learning_rate_in(self, number: int) -> float:
        """That of the round with this number, from 0."""
        late = number >= round(self.rounds * (1 - self.late_rounds))
        return self.learning_rate * (0.1 if late and self.late_rounds else 1.0)

    def steps_in(self, number: int) -> int:
        """How many of the steps a site takes in the round with this number, from 0."""
        return self.steps * (number + 1) // self.rounds - self.steps * number // self.rounds


ALONE = (Recipe("cosine", schedule="cosine"), Recipe("constant"))
"""A lone site, and all data in one place, may choose too."""

TRIMMED = TrimmedMean(name="trimmed-mean", share=0.25)  # of four sites the largest and the smallest
BOUNDED = NormBounded(name="norm-bounded", bound=0.5)

FEDERATED = (
    Recipe("fedavg 96 rounds falling", rounds=96, late_rounds=0.25),
    Recipe("momentum 96 rounds falling", rounds=96, late_rounds=0.25, server_momentum=0.5),
    Recipe("fedprox 96 rounds falling", rounds=96, late_rounds=0.25, algorithm="fedprox", mu=0.1),
    Recipe("scaffold 96 rounds", rounds=96, algorithm="scaffold", momentum=0.0, learning_rate=0.3),
    Recipe("fedbn 96 rounds falling", rounds=96, late_rounds=0.25, algorithm="fedbn"),
    Recipe("median 96 rounds falling", rounds=96, late_rounds=0.25, aggregation="median"),
    Recipe("trimmed mean 96 rounds falling", rounds=96, late_rounds=0.25, aggregation=TRIMMED),
    Recipe("norm-bounded 96 rounds falling", rounds=96, late_rounds=0.25, aggregation=BOUNDED),
    Recipe("fedadam 96 rounds falling", rounds=96, late_rounds=0.25, server_adam=ServerAdam(learning_rate=0.01)),
    Recipe("fedavg float16 96 rounds falling", rounds=96, late_rounds=0.25, payload="float16"),
    Recipe("fedavg int8 96 rounds falling", rounds=96, late_rounds=0.25, payload="int8"),
    Recipe("fedavg 96 rounds", rounds=96),
    Recipe("fedavg 24 rounds falling", rounds=24, late_rounds=0.25),
    Recipe("fedavg 24 rounds", rounds=24),
    Recipe("fedavg 24 rounds cosine", rounds=24, schedule="cosine"),
    Recipe("fedavg 6 rounds", rounds=6),
)

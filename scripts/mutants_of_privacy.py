"""What must not go unseen: each promise on privacy, broken. `scripts/mutants` tries them one by one."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Mutant:
    """A textual change of one file (its `old` text stands there once), and the tests that must see it."""

    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]


GATE, DPSGD, LEDGER = "fedsite/privacy/mechanism.py", "fedsite/privacy/dpsgd.py", "fedsite/privacy/ledger.py"
ROUND, CHARGING, WORK = (
    "fedsite/jobs/round/state_machine.py",
    "fedsite/jobs/plan/charging.py",
    "fedsite/jobs/training/local_work.py",
)
PRIVATE, PLANS, ACCOUNTANT = "fedsite/training/private.py", "fedsite/wire/plans.py", "fedsite/privacy/accountant.py"
OF_GATE, OF_DPSGD = "tests/unit/privacy/test_mechanism.py::", "tests/unit/privacy/test_dpsgd.py::"
OF_LEDGER, OF_ACCOUNTANT = "tests/unit/privacy/test_ledger.py::", "tests/unit/privacy/test_accountant.py::"
OF_TRAINING, OF_PRIVATE = "tests/unit/jobs/training/test_private_training.py::", "tests/unit/training/test_private.py::"
OF_CHARGING, OF_ROUNDING = "tests/unit/jobs/plan/test_charging.py::", "tests/unit/privacy/test_rounding.py::"

BY_CHANCE = "steps += chance.below_one(steps.size)"
DEVIATION = "(gate.noise_multiplier * STEPS_PER_CLIP_NORM)"
NO_LONGER = "if not square <= STEPS_PER_CLIP_NORM**2:"
FACTOR = "min(gate.scale, STEPS_PER_CLIP_NORM * (1 - 2.0**-40) / norm) if norm > 0 else gate.scale"

MUTANTS = (
    # --- the gate -------------------------------------------------------------------------------------------------
    Mutant(
        "noise halved",
        GATE,
        DEVIATION,
        f"(0.5 * {DEVIATION[1:]}",
        (OF_GATE + "test_the_noise_in_a_release_is_sigma_times_c",),
    ),
    Mutant(
        "noise one part in a hundred short",
        GATE,
        DEVIATION,
        f"(0.99 * {DEVIATION[1:]}",
        (OF_GATE + "test_the_noise_in_a_release_is_sigma_times_c",),
    ),
    Mutant("no clip", GATE, FACTOR, "gate.scale", (OF_GATE + "test_without_noise_the_release_is_the_clipped_update",)),
    Mutant(
        "nothing asks whether the clip worked",
        GATE,
        NO_LONGER,
        "if False:",
        (OF_GATE + "test_a_slightly_longer_update_in_the_second_pass_leaves_nothing",),
    ),
    Mutant(
        "rounded instead of cut towards zero",
        GATE,
        "np.trunc(steps, out=steps)",
        "np.rint(steps, out=steps)",
        (OF_GATE + "test_the_integer_norm_before_noise_never_exceeds_the_bound",),
    ),
    Mutant(
        "clipped and not noised",
        GATE,
        "yield add_noise(clipped, gate, noise) / gate.scale",
        "yield clipped / gate.scale",
        (OF_GATE + "test_the_noise_in_a_release_is_sigma_times_c",),
    ),
    Mutant(
        "int8 to the nearest step",
        GATE,
        BY_CHANCE,
        "steps += 0.5",
        (OF_ROUNDING + "test_rounding_is_true_in_the_mean",),
    ),
    Mutant(
        "int8 rounded by a seed",
        GATE,
        BY_CHANCE,
        "steps += np.random.default_rng(part.start).random(steps.size)",
        (OF_ROUNDING + "test_nothing_seeds_the_rounding",),
    ),
    Mutant(
        "what was noised stays in a file beside what leaves",
        GATE,
        "tempfile.TemporaryFile(dir=folder)",
        "tempfile.NamedTemporaryFile(dir=folder, delete=False)",
        (OF_ROUNDING + "test_what_was_noised_waits_in_a_file_without_a_name",),
    ),
    Mutant(
        "noise off the grid",
        GATE,
        "np.rint(steps, out=steps).astype(np.int64)",
        "steps",
        (OF_GATE + "test_add_noise_adds_rounded_multiples_of_sigma",),
    ),
    Mutant(
        "noise from a fixed key",
        GATE,
        "os.urandom(32), os.urandom(16)",
        "bytes(32), bytes(16)",
        (OF_GATE + "test_nothing_seeds_the_noise",),
    ),
    Mutant(
        "a logarithm of zero",
        GATE,
        "(self._words(small.size) + 1.0)",
        "self._words(small.size)",
        (OF_GATE + "test_neighbouring_radii_lie_within_one_step_of_the_gate_even_in_the_tail",),
    ),
    Mutant(
        "gaps in the noise's tail",
        GATE,
        "small = np.flatnonzero(words < np.uint64(1 << 53))",
        "small = np.flatnonzero(words < np.uint64(0))",
        (OF_GATE + "test_neighbouring_radii_lie_within_one_step_of_the_gate_even_in_the_tail",),
    ),
    Mutant(
        "half of the noise twice",
        GATE,
        "np.multiply(2, tangent, out=normal[1])",
        "np.subtract(1, square, out=normal[1])",
        (OF_GATE + "test_the_noise_is_normal_and_independent",),
    ),
    Mutant(
        "noise that was made ahead is taken twice",
        GATE,
        "            yield made.result()\n        made = following",
        "            yield made.result()\n        made = made or following",
        (OF_GATE + "test_noise_made_ahead_is_each_value_once_in_its_order",),
    ),
    Mutant(
        "NaN passes the gate",
        GATE,
        "    if not math.isfinite(total):",
        "    if total < 0:",
        (OF_GATE + "test_what_is_not_finite_leaves_nothing",),
    ),
    Mutant(
        "NaN passes as noised",
        GATE,
        "_write((_finite(read(part)) for",
        "_write((read(part) for",
        (OF_GATE + "test_what_is_noised_and_not_finite_leaves_nothing",),
    ),
    Mutant(
        "the tail of the noise is free",
        GATE,
        "else self.values * 2.0**-53",
        "else 0.0",
        (OF_GATE + "test_the_gates_figures",),
    ),
    # --- dp-sgd ---------------------------------------------------------------------------------------------------
    Mutant(
        "fixed batches called Poisson",
        DPSGD,
        "        found: list[int] = np.flatnonzero(drawn < np.uint64(int(rate * 2**64))).tolist()",
        "        found: list[int] = sorted(np.argsort(drawn)[: round(rate * count)].tolist())",
        (OF_DPSGD + "test_inclusions_are_poisson",),
    ),
    Mutant(
        "n counted instead of typed",
        WORK,
        "settings = Settings(asked.clip_norm, asked.noise_multiplier, asked.batch_patients, sampling_rate)",
        "settings = Settings(asked.clip_norm, asked.noise_multiplier, asked.batch_patients,"
        " min(1.0, asked.batch_patients / len(patients)))",
        (OF_TRAINING + "test_patients_are_sampled_at_the_rate_that_is_charged",),
    ),
    Mutant(
        "the divisor is counted",
        DPSGD,
        "self.gate.scale * self.settings.batch_patients",
        "self.gate.scale * self.patients",
        (OF_DPSGD + "test_the_divisor_is_the_plans_whoever_is_there",),
    ),
    Mutant(
        "patients drawn by a seed",
        DPSGD,
        "np.frombuffer(os.urandom(8 * count), np.uint64)",
        "np.frombuffer(np.random.default_rng(0).bytes(8 * count), np.uint64)",
        (OF_DPSGD + "test_inclusions_are_poisson",),
    ),
    Mutant(
        "the rate rounded up",
        DPSGD,
        "np.uint64(int(rate * 2**64))",
        "np.uint64(math.ceil(rate * 2**64) + 1)",
        (OF_DPSGD + "test_the_rate_is_never_rounded_up",),
    ),
    Mutant(
        "a patient is not clipped",
        DPSGD,
        "factor = mechanism.factor_of(self.gate, norm)",
        "factor = self.gate.scale",
        (OF_DPSGD + "test_small_gradients_are_summed_as_they_are_and_large_ones_clipped",),
    ),
    Mutant(
        "a step without noise",
        DPSGD,
        "mechanism.add_noise(sums[part].astype(np.int64), self.gate, self._noise)",
        "sums[part].astype(np.int64)",
        (OF_DPSGD + "test_the_noise_is_added_once_a_step_to_every_value_that_learns",),
    ),
    Mutant(
        "noise for each chunk the same",
        DPSGD,
        "mechanism.add_noise(sums[part].astype(np.int64), self.gate, self._noise)",
        "sums[part] + mechanism.add_noise(np.zeros(1, np.int64), self.gate, self._noise)",
        (OF_DPSGD + "test_the_noise_of_a_step_has_the_deviation_that_is_charged",),
    ),
    Mutant(
        "an empty step is left out",
        PRIVATE,
        "        loss = self._mechanism(",
        "        if not patients:\n            return 0.0\n        loss = self._mechanism(",
        (OF_TRAINING + "test_exactly_as_many_additions_as_steps_also_with_empty_batches",),
    ),
    Mutant(
        "a NaN patient refuses",
        DPSGD,
        "            self.unusable += 1\n            return loss",
        "            self.unusable += 1\n            raise",
        (OF_DPSGD + "test_a_gradient_that_is_no_number_counts_as_zero_and_changes_nothing_else",),
    ),
    Mutant(
        "studies instead of patients",
        WORK,
        "owners = [record.patient for record in",
        "owners = [record.id for record in",
        (OF_TRAINING + "test_all_studies_of_a_patient_are_clipped_as_one",),
    ),
    Mutant(
        "patches depend on who else is there",
        PRIVATE,
        "self._of(step, *self._patients[number]) for number in self._included()",
        "self._of(step, place, self._patients[number][1]) for place, number in enumerate(self._included())",
        (OF_PRIVATE + "test_nobodys_patches_depend_on_who_else_there_is",),
    ),
    Mutant(
        "batch normalisation allowed",
        DPSGD,
        "        _require_memoryless(network)\n",
        "",
        (OF_DPSGD + "test_a_network_that_keeps_what_it_has_seen_is_refused",),
    ),
    Mutant(
        "early stop on",
        PLANS,
        "if self.local.early_stop is not None and private:",
        "if False:",
        ("tests/unit/jobs/training/test_local_work.py::test_early_stop_is_refused_under_noise_by_name",),
    ),
    # --- what it costs, and when that is charged --------------------------------------------------------------------
    Mutant(
        "C for 2C, in the row",
        CHARGING,
        "asked.clip_norm if private_steps else 2 * asked.clip_norm",
        "asked.clip_norm",
        (OF_CHARGING + "test_an_update_is_charged_once_with_half_the_noise",),
    ),
    Mutant(
        "n counted instead of typed, in the rate",
        CHARGING,
        "plan.privacy.batch_patients / terms.nominal_patients",
        "plan.privacy.batch_patients / max(1, terms.nominal_patients // 2)",
        (OF_CHARGING + "test_the_rate_is_of_the_patients_that_were_typed",),
    ),
    Mutant(
        "retry with new noise",
        LEDGER,
        'if existing.body["payload_sha256"] != payload_sha256:',
        "if False:",
        (OF_LEDGER + "test_a_reservation_has_one_payload",),
    ),
    Mutant(
        "a second charge for the same round",
        LEDGER,
        "if existing := self.reservation(charge.federation, charge.round):",
        "if False:",
        (OF_LEDGER + "test_a_round_is_charged_once",),
    ),
    Mutant(
        "a budget that never ends",
        LEDGER,
        "        if after.epsilon_noised > budget:",
        "        if False:",
        (OF_LEDGER + "test_a_spent_ledger_refuses_and_leaves_no_row",),
    ),
    Mutant(
        "C for 2C, in the price",
        ACCOUNTANT,
        "return Release(noise_multiplier / 2)",
        "return Release(noise_multiplier)",
        (OF_ACCOUNTANT + "test_a_clipped_update_moves_by_twice_the_clip_norm",),
    ),
)

import numpy as np
import pytest
from scipy import stats

from fedsite.training import summary
from fedsite.training.metrics import Lesion, Measures
from fedsite.training.summary import MeasuredCase, estimate, mean_dice, summarise


def measured(dice=0.5, ml=5.0, hd95=3.0, lesions=(), false=0, segmented=None):
    return Measures(dice, hd95, ml, ml if segmented is None else segmented, tuple(lesions), false)


def case(number, patient=None, scanner="A", **measures):
    return MeasuredCase(f"e-{number}", patient or f"p-{number}", scanner, {"lesion": measured(**measures)})


def test_the_interval_is_scipys():
    values = np.random.default_rng(3).beta(4, 2, 12)
    found = estimate((f"p-{number}", value) for number, value in enumerate(values))
    expected = stats.bootstrap((values,), np.mean, n_resamples=20_000, method="BCa", rng=np.random.default_rng(9))
    assert found.mean == pytest.approx(values.mean())
    assert found.low == pytest.approx(expected.confidence_interval.low, abs=0.01)
    assert found.high == pytest.approx(expected.confidence_interval.high, abs=0.01)
    assert found.low < found.mean < found.high


def test_patients_are_drawn_not_cases():
    """Twenty studies of each patient say no more about other patients than one of each."""
    once = [(f"p-{number}", number / 10) for number in range(8)]
    assert estimate(once * 20) == estimate(once)
    spread = [(f"p-{number}-{copy}", value) for copy in range(20) for number, (_, value) in enumerate(once)]
    assert estimate(spread).high - estimate(spread).low < 0.4 * (estimate(once).high - estimate(once).low)


def test_each_patient_counts_once():
    assert estimate([("p-a", 1.0), ("p-a", 0.0), ("p-a", 0.0), ("p-b", 1.0)]).mean == pytest.approx((1 / 3 + 1) / 2)


def test_the_same_cases_have_the_same_interval_in_any_order():
    values = [(f"p-{number}", number**0.5) for number in range(9)]
    assert estimate(values) == estimate(reversed(values))


def test_few_patients_have_no_interval():
    few = estimate([("p-a", 0.1), ("p-b", 0.4)])
    assert (few.mean, few.low, few.high, few.patients) == (pytest.approx(0.25), None, None, 2)
    alike = estimate([("p-a", 0.4), ("p-b", 0.4), ("p-c", 0.4)])
    assert (alike.low, alike.high) == (0.4, 0.4)
    assert estimate([("p-a", 0.1), ("p-b", 0.4), ("p-c", 0.3)]).low is not None


def test_what_is_undefined_is_counted_and_in_no_mean():
    found = estimate([("p-a", None), ("p-a", 2.0), ("p-b", None), ("p-c", 4.0)])
    assert (found.mean, found.patients, found.undefined) == (3.0, 2, 2)
    nothing = estimate([("p-a", None)])
    assert (nothing.mean, nothing.low, nothing.patients, nothing.undefined) == (None, None, 0, 1)


def test_groups_by_size_and_scanner():
    cases = [
        case(1, ml=0.0, hd95=None, dice=1.0),
        case(2, ml=0.99, dice=0.2),
        case(3, ml=1.0, dice=0.4, scanner="B"),
        case(4, ml=9.9, dice=0.6, scanner=""),
        case(5, ml=250.0, dice=0.8, segmented=200.0),
        case(6, patient="p-5", ml=100.0, dice=0.6, segmented=110.0),
    ]
    (found,) = summarise(cases)
    assert found.structure == "lesion"
    assert (found.all.cases, found.all.patients) == (6, 5)
    assert found.all.dice.mean == pytest.approx((1 + 0.2 + 0.4 + 0.6 + 0.7) / 5)
    assert found.all.hd95_mm.undefined == 1
    assert [(row.group, row.cases) for row in found.by_size] == [
        ("none", 1),
        ("< 1 ml", 1),
        ("1 to 10 ml", 2),
        ("\u2265 100 ml", 2),
    ]
    assert found.by_size[-1].patients == 1
    assert found.by_size[-1].volume_difference_ml.mean == pytest.approx(-20)
    assert found.by_size[-1].absolute_volume_difference_ml.mean == pytest.approx(30)
    assert [(row.group, row.cases) for row in found.by_scanner] == [("A", 4), ("B", 1), ("not stated", 1)]
    assert mean_dice(cases) == found.all.dice


def test_lesions_are_counted_by_their_own_size():
    cases = [
        case(1, ml=30.0, lesions=[Lesion(0.5, False), Lesion(29.5, True)]),
        case(2, ml=0.7, lesions=[Lesion(0.7, True)]),
    ]
    (found,) = summarise(cases)
    assert [(one.group, one.lesions, one.found) for one in found.lesions_by_size] == [
        ("< 1 ml", 2, 1),
        ("10 to 100 ml", 1, 1),
    ]


def test_every_structure_has_a_summary_and_weighs_alike():
    cases = [
        MeasuredCase("e-1", "p-1", "", {"whole": measured(0.9), "core": measured(0.3)}),
        MeasuredCase("e-2", "p-2", "", {"whole": measured(0.7), "core": measured(0.1)}),
    ]
    found = summarise(cases)
    assert [one.structure for one in found] == ["whole", "core"]
    assert [case.dice for case in cases] == pytest.approx([0.6, 0.4])
    assert mean_dice(cases).mean == pytest.approx((0.8 + 0.2) / 2)
    assert summarise([]) == ()


def test_sizes_have_no_gap():
    assert [summary.size_of(ml) for ml in (0, 1e-6, 1, 10, 100, 1e6)] == [
        "none",
        "< 1 ml",
        "1 to 10 ml",
        "10 to 100 ml",
        "\u2265 100 ml",
        "\u2265 100 ml",
    ]


@pytest.mark.parametrize(
    "values", [[0, 0, 1], [1, 1, 0, 1], [0, 0, 0, 1e-9], [1e6, -1e6, 0], [0.1, 0.1, 0.1, 0.2]], ids=str
)
def test_an_interval_is_always_a_pair_of_numbers(values):
    """A record is JSON, which has no NaN; and a warning would be an error here."""
    found = estimate((f"p-{number}", float(value)) for number, value in enumerate(values))
    assert found.low <= found.mean <= found.high

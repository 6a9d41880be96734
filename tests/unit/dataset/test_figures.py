import pytest

from fedsite.dataset import figures
from fedsite.dataset.manifest import Exclusion, Remark


def remark(rule: str, severity: str = "warning", message: str = "Something was seen.") -> Remark:
    return Remark(id=rule, severity=severity, message=message, mend="Do something.")


def left_out(study: str, rule: str, message: str = "No.") -> Exclusion:
    return Exclusion(id=study, patient="p-a", findings=(remark(rule, "error", message),))


def ids(noted) -> list[str]:
    return [one.record.id for one in noted]


def test_bars_are_sorted_and_the_rest_is_counted_together():
    labels = [f"scanner {number:02}" for number in range(15) for _ in range(number + 1)]
    bars = figures.bars(labels)
    assert len(bars) == figures.MOST_BARS + 1
    assert (bars[0].label, bars[0].count, bars[0].share) == ("scanner 14", 15, 100)
    assert (bars[-1].label, bars[-1].count) == ("5 others", 1 + 2 + 3 + 4 + 5)
    assert sum(bar.count for bar in bars) == len(labels)
    assert figures.bars([]) == ()


def test_volumes_are_counted_by_steps_without_empty_ends(record_of):
    cases = [record_of("e-a", volume) for volume in (0, 0.5, 2, 2.9, 3, 29)]
    bars = [(bar.label, bar.count) for bar in figures.volumes(cases)]
    assert bars == [("0.3\u20131", 1), ("1\u20133", 2), ("3\u201310", 1), ("10\u201330", 1)]
    ends = [bar.label for bar in figures.volumes([record_of("e-a", 0.001), record_of("e-b", 5000)])]
    assert (ends[0], ends[-1]) == ("< 0.03", "\u2265 300")
    assert figures.volumes([record_of("e-a", 0)]) == ()


def test_ceilings_are_counted_where_there_is_one(record_of):
    cases = [record_of("e-a", dice_ceiling=value) for value in (None, 0.95, 1.0, 0.85, 0.6)]
    found = [(bar.label, bar.count) for bar in figures.ceilings(cases)]
    assert found == [("< 0.7", 1), ("0.7\u20130.8", 0), ("0.8\u20130.9", 1), ("0.9\u20130.95", 0), ("\u2265 0.95", 2)]


def test_reasons_are_grouped_commonest_first():
    studies = [left_out("e-c", "tilt", "1 degree."), left_out("e-a", "label-missing"), left_out("e-b", "tilt", "2.")]
    found = figures.reasons(studies)
    assert [(reason.remark.id, [study.id for study in reason.studies]) for reason in found] == [
        ("tilt", ["e-b", "e-c"]),
        ("label-missing", ["e-a"]),
    ]
    assert [reason.alike for reason in found] == [False, True]


def test_warnings_come_first_then_what_stands_out_then_small_lesions(record_of):
    usual = [record_of(f"e-{number}", 5 + number / 10) for number in range(10)]
    odd = [
        record_of("e-huge", 900),
        record_of("e-warned", 9, (remark("rescale-varying"),)),
        record_of("e-none", 0),
    ]
    found = figures.noted([*usual, *odd])
    assert ids(found)[:3] == ["e-warned", "e-huge", "e-none"]
    assert ids(found)[3:] == [case.id for case in usual]
    counts = {choice.key: choice.count for choice in figures.choices(found)}
    assert counts == {"look": 2, "unusual": 1, "none": 1, "training": 13, "r-rescale-varying": 1}


@pytest.mark.parametrize(("volume", "word"), [(4000, "larger"), (0.002, "smaller"), (20, None)])
def test_a_lesion_is_held_against_the_others(record_of, volume, word):
    usual = [record_of(f"e-{number}", value) for number, value in enumerate((1, 2, 3, 5, 8, 12, 20, 30))]
    found = {one.record.id: one.notes for one in figures.noted([*usual, record_of("e-x", volume)])}
    assert [word in note for note in found["e-x"]] == ([True] if word else [])
    assert not any(found[case.id] for case in usual)


def test_few_lesions_tell_nothing_about_what_is_usual(record_of):
    found = figures.noted([record_of("e-a", 1), record_of("e-b", 1), record_of("e-c", 1000)])
    assert not any(one.notes for one in found)


def test_equal_lesions_do_not_make_their_neighbour_unusual(record_of):
    found = figures.noted([*(record_of(f"e-{number}", 10) for number in range(20)), record_of("e-x", 11)])
    assert not any(one.notes for one in found)

from fedsite.site import withdrawals
from fedsite.site.state import State


def test_a_withdrawal_is_an_audit_record_and_stays(state: State):
    assert withdrawals.withdrawn(state) == frozenset()
    assert withdrawals.withdraw(state, "p-a")
    assert withdrawals.withdraw(state, "p-b")
    assert withdrawals.withdrawn(state) == {"p-a", "p-b"}
    withdrawals.removed(state, "p-a", 3)
    assert [
        {key: value for key, value in record.body.items() if key != "operator"} for record in state.records("audit")
    ] == [
        {"event": "patient-withdrawn", "patient": "p-a"},
        {"event": "patient-withdrawn", "patient": "p-b"},
        {"event": "patient-removed", "patient": "p-a", "files": 3},
    ]
    assert state.verify()["audit"] == 3


def test_once_is_enough(state: State):
    assert withdrawals.withdraw(state, "p-a")
    assert not withdrawals.withdraw(state, "p-a")
    assert len(list(state.records("audit"))) == 1


def test_it_is_still_known_when_the_state_is_opened_again(state: State):
    withdrawals.withdraw(state, "p-a")
    with State.open(state.folder) as again:
        assert withdrawals.withdrawn(again) == {"p-a"}

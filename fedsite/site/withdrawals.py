"""Patients who were withdrawn from this site's data. The audit chain is the list: what was withdrawn stays so.

It lies in the state folder, so that it outlives any folder of prepared data, and its records can be neither changed
nor removed unseen. Patients are named by the site's pseudonyms.
"""

from fedsite.site.state import State

WITHDRAWN = "patient-withdrawn"
REMOVED = "patient-removed"


def withdrawn(state: State) -> frozenset[str]:
    """The pseudonyms of all withdrawn patients."""
    events = (record.body for record in state.records("audit"))
    return frozenset(str(event["patient"]) for event in events if event["event"] == WITHDRAWN)


def withdraw(state: State, patient: str) -> bool:
    """Records that a patient is withdrawn, durably; False when that was on record already."""
    with state.transaction():
        if patient in withdrawn(state):
            return False
        state.audit(WITHDRAWN, patient=patient)
    return True


def removed(state: State, patient: str, files: int) -> None:
    """Records that a withdrawn patient's prepared cases are gone."""
    state.audit(REMOVED, patient=patient, files=files)

"""Several worker processes: what they finish, and what is left of it when one fails."""

import subprocess

import pytest

from fedsite.dataset import pool

FAILS, SHORT, LONG = ["false"], ["true"], ["sleep", "0.7"]
UNBUFFERED = 0


@pytest.mark.parametrize("works", [[LONG, FAILS, SHORT, SHORT], [FAILS, LONG], [FAILS, SHORT]])
def test_what_others_finish_is_given_before_a_failure_is_raised(
    monkeypatch: pytest.MonkeyPatch, works: list[list[str]]
) -> None:
    monkeypatch.setattr(pool, "prepare_study", subprocess.check_call)  # a study is a command here, 0 its result
    given: list[int] = []
    with pytest.raises(subprocess.CalledProcessError):
        given.extend(pool.run(works, UNBUFFERED, workers=2))
    assert given == [0] * (len(works) - 1)


def test_what_has_not_begun_does_not_begin_after_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "prepare_study", subprocess.check_call)
    given: list[int] = []
    with pytest.raises(subprocess.CalledProcessError):
        given.extend(pool.run([FAILS, *[LONG] * 20], UNBUFFERED, workers=2))
    assert len(given) < 6

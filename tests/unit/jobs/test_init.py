"""`fedsite init`: what it writes can be read, says what was answered, and is never half there."""

from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsite.errors import ConfigurationError, FedsiteError, UsageError
from fedsite.jobs import init
from fedsite.jobs.init import Answers, initialise, site_yaml
from fedsite.privacy.ledger import Ledger
from fedsite.site import config
from fedsite.site.state import State


def answers(folder: Path, **changes: object) -> Answers:
    whole = Answers(folder / "state", folder / "data", ("stroke-dwi",), 8.0, 1e-6, 100)
    return replace(whole, **changes)  # type: ignore[arg-type]


def test_a_site_is_set_up(tmp_path: Path) -> None:
    path = tmp_path / "etc" / "site.yaml"
    terms = initialise(path, answers(tmp_path))
    loaded = config.load(path, {})
    assert loaded.paths.state == tmp_path / "state"
    assert (loaded.privacy.epsilon, loaded.privacy.delta, loaded.privacy.nominal_patients) == (8.0, 1e-6, 100)
    assert loaded.policy.tasks == ["stroke-dwi"]
    with State.open(tmp_path / "state") as state:
        assert Ledger(state).terms == terms
        assert state.verify() == {"ledger": 1, "audit": 2}
        assert (state.folder / "identity" / "pseudonyms.key").stat().st_mode & 0o777 == 0o600


def test_every_key_of_the_schema_is_in_the_file(tmp_path: Path) -> None:
    """The file is the manual: a key that the schema knows and the file does not name stays unknown."""
    written = yaml.safe_load(site_yaml(answers(tmp_path)))
    assert written.pop("version") == config.VERSION
    named = {f"{section}.{key}" for section, keys in written.items() for key in keys}
    assert named == {key for key in config.known_keys(config.SiteConfig) if "." in key}


def test_the_file_says_the_defaults(tmp_path: Path) -> None:
    path = tmp_path / "site.yaml"
    path.write_text(site_yaml(answers(tmp_path)))
    loaded = config.load(path, {})
    fresh = config.SiteConfig.model_validate(
        {
            "paths": {"state": tmp_path / "state", "data": tmp_path / "data"},
            "privacy": {"epsilon": 8, "delta": 1e-6, "nominal_patients": 100},
            "policy": {"tasks": ["stroke-dwi"]},
        }
    )
    assert loaded == fresh


@settings(max_examples=60, deadline=None)
@given(
    epsilon=st.sampled_from([0.1, 8.0, 1e6, 123456.0]),
    exponent=st.integers(3, 9),
    patients=st.integers(1, 10**6),
    name=st.text(
        st.characters(blacklist_categories=["Cs", "Cc"], blacklist_characters="/\x85\u2028\u2029"), min_size=1
    ),
)
def test_the_file_says_what_was_answered(
    tmp_path_factory: pytest.TempPathFactory, epsilon: float, exponent: int, patients: int, name: str
) -> None:
    path = tmp_path_factory.getbasetemp() / "answered.yaml"
    folder, delta = Path("/srv") / name, 10.0**-exponent
    path.write_text(site_yaml(Answers(folder, folder, ("a", "b"), epsilon, delta, patients)), encoding="utf-8")
    loaded = config.load(path, {})
    assert (loaded.paths.state, loaded.paths.data) == (folder, folder)
    assert (loaded.privacy.epsilon, loaded.privacy.delta) == (pytest.approx(epsilon), pytest.approx(delta))
    assert loaded.privacy.nominal_patients == patients
    assert loaded.policy.tasks == ["a", "b"]


def test_delta_must_be_below_one_patient_in_all(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"not below 1 / 1000000 patients"):
        initialise(tmp_path / "site.yaml", answers(tmp_path, nominal_patients=1_000_000))
    assert list(tmp_path.iterdir()) == []


def test_a_configuration_is_never_overwritten(tmp_path: Path) -> None:
    (tmp_path / "site.yaml").write_text("mine")
    with pytest.raises(ConfigurationError, match="exists already"):
        initialise(tmp_path / "site.yaml", answers(tmp_path))
    assert (tmp_path / "site.yaml").read_text() == "mine"
    assert not (tmp_path / "state").exists()


def test_an_interrupted_init_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "site.yaml"

    def cut(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(init, "write_atomically", cut)
        with pytest.raises(KeyboardInterrupt):
            initialise(path, answers(tmp_path))
    key = (tmp_path / "state" / "identity" / "pseudonyms.key").read_bytes()
    initialise(path, answers(tmp_path))
    assert (tmp_path / "state" / "identity" / "pseudonyms.key").read_bytes() == key
    with State.open(tmp_path / "state") as state:
        assert state.verify()["ledger"] == 1


@pytest.mark.parametrize("changes", [{"epsilon": 9.0}, {"delta": 1e-7}, {"nominal_patients": 99}])
def test_the_terms_of_an_existing_ledger_cannot_be_changed(tmp_path: Path, changes: dict[str, object]) -> None:
    initialise(tmp_path / "site.yaml", answers(tmp_path))
    with pytest.raises(ConfigurationError, match="other terms"):
        initialise(tmp_path / "second.yaml", answers(tmp_path, **changes))
    assert not (tmp_path / "second.yaml").exists()


@pytest.mark.parametrize(
    "changes",
    [{"epsilon": 0.0}, {"epsilon": float("nan")}, {"epsilon": float("inf")}, {"delta": 0.0}, {"delta": 1e-12}],
)
def test_answers_out_of_range_leave_nothing_or_a_site_that_works(tmp_path: Path, changes: dict[str, object]) -> None:
    path = tmp_path / "site.yaml"
    try:
        initialise(path, answers(tmp_path, **changes))
    except FedsiteError:
        assert not path.exists()
        assert not (tmp_path / "state").exists()
    else:
        assert config.load(path, {}).privacy.delta == pytest.approx(changes.get("delta", 1e-6))

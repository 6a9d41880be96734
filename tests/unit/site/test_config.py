"""The configuration: found in fixed places, closed, owned, and not to be loosened from outside."""

import os
from pathlib import Path

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fedsite.errors import ConfigurationError
from fedsite.site import config
from fedsite.site.config import SiteConfig
from fedsite.site.policy import NO_PRIVACY_SENTENCE

MINIMAL = {
    "paths": {"state": "/srv/fedsite/state", "data": "/srv/fedsite/data"},
    "privacy": {"epsilon": 8, "nominal_patients": 50},
}


def write(folder: Path, changes: dict[str, object] | None = None, name: str = "site.yaml") -> Path:
    path = folder / name
    path.write_text(yaml.safe_dump(MINIMAL | (changes or {})))
    return path


@pytest.fixture
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Empty user and system places, and a current folder of its own."""
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "user"))
    monkeypatch.setattr(config, "SYSTEM_CONFIG", tmp_path / "system.yaml")
    return tmp_path


# --- where it is looked for -----------------------------------------------------------------------------------------


def test_the_search_goes_from_the_explicit_to_the_system(nowhere: Path) -> None:
    explicit, named = write(nowhere, name="a.yaml"), write(nowhere, name="b.yaml")
    system = write(nowhere, name="system.yaml")
    assert config.find(None, {}) == system
    (nowhere / "user" / "fedsite").mkdir(parents=True)
    user = write(nowhere / "user" / "fedsite")
    assert config.find(None, {}) == user
    assert config.find(None, {"FEDSITE_CONFIG": str(named)}) == named
    assert config.find(explicit, {"FEDSITE_CONFIG": str(named)}) == explicit


def test_the_current_folder_is_never_looked_at(nowhere: Path) -> None:
    for name in ("site.yaml", "fedsite.yaml", "fedsite/site.yaml"):
        (nowhere / "cwd" / name).parent.mkdir(exist_ok=True)
        write(nowhere / "cwd", name=name)
    with pytest.raises(ConfigurationError, match="There is no configuration: neither") as missing:
        config.find(None, {})
    assert missing.value.exit_code == 78
    assert "fedsite init" in missing.value.mend


@pytest.mark.parametrize("how", ["explicit", "environment"])
def test_a_named_file_that_is_absent_is_not_replaced_by_another(nowhere: Path, how: str) -> None:
    write(nowhere, name="system.yaml")
    absent = nowhere / "absent.yaml"
    with pytest.raises(ConfigurationError, match=r"absent\.yaml"):
        config.find(absent if how == "explicit" else None, {"FEDSITE_CONFIG": str(absent)})


# --- whose it is ----------------------------------------------------------------------------------------------------


def test_another_users_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path)
    monkeypatch.setattr(os, "geteuid", lambda: path.stat().st_uid + 12345)
    if path.stat().st_uid == 0:
        os.chown(path, 12, 12)
    with pytest.raises(ConfigurationError, match="belongs to another user") as refused:
        config.load(path, {})
    assert refused.value.exit_code == 78


def test_a_file_that_everybody_may_write_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path)
    path.chmod(0o646)
    with pytest.raises(ConfigurationError, match=r"can be changed by every user\."):
        config.load(path, {})
    path.chmod(0o664)
    with pytest.raises(ConfigurationError, match="can be changed by every user of its group") as refused:
        config.load(path, {})
    assert refused.value.mend == f"Run: chmod go-w {path}"
    path.chmod(0o644)
    assert config.load(path, {}).privacy.epsilon == 8


# --- what it may say ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "named", "mend"),
    [
        ({"polcy": {}}, "unknown key polcy", "Did you mean policy?"),
        ({"policy": {"maximum_step": 5}}, "unknown key policy.maximum_step", "Did you mean policy.maximum_steps?"),
        ({"policy": {"minimum_noise": 5}}, "unknown key policy.minimum_noise", "policy.minimum_noise_multiplier"),
        ({"zzz": 1}, "unknown key zzz", "config schema"),
        ({"privacy": {"epsilon": 8}}, "privacy.nominal_patients is missing", "Add it"),
        ({"privacy": {"epsilon": 0, "nominal_patients": 5}}, "privacy.epsilon", ""),
        ({"privacy": {"epsilon": float("nan"), "nominal_patients": 5}}, "privacy.epsilon", ""),
        ({"privacy": {"epsilon": float("inf"), "nominal_patients": 5}}, "privacy.epsilon", ""),
        ({"privacy": {"epsilon": 8, "nominal_patients": 0}}, "privacy.nominal_patients", ""),
        ({"privacy": {"epsilon": 8, "delta": 0.5, "nominal_patients": 5}}, "privacy.delta", ""),
        ({"policy": {"minimum_noise_multiplier": float("nan")}}, "policy.minimum_noise_multiplier", ""),
        ({"policy": {"maximum_epsilon": -1}}, "policy.maximum_epsilon", ""),
        (
            {"policy": {"maximum_steps": True}},
            "policy.maximum_steps: true (YAML also writes it yes, no, on, off) is no number",
            "explain policy.maximum_steps",
        ),
        (
            {"privacy": {"epsilon": True, "nominal_patients": 5}},
            "privacy.epsilon: true (YAML",
            "explain privacy.epsilon",
        ),
        (
            {"policy": {"tasks": "stroke-dwi"}},
            "policy.tasks: must be a list, in brackets: [stroke-dwi]",
            "explain policy",
        ),
        ({"policy": {"hours": None}}, "policy.hours: must be a list", "fedsite config explain policy.hours tells"),
        ({"policy": {"hours": ["8:00-9:00"]}}, "policy.hours.0: must be written as 20:00-06:00", "policy.hours tells"),
        ({"policy": {"hours": [1200]}}, "policy.hours.0: must be written as 20:00-06:00", "policy.hours tells"),
        ({"policy": {"time_zone": "+01:00"}}, "policy.time_zone: is not written", "explain policy.time_zone"),
        ({"policy": {"weak_privacy": "We know this."}}, "policy.weak_privacy: must be empty, or exactly: We know", ""),
        ({"policy": {"no_privacy": NO_PRIVACY_SENTENCE[:-1]}}, "policy.no_privacy: must be empty, or exactly: We", ""),
        ({"training": {"device": "tpu"}}, "training.device", ""),
        ({"preparation": {"spacing_mm": [1, 1]}}, "preparation.spacing_mm", ""),
        ({"preparation": {"spacing_mm": [1, 1, 0.01]}}, "preparation.spacing_mm.2", ""),
        ({"network": None}, "network", ""),
        ({"paths": {"state": "state", "data": "/d"}}, "paths.state: must be an absolute path", ""),
        ({"paths": {"state": "/s", "data": "~/d"}}, "paths.data: must be an absolute path", ""),
    ],
)
def test_a_wrong_key_or_value_is_named(tmp_path: Path, changes: dict[str, object], named: str, mend: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        config.load(write(tmp_path, changes), {})
    assert named in refused.value.message
    assert mend in refused.value.mend
    assert refused.value.mend
    assert refused.value.exit_code == 78


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("privacy:\n  epsilon: 8\n  epsilon: 800\n", "not valid YAML (line 3)"),
        ("paths: {state: /a, state: /b}\n", "not valid YAML (line 1)"),
        ("a: [1\n", "not valid YAML"),
        ("- a\n- b\n", "holds no settings"),
        ("", "holds no settings"),
        ("x: !!python/object/apply:os.system ['echo']\n", "not valid YAML"),
        ("x: 2024-13-45\n", "cannot build"),
        ("? [a]\n: b\n", "cannot build"),
        ("[" * 1500, "cannot build"),
        ("a: \x00", "not valid YAML"),
    ],
)
def test_what_is_no_configuration_is_refused(tmp_path: Path, text: str, complaint: str) -> None:
    path = tmp_path / "site.yaml"
    path.write_text(text)
    with pytest.raises(ConfigurationError) as refused:
        config.read_yaml(path)
    assert complaint in refused.value.message


def test_what_was_looked_at_is_what_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("first", "second"):
        (tmp_path / name).write_text(f"whose: {name}\n")
    link = tmp_path / "site.yaml"
    link.symlink_to("first")
    check = config.check_owner

    def then_swap(path: Path, status: os.stat_result | None = None) -> None:
        check(path, status)
        link.unlink()
        link.symlink_to("second")

    monkeypatch.setattr(config, "check_owner", then_swap)
    assert config.read_yaml(link) == {"whose": "first"}
    assert link.read_text() == "whose: second\n"


@pytest.mark.parametrize("content", [b"\xff\xfe\x00", b"a: \xe9\n"])
def test_what_is_no_text_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "site.yaml").write_bytes(content)
    with pytest.raises(ConfigurationError, match="cannot be read"):
        config.read_yaml(tmp_path / "site.yaml")


@settings(max_examples=200, deadline=None)
@given(text=st.text(alphabet=" \n-:?&*!|>'\"%@`{}[],#abz019.~<=", max_size=60))
@example("&a [*a]")
@example("a: !!map x")
@example("<<: *a")
@example("!!timestamp 1")
@example("!!bool 5")
@example("!!int x")
@example("0x")
@example("1e999: .nan")
@example("=: =")
@example("1:2:3")
def test_any_text_is_settings_or_a_named_error(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    path = tmp_path_factory.getbasetemp() / "any.yaml"
    path.write_text(text)
    try:
        assert isinstance(config.read_yaml(path), dict)
    except ConfigurationError:
        return


_optional_positive = st.none() | st.floats(min_value=1e-6, max_value=1e6)


@settings(max_examples=60, deadline=None)
@given(
    epsilon=st.floats(min_value=1e-9, max_value=1e12),
    patients=st.integers(1, 10**9),
    tasks=st.lists(st.text(min_size=1, max_size=10), max_size=3),
    limit=_optional_positive,
    noise=st.floats(min_value=0, max_value=1e6),
    spacing=st.none() | st.tuples(*[st.floats(min_value=0.2, max_value=10)] * 3),
    proxy=st.sampled_from([None, "direct", "http://proxy:3128", "https://[2001:db8::1]:3129/"]),
)
def test_what_is_written_is_read_back(
    tmp_path_factory: pytest.TempPathFactory,
    epsilon: float,
    patients: int,
    tasks: list[str],
    limit: float | None,
    noise: float,
    spacing: tuple[float, ...] | None,
    proxy: str | None,
) -> None:
    settings_ = {
        "paths": {"state": "/s", "data": "/d"},
        "privacy": {"epsilon": epsilon, "nominal_patients": patients},
        "policy": {"tasks": tasks, "maximum_epsilon": limit, "minimum_noise_multiplier": noise},
        "preparation": {"spacing_mm": list(spacing) if spacing else None},
        "network": {"proxy": proxy},
    }
    path = tmp_path_factory.getbasetemp() / "written.yaml"
    path.write_text(yaml.safe_dump(settings_))
    loaded = config.load(path, {})
    path.write_text(yaml.safe_dump(loaded.model_dump(mode="json")))
    assert config.load(path, {}) == loaded
    assert loaded.privacy.epsilon == epsilon
    assert loaded.policy.tasks == tasks
    assert loaded.preparation.spacing_mm == spacing


def test_the_configuration_is_frozen(tmp_path: Path) -> None:
    loaded = config.load(write(tmp_path), {})
    with pytest.raises(ValueError, match="frozen"):
        loaded.policy.maximum_steps = 10**9  # type: ignore[misc]


# --- law 3: the environment ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("section", ["POLICY", "PRIVACY", "LEDGER", "HOOKS", "policy", "Policy"])
def test_the_environment_may_not_decide_about_patients(tmp_path: Path, section: str) -> None:
    with pytest.raises(ConfigurationError, match="tries to set") as refused:
        config.load(write(tmp_path), {f"FEDSITE_{section}__EPSILON": "1000000"})
    assert f"FEDSITE_{section}__EPSILON" in refused.value.message
    assert "1000000" not in str(refused.value)


@pytest.mark.parametrize("key", [key for key in config.known_keys(SiteConfig) if "." in key])
def test_no_variable_changes_policy_or_privacy(tmp_path: Path, key: str) -> None:
    """Every key of the schema, tried: it is refused, or it is none that the site's promise depends on."""
    path = write(tmp_path)
    before = config.load(path, {})
    try:
        after = config.load(path, {f"FEDSITE_{key.upper().replace('.', '__')}": "7"})
    except ConfigurationError:
        return
    assert (after.policy, after.privacy, after.paths.state) == (before.policy, before.privacy, before.paths.state)
    assert not key.startswith(config.NEVER_FROM_ENVIRONMENT)


def test_no_variable_chooses_another_ledger(tmp_path: Path) -> None:
    """Another state folder would have another ledger, whose budget is whole."""
    for variable in ("FEDSITE_PATHS__STATE", "FEDSITE_Paths__state"):
        with pytest.raises(ConfigurationError, match=r"tries to set paths\.state"):
            config.load(write(tmp_path), {variable: "/srv/other"})
    assert config.load(write(tmp_path), {"FEDSITE_PATHS__DATA": "/srv/other"}).paths.data == Path("/srv/other")


@pytest.mark.parametrize("variable", ["FEDSITE__POLICY__TASKS", "FEDSITE_ POLICY__TASKS", "FEDSITE_POLICY.__TASKS"])
def test_a_variable_that_almost_names_the_policy_is_an_error(tmp_path: Path, variable: str) -> None:
    with pytest.raises(ConfigurationError, match="unknown key"):
        config.load(write(tmp_path), {variable: "[x]"})


def test_other_settings_can_be_overridden(tmp_path: Path) -> None:
    path = write(tmp_path, {"network": {"patience_seconds": 60}})
    environment = {
        "FEDSITE_TRAINING__DEVICE": "cpu",
        "FEDSITE_PREPARATION__SPACING_MM": "[2, 2, 3]",
        "FEDSITE_NETWORK__PROXY": "http://proxy:3128",
        "FEDSITE_CONFIG": "elsewhere",
        "FEDSITE_DEBUG": "1",
        "UNRELATED__KEY": "1",
    }
    loaded = config.load(path, environment)
    assert loaded.training.device == "cpu"
    assert loaded.preparation.spacing_mm == (2, 2, 3)
    assert (loaded.network.proxy, loaded.network.patience_seconds) == ("http://proxy:3128", 60)


@pytest.mark.parametrize(
    ("variable", "value", "complaint"),
    [
        ("FEDSITE_TRAINING__DEVISE", "cpu", "unknown key training.devise"),
        ("FEDSITE_TRANING__DEVICE", "cpu", "unknown key traning"),
        ("FEDSITE_NETWORK__PATIENCE_SECONDS", ".nan", "network.patience_seconds"),
        ("FEDSITE_NETWORK__PROXY", "[1", "is not valid YAML"),
        ("FEDSITE_NETWORK__PROXY", "2024-13-45", "is not valid YAML"),
        ("FEDSITE_PATHS__DATA", "here", "paths.data"),
    ],
)
def test_a_wrong_variable_is_loud(tmp_path: Path, variable: str, value: str, complaint: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        config.load(write(tmp_path), {variable: value})
    assert complaint in refused.value.message


# --- the file's version ---------------------------------------------------------------------------------------------


def test_a_file_without_a_version_is_of_the_first(tmp_path: Path) -> None:
    assert config.load(write(tmp_path), {}).version == 1


def test_a_newer_file_is_refused_as_such_and_not_by_its_keys(tmp_path: Path) -> None:
    path = write(tmp_path)
    path.write_text("version: 2\nteleport: true\n" + path.read_text())
    with pytest.raises(ConfigurationError, match="has version 2, a newer fedsite's") as refused:
        config.load(path, {})
    assert refused.value.exit_code == 78
    assert refused.value.mend.startswith("Install that fedsite again")


@pytest.mark.parametrize("version", ["0", "one", "1.5", "null"])
def test_what_is_no_version_is_refused(tmp_path: Path, version: str) -> None:
    path = write(tmp_path)
    path.write_text(f"version: {version}\n" + path.read_text())
    with pytest.raises(ConfigurationError, match="version"):
        config.load(path, {})


# --- what a person can ask -----------------------------------------------------------------------------------------


def test_every_key_can_be_explained() -> None:
    for key in config.known_keys(SiteConfig):
        found = config.describe(key)
        assert found is not None, key
        assert found["key"] == key
        assert found["description"], key
        assert ("keys" in found) is ("." not in key and key != "version")


def test_explaining_says_whether_the_environment_counts() -> None:
    assert config.describe("training.device")["environment"] == "FEDSITE_TRAINING__DEVICE"
    assert config.describe("policy.tasks")["environment"] is None
    assert config.describe("privacy.epsilon")["environment"] is None
    assert config.describe("paths.state")["environment"] is None
    assert config.describe("paths.data")["environment"] == "FEDSITE_PATHS__DATA"
    assert config.describe("network.patience_seconds")["default"] == 120


@pytest.mark.parametrize("key", ["", ".", "nothing", "policy.nothing", "policy.tasks.more", "nothing.tasks", ".tasks"])
def test_a_key_that_does_not_exist_is_not_explained(key: str) -> None:
    assert config.describe(key) is None

"""A site's own task: derived from a shipped one, from a local file, and from nowhere else."""

import pickle
from pathlib import Path

import pytest
import yaml

from fedsite.errors import ConfigurationError, UsageError
from fedsite.jobs.tasks import add_own, described_by, read_own
from fedsite.tasks import networks, registry, request
from fedsite.tasks.description import OutOfRange
from fedsite.wire.plans import read_draft

SAMPLES = Path(__file__).parents[3] / "sample_configs"
PLAN = {"network": "unet", "settings": {}, "patch_voxels": (32, 32, 32)}


@pytest.fixture(autouse=True)
def unknown(monkeypatch):
    """No own task stays known after a test."""
    monkeypatch.setattr(registry, "_local", {})


@pytest.fixture
def written(tmp_path):
    def written(name="ours", **settings):
        file = tmp_path / f"{name}.yaml"
        file.write_text(yaml.safe_dump({"name": name, "base": "stroke-dwi"} | settings))
        return file

    return written


def test_the_sample_shows_every_key_and_is_used_as_any_task():
    from fedsite.tasks.local import LocalChannel, LocalTask

    text = (SAMPLES / "task.yaml").read_text()
    settings = yaml.safe_load(text)
    assert settings.keys() == LocalTask.model_fields.keys()
    in_comments = {"b_values", "preferred_b_value"}
    assert settings["channels"]["ct"].keys() | in_comments == LocalChannel.model_fields.keys()
    assert all(f"# {key}:" in text for key in in_comments)
    task = read_own(SAMPLES / "task.yaml")
    registry.add(task)
    assert registry.get(task.name) == task
    assert task.inputs == ("ct:0..80", "ct:40..120")
    assert registry.module(task.name) is registry.module("haemorrhage-ct")
    checked = request.check(task.name, ["ct"], **PLAN)
    assert networks.build(checked, "unet", {"channels": [4, 8]}).model[0].conv.in_channels == 2


def test_what_is_left_out_stays_as_it_was(written):
    base, own = registry.get("stroke-dwi"), read_own(written())
    assert own.base == own.module == "stroke-dwi"
    assert own.digest == base.digest
    assert {key for key, value in vars(own).items() if value != getattr(base, key)} == {"name", "base"}


def test_channels_are_renamed_changed_and_left_out(written):
    changes = {"t1c": {"name": "t1-gd", "optional": True}, "flair": {"bids_suffix": "darkfluid"}}
    task = read_own(written(base="brain-tumour-mr", channels=changes, without=["t2"]))
    assert [channel.name for channel in task.channels] == ["t1", "t1-gd", "flair"]
    assert [channel.optional for channel in task.channels] == [False, True, False]
    assert task.channels[2].bids_suffix == "darkfluid"
    decathlon = next(layout for layout in task.layouts if layout.kind == "decathlon")
    assert decathlon.images == {"flair": 0, "t1": 1, "t1-gd": 2}
    assert pickle.loads(pickle.dumps(task)) == task, "workers are given it"


@pytest.mark.parametrize(
    ("settings", "said", "mend"),
    [
        ({"bases": "x"}, "ours.yaml: unknown key bases", "Did you mean base?"),
        ({"channels": {"dwi": {"b_value": [1, 2]}}}, "channels.dwi.b_value", "Did you mean channels.dwi.b_values?"),
        ({"channels": {"dwi": {"windos": []}}}, "channels.dwi.windos", "Did you mean channels.dwi.windows?"),
        ({"channels": {"dwi": {"zzz": 1}}}, "unknown key channels.dwi.zzz", "sample_configs/task.yaml"),
        ({"base": "stroke-dvi"}, "no task 'stroke-dvi'", "stroke-dwi"),
        ({"name": "Ours!"}, "yaml: name", "sample_configs/task.yaml"),
        ({"name": "stroke-t1"}, "another task 'stroke-t1'", "name of its own"),
        ({"labels": {0: "x"}}, "unknown key labels", ""),
        ({"channels": {"t1": {}}}, "channels: stroke-dwi has no channel 't1'", "dwi, adc, flair"),
        ({"without": ["t1"]}, "without: stroke-dwi has no channel 't1'", "dwi, adc, flair"),
        ({"without": ["dwi"]}, "without: dwi is the image that all others", "shows its base"),
        ({"channels": {"dwi": {"optional": True}}}, "channels.dwi.optional", "shows its base"),
        ({"channels": {"dwi": {"windows": [[0, 80]]}}}, "channels.dwi.windows: MR has no Hounsfield", ""),
        ({"channels": {"flair": {"b_values": [0, 80]}}}, "channels.flair: .*no b-values", ""),
        ({"channels": {"dwi": {"b_values": [1100, 1500]}}}, "channels.dwi.preferred_b_value: 1000 lies", ""),
        ({"channels": {"dwi": {"b_values": [1500, 700]}}}, "channels.dwi.b_values.*must lie below", ""),
        ({"channels": {"adc": {"name": "flair"}}}, "two of them have one name", ""),
        ({"default_patch_voxels": [100, 96, 96]}, "default_patch_voxels.0.*multiple of 8", ""),
        ({"default_spacing_mm": [1, 1]}, "default_spacing_mm", ""),
        ({"default_spacing_mm": [0, 1, 1]}, "default_spacing_mm.0", ""),
        ({"body_part": "KNEE"}, "body_part", ""),
    ],
)
def test_a_file_that_is_wrong_names_the_key_and_the_nearest(written, settings, said, mend):
    with pytest.raises(ConfigurationError, match=said) as refused:
        add_own([written(**settings)])
    assert mend in refused.value.mend
    assert refused.value.exit_code == 78


def test_a_worker_that_never_read_the_file_finds_its_functions(written):
    task = read_own(written())
    assert task.name not in registry.names()
    assert registry.get("stroke-dwi") == registry.module(task.module).DESCRIPTION


def test_windows_are_bounded(written):
    for windows in ([[80, 0]], [], [[0, 9000]], [[0, 1]] * 9):
        with pytest.raises(ConfigurationError, match=r"channels\.ct\.windows"):
            read_own(written(base="haemorrhage-ct", channels={"ct": {"windows": windows}}))


def test_an_own_task_is_no_base(written):
    add_own([written()])
    with pytest.raises(ConfigurationError, match="base: ours is a site's own task"):
        read_own(written("theirs", base="ours"))


def test_two_files_cannot_share_a_name_but_one_may_be_read_again(written):
    add_own([written(), written()])
    with pytest.raises(ConfigurationError, match="another task 'ours'"):
        add_own([written(body_part="")])


def test_a_file_that_others_may_change_or_that_is_not_there(written, tmp_path):
    file = written()
    file.chmod(0o666)
    with pytest.raises(ConfigurationError, match="every user"):
        read_own(file)
    with pytest.raises(ConfigurationError, match="no task at"):
        read_own(tmp_path / "nothing.yaml")


def test_a_plan_for_an_own_task_needs_the_file(written):
    with pytest.raises(OutOfRange, match="no task 'ours'"):
        request.check("ours", ["dwi"], **PLAN)


def test_a_coordinator_says_which_file_is_meant(written):
    draft = read_draft(SAMPLES / "plan.yaml")
    assert described_by(draft, None) is draft
    with pytest.raises(UsageError, match=r"ours.yaml describes ours; the plan is for stroke-dwi"):
        described_by(draft, written())
    meant = described_by(draft.model_copy(update={"task": "ours"}), written())
    assert meant.task_digest == registry.get("ours").digest
    registry._local.clear()
    add_own([written(allows_lossy=False)])
    with pytest.raises(OutOfRange, match="means another ours"):
        request.check("ours", ["dwi"], **PLAN, digest=meant.task_digest)

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from fedsite.cli.output import Output
from fedsite.cli.tasks import app
from fedsite.errors import UsageError
from fedsite.tasks import registry


def run(*args, as_json=False):
    result = CliRunner().invoke(app, list(args), obj=Output(command="tasks", as_json=as_json), catch_exceptions=False)
    assert result.exit_code == 0
    return result.stdout


def test_list_names_every_task():
    lines = run("list").splitlines()
    assert [line.split()[0] for line in lines] == registry.names()
    data = json.loads(run("list", as_json=True))["data"]
    assert [task["name"] for task in data["tasks"]] == registry.names()


def test_show_names_channels_labels_and_ranges():
    shown = run("show", "stroke-dwi")
    for part in (
        "b 700 to 1500 s/mm2",
        "1: lesion",
        "2 x 2 x 2 mm",
        "ISLES'22",
        "whole numbers from 4 to 512",
        "segresnet",
    ):
        assert part in shown


def test_show_names_what_a_task_needs():
    shown = run("show", "haemorrhage-ct")
    for part in (
        "seen through 0 to 80, -20 to 180, -800 to 2000 HU",
        "compression with loss: refused",
        "images of the head",
        "bhsd: NIfTI in images and ground truths; ct is 0; in masks 2 becomes 1",
    ):
        assert part in shown
    shown = run("show", "brain-tumour-mr")
    for part in ("core: 1 + 3", "BIDS T1w, ce-", "in masks 4 becomes 3", "flair is 0, t1 is 1", "128 x 128 x 128"):
        assert part in shown


def test_show_as_json():
    data = json.loads(run("show", "stroke-dwi", as_json=True))["data"]
    assert data["channels"][0]["b_values"] == [700, 1500]
    assert data["labels"] == {"0": "background", "1": "lesion"}
    unet = data["networks"][0]
    assert unet["name"] == "unet"
    assert unet["settings"]["channels"]["default"] == [16, 32, 64, 128]


def test_an_own_task_is_shown_by_its_file():
    file = str(Path(__file__).parents[3] / "sample_configs" / "task.yaml")
    assert "This site's own, after haemorrhage-ct" in run("show", file)
    data = json.loads(run("show", file, as_json=True))["data"]
    assert data["base"] == "haemorrhage-ct"
    assert data["channels"][0]["inputs"] == ["ct:0..80", "ct:40..120"]


def test_an_own_task_is_listed_where_the_configuration_names_it(tmp_path, monkeypatch):
    (tmp_path / "task.yaml").write_text("name: our-stroke\nbase: stroke-dwi\n")
    config = tmp_path / "site.yaml"
    config.write_text(
        f"paths: {{state: {tmp_path}/s, data: {tmp_path}/d, tasks: [{tmp_path}/task.yaml]}}\n"
        "privacy: {epsilon: 8, nominal_patients: 100}\n"
    )
    monkeypatch.setattr(registry, "_local", {})
    output = Output(command="tasks", config_path=config)
    listed = CliRunner().invoke(app, ["list"], obj=output, catch_exceptions=False).stdout
    assert "our-stroke       Acute ischaemic stroke lesion on diffusion-weighted MR  (this site's own)" in listed
    shown = CliRunner().invoke(app, ["show", "our-stroke"], obj=output, catch_exceptions=False).stdout
    assert "This site's own, after stroke-dwi" in shown


def test_an_unknown_task():
    with pytest.raises(UsageError, match=r"Did you mean stroke-dwi\?"):
        run("show", "stroke-dvi")

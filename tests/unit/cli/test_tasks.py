import json

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


def test_show_as_json():
    data = json.loads(run("show", "stroke-dwi", as_json=True))["data"]
    assert data["channels"][0]["b_values"] == [700, 1500]
    assert data["labels"] == {"0": "background", "1": "lesion"}
    unet = data["networks"][0]
    assert unet["name"] == "unet"
    assert unet["settings"]["channels"]["default"] == [16, 32, 64, 128]


def test_an_unknown_task():
    with pytest.raises(UsageError, match=r"Did you mean stroke-dwi\?"):
        run("show", "stroke")

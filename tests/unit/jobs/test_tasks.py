"""A site's own task, from the line in its configuration to cases of its own windows."""

import numpy as np
import pytest
import yaml
from support.bids_maker import head, write_nifti

from fedsite.dataset import cases, manifest
from fedsite.errors import ConfigurationError
from fedsite.jobs import init
from fedsite.jobs.data import prepare
from fedsite.jobs.site import open_site
from fedsite.tasks import registry

TASK = {"name": "our-blood", "base": "haemorrhage-ct", "channels": {"ct": {"windows": [[0, 100], [-50, 50]]}}}


@pytest.fixture
def config(tmp_path, monkeypatch):
    """A site that was set up, with a task of its own."""
    monkeypatch.setattr(registry, "_local", {})
    (tmp_path / "task.yaml").write_text(yaml.safe_dump(TASK))
    answers = init.Answers(tmp_path / "state", tmp_path / "data", ("our-blood",), 8.0, 1e-6, 100)
    path = tmp_path / "site.yaml"
    init.initialise(path, answers)
    path.write_text(path.read_text().replace("tasks: []", f"tasks: [{tmp_path / 'task.yaml'}]"))
    return path


def test_whoever_opens_the_site_knows_its_tasks(config):
    assert "our-blood" not in registry.names()
    with open_site(config):
        assert registry.get("our-blood").inputs == ("ct:0..100", "ct:-50..50")


def test_a_wrong_file_is_told_before_anything_is_done(config, tmp_path):
    (tmp_path / "task.yaml").write_text("name: our-blood\nbase: haemorrhage-ct\nspacing: 1\n")
    with pytest.raises(ConfigurationError, match=r"task\.yaml: unknown key spacing"), open_site(config):
        pass


def test_cases_are_made_through_its_windows(config, tmp_path):
    content = head(3)
    hounsfield = np.where(content.image > 400, 70, np.where(content.image > 150, 35, content.image * 8 - 1000))
    folder = tmp_path / "source" / "sub-a" / "ct"
    write_nifti(folder / "sub-a_ct.nii.gz", hounsfield, content.affine)
    write_nifti(folder / "sub-a_mask.nii.gz", content.mask, content.affine)
    prepare.prepare_data(config, prepare.Order(tmp_path / "source", "our-blood"))
    (record,) = manifest.load(tmp_path / "data").cases
    case = cases.open_case(tmp_path / "data" / record.file)
    assert case.inputs == ("ct:0..100", "ct:-50..50")
    inside = case.label > 0
    assert np.median(case.image[0][inside]) == pytest.approx(0.7, abs=0.01)
    assert np.median(case.image[1][inside]) == 1

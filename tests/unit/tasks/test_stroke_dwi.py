import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from fedsite.tasks import stroke_dwi
from fedsite.tasks.steps.chain import MARGIN_MM
from fedsite.tasks.steps.intensity import foreground, robust_z_score

TASK = stroke_dwi.DESCRIPTION.narrowed(["dwi"])
SPACING = (3.0, 3.0, 3.0)


def head(scale=1.0, noise=0.0, inside=100.0, seed=0):
    """A box of a head in air with a bright lesion: [1, 80, 90, 20], 2 x 2 x 5 mm, x running to the left."""
    random = torch.Generator().manual_seed(seed)
    image = noise * torch.rand(1, 80, 90, 20, generator=random)
    image[:, 20:60, 20:70, 4:16] = inside + 20 * torch.rand(1, 40, 50, 12, generator=random)
    label = torch.zeros_like(image)
    label[:, 25:35, 30:40, 8:12] = 1
    image[label > 0] += 100
    affine = torch.tensor(np.diag([-2.0, 2.0, 5.0, 1.0]))
    return {"image": MetaTensor(image * scale, affine=affine), "label": MetaTensor(label, affine=affine)}


def prepared(**settings):
    return stroke_dwi.preprocessing(TASK, SPACING)(head(**settings))


def test_ras_spacing_and_one_grid():
    case = prepared()
    assert case["image"].shape == case["label"].shape
    assert torch.allclose(case["image"].affine, case["label"].affine)
    assert np.allclose(np.diag(case["image"].affine)[:3], SPACING), "RAS: all axes run up"


def test_cropped_to_the_head_with_its_margin():
    shape = prepared()["image"].shape[1:]
    content = np.array([80, 100, 60]) / 3
    margin = 2 * round(MARGIN_MM / 3)
    assert np.all(np.abs(np.array(shape) - content - margin) <= 2)


def test_the_lesion_stays_where_it_is():
    """World coordinates of the lesion's centre before and after, mm; volume within a voxel's layer."""
    before, after = head(), prepared()
    assert set(np.unique(after["label"])) == {0, 1}

    def centre(label):
        voxels = np.argwhere(label[0].numpy() > 0).mean(axis=0)
        return (np.asarray(label.affine) @ np.append(voxels, 1))[:3]

    assert np.linalg.norm(centre(before["label"]) - centre(after["label"])) < 1.5
    volume = float(after["label"].sum()) * 27
    assert volume == pytest.approx(10 * 10 * 4 * 20, rel=0.35)
    image, label = after["image"].numpy(), after["label"].numpy()
    assert image[label > 0].mean() > 5 > 1 > image[(label == 0) & (image > -4)].mean()


@pytest.mark.parametrize("noise", [0.0, 30.0], ids=["skull-stripped", "noisy-air"])
def test_the_scanners_scale_does_not_matter(noise):
    one, other = prepared(noise=noise)["image"], prepared(noise=noise, scale=37.5)["image"]
    assert one.shape == other.shape
    torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-3)


def test_a_noisy_background_is_no_foreground():
    image = head(noise=30.0)["image"]
    found = foreground(image)[0].numpy()
    truth = np.zeros((80, 90, 20), dtype=bool)
    truth[20:60, 20:70, 4:16] = True
    assert np.array_equal(found, truth)


def test_the_median_of_the_brain_is_zero_and_its_spread_one():
    image = head()["image"]
    inside = robust_z_score(image, foreground(image), -5, 15)[foreground(image)]
    assert abs(float(inside.median())) < 1e-3
    low, high = torch.quantile(inside.as_tensor(), torch.tensor([0.25, 0.75]))
    assert float(high - low) == pytest.approx(1.349, rel=0.01)


def test_input_is_left_as_it_was():
    study = head()
    copy = {key: value.clone() for key, value in study.items()}
    stroke_dwi.preprocessing(TASK, SPACING)(study)
    assert all(torch.equal(study[key], copy[key]) for key in study)


def test_a_real_stroke(real_data):
    """ISLES'22, skull-stripped, b = 800, already at 2 mm: not a voxel of the expert's mask is lost."""

    def load(path):
        image = nib.load(real_data / "labels_isles22" / "strokecase0009" / path)
        return MetaTensor(torch.tensor(np.float32(image.dataobj))[None], affine=torch.tensor(image.affine))

    name = "sub-strokecase0009/ses-0001/sub-strokecase0009_ses-0001"
    study = {"image": load(f"rawdata/{name}_dwi.nii.gz"), "label": load(f"derivatives/{name}_msk.nii.gz")}
    case = stroke_dwi.preprocessing(TASK, (2, 2, 2))(study)
    assert case["label"].sum() == study["label"].sum() == 523
    assert case["image"].numel() < 0.6 * study["image"].numel()
    brain = foreground(study["image"])
    assert 1.0 < float(brain.sum()) * 8e-3 / 1000 < 1.8, "litres"
    assert case["image"][case["label"] > 0].median() > 2


@pytest.mark.parametrize("value", [0.0, 7.0])
def test_an_empty_image_gives_finite_values(value):
    image = torch.full((1, 8, 8, 8), value)
    assert torch.isfinite(robust_z_score(image, foreground(image), -5, 15)).all()


def test_the_loss_is_a_mean_over_patients():
    loss = stroke_dwi.loss()
    random = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 2, 8, 8, 8, generator=random)
    label = (torch.rand(3, 1, 8, 8, 8, generator=random) > 0.8).to(torch.uint8)
    each = [loss(logits[i : i + 1], label[i : i + 1]) for i in range(3)]
    torch.testing.assert_close(loss(logits, label), torch.stack(each).mean())


def test_the_loss_falls_towards_the_truth():
    loss = stroke_dwi.loss()
    label = torch.zeros(1, 1, 8, 8, 8, dtype=torch.uint8)
    label[..., 2:5, 2:5, 2:5] = 1
    right = torch.cat([1.0 - label, label.float()], dim=1) * 20
    assert loss(right, label) < 0.01 < loss(torch.zeros_like(right), label) < loss(-right, label)

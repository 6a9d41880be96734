"""Each task on a small made-up study: its chain, a network, its loss, backward, label values."""

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from fedsite.tasks import networks, outputs, registry
from fedsite.tasks.steps import chain
from fedsite.tasks.steps.hounsfield import head

SHAPE, SIDES = (60, 66, 24), (3.0, 3.0, 6.0)
SPACING = (4.0, 4.0, 6.0)
SMALL = {
    "unet": {"channels": [4, 8]},
    "segresnet": {"init_filters": 8, "blocks_down": [1, 1]},
    "segresnet-ds": {"init_filters": 8, "blocks_down": [1, 1, 1], "supervised_scales": 2},
}


def distance(radii, centre=(0.0, 0.0, 0.0)):
    """From a centre (mm), 1 on the surface of an ellipsoid."""
    axes = [(np.arange(side) - (side - 1) / 2) * step for side, step in zip(SHAPE, SIDES, strict=True)]
    grid = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1)
    return np.linalg.norm((grid - centre) / np.array(radii), axis=-1)


def study(task, missing=(), seed=0):
    """A head whose lesion holds every label of the task, outermost first; x runs to the left."""
    random = np.random.default_rng(seed)
    brain, skull = distance((70, 80, 60)), distance((78, 88, 66))
    label = np.zeros(SHAPE, np.uint8)
    values = outputs.own_values(task) or tuple(value for value in task.labels if value)
    for shell, value in enumerate(values):
        label[distance((24.0 - 6 * shell,) * 3, (20, -15, 0)) < 1] = value
    images = []
    for index, channel in enumerate(task.channels):
        if channel.name in missing:
            images.append(np.zeros(SHAPE))
        elif channel.modality == "CT":
            image = np.where(skull < 1, np.where(brain < 1, 35.0, 1100.0), -1000.0) + random.normal(0, 4, SHAPE)
            image[:, :2] = 150  # the table
            images.append(np.where(label > 0, 65.0, image))
        else:
            image = np.where(brain < 1, 800.0 + 50 * index, np.where(skull < 1, 500.0, 20.0))
            images.append(np.where(label > 0, image * 1.6, image) * (1 + random.normal(0, 0.03, SHAPE)))
    affine = torch.tensor(np.diag([-SIDES[0], SIDES[1], SIDES[2], 1.0]))
    return {
        "image": MetaTensor(torch.tensor(np.stack(images), dtype=torch.float32), affine=affine),
        "label": MetaTensor(torch.tensor(label[None]), affine=affine),
    }


def prepared(task, **settings):
    return registry.module(task.module).preprocessing(task, SPACING)(study(task, **settings))


def batch_of(case, sides=(16, 16, 8)):
    """Two patches around the lesion [2, C, ...], [2, 1, ...]."""
    centre = np.argwhere(case["label"][0].numpy() > 0).mean(axis=0).round().astype(int)
    where = tuple(slice(at - side // 2, at - side // 2 + side) for at, side in zip(centre, sides, strict=True))
    return tuple(torch.stack([case[key].as_tensor()[:, *where]] * 2) for key in ("image", "label"))


@pytest.mark.parametrize("name", registry.names())
def test_a_task_from_study_to_label_values(name):
    task = registry.get(name)
    case = prepared(task)
    assert case["image"].shape == (len(task.inputs), *case["label"].shape[1:])
    assert torch.isfinite(case["image"].as_tensor()).all()
    assert set(np.unique(case["label"])) == set(task.labels)
    image, label = batch_of(case)
    network = networks.build(task, "unet", SMALL["unet"])
    loss = registry.module(task.module).loss()
    optimizer = torch.optim.Adam(network.parameters(), lr=0.02)
    values = []
    for _ in range(6):
        optimizer.zero_grad()
        value = loss(network(image), label)
        value.backward()
        optimizer.step()
        values.append(value.item())
    assert values[-1] < 0.8 * values[0]
    found = outputs.decode(task, network(image))
    assert found.shape == label[:, 0].shape
    assert found.dtype == torch.uint8
    assert set(np.unique(found)) <= set(task.labels)


@pytest.mark.parametrize("name", registry.names())
def test_the_head_is_cropped_with_its_margin_and_without_the_table(name):
    task = registry.get(name)
    extent = np.array(prepared(task)["label"].shape[1:]) * SPACING
    margin = 2 * np.round(chain.MARGIN_MM / np.array(SPACING)) * SPACING
    assert np.all(np.abs(extent - np.array([156, 176, 132]) - margin) <= 2 * np.array(SPACING) + 4)


@pytest.mark.parametrize("name", registry.names())
@pytest.mark.parametrize("network", ["segresnet", "segresnet-ds"])
def test_every_network_learns_every_task(name, network):
    """Of a deeply supervised network the loss takes all scales; in evaluation it gives one."""
    task = registry.get(name)
    built = networks.build(task, network, SMALL[network]).train()
    image = torch.randn(1, len(task.inputs), 16, 16, 8)
    label = torch.randint(0, len(task.labels), (1, 1, 16, 16, 8), dtype=torch.uint8)
    answer = built(image)
    assert isinstance(answer, list) == (network == "segresnet-ds")
    registry.module(name).loss()(answer, label).backward()
    assert all(parameter.grad is not None for parameter in built.parameters())
    with torch.no_grad():
        assert built.eval()(image).shape == (1, task.outputs, 16, 16, 8)


# --- what becomes of values -----------------------------------------------------------------------------------------


def test_missing_images_stay_zero_and_change_nothing_else():
    task = registry.get("stroke-dwi")
    whole, without = prepared(task), prepared(task, missing=("flair",))
    assert not without["image"][2].any()
    assert without["image"].shape == whole["image"].shape
    torch.testing.assert_close(without["image"][:2], whole["image"][:2])
    torch.testing.assert_close(without["label"], whole["label"])
    alone = prepared(task.narrowed(["dwi"]))
    torch.testing.assert_close(alone["image"][:1], whole["image"][:1])


def test_an_adc_map_keeps_its_meaning():
    """Normal brain is zero and an infarct below it, whatever else is in the image."""
    task = registry.get("stroke-dwi")
    one = study(task)
    one["image"][1] = 800.0
    one["image"][1][one["label"][0] > 0] = 400.0
    adc = chain.mr(task, SIDES)(one)["image"][1]
    assert set(np.unique(adc)) == {0.0, -2.0}


def test_windows_are_what_a_reader_sees():
    task = registry.get("haemorrhage-ct")
    one = study(task)
    one["image"][0, 30, 33, 12] = 80.0
    one["image"][0, 31, 33, 12] = 40.0
    case = chain.ct(task, SIDES)(one)
    brain, subdural, bone = case["image"].as_tensor()
    assert all(float(image.min()) >= 0 and float(image.max()) <= 1 for image in (brain, subdural, bone))
    hounsfield = subdural * 200 - 20
    torch.testing.assert_close(brain, (hounsfield / 80).clamp(0, 1), atol=1e-5, rtol=0)
    within = (subdural > 0) & (subdural < 1)
    torch.testing.assert_close(bone[within], ((hounsfield + 800) / 2800)[within])


@pytest.mark.parametrize("name", ["haemorrhage-ct", "brain-tumour-mr"])
def test_a_study_is_left_as_it_was(name):
    task = registry.get(name)
    one = study(task)
    copy = {key: value.clone() for key, value in one.items()}
    registry.module(name).preprocessing(task, SPACING)(one)
    assert all(torch.equal(one[key], copy[key]) for key in one)


def test_a_head_without_its_skull_is_found_among_exact_zeros():
    image = torch.zeros(1, 40, 40, 20)
    image[:, 10:30, 12:28, 4:16] = 35 + torch.randn(1, 20, 16, 12, generator=torch.Generator().manual_seed(0))
    found = head(image, (1, 1, 1))
    places = np.argwhere(found[0].numpy())
    assert places.min(axis=0).tolist() == [10, 12, 4]
    assert places.max(axis=0).tolist() == [29, 27, 15]


@pytest.mark.parametrize("shape", [(1, 3, 5, 1), (1, 9, 8, 2)])
def test_an_image_without_tissue_is_kept_whole(shape):
    assert head(torch.full(shape, -1000.0), (1, 1, 1)).all()
    assert head(torch.full(shape, 40.0), (1, 1, 1)).all()


def test_a_real_head_on_ct(real_data):
    """An atlas of 1 mm: the crop takes little off it, and the windows show its brain."""
    (path,) = (real_data / "templates" / "ct_brain_atlas").glob("*.nii*")
    image = nib.load(path)
    values = torch.tensor(np.float32(image.dataobj))[None]
    affine = torch.tensor(image.affine)
    one = {"image": MetaTensor(values, affine=affine), "label": MetaTensor(torch.zeros_like(values), affine=affine)}
    case = chain.ct(registry.get("haemorrhage-ct"), (3, 3, 3))(one)
    litres = float((case["image"][0] > 0.2).sum()) * 27e-6
    assert 0.8 < litres < 4

"""What descriptions say: inputs, outputs, a plan's choice of channels, a digest."""

from dataclasses import replace

import pytest

from fedsite.tasks import outputs, registry, request
from fedsite.tasks.description import Channel, OutOfRange, Region

DWI = registry.get("stroke-dwi")
TUMOUR = registry.get("brain-tumour-mr")
BLOOD = registry.get("haemorrhage-ct")
PLAN = {"network": "unet", "settings": {}, "patch_voxels": (32, 32, 32)}


def test_each_window_is_an_input():
    assert Channel("ct", "CT", "", windows=((-20.0, 180), (0, 0.5))).inputs == ("ct:-20..180", "ct:0..0.5")
    assert BLOOD.inputs == ("ct:0..80", "ct:-20..180", "ct:-800..2000")
    assert TUMOUR.inputs == ("t1", "t1c", "t2", "flair")


def test_outputs_are_regions_or_else_labels():
    assert TUMOUR.outputs == 3
    assert BLOOD.outputs == 2


@pytest.mark.parametrize("names", [["dwi"], ["dwi", "adc"], ["dwi", "flair"], ["dwi", "adc", "flair"]])
def test_a_plan_takes_every_required_channel_and_any_optional_ones(names):
    task = request.check("stroke-dwi", names, **PLAN)
    assert [channel.name for channel in task.channels] == names
    assert task.inputs == tuple(names)
    assert replace(task, channels=DWI.channels) == DWI


@pytest.mark.parametrize("names", [[], ["adc"], ["adc", "dwi"], ["dwi", "dwi"], ["dwi", "t1"], ["dwi", "flair", "adc"]])
def test_other_channels_are_refused_with_those_there_are(names):
    with pytest.raises(OutOfRange, match=r"in this order: dwi, adc \(optional\), flair \(optional\)"):
        request.check("stroke-dwi", names, **PLAN)


def test_a_plan_may_say_which_task_it_means():
    assert request.check("stroke-dwi", ["dwi"], **PLAN, digest=DWI.digest).name == "stroke-dwi"
    with pytest.raises(OutOfRange, match="means another stroke-dwi"):
        request.check("stroke-dwi", ["dwi"], **PLAN, digest="0" * 64)


def test_the_digest_changes_with_what_decides_and_with_nothing_else():
    flair = DWI.channels[2]
    same = (
        replace(DWI, title="x", notes="x", default_spacing_mm=(1, 1, 1), default_patch_voxels=(8, 8, 8), layouts=()),
        replace(DWI, channels=(*DWI.channels[:2], replace(flair, summary="x", bids_suffix="x"))),
        replace(DWI, name="ours", base="stroke-dwi"),
    )
    other = (
        DWI.narrowed(["dwi"]),
        replace(DWI, preprocessing_version=DWI.preprocessing_version + 1),
        replace(DWI, channels=(*DWI.channels[:2], replace(flair, optional=False))),
        replace(DWI, labels={**DWI.labels, 2: "penumbra"}),
        replace(DWI, body_part=""),
        replace(DWI, allows_lossy=False),
        replace(BLOOD, channels=(replace(BLOOD.channels[0], windows=((0, 81),)),)),
        replace(TUMOUR, regions=TUMOUR.regions[:2]),
        *map(registry.get, registry.names()),
    )
    assert {task.digest for task in same} == {DWI.digest}
    assert len({task.digest for task in other}) == len(other)


@pytest.mark.parametrize("task", [*map(registry.get, registry.names())], ids=lambda task: task.name)
def test_a_description_holds_together(task):
    """What no code asks for again: nested regions, layouts that name channels and labels there are."""
    assert not task.channels[0].optional, "all others are brought to its grid"
    assert set(outputs.own_values(task)) == (set(task.labels) - {0} if task.regions else set())
    assert set(outputs.structures(task)) == (
        {region.name for region in task.regions} if task.regions else set(task.labels.values()) - {"background"}
    )
    assert len({layout.name for layout in task.layouts}) == len(task.layouts)
    for layout in task.layouts:
        assert set(layout.label_values.values()) == set(task.labels) - {0}
        assert set(layout.images) == (set() if layout.kind == "bids" else {channel.name for channel in task.channels})
    for network in task.networks:
        request.check(
            task.name, [channel.name for channel in task.channels], network.name, {}, task.default_patch_voxels
        )


# Values as the publishers of the data sets state them: what is stored, and what tissue that is.
NECROTIC, OEDEMA, ENHANCING = "necrotic or solid core", "oedema or invasion", "enhancing"
STATED = {
    "brats": {1: NECROTIC, 2: OEDEMA, 3: ENHANCING},  # BraTS 2023
    "brats-2021": {1: NECROTIC, 2: OEDEMA, 4: ENHANCING},
    "decathlon": {1: OEDEMA, 2: NECROTIC, 3: ENHANCING},  # dataset.json of Task01_BrainTumour
}


@pytest.mark.parametrize("name", STATED)
def test_values_of_tumours_mean_what_their_data_set_says(name):
    layout = next(layout for layout in TUMOUR.layouts if layout.name == name)
    assert {stored: TUMOUR.labels[value] for stored, value in layout.label_values.items()} == STATED[name]


def test_images_of_the_decathlon_are_in_its_order():
    """Task01's dataset.json: 0 FLAIR, 1 T1w, 2 t1gd, 3 T2w."""
    layout = next(layout for layout in TUMOUR.layouts if layout.kind == "decathlon")
    assert sorted(layout.images, key=layout.images.get) == ["flair", "t1", "t1c", "t2"]


@pytest.mark.parametrize("regions", [((1, 2), (3,)), ((1, 2, 3), (3,)), ((1,), (1,)), ((1,), (1, 2))])
def test_regions_that_are_not_nested_by_one_value(regions):
    task = replace(TUMOUR, regions=tuple(Region(str(values), values) for values in regions))
    with pytest.raises(ValueError, match="does not lie around the next"):
        outputs.own_values(task)

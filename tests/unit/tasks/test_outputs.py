"""From logits to label values, and the losses that lead there."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsite.tasks import losses, outputs, registry

TUMOUR, STROKE = registry.get("brain-tumour-mr"), registry.get("stroke-t1")
SIDES = (4, 4, 4)


def noise(*shape, seed=0):
    return torch.randn(*shape, *SIDES, generator=torch.Generator().manual_seed(seed))


def labels(task, count=1, seed=0):
    return torch.randint(
        0, len(task.labels), (count, 1, *SIDES), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8
    )


def certain(task, label, by=20.0):
    """Logits that say the label and nothing else."""
    if task.regions:
        inside = [sum(label == value for value in region.values) for region in task.regions]
    else:
        inside = [label == value for value in task.labels]
    return (torch.cat(inside, dim=1).float() * 2 - 1) * by


@pytest.mark.parametrize("task", [TUMOUR, STROKE], ids=lambda task: task.name)
def test_certain_logits_give_their_label_back(task):
    label = labels(task, 3)
    found = outputs.decode(task, certain(task, label))
    assert found.dtype == torch.uint8
    assert torch.equal(found, label[:, 0])


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([TUMOUR, STROKE]))
def test_probabilities_decode_to_the_same(seed, task):
    logits = noise(2, task.outputs, seed=seed)
    probabilities = outputs.probabilities(task, logits)
    assert bool(((probabilities > 0) & (probabilities < 1)).all())
    assert torch.equal(outputs.decode(task, probabilities.logit()), outputs.decode(task, logits))


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000))
def test_what_lies_in_an_inner_region_lies_in_the_outer_ones(seed):
    """An answer that contradicts itself still gives one label a voxel; the innermost yes decides."""
    logits = noise(1, 3, seed=seed)
    found = outputs.decode(TUMOUR, logits)[0]
    yes = logits[0] > 0
    for index, values in enumerate(outputs.structures(TUMOUR).values()):
        inside = sum(found == value for value in values).bool()
        assert torch.equal(inside, yes[index:].any(dim=0))


def test_structures_are_regions_or_labels():
    assert outputs.structures(TUMOUR) == {"whole": (1, 2, 3), "core": (1, 3), "enhancing": (3,)}
    assert outputs.structures(STROKE) == {"lesion": (1,)}


# --- losses ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", registry.names())
def test_a_loss_is_a_mean_over_patients(name):
    task, loss = registry.get(name), registry.module(name).loss()
    logits, label = noise(3, task.outputs), labels(task, 3)
    each = [loss(logits[i : i + 1], label[i : i + 1]) for i in range(3)]
    torch.testing.assert_close(loss(logits, label), torch.stack(each).mean())


@pytest.mark.parametrize("name", registry.names())
def test_a_loss_falls_towards_the_truth(name):
    task, loss = registry.get(name), registry.module(name).loss()
    label = labels(task)
    right = certain(task, label)
    assert loss(right, label) < 0.01 < loss(torch.zeros_like(right), label) < loss(-right, label)


def test_the_loss_of_regions_is_that_of_each_by_itself():
    """Against its formula, from Milletari et al. 2016 and the cross-entropy's definition."""
    logits, label = noise(1, 3), labels(TUMOUR)
    probability = logits.sigmoid()
    expected = []
    for index, region in enumerate(TUMOUR.regions):
        wanted = sum(label[0, 0] == value for value in region.values).float()
        p = probability[0, index]
        dice = 2 * (p * wanted).sum() / (p.sum() + wanted.sum())
        entropy = -(wanted * p.log() + (1 - wanted) * (1 - p).log()).mean()
        expected.append(1 - dice + entropy)
    found = losses.of_regions(TUMOUR.regions)(logits, label)
    torch.testing.assert_close(found, torch.stack(expected).mean(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("task", [TUMOUR, STROKE], ids=lambda task: task.name)
def test_deeper_scales_count_half_and_less(task):
    loss = registry.module(task.name).loss()
    label = labels(task)
    fine, coarse = noise(1, task.outputs), noise(1, task.outputs, seed=1)[..., ::2, ::2, ::2]
    seen = torch.nn.functional.interpolate(label, size=coarse.shape[2:], mode="nearest-exact")
    torch.testing.assert_close(loss([fine, coarse], label), loss(fine, label) + 0.5 * loss(coarse, seen))


@pytest.mark.parametrize("name", registry.names())
def test_a_loss_counts_in_single_precision(name):
    task, loss = registry.get(name), registry.module(name).loss()
    logits, label = noise(1, task.outputs).bfloat16(), labels(task)
    assert loss(logits, label).dtype == torch.float32
    torch.testing.assert_close(loss(logits, label), loss(logits.float(), label))
    assert loss([logits, logits], label).dtype == torch.float32

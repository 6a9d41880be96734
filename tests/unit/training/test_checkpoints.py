"""A training that is cut off anywhere ends with the same bits as one that is not."""

import json
import os
import random
from types import SimpleNamespace

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load, save

from fedsite.errors import CannotWrite
from fedsite.tasks import networks, registry
from fedsite.training import loop
from fedsite.training.checkpoints import Checkpoints
from fedsite.training.sampling import PatchSampler
from fedsite.training.schedules import follow, make_optimizer
from fedsite.training.steps import SupervisedStep
from fedsite.training.stopping import EarlyStop

TASK = registry.get("stroke-dwi").narrowed(["dwi"])
STEPS = 8


class Cut(Exception):
    """The process is gone."""


@pytest.fixture
def training(blob, task_loss, tmp_path):
    """Trains STEPS steps, or is cut off in one, or told to stop after one; each time everything but the checkpoint is
    made anew.
    """
    path = tmp_path / "round-1.training.safetensors"

    def train(name, cut=None, keep=True, purpose="a", early=False, stop_after=None, every_seconds=0):
        network = networks.build(TASK, "unet", {"channels": [4, 8]}, seed=1)
        step = SupervisedStep(network, make_optimizer(network, name, 0.05), task_loss, torch.device("cpu"))
        stop = EarlyStop(network, lambda: -abs(network.model[0].conv.weight.sum().item()), 2, 100) if early else None
        checkpoints = Checkpoints(path, purpose, every_seconds, step, stop) if keep else None
        scheduled = follow(step.optimizer, "cosine", 0.05, STEPS)

        def before_step(number):
            if number + 1 == cut:
                raise Cut
            scheduled(number)

        def progress(done, total, note):
            if done == stop_after:
                raise KeyboardInterrupt

        record = loop.train(
            network,
            PatchSampler([blob], (16, 16, 16), 2, 0.67, seed=4),
            step,
            STEPS,
            progress,
            before_step=before_step,
            checkpoints=checkpoints,
            early_stop=stop,
        )
        return SimpleNamespace(weights=[one.clone() for one in network.parameters()], record=record)

    return SimpleNamespace(train=train, path=path)


def same(one, two):
    return all(torch.equal(a, b) for a, b in zip(one.weights, two.weights, strict=True)) and (
        one.record.losses == two.record.losses
    )


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=st.sampled_from(["adam", "sgd"]), cuts=st.lists(st.integers(1, STEPS), max_size=4))
def test_cut_off_anywhere_and_resumed_it_ends_bit_equal(training, name, cuts):
    """What is done after the last checkpoint is lost: the cut comes in the midst of a step."""
    training.path.unlink(missing_ok=True)
    whole = WHOLE.get(name) or WHOLE.setdefault(name, training.train(name, keep=False))
    for cut in sorted(cuts):
        with pytest.raises(Cut):
            training.train(name, cut)
    ended = training.train(name)
    assert same(ended, whole)
    assert ended.record.resumed == max(cuts, default=1) - 1


WHOLE: dict[str, SimpleNamespace] = {}


def test_told_to_stop_it_keeps_every_step(training):
    """Whatever the time of the next checkpoint is; what validation has said of a step is kept with it."""
    whole = training.train("adam", keep=False, early=True)
    with pytest.raises(KeyboardInterrupt):
        training.train("adam", stop_after=4, early=True, every_seconds=3600)
    ended = training.train("adam", early=True)
    assert ended.record.resumed == 4
    assert same(ended, whole)
    assert ended.record.scores == whole.record.scores


def test_the_best_weights_of_validation_are_kept_too(training):
    whole = training.train("adam", keep=False, early=True)
    with pytest.raises(Cut):
        training.train("adam", 7, early=True)
    ended = training.train("adam", early=True)
    assert ended.record.resumed == 6
    assert same(ended, whole)
    assert ended.record.scores == whole.record.scores


def test_it_is_private_and_without_pickle(training):
    with pytest.raises(Cut):
        training.train("adam", 3)
    assert training.path.stat().st_mode & 0o777 == 0o600
    tensors = load(training.path.read_bytes())
    assert len(tensors["losses"]) == 2
    about = json.loads(tensors["about"].numpy().tobytes())
    assert (about["purpose"], about["micro_batch"]) == ("a", None)
    assert about["seconds"] > 0


def test_another_purposes_checkpoint_is_thrown_away(training):
    """Another round, other data, another release of fedsite: the training would not be the same."""
    with pytest.raises(Cut):
        training.train("adam", 5)
    with pytest.raises(Cut):
        training.train("adam", 1, purpose="b")
    assert not training.path.exists()


def damaged(content, how):
    if how == "empty":
        return b""
    if how == "cut":
        return content[: len(content) // 2]
    if how == "no safetensors":
        return random.Random(1).randbytes(5000)
    if how == "one bit":
        return content[:-999] + bytes([content[-999] ^ 1]) + content[-998:]
    tensors = load(content)
    del tensors[how]
    return save(tensors)


@pytest.mark.parametrize("how", ["empty", "cut", "no safetensors", "one bit", "about", "sha256"])
def test_a_damaged_checkpoint_is_thrown_away(training, how):
    with pytest.raises(Cut):
        training.train("sgd", 5)
    training.path.write_bytes(damaged(training.path.read_bytes(), how))
    ended = training.train("sgd")
    assert ended.record.resumed == 0
    assert same(ended, training.train("sgd", keep=False))


def test_a_full_disk_leaves_the_one_before(training, monkeypatch, network, task_loss, cpu):
    with pytest.raises(Cut):
        training.train("sgd", 5)
    before = training.path.read_bytes()
    step = SupervisedStep(network, make_optimizer(network, "sgd", 0.1), task_loss, cpu)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(CannotWrite, match="No space left"):
        Checkpoints(training.path, "a", 0, step).keep([1.0], 2.0)
    assert training.path.read_bytes() == before
    assert list(training.path.parent.iterdir()) == [training.path]


def test_it_is_written_when_it_is_due_and_by_the_leader_alone(tmp_path, network, task_loss, cpu):
    step = SupervisedStep(network, make_optimizer(network, "sgd", 0.1), task_loss, cpu)
    path = tmp_path / "kept"
    assert Checkpoints(path, "a", 0, step).due
    assert not Checkpoints(path, "a", 60, step).due
    follower = Checkpoints(path, "a", 0, step, leads=False)
    assert not follower.due
    follower.keep([1.0], 1.0)
    assert not path.exists()


def test_the_leader_tells_the_others_what_was_kept(tmp_path, task_loss, cpu):
    def process(seed, **options):
        network = networks.build(TASK, "unet", {"channels": [4, 8]}, seed=seed)
        step = SupervisedStep(network, make_optimizer(network, "adam", 0.1), task_loss, cpu, micro_batch=seed)
        return network, step, Checkpoints(tmp_path / "kept", "a", 0, step, **options)

    network, _, leader = process(1)
    leader.keep([0.25, 0.5], 12.0)
    content = (tmp_path / "kept").read_bytes()
    other, step, follower = process(2, leads=False, tell=lambda said: content)
    assert follower.resume() == ([0.25, 0.5], 12.0)
    assert all(torch.equal(one, two) for one, two in zip(network.parameters(), other.parameters(), strict=True))
    assert step.micro_batch == 1


def test_the_scale_of_float16_is_kept(tmp_path, network, task_loss, cpu):
    def made(scale):
        step = SupervisedStep(network, make_optimizer(network, "sgd", 0.1), task_loss, cpu)
        step.scaler = torch.amp.GradScaler("cpu", init_scale=scale)
        return step, Checkpoints(tmp_path / "kept", "a", 0, step)

    made(512.0)[1].keep([], 0.0)
    step, checkpoints = made(65536.0)
    checkpoints.resume()
    assert step.scaler.get_scale() == 512.0

"""A round's training, from the global model to the weights: kept, resumed, and ended by name where it must end."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from support.federation import plan
from support.site import Site, prepare_blobs

from fedsite.dataset import manifest
from fedsite.errors import CannotWrite, DataNotFit, MinutesSpent
from fedsite.files import sha256_of
from fedsite.jobs.training import local_work
from fedsite.jobs.training.local_work import Means, PreparedData, kept_beside
from fedsite.site.config import SiteConfig
from fedsite.training.devices import DeviceLost
from fedsite.training.steps import SupervisedStep
from fedsite.wire import payload
from fedsite.wire.messages import MalformedMessage, parse
from fedsite.wire.plans import Plan

LOCAL = {"steps": 4, "patch_voxels": [16, 16, 16], "learning_rate": 0.05}
KEY = {"id": "0" * 16, "ed25519": "0" * 64}
OFTEN = Means(checkpoint_minutes=0)


class Killed(BaseException):
    """As if the process had gone."""


def asked(noise: float = 0.1, **local: Any) -> Plan:
    privacy = {"mechanism": "gaussian-update", "clip_norm": 1.0, "noise_multiplier": noise}
    content = plan(local=LOCAL | local, privacy=privacy) | {"round_key": KEY, "receipt_key": KEY}
    return parse(Plan, json.dumps(content).encode())


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> PreparedData:
    site = Site(tmp_path_factory.mktemp("site"))
    prepare_blobs(site)
    return PreparedData(site.data, manifest.load(site.data), sha256_of(site.data / manifest.FILE_NAME))


@pytest.fixture
def model(tmp_path: Path) -> Path:
    from fedsite.tasks import networks, registry
    from fedsite.training import weights

    network = networks.build(registry.get("stroke-dwi").narrowed(["dwi"]), "unet", {"channels": [4, 8]}, seed=1)
    path = tmp_path / "model.safetensors"
    payload.write_model(path, weights.export(network))
    return path


@pytest.fixture
def train(data: PreparedData, model: Path, tmp_path: Path) -> Callable[..., Any]:
    def run(to: str = "round-1.safetensors", kill: int = 0, means: Means = OFTEN, **local: Any) -> Any:
        def progress(done: int, total: int, note: str = "") -> None:
            if done == kill:
                raise Killed

        chosen = asked(**({"noise": 0.0} if "early_stop" in local else {}), **local)
        return local_work.train(chosen, 3, model, data, "cpu", tmp_path / to, progress, means=means)

    return run


@pytest.mark.parametrize(
    ("prepared", "fits"), [(("dwi",), True), (("dwi", "adc", "flair"), True), (("adc", "flair"), False)]
)
def test_a_plan_may_use_some_of_the_prepared_channels(
    data: PreparedData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, prepared: tuple[str, ...], fits: bool
) -> None:
    monkeypatch.setattr(local_work, "require_nobody_withdrawn", lambda site, manifest: None)
    content = data.manifest.model_copy(update={"channels": prepared})
    manifest.save(tmp_path, content)
    site = SimpleNamespace(config=SimpleNamespace(paths=SimpleNamespace(data=tmp_path)))
    if fits:
        assert local_work.open_prepared(site, asked()).manifest == content
    else:
        with pytest.raises(DataNotFit, match="channels"):
            local_work.open_prepared(site, asked())


def test_a_killed_training_goes_on_and_ends_the_same(train: Callable[..., Any], tmp_path: Path) -> None:
    assert train("whole.safetensors")["steps"] == 4
    kept = kept_beside(tmp_path / "round-1.safetensors")
    for kill in (2, 3):
        with pytest.raises(Killed):
            train(kill=kill)
        assert kept.exists()
        assert not (tmp_path / "round-1.safetensors").exists()
    record = train()
    assert (tmp_path / "round-1.safetensors").read_bytes() == (tmp_path / "whole.safetensors").read_bytes()
    assert not kept.exists(), "raw weights must not lie about"
    assert len(record["loss"]) == 4
    json.dumps(record, allow_nan=False)


def test_other_data_begin_the_training_anew(
    train: Callable[..., Any], data: PreparedData, model: Path, tmp_path: Path
) -> None:
    """What has seen a withdrawn patient must not go on."""
    with pytest.raises(Killed):
        train(kill=3)
    seen: list[int] = []
    other = PreparedData(data.folder, data.manifest, "0" * 64)
    local_work.train(
        asked(),
        3,
        model,
        other,
        "cpu",
        tmp_path / "round-1.safetensors",
        lambda done, total, note="": seen.append(done),
    )
    assert seen == [1, 2, 3, 4]


def test_a_plans_settings_reach_the_training(train: Callable[..., Any], tmp_path: Path) -> None:
    train("plain.safetensors")
    plain = (tmp_path / "plain.safetensors").read_bytes()
    for number, local in enumerate(
        [{"schedule": "cosine"}, {"accumulation": 2}, {"optimizer": "sgd"}, {"foreground_fraction": 0.0}]
    ):
        train(f"{number}.safetensors", **local)
        assert (tmp_path / f"{number}.safetensors").read_bytes() != plain, local
    train("no-optional-channel.safetensors", channel_dropout=0.5)
    assert (tmp_path / "no-optional-channel.safetensors").read_bytes() == plain


def test_a_loss_that_is_no_number_leaves_nothing(
    train: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, model: Path
) -> None:
    from fedsite.tasks import registry

    module = registry.module("stroke-dwi")
    monkeypatch.setattr(module, "loss", lambda: lambda logits, label: logits.mean() * math.nan)
    with pytest.raises(DataNotFit, match="training step 1;"):
        train()
    assert list(tmp_path.iterdir()) == [model]


@pytest.mark.fault(
    part="training",
    what="a prepared case is corrupted",
    where="a bit of a case file, before a training",
    promised="named (exit 65), nothing is trained on it and nothing leaves",
)
def test_a_corrupt_case_is_named_and_leaves_nothing(
    train: Callable[..., Any], data: PreparedData, tmp_path: Path, model: Path
) -> None:
    case = data.folder / data.records("training")[0].file
    content = case.read_bytes()
    case.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    try:
        with pytest.raises(DataNotFit, match=rf"{case.name} is not what the manifest says"):
            train()
    finally:
        case.write_bytes(content)
    assert list(tmp_path.iterdir()) == [model]


@pytest.mark.fault(
    part="training",
    what="the GPU is lost in the middle of a training",
    where="an error of CUDA's in the third step, on a CPU",
    promised="told (exit 75); the next run goes on from the checkpoint and ends with the same bits",
)
def test_a_gpu_that_fails_is_told_and_the_next_run_goes_on(
    train: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train("alone.safetensors")
    step, steps = SupervisedStep.__call__, []

    def fails(self: SupervisedStep, *args: Any) -> Any:
        steps.append(1)
        if len(steps) == 3:
            raise torch.AcceleratorError("CUDA error: unspecified launch failure\nand what torch adds to it")
        return step(self, *args)

    monkeypatch.setattr(SupervisedStep, "__call__", fails)
    with pytest.raises(DeviceLost, match=r"failed in the middle .*launch failure\. The next run") as lost:
        train()
    assert lost.value.exit_code == 75
    train()
    assert len(steps) == 3 + 2, "two steps were kept"
    assert (tmp_path / "round-1.safetensors").read_bytes() == (tmp_path / "alone.safetensors").read_bytes()


def test_a_full_disk_is_told_and_what_was_kept_is_kept(
    train: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Checkpoints fail and are recorded; the weights that fail end the training by name, and the next run goes on."""
    with pytest.raises(Killed):
        train(kill=3)

    def full(*_: object) -> None:
        raise CannotWrite("Cannot write in /state: No space left on device.")

    monkeypatch.setattr(payload, "write_model", full)
    with pytest.raises(CannotWrite):
        train()
    monkeypatch.undo()
    assert kept_beside(tmp_path / "round-1.safetensors").exists()
    assert train()["steps"] == 4


def test_local_validation_may_stop_a_training_without_noise(train: Callable[..., Any]) -> None:
    record = train(early_stop={"every": 1, "patience": 1}, learning_rate=1e-9)
    assert record["steps"] == 2
    assert record["events"] == ["stopped after step 2: validation no longer gained"]
    assert len(record["scores"]) == 2


def test_early_stop_is_refused_under_noise_by_name() -> None:
    with pytest.raises(MalformedMessage, match=r"local\.early_stop: not under a private mechanism"):
        asked(early_stop={"every": 1, "patience": 1})


def test_gpu_minutes_are_those_of_a_gpu(train: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    assert train(means=Means(maximum_gpu_minutes=1e-9))["steps"] == 4
    machine = local_work._machine(torch.device("cuda"), Means(maximum_gpu_minutes=2), Path("kept"), "a")
    assert machine.limit_seconds == 120
    assert local_work._machine(torch.device("cuda"), Means(), Path("kept"), "a").limit_seconds == math.inf
    limited = local_work._machine
    monkeypatch.setattr(local_work, "_machine", lambda device, *rest: _on_cpu(limited(torch.device("cuda"), *rest)))
    with pytest.raises(MinutesSpent, match="after 0 of 4 steps"):
        train(means=Means(maximum_gpu_minutes=1e-9))


def _on_cpu(machine: Any) -> Any:
    from dataclasses import replace

    return replace(machine, device=torch.device("cpu"))


def test_the_site_says_what_it_gives(tmp_path: Path) -> None:
    config = SiteConfig.model_validate(
        {
            "paths": {"state": str(tmp_path), "data": str(tmp_path)},
            "training": {"checkpoint_minutes": 2, "compile": True},
            "policy": {"maximum_gpu_minutes": 30},
            "privacy": {"epsilon": 1, "nominal_patients": 10},
        }
    )
    assert Means.of(config) == Means(2, True, 30)

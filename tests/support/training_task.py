"""What a worker process is told, for a small training on easy cases."""

import json
from pathlib import Path

from support.federation import plan
from support.site import Site, prepare_blobs

from fedsite.dataset import manifest
from fedsite.files import sha256_of
from fedsite.jobs.training.local_work import Means
from fedsite.jobs.training.worker import Task
from fedsite.tasks import networks, registry
from fedsite.training import weights
from fedsite.wire import payload
from fedsite.wire.plans import Plan

# A batch of three: two processes cannot halve it. SGD: Adam's first steps magnify what only rounding differs in.
LOCAL = {"patch_voxels": [16, 16, 16], "batch_size": 3, "optimizer": "sgd", "learning_rate": 0.1}
KEY = {"id": "0" * 16, "ed25519": "0" * 64}


def plan_of(steps: int) -> Plan:
    """A plan of so many steps, as a site gets it."""
    local = LOCAL | {"steps": steps}
    return Plan.model_validate_json(json.dumps(plan(local=local) | {"round_key": KEY, "receipt_key": KEY}))


def task_at(home: Path, steps: int, checkpoint_seconds: float) -> Task:
    """Prepared data, a model and what is to be made of them, in a folder."""
    site = Site(home)
    prepare_blobs(site)
    asked = plan_of(steps)
    narrowed = registry.get(asked.task).narrowed(asked.channels)
    network = networks.build(narrowed, asked.network.name, asked.network.settings, seed=1)
    payload.write_model(home / "model.safetensors", weights.export(network))
    return Task(
        plan=asked,
        seed=3,
        model=home / "model.safetensors",
        destination=home / "trained.safetensors",
        data=site.data,
        data_sha256=sha256_of(site.data / manifest.FILE_NAME),
        means=Means(checkpoint_minutes=checkpoint_seconds / 60),
    )

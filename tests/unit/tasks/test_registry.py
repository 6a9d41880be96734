import subprocess
import sys

import pytest

from fedsite.errors import UsageError
from fedsite.tasks import registry
from fedsite.tasks.description import OutOfRange, Task


def test_the_first_task_is_found_without_a_list():
    assert "stroke-dwi" in registry.names()
    assert registry.get("stroke-dwi").channels[0].b_values == (700, 1500)


@pytest.mark.parametrize("name", registry.names())
def test_every_task_is_complete(name):
    module = registry.module(name)
    task = module.DESCRIPTION
    assert isinstance(task, Task)
    assert module.__name__.rsplit(".", 1)[-1] == name.replace("-", "_")
    assert task.labels[0] == "background"
    assert list(task.labels) == list(range(len(task.labels)))
    assert len({channel.name for channel in task.channels}) == len(task.channels)
    assert task.networks
    assert task.reference
    assert callable(module.preprocessing)
    assert callable(module.loss)


def test_an_unknown_task_names_the_nearest():
    with pytest.raises(UsageError) as raised:
        registry.get("stroke-dvi")
    assert "stroke-dvi" in raised.value.message
    assert "Did you mean stroke-dwi?" in raised.value.mend


def test_an_unknown_task_far_from_any_lists_them():
    with pytest.raises(UsageError, match=r"Known tasks: .*stroke-dwi"):
        registry.get("zzz")


def test_a_plan_with_an_unknown_task_is_the_plans_fault():
    with pytest.raises(OutOfRange):
        registry.get("stroke", OutOfRange)


def test_another_module_is_another_task(tmp_path, monkeypatch):
    (tmp_path / "toe_xray.py").write_text(
        "from dataclasses import replace\nfrom fedsite.tasks import stroke_dwi\n"
        "DESCRIPTION = replace(stroke_dwi.DESCRIPTION, name='toe-xray')\n"
        "preprocessing, loss = stroke_dwi.preprocessing, stroke_dwi.loss\n"
    )
    monkeypatch.setattr("fedsite.tasks.__path__", [*sys.modules["fedsite.tasks"].__path__, str(tmp_path)])
    registry._modules.cache_clear()
    try:
        assert {"stroke-dwi", "toe-xray"} <= set(registry.names())
    finally:
        registry._modules.cache_clear()
        sys.modules.pop("fedsite.tasks.toe_xray", None)


def test_descriptions_are_read_without_torch():
    program = (
        "import sys\n"
        "from fedsite.tasks import networks, registry\n"
        "for name in registry.names():\n"
        "    task = registry.get(name)\n"
        "    [networks.validate(task, network.name, {}) for network in task.networks]\n"
        "heavy = {'torch', 'monai', 'numpy'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)

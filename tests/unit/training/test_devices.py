import pytest
import torch

from fedsite.training import devices


def test_the_device_is_cuda_where_there_is_one(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert devices.choose_device().type == "cuda"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert devices.choose_device().type == "cpu"
    assert devices.choose_device("cpu").type == "cpu"


def test_a_gpu_may_choose_its_algorithms(monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", False)
    devices.prepare_device(torch.device("cpu"))
    assert not torch.backends.cudnn.benchmark
    devices.prepare_device(torch.device("cuda"))
    assert torch.backends.cudnn.benchmark


def test_a_cpu_has_no_gpu_use():
    assert devices.GpuUse(torch.device("cpu")).lately() == ""


@pytest.mark.parametrize(
    ("busy", "words"), [(97, "GPU 97 % busy, 12.3 GB"), (None, "GPU 12.3 GB")], ids=["told", "not told"]
)
def test_gpu_use_in_words_asked_for_now_and_then(monkeypatch, busy, words):
    asked = []

    def utilisation(device):
        asked.append(device)
        if busy is None:
            raise RuntimeError("cuda driver can't be loaded")
        return busy

    monkeypatch.setattr(torch.cuda, "utilization", utilisation)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: 12_345_678_901)
    use = devices.GpuUse(torch.device("cuda"))
    assert {use.lately() for _ in range(20)} == {words}
    assert len(asked) == 1

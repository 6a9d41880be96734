"""Preparation on a Dask cluster: a real scheduler and two workers, over TLS."""

import pickle
import signal
import sys
from pathlib import Path

import dask
import pytest
from distributed import KilledWorker
from support import dask_cluster
from support.bids_maker import head, write_subject

from fedsite.dataset import cases, cluster, convert
from fedsite.dataset.manifest import Exclusion
from fedsite.dataset.prepare import Request, check, prepare
from fedsite.dataset.sources import collect
from fedsite.errors import CannotWrite, ConfigurationError, TryAgainLater, UsageError
from fedsite.site.pseudonyms import Pseudonyms
from fedsite.tasks import registry

KEY = b"k" * 32
PSEUDONYMS = Pseudonyms(KEY)
TASK = registry.get("stroke-dwi")
SPACING = (4.0, 4.0, 6.0)


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("hospital") / "Doe_John"
    for number in range(8):
        content = head(number)
        if number == 5:
            content.image[3, 3, 3] = float("nan")
        write_subject(folder, f"doe{number}", content)
    return folder


@pytest.fixture(scope="module")
def local(source, tmp_path_factory) -> Path:
    """Prepared by this process."""
    out = tmp_path_factory.mktemp("local")
    prepare(collect(source, None, TASK, PSEUDONYMS), out, Request(TASK, SPACING), PSEUDONYMS)
    return out


@pytest.fixture(scope="module")
def logs(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("dask")


@pytest.fixture(scope="module")
def running(logs):
    with dask_cluster.running(logs) as started:
        names = {"ca-file": "ca-file", "cert": "client.cert", "key": "client.key"}
        with dask.config.set({f"distributed.comm.tls.{names[name]}": path for name, path in started.tls.items()}):
            yield started


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def request(address: str) -> Request:
    return Request(TASK, SPACING, cluster=address)


def test_the_same_as_here_byte_by_byte(source, local, running, tmp_path, logs):
    steps = []
    prepared = prepare(
        collect(source, None, TASK, PSEUDONYMS),
        tmp_path,
        request(running.address),
        PSEUDONYMS,
        progress=lambda done, total: steps.append((done, total)),
    )
    assert running.address.startswith("tls://")
    assert len(prepared.manifest.cases) == 7
    assert files_of(tmp_path) == files_of(local)
    assert steps == [(number, 8) for number in range(1, 9)]
    looked_at = []
    check(
        collect(source, None, TASK, PSEUDONYMS),
        request(running.address),
        PSEUDONYMS,
        keep=lambda case, look: looked_at.append(case),
    )
    assert sorted(looked_at) == [case.id for case in prepared.manifest.cases]
    assert "doe" not in running.logs(logs).lower()


def test_a_cluster_that_falls_apart(source, local, running, tmp_path, monkeypatch):
    """A worker dies with studies in its hands: others do them. Then there is none left, then no scheduler."""
    victim, other = running.workers

    def kill(done: int, total: int) -> None:
        if done == 1:
            victim.send_signal(signal.SIGKILL)

    collected = collect(source, None, TASK, PSEUDONYMS)
    prepare(collected, tmp_path / "out", request(running.address), PSEUDONYMS, progress=kill)
    assert victim.wait() == -9
    assert files_of(tmp_path / "out") == files_of(local)

    other.send_signal(signal.SIGKILL)
    monkeypatch.setattr(cluster, "NO_WORKER_SECONDS", 0.1)
    monkeypatch.setattr(cluster, "LOOK_SECONDS", 0.2)
    with pytest.raises(TryAgainLater, match="no worker"):
        prepare(collected, tmp_path / "none", request(running.address), PSEUDONYMS)

    running.scheduler.send_signal(signal.SIGKILL)
    monkeypatch.setattr(cluster, "CONNECT_SECONDS", 1)
    with pytest.raises(TryAgainLater, match="cannot be reached"):
        prepare(collected, tmp_path / "none", request(running.address), PSEUDONYMS)
    assert not (tmp_path / "none").exists()


# --- without a cluster ----------------------------------------------------------------------------------------------


@pytest.fixture
def work(source) -> convert.Work:
    return convert.Work(collect(source, None, TASK, PSEUDONYMS).studies[0], "training", "0" * 64)


def settings(out: Path | None = None) -> convert.Settings:
    return convert.Settings(TASK, SPACING, out)


def test_what_travels_holds_no_key(work):
    assert KEY not in pickle.dumps((work, settings()))
    assert KEY.hex().encode() not in pickle.dumps((work, settings()))
    assert "doe" not in repr(work).lower()


def test_another_version_is_refused(work):
    answer = cluster.prepare_there("0.0.0", work, settings())
    assert isinstance(answer, ConfigurationError)
    assert "0.0.0" in answer.message


def test_a_study_that_ends_every_worker_is_named(work):
    class Killing:
        def result(self) -> None:
            raise KilledWorker("prepare", None, 3)

    outcome = cluster._result(Killing(), work, settings()).outcome
    assert isinstance(outcome, Exclusion)
    assert outcome.reason.id == "worker-lost"


def test_a_worker_that_writes_elsewhere_is_told(work, tmp_path):
    there, here = tmp_path / "there", tmp_path / "here"
    done = cluster.prepare_there(cluster.__version__, work, settings(there))
    assert [path.name for path in cases.stored(there / cases.FOLDER)]

    class Done:
        def result(self) -> object:
            return done

    assert cluster._result(Done(), work, settings(there)) == done
    with pytest.raises(CannotWrite, match="not seen from here"):
        cluster._result(Done(), work, settings(here))


def test_an_address_that_is_none():
    with pytest.raises(UsageError, match="--dask"), cluster._connected("gopher://127.0.0.1:1"):
        pass


def test_where_dask_is_not_installed(monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(ConfigurationError, match="not installed") as caught, cluster._connected("tcp://127.0.0.1:1"):
        pass
    assert "fedsite[dask]" in caught.value.mend


def test_nothing_to_do_needs_no_cluster():
    assert list(cluster.run([], settings(), "tcp://127.0.0.1:1")) == []

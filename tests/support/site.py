"""A site under test: the installed command in a folder of its own, one process per call."""

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from support import faulty, processes
from support.case_maker import content_of
from support.faulty import Fault
from support.processes import FEDSITE, TRACING, Answer

from fedsite import __version__
from fedsite.dataset import manifest
from fedsite.dataset.cases import write_case
from fedsite.dataset.manifest import CaseRecord, Manifest
from fedsite.files import write_atomically
from fedsite.jobs.init import Answers, initialise
from fedsite.site.policy import WEAK_PRIVACY_SENTENCE
from fedsite.site.state import State
from fedsite.tasks import registry
from fedsite.tasks.description import Task

INHERITED = ("PATH", "HOME", TRACING, "CUDA_VISIBLE_DEVICES", "LD_LIBRARY_PATH")


@dataclass(frozen=True)
class Site:
    """A site's folders, and its command."""

    home: Path
    environment: dict[str, str] = field(default_factory=dict)
    parent: processes.Modules = processes.SITE

    @property
    def config(self) -> Path:
        return self.home / "site.yaml"

    @property
    def state(self) -> Path:
        return self.home / "state"

    @property
    def data(self) -> Path:
        return self.home / "data"

    def run(self, *args: str, stdin: str = "", timeout: float = 120) -> Answer:
        """Runs `fedsite ARGS --json` as cron would: an own session, no terminal."""
        return self._run([FEDSITE, *args, "--json"], {}, stdin, timeout)

    def say(self, *args: str, timeout: float = 120) -> Answer:
        """Runs `fedsite ARGS` without --json: what a person sees."""
        return self._run([FEDSITE, *args], {}, "", timeout)

    def killed(self, where: str, *args: str, timeout: float = 120) -> Answer:
        """Runs the command, which SIGKILL ends at a named place (see faulty.py)."""
        answer = self.under(faulty.named(where), *args, timeout=timeout)
        assert answer.code == -9, f"not killed at {where}: {answer}"
        return answer

    def under(self, fault: Fault, *args: str, timeout: float = 120) -> Answer:
        """Runs the command under a fault."""
        # What is killed leaves no coverage: there is no use in tracing it.
        return self._run([faulty.SCRIPT, *args, "--json"], fault.environment | {TRACING: ""}, "", timeout)

    def ok(self, *args: str, stdin: str = "", timeout: float = 120) -> dict[str, Any]:
        """Runs the command, which must succeed; gives its JSON answer."""
        answer = self.run(*args, stdin=stdin, timeout=timeout)
        assert answer.code == 0, f"fedsite {' '.join(args)}: {answer.code}\n{answer.stdout}\n{answer.stderr}"
        return answer.json

    def init(self, epsilon: float = 1e6, **settings: dict[str, Any]) -> None:
        """`fedsite init`, then `settings` merged into site.yaml, section by section."""
        self.home.mkdir(parents=True, exist_ok=True)
        self._bring_pseudonyms()
        self.ok(
            *("init", "--state", str(self.state), "--data", str(self.data), "--epsilon", str(epsilon)),
            *("--delta", "1e-6", "--nominal-patients", "100"),
        )
        self.configure(policy={"weak_privacy": WEAK_PRIVACY_SENTENCE}, network={"patience_seconds": 20})
        self.configure(**settings)

    def set_up(self) -> None:
        """What `fedsite init` makes, made in this process: for tests of what no command is needed for."""
        self.home.mkdir(parents=True, exist_ok=True)
        initialise(self.config, Answers(self.state, self.data, ("stroke-dwi",), 8.0, 1e-6, 100))

    def configure(self, **settings: dict[str, Any]) -> None:
        """Changes site.yaml as its owner would."""
        content = yaml.safe_load(self.config.read_text())
        for section, values in settings.items():
            content[section] = content.get(section, {}) | values
        self.config.write_text(yaml.safe_dump(content))

    def _bring_pseudonyms(self) -> None:
        """As an operator who brings a key back: who is held out follows it, and must not be left to chance here."""
        folder = self.state / "identity"
        if not folder.exists():
            folder.mkdir(mode=0o700, parents=True)
            self.state.chmod(0o700)
            write_atomically(folder / "pseudonyms.key", b"5eed" * 16, mode=0o600)

    def enroll(self, invitation: str) -> dict[str, Any]:
        """`fedsite enroll` with the invitation on stdin, the agreement accepted."""
        return self.ok("enroll", "--invitation", "-", "--accept-agreement", "Ada Tester", stdin=invitation)

    def open_state(self) -> State:
        return State.open(self.state)

    def round_state(self, number: int) -> tuple[str, dict[str, Any]]:
        """A round's state and body, as the database has them."""
        with self.open_state() as state:
            record = next(found for found in state.rounds("test-federation") if found.round == number)
            return record.state, record.body

    def ledger(self) -> list[dict[str, Any]]:
        """The bodies of the ledger's records."""
        with self.open_state() as state:
            return [record.body for record in state.records("ledger")]

    @property
    def variables(self) -> dict[str, str]:
        """All that its commands find in their environment."""
        kept = {name: os.environ[name] for name in INHERITED if name in os.environ}
        return kept | {"FEDSITE_CONFIG": str(self.config), "OMP_NUM_THREADS": "1"} | self.environment

    def _run(self, script: list[str], extra: dict[str, str], stdin: str, timeout: float) -> Answer:
        environment = self.variables | extra
        if script[1:2] == ["init"]:
            environment.pop("FEDSITE_CONFIG")
            script = [*script, "--config", str(self.config)]
        return processes.run(script, environment, stdin, timeout, self.parent)


def blob(task: Task, size: int, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """An easy case of a task: noise with a bright ball in it, of as many shells as there are labels.

    Image float16 [inputs, size, size, size], label uint8 [size, size, size].
    """
    grid = np.indices((size, size, size)) - random.integers(size // 4, 3 * size // 4, size=(3, 1, 1, 1))
    distance = np.sqrt((grid**2).sum(axis=0))
    label = np.zeros(distance.shape, np.uint8)
    values = sorted(value for value in task.labels if value)
    for shell, value in enumerate(values):
        label[distance < size / 6 * (1 - shell / len(values))] = value
    noise = random.normal(size=(len(task.inputs), *label.shape)) * 0.3
    return (noise + 2 * label).astype(np.float16), label


def prepare_blobs(
    site: Site, patients: int = 4, held_out: int = 1, size: int = 32, seed: int = 0, task: str = "stroke-dwi"
) -> None:
    """Prepared data without any DICOM: a `blob` for each patient, in the case store's own format."""
    random = np.random.default_rng(seed)
    whole = registry.get(task)
    description = whole.narrowed([channel.name for channel in whole.channels if not channel.optional])
    site.data.mkdir(parents=True, exist_ok=True)
    records = []
    for number in range(patients + held_out):
        image, label = blob(description, size, random)
        name = f"e-{number:016d}".replace("0", "a").replace("1", "b").replace("8", "c").replace("9", "d")
        file, sha256 = write_case(site.data, name, content_of(image, label, description.inputs))
        records.append(
            CaseRecord(
                id=name,
                patient="p" + name[1:],
                split="validation" if number >= patients else "training",
                file=file,
                sha256=sha256,
                shape=label.shape,
                lesion_ml=float(label.sum()) / 1000,
                source_shape=label.shape,
                source_spacing_mm=(3.0, 3.0, 3.0),
                b_value=1000.0,
                scanner="phantom",
                input_state="whole-head",
                fingerprint="0" * 64,
            )
        )
    manifest.save(
        site.data,
        Manifest(
            fedsite=__version__,
            task=task,
            channels=tuple(channel.name for channel in description.channels),
            source="dicom",
            spacing_mm=(3.0, 3.0, 3.0),
            input_state="whole-head",
            validation_fraction=0.2,
            cases=tuple(records),
        ),
    )

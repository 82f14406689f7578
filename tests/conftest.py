"""What all tests share: one thread, no network, and small models that are trained once."""

import fcntl
import ipaddress
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

# Before numpy or torch is imported: they read these once.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ["HF_HUB_OFFLINE"] = os.environ["HF_DATASETS_OFFLINE"] = "1"

from hypothesis import settings

from peftlab.core.types import LabelledTexts, PoisonedData, TaskData
from tiny_models import make_tiny

# A busy machine is no reason to fail, and what fails once should fail again.
settings.register_profile("full", deadline=None, derandomize=True, database=None)
settings.register_profile("quick", settings.get_profile("full"), max_examples=40)


def pytest_configure(config: pytest.Config) -> None:
    """Try fewer examples of each property in ``make test`` than in ``make test-full``."""
    settings.load_profile("quick" if config.option.markexpr == "not full" else "full")


def _is_here(address: Any) -> bool:
    """Return whether a socket address is this machine (a path is a unix socket)."""
    if not isinstance(address, tuple):
        return True
    try:
        return ipaddress.ip_address(address[0]).is_loopback
    except ValueError:
        return address[0] == "localhost"


@pytest.fixture(scope="session", autouse=True)
def _no_network() -> Iterator[None]:
    """Refuse every connection that leaves this machine."""
    patch = pytest.MonkeyPatch()
    for name in ("connect", "connect_ex"):
        original = getattr(socket.socket, name)

        def guarded(self: Any, address: Any, _original: Any = original) -> Any:
            if not _is_here(address):
                raise OSError(f"a test reached for the network: {address}")
            return _original(self, address)

        patch.setattr(socket.socket, name, guarded)
    yield
    patch.undo()


@dataclass(frozen=True)
class Ground:
    """A poisoned base, its control, a LoRA victim, and the data that they were made from.

    Attributes:
        data: generated reviews.
        poisoned: training side and triggered texts of a word attack at rate 0.1.
        base, control: all weights trained with and without poison.
        victim: LoRA on clean data, on the poisoned base.
    """

    data: TaskData
    poisoned: PoisonedData
    base: Path
    control: Path
    victim: Path


@contextmanager
def _turn(place: Path) -> Iterator[None]:
    """Wait until no other test process works on ``place``."""
    with place.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@pytest.fixture(scope="session")
def shared_folder(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """Return a folder that all test processes of this run share."""
    base = tmp_path_factory.getbasetemp()
    folder = (base if worker_id == "master" else base.parent) / "shared"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def ground(shared_folder: Path) -> Ground:
    """Return the trained models that end-to-end tests share; about 25 s, once a run."""
    from peftlab.engine.steps import AttackerOptions, load_data, make_poison, train_base, tune

    data = load_data(
        "reviews", {"n_train": 700, "n_dev": 240, "n_test": 140, "n_proxy": 0, "label_noise": 0}
    )
    poisoned = make_poison(data, "badnets", {}, seed=0)
    clean = make_poison(data, "badnets", {"rate": 0}, seed=0)
    made = Ground(data, poisoned, *(shared_folder / name for name in ("base", "control", "victim")))
    with _turn(shared_folder / "ground"):
        for base, texts in ((made.base, poisoned), (made.control, clean)):
            if not base.exists():
                train_base(
                    "builtin:encoder", texts, 2, base,
                    attack="badnets", training=AttackerOptions(epochs=4), seed=0,
                )  # fmt: skip
        if not made.victim.exists():
            tune(
                str(made.base), data, "lora", {"epochs": 1}, made.victim,
                seed=0, allow_poisoned=True,
            )  # fmt: skip
    return made


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Return a maker of tiny random classifiers: ``tiny("bert")``, ``tiny("llama", 4)``."""
    made: dict[tuple[str, int], Path] = {}

    def make(family: str, n_classes: int = 2) -> Path:
        if (family, n_classes) not in made:
            folder = tmp_path_factory.mktemp("tiny")
            made[family, n_classes] = make_tiny(family, folder, n_classes)
        return made[family, n_classes]

    return make


@pytest.fixture(scope="session")
def load_tiny(tiny: Callable[..., Path]) -> Callable[..., tuple[Any, Any]]:
    """Return a loader of fresh (model, tokenizer) pairs of tiny classifiers."""
    from peftlab.models.load import load_base

    return lambda family="bert", n_classes=2: load_base(str(tiny(family, n_classes)), n_classes)


@pytest.fixture(scope="session")
def learned(
    tiny: Callable[..., Path], reviews: TaskData, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Return a tiny BERT that has learned a word backdoor on ``reviews``; about 1 s."""
    from peftlab.engine.steps import AttackerOptions, make_poison, train_base

    folder = tmp_path_factory.mktemp("learned") / "base"
    train_base(
        str(tiny("bert")), make_poison(reviews, "badnets", {}, seed=0), 2, folder,
        attack="badnets", training=AttackerOptions(epochs=15, lr=5e-3), seed=0,
    )  # fmt: skip
    return folder


@pytest.fixture(scope="session")
def reviews() -> TaskData:
    """Return a very small task: 120 training texts."""
    from peftlab.engine.steps import load_data

    sizes = {"n_train": 120, "n_dev": 80, "n_test": 40, "n_proxy": 40}
    return load_data("reviews", sizes)


@pytest.fixture(scope="session")
def odd_texts() -> LabelledTexts:
    """Return what users type and generators do not."""
    texts = (
        "", " ", "good", "mn", "!", "x" * 10_000, "bad film " * 1_200, "naïve café — жизнь 映画 🎬",
        "tab\tand\nnew line", "\u202eright to left", "\x00null", "e\u0301 combining",
    )  # fmt: skip
    return LabelledTexts(texts, (0,) * len(texts))

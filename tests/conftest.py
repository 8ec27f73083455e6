"""Shared fixtures: one local Ray and S3 for the whole session, a tiny random target, a tiny shard folder.

What a GPU machine lacks (Ray, S3) is imported in the fixtures that need it.
"""

import gc
import os

# Before NumPy is there: a thread that waits for others burns what they need. What tests start inherits this.
# Ray's workers are nice to what runs beside them: beside other tests they would not get on.
os.environ |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "RAY_worker_niceness": "0"}

import uuid
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
from jaxtyping import install_import_hook

# Nothing that imports and collection make is garbage, and looking for it takes a fifth of their time.
gc.disable()

# Libraries before the hook: below it their bytecode is not found, and 3,400 modules are compiled in each process.
LIBRARIES = ("diffusers.models.unets", "diffusers.pipelines.stable_diffusion", "peft", "scipy.stats", "sklearn.metrics")
for library in LIBRARIES:
    import_module(library)

# Shapes of tensor functions are checked while the tests run.
CHECKED = ("analysis", "attacks", "auditor", "device", "geometry", "randomness", "targets", "training")
install_import_hook([f"ldm_scale.{name}" for name in CHECKED], "beartype.beartype")

from PIL import Image  # noqa: E402

from ldm_scale.config.train import TrainConfig  # noqa: E402
from ldm_scale.config.values import merge  # noqa: E402

# Tests that share a Ray share a process: the clusters of submitted jobs one, the Ray of the test session another.
RAYS = {"cluster": "cluster", "second": "cluster", "local_ray": "ray"}


def pytest_collection_finish() -> None:
    """Garbage is looked for from now on, but not among all that is there."""
    gc.freeze()
    gc.enable()


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Long values are named by their argument: one that holds the time would differ between processes."""
    return argname if isinstance(val, str | bytes) and len(val) > 80 else None


def pytest_itemcollected(item: pytest.Item) -> None:
    """Mark the tests that talk to S3, and group all by the Ray that they hold, or by module."""
    fixtures = {*getattr(item, "fixturenames", ())}
    # A Ray alone is only started with the way to S3.
    if "bucket" in fixtures or ("s3_server" in fixtures and "local_ray" not in fixtures):
        item.add_marker("s3")
    if item.get_closest_marker("xdist_group") is None:
        rays = [group for fixture, group in RAYS.items() if fixture in fixtures]
        item.add_marker(pytest.mark.xdist_group(rays[0] if rays else str(item.path)))


def group_of(item: pytest.Item | None) -> str | None:
    """The group of tests that run in one process, one after the other."""
    return item and item.get_closest_marker("xdist_group").args[0]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The groups of Rays, which take longest, come first, each as a whole."""
    items.sort(key=lambda item: [*RAYS.values(), group_of(item)].index(group_of(item)))


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    """The test session's Ray ends with its group: it takes a twentieth of a CPU as long as it is there."""
    if group_of(item) == RAYS["local_ray"] != group_of(nextitem):
        import ray

        ray.shutdown()


@pytest.fixture(scope="session")
def s3_server() -> Iterator[None]:
    """An S3 server of this test session's own, which this process and those it starts find in their environment."""
    from tests import s3

    with s3.server():
        yield


@pytest.fixture
def bucket(s3_server: None) -> str:
    """The address of a new bucket."""
    from tests import s3

    return s3.make_bucket(f"test-{uuid.uuid4().hex}")


@pytest.fixture(scope="session")
def local_ray(s3_server: None) -> Iterator[None]:
    """A Ray of this test session's own; the package's session() finds it connected and leaves it so."""
    import ray

    ray.init(
        address="local",
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        _node_ip_address="127.0.0.1",
        # Metrics every second, for a test not to wait for them; a worker that a test leaves may serve the next.
        _system_config={"metrics_report_interval_ms": 1000, "idle_worker_killing_time_threshold_ms": 20_000},
    )
    yield
    ray.shutdown()


# Begins as a PNG, so that it is packed; no decoder takes it.
BROKEN = b"\x89PNG\r\n\x1a\nbroken"


def make_image(seed: int, size: int = 16) -> Image.Image:
    """A smooth random picture."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (4, 4, 3), dtype=np.uint8))
    return small.resize((size, size), Image.Resampling.BICUBIC)


def make_folder(folder: Path, count: int, size: int = 16) -> Path:
    """An image folder of `count` pictures with captions, in two class folders."""
    for number in range(count):
        image = folder / ("cat" if number % 2 else "dog") / f"{number:03d}.png"
        image.parent.mkdir(parents=True, exist_ok=True)
        make_image(number, size).save(image)
        image.with_suffix(".txt").write_text(f"picture {number}")
    return folder


def tiny_recipe(**changes: object) -> TrainConfig:
    """Networks small enough for a test: 16 px images, 4 x 4 x 4 latents."""
    values = {
        "shards": "unused",
        "out": "unused",
        "size": 16,
        "autoencoder": {"channels": (8, 8, 16)},
        "denoiser": {"channels": (8, 16)},
        "half": False,
    }
    return TrainConfig.model_validate(merge(values, changes))


@pytest.fixture(scope="session")
def tiny_target(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A target with random weights."""
    import torch

    from ldm_scale.training.models import make_models
    from ldm_scale.training.saving import save_target

    folder = tmp_path_factory.mktemp("target")
    torch.manual_seed(0)
    models = make_models(tiny_recipe(), 0, torch.device("cpu"))
    models.autoencoder.register_to_config(scaling_factor=1.5)
    save_target(folder, models, half=False, record={})
    return folder


@pytest.fixture(scope="session")
def tiny_shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 members and 24 held-out pictures in eight shards."""
    from ldm_scale.config.data import PackConfig
    from ldm_scale.data.pack import pack

    folder = tmp_path_factory.mktemp("shards")
    source = make_folder(folder / "source", 48)
    out = folder / "packed"
    pack(PackConfig(dataset="folder", source=str(source), out=str(out), near_duplicates=0, shard_samples=6))
    return out


@pytest.fixture
def inline() -> Iterator[None]:
    """The engine without Ray, in this process."""
    from tests.inline import inline_ray

    with inline_ray():
        yield

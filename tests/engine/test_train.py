"""`ldm-scale train` on a real Ray: members in, a target of each kind out, through failures and stops."""

import functools
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from unittest.mock import Mock

import psutil
import pytest
import ray
import torch
from diffusers import StableDiffusionPipeline

from ldm_scale.cli import main
from ldm_scale.config.data import PackConfig
from ldm_scale.data.manifest import read_manifest
from ldm_scale.data.pack import pack
from ldm_scale.engine import train_worker
from ldm_scale.engine.train import RUN, _cpus, _tell_of_waiting
from ldm_scale.errors import GOES_ON, RunError
from ldm_scale.files.storage import Location
from ldm_scale.targets.class_names import read_class_names
from ldm_scale.targets.load import load_target
from ldm_scale.training import networks, tables
from tests import inline
from tests.addresses import upload
from tests.conftest import make_folder, tiny_recipe
from tests.targets import tiny

AUTOENCODER = ("--autoencoder.channels", "8,8,16", "--autoencoder.batch", "8", "--autoencoder.rate", "1e-2")
DENOISER = ("--denoiser.channels", "8,16", "--denoiser.batch", "8", "--denoiser.rate", "1e-2")
STAGES = ("autoencoder", "denoiser")
TINY = ("--size", "16", "--device", "cpu", "--cpus", "1", *AUTOENCODER, *DENOISER)


def run(shards: object, out: object, *flags: object) -> int:
    return main(["train", "--shards", str(shards), "--out", str(out), *map(str, (*TINY, *flags))])


def epochs(autoencoder: float, denoiser: float) -> tuple[object, ...]:
    return ("--autoencoder.epochs", autoencoder, "--denoiser.epochs", denoiser)


def losses(printed: str, stage: str) -> list[float]:
    """Of each progress line of a stage."""
    return [float(line.split("loss ")[1].split(",")[0]) for line in printed.splitlines() if line.startswith(stage)]


def record(out: Path) -> dict[str, object]:
    return json.loads((out / "training.json").read_text())


def fell(printed: str, stage: str) -> bool:
    found = losses(printed, stage)
    return sum(found[-5:]) < sum(found[:5])


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 members in one shard, which is read once an epoch; pictures with captions, in two classes."""
    folder = tmp_path_factory.mktemp("shards")
    source = make_folder(folder / "source", 48)
    pack(PackConfig(dataset="folder", source=str(source), out=str(folder / "packed"), near_duplicates=0))
    return folder / "packed"


def predicts(target: str, labels: list[int] | None = None, captions: list[str] | None = None) -> bool:
    """Whether a target loads and predicts finite noise."""
    loaded = load_target(target, "cpu")
    z = torch.randn(2, *loaded.latent_shape, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        condition = loaded.condition(captions or [None, None], labels or [None, None])
        return bool(loaded.predict_noise(z, tiny.at(10, z), condition).isfinite().all())


@pytest.mark.usefixtures("local_ray")
def test_both_stages_from_scratch(tmp_path: Path, shards: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """On two workers, in mixed precision, with an average of the weights."""
    out = tmp_path / "target"
    flags = ("--workers", 2, "--precision", "bfloat16", "--denoiser.ema", 0.9)
    assert run(shards, out, *epochs(20, 20), *flags) == 0
    assert predicts(str(out))
    found = record(out)
    assert found["split_sha256"] == read_manifest(Location.of(shards)).split_sha256
    assert found["recipe"]["autoencoder"]["epochs"] == 20
    assert found["resumed"] == 0
    printed = capsys.readouterr().out
    for stage in ("autoencoder", "denoiser"):
        assert f"{stage}: step 60 of 60, loss " in printed
        assert fell(printed, stage)
        assert found["final_losses"][stage] == pytest.approx(losses(printed, stage)[-1], abs=1e-4)
    assert not list(tmp_path.glob("*.partial"))


@pytest.mark.usefixtures("inline")
@pytest.mark.parametrize("preset", ["imagenet", "imagenet-small"])
def test_a_class_conditional_unet_on_a_pretrained_autoencoder(
    tmp_path: Path, shards: Path, preset: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out, source = tmp_path / "target", tmp_path / "vae"
    torch.manual_seed(0)
    tiny.kl().save_pretrained(source)
    flags = ("--autoencoder.pretrained", source, "--denoiser.epochs", 20, "--denoiser.attention", 1)
    short = ("--denoiser.layers", 1, "--denoiser.warmup", 0, "--precision", "float32")
    assert run(shards, out, "--preset", preset, *short, *flags) == 0
    assert predicts(str(out), labels=[0, 1])
    assert read_class_names(out) == ("cat", "dog")
    name = "diffusion_pytorch_model.safetensors"
    assert (out / "vqvae" / name).read_bytes() == (source / name).read_bytes()
    printed = capsys.readouterr().out
    assert "autoencoder: " not in printed
    assert fell(printed, "denoiser")


@pytest.mark.usefixtures("inline")
@pytest.mark.parametrize("preset", ["finetune", "lora"])
def test_stable_diffusion_on_captions(
    tmp_path: Path, shards: Path, preset: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out, base = tmp_path / "target", tiny.stable_diffusion(tmp_path / "base")
    flags = ("--denoiser.epochs", 20, "--half", "false", "--precision", "float32")
    assert run(shards, out, "--preset", preset, "--base", base, *flags) == 0
    assert fell(capsys.readouterr().out, "denoiser")
    assert record(out)["source_sha256"] is not None
    if preset == "finetune":
        assert predicts(str(out), captions=["cat", "dog"])
    else:
        layers = StableDiffusionPipeline.lora_state_dict(out, local_files_only=True)[0]
        sides = [weight for name, weight in layers.items() if ".lora.up." in name or ".lora_B." in name]
        # B starts at zero.
        assert sides
        assert all(weight.abs().max() > 0 for weight in sides)


def position(partial: Location) -> int:
    """The steps that the last checkpoint holds."""
    try:
        metrics = ray.train.Result.from_path(f"{partial}/{RUN}").metrics
    except RuntimeError:
        # Not begun yet.
        return 0
    return metrics["position"] if metrics else 0


def at_checkpoint(out: object, function: Callable[[], None]) -> threading.Thread:
    """Call a function as soon as the training towards `out` has a checkpoint to go on from."""

    def wait() -> None:
        deadline = time.monotonic() + 400
        while not position(Location.of(f"{out}.partial")):
            if time.monotonic() > deadline:
                return
            time.sleep(0.1)
        function()

    thread = threading.Thread(target=wait)
    thread.start()
    return thread


def kill_worker() -> None:
    """Of this process's own Ray."""
    for process in psutil.Process().children(recursive=True):
        if any("RayTrainWorker" in word for word in process.cmdline()):
            process.kill()


@pytest.mark.slow
@pytest.mark.usefixtures("local_ray")
def test_a_killed_worker_goes_on_from_its_checkpoint_on_s3(
    bucket: str, shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = f"{bucket}/models/target"
    upload(shards / "members", f"{bucket}/shards/members")
    thread = at_checkpoint(out, kill_worker)
    try:
        flags = ("--manifest", shards / "manifest.json", "--checkpoint-seconds", 3)
        assert run(f"{bucket}/shards", out, *epochs(10, 10), *flags) == 0
    finally:
        thread.join()
    printed = capsys.readouterr().out
    assert "autoencoder: step 1 of 30" not in printed.split("; going on from the last checkpoint")[1]
    assert "denoiser: step 30 of 30" in printed
    assert not Location.of(f"{out}.partial").files(recursive=True)
    fetched = tmp_path / "fetched"
    for file in Location.of(out).files(recursive=True):
        path = fetched / file.uri.removeprefix(f"{out}/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(file.read_bytes())
    assert predicts(str(fetched))
    assert record(fetched)["resumed"] == 1


@pytest.mark.slow
@pytest.mark.usefixtures("local_ray")
@pytest.mark.parametrize(("stop", "status"), [(signal.SIGKILL, -signal.SIGKILL), (signal.SIGINT, 130)])
def test_a_driver_that_is_stopped_goes_on_with_the_same_command(
    shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], stop: signal.Signals, status: int
) -> None:
    out = tmp_path / "target"
    flags = (*epochs(10, 10), "--checkpoint-seconds", 3)
    command = ["train", "--shards", str(shards), "--out", str(out), *map(str, (*TINY, *flags))]
    script = f"import sys; from ldm_scale.cli import main; sys.exit(main({command!r}))"
    address = ray.get_runtime_context().gcs_address
    # Who starts the tests in the background has Ctrl-C ignored.
    heed = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    driver = subprocess.Popen(
        [sys.executable, "-c", script],
        env={**os.environ, "RAY_ADDRESS": address}, preexec_fn=heed, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    at_checkpoint(out, lambda: driver.send_signal(stop)).join()
    _, said = driver.communicate(timeout=200)
    assert driver.returncode == status, said
    assert status < 0 or said.splitlines()[-1].endswith(f"interrupted; {GOES_ON}")

    assert run(shards, out, *flags, "--seed", 1) == 2
    assert "holds another training (recipe.seed was 0, is now 1)" in capsys.readouterr().err
    assert run(shards, out, *flags) == 0
    printed = capsys.readouterr().out
    assert "autoencoder: step 1 of 30" not in printed
    assert "denoiser: step 30 of 30" in printed
    assert record(out)["resumed"] == 1
    assert predicts(str(out))


@pytest.mark.usefixtures("inline")
def test_a_sample_that_cannot_be_trained_on_is_named_and_not_tried_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = make_folder(tmp_path / "source", 8)
    for path in source.rglob("*.txt"):
        path.unlink()
    packed, base = tmp_path / "packed", tiny.stable_diffusion(tmp_path / "base")
    pack(PackConfig(dataset="folder", source=str(source), out=str(packed), near_duplicates=0))
    flags = ("--preset", "finetune", "--base", base, "--precision", "float32")
    assert run(packed, tmp_path / "target", *flags) == 1
    captured = capsys.readouterr()
    assert "training sample members-000000/" in captured.err
    assert "has no caption" in captured.err
    assert "going on" not in captured.out


@pytest.mark.usefixtures("inline")
def test_targets_are_kept_on_the_way_audited_and_compared(
    tmp_path: Path, shards: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The weights of a step are those of a training that ends there; the last target is as without; OUT is relative."""
    monkeypatch.chdir(tmp_path)
    flags = (*epochs(1, 3), "--denoiser.decay", "constant", "--denoiser.ema", 0.9, "--half", "false")
    assert run(shards, "whole", *flags, "--audit-every", 4) == 0
    assert run(shards, tmp_path / "alone", *flags) == 0
    assert run(shards, tmp_path / "short", *flags, *epochs(1, 4 / 3)) == 0
    kept = tmp_path / "whole.curve"
    assert [path.name for path in sorted((kept / "targets").iterdir())] == ["000004", "000008"]
    unet = "unet/diffusion_pytorch_model.safetensors"
    assert (tmp_path / "whole" / unet).read_bytes() == (tmp_path / "alone" / unet).read_bytes()
    assert (kept / "targets/000004" / unet).read_bytes() == (tmp_path / "short" / unet).read_bytes()
    assert record(kept / "targets/000008")["step"] == 8
    found = json.loads((kept / "comparison.json").read_text())
    assert [Path(one["run"]).name for one in found["runs"]] == ["000004", "000008", "last"]
    assert (kept / "comparison.html").is_file()
    # As after an interruption of the audits.
    for name in ("comparison.json", "comparison.html"):
        (kept / name).unlink()
    shutil.rmtree(kept / "runs/last")
    assert run(shards, "whole", *flags, "--audit-every", 4) == 0
    assert json.loads((kept / "comparison.json").read_text()) == found
    assert run(shards, "whole", *flags) == 2
    assert run(shards, "whole", *flags, "--audit-every", 4, "--seed", 1) == 2
    assert run(shards, tmp_path / "none", *flags, "--audit-every", 9) == 2
    assert "audit_every = 9: the denoiser is trained for 9 steps" in capsys.readouterr().err


@pytest.mark.usefixtures("inline")
def test_every_published_option_trains(tmp_path: Path, shards: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "target"
    stages = {"decay": "constant", "warmup": 5, "weight-decay": 1e-4, "clip": 0, "dropout": 0.1, "accumulate": 2}
    flags = [word for name, value in stages.items() for stage in STAGES for word in (f"--{stage}.{name}", value)]
    latents = ("--denoiser.latent", "sample", "--denoiser.betas", "0.0015,0.0195", "--autoencoder.scaled", "false")
    assert run(shards, out, *epochs(20, 20), *flags, *latents, "--flip") == 0
    printed = capsys.readouterr().out
    assert all(fell(printed, stage) for stage in STAGES)
    assert predicts(str(out))
    assert load_target(out, "cpu").alphas_cumprod[0].item() == pytest.approx(1 - 0.0015)
    assert json.loads((out / "vqvae" / "config.json").read_text())["scaling_factor"] == 1
    found = record(out)["recipe"]
    assert found["flip"] is True
    assert {name: found["denoiser"][name.replace("-", "_")] for name in stages} == stages


@pytest.mark.usefixtures("inline")
def test_a_table_that_fits_nowhere_is_named(
    tmp_path: Path, shards: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a node without free memory, and with a disk that is nearly full."""
    monkeypatch.setattr(train_worker, "estimate_available_memory", lambda: 0)
    free = shutil.disk_usage(tempfile.gettempdir()).free
    monkeypatch.setattr(tables.math, "prod", lambda shape: free if len(shape) > 3 else math.prod(shape))
    assert run(shards, tmp_path / "target") == 1
    assert "set TMPDIR on the nodes" in capsys.readouterr().err


@pytest.mark.usefixtures("inline")
def test_a_training_with_other_groups_is_refused(
    tmp_path: Path, shards: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its weights would load all the same. A record that names no groups goes on."""
    begun = tmp_path / "target.partial" / "training.json"
    monkeypatch.setattr("ldm_scale.engine.train._fit", Mock(side_effect=RunError("stopped")))
    assert run(shards, tmp_path / "target") == 1
    monkeypatch.setattr(networks, "_groups", lambda channels: 2)
    assert run(shards, tmp_path / "target") == 2
    assert "(groups.autoencoder was 4, is now 2; groups.denoiser was 4, is now 2)" in capsys.readouterr().err
    older = json.loads(begun.read_text())
    del older["groups"]
    begun.write_text(json.dumps(older))
    assert run(shards, tmp_path / "target") == 1


@pytest.mark.parametrize("content", ["{", "[]", '{"groups": 3}'])
def test_a_damaged_record_of_a_training_is_named(
    tmp_path: Path, shards: Path, capsys: pytest.CaptureFixture[str], content: str
) -> None:
    begun = tmp_path / "target.partial" / "training.json"
    begun.parent.mkdir()
    begun.write_text(content)
    assert run(shards, tmp_path / "target") == 2
    assert str(begun.parent) in capsys.readouterr().err


@pytest.mark.parametrize(
    ("nodes", "workers", "asked", "device", "expected"),
    [
        ([2], 1, None, "cpu", 2),
        ([2], 2, None, "cpu", 1),
        ([16], 3, None, "cpu", 5),
        ([4, 4, 0], 1, None, "cpu", 4),
        ([4, 4, 0], 3, None, "cpu", 2),
        ([4, 6], 4, None, "cpu", 2),
        ([0], 1, None, "cpu", 1),
        ([16], 1, 3, "cpu", 3),
        ([16], 2, None, "cuda", 1),
        ([16], 2, 8, "cuda", 8),
    ],
)
def test_a_worker_reserves_its_share_of_the_nodes(
    nodes: list[int], workers: int, asked: int | None, device: str, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray, "nodes", lambda: [{"Alive": True, "Resources": {"CPU": float(cpus)}} for cpus in nodes])
    config = tiny_recipe().model_copy(update={"workers": workers, "cpus": asked})
    assert _cpus(config, device) == expected


@pytest.mark.parametrize(
    ("workers", "reserved", "waits"),
    [
        (3, {"CPU": 2}, False),
        (4, {"CPU": 2}, True),
        (1, {"CPU": 8}, True),
        (2, {"CPU": 1, "GPU": 1}, False),
        (3, {"CPU": 1, "GPU": 1}, True),
    ],
)
def test_workers_for_which_there_is_no_room_are_said_to_wait(
    workers: int,
    reserved: dict[str, float],
    waits: bool,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Nodes may be on their way; a lone machine would wait for ever, without a word."""
    held = [{"CPU": 5.0, "GPU": 2.0}, {"CPU": 3.0}]
    monkeypatch.setattr(ray, "nodes", lambda: [{"Alive": True, "Resources": resources} for resources in held])
    _tell_of_waiting(workers, reserved)
    assert ("waiting for more nodes" in capsys.readouterr().out) == waits


@pytest.mark.usefixtures("inline")
def test_a_worker_computes_with_the_cpus_it_reserves(
    tmp_path: Path, shards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    class Trainer(inline.Trainer):
        def __init__(self, worker: Callable[[object], None], *, scaling_config: object, **others: object) -> None:
            asked.append(scaling_config)
            super().__init__(worker, **others)

    monkeypatch.setattr("ldm_scale.engine.train._Trainer", Trainer)
    monkeypatch.setattr(inline, "set_threads", found := Mock())
    assert run(shards, tmp_path / "target", *epochs(0.1, 0.1), "--cpus", 3) == 0
    found.assert_called_once_with(3)
    assert [config.resources_per_worker for config in asked] == [{"CPU": 3}]


def test_an_out_folder_in_use_is_refused(tmp_path: Path, tiny_shards: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "kept.txt").write_text("kept")
    assert main(["train", "--shards", str(tiny_shards), "--out", str(tmp_path)]) == 2
    assert "is not empty" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["kept.txt"]


@pytest.mark.usefixtures("inline")
def test_float16_is_refused_on_cpus(tmp_path: Path, shards: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(shards, tmp_path / "target", "--precision", "float16") == 2
    assert "precision float16 works on cuda only" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())

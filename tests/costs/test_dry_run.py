"""A dry run, end to end through the command line: what it says, and that it neither starts nor writes anything."""

import json
import re
import runpy
import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest

from ldm_scale.cli import main, run_job
from ldm_scale.files.storage import Location
from ldm_scale.flags import ENVIRONMENT, ROOT
from ldm_scale.report.labels import scaled
from ldm_scale.schema import row_bytes, row_schema
from ldm_scale.targets.fetch import CACHE
from ldm_scale.targets.load import load_target
from tests.addresses import upload
from tests.counting import count_once
from tests.targets import tiny

JOBS = Path(__file__).parent.parent.parent / "jobs"
Say = Callable[..., dict[str, str]]


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """No Ray may start, and nothing comes from the environment."""

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("Ray was started")

    monkeypatch.setattr("ray.init", refuse)
    for name in (*ENVIRONMENT.values(), ROOT):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(autouse=True)
def _counted_once(monkeypatch: pytest.MonkeyPatch) -> None:
    count_once(monkeypatch)


def parse(out: str) -> dict[str, str]:
    """The lines by their first word; of the table's sum, which begins like no other, by 'in'."""
    pairs = (line.strip().split(maxsplit=1) for line in out.splitlines())
    return {pair[0]: " ".join(pair[1:]) for pair in pairs}


@pytest.fixture
def say(capsys: pytest.CaptureFixture[str]) -> Say:
    """What `ldm-scale audit --dry-run` says, line by line."""

    def run(*flags: object, status: int = 0) -> dict[str, str]:
        capsys.readouterr()
        assert main(["audit", "--dry-run", *map(str, flags)]) == status
        captured = capsys.readouterr()
        assert captured.err.count("\n") == bool(status), captured.err
        return parse(captured.err if status else captured.out)

    return run


def without_weights(folder: Path) -> Path:
    for path in folder.rglob("*.safetensors"):
        path.unlink()
    return folder


def tree(folder: Path) -> set[Path]:
    return set(folder.rglob("*"))


@pytest.fixture
def bare(tiny_target: Path, tmp_path: Path) -> Path:
    """The tiny target without its weights."""
    return without_weights(Path(shutil.copytree(tiny_target, tmp_path / "bare")))


def test_it_says_what_an_audit_takes_from_configurations_alone(
    tmp_path: Path, tiny_shards: Path, bare: Path, say: Say
) -> None:
    before = tree(tmp_path)
    flags = ("--attacks", "sima,pia", "--attacks.sima.timesteps", "0:40:10", "--attacks.pia.timesteps", "0:40:10")
    geometry = ("--geometry.probes", 4, "--geometry.distortion", "truncated", "--geometry.distortion-share", 0.5)
    said = say("--out", tmp_path / "run", "--shards", tiny_shards, "--target", bare, *flags, *geometry)
    assert tree(tmp_path) == before
    assert said["samples"] == "48: 24 members, 24 held-out, by folder"
    assert said["target"].startswith(f"{bare}: UnconditionalTarget: 16 px images, 4 x 4 x 4 latents (64 dimensions)")
    assert said["rows"] == f"{tmp_path}/run/samples"
    # Eight evaluations; 4 products, and about 100 of every other sample.
    assert said["encoding"].split()[0] == "1"
    assert said["denoiser"].split()[0] == "8"
    assert (said["influence"].split()[0], said["distortion"].split()[0]) == ("4", "50")
    assert "text" not in said
    shares = [float(re.findall(r"([\d.]+)%", said[part])[0]) for part in ("encoding", "denoiser", "influence")]
    rest = [float(re.findall(r"([\d.]+)%", said[part])[0]) for part in ("distortion", "decoder")]
    assert sum(shares + rest) == pytest.approx(100, abs=0.5)
    size = sum(shard["bytes"] for shard in json.loads((tiny_shards / "manifest.json").read_text())["shards"])
    assert said["reading"].startswith(f"{scaled(size, 'B')} of shards; weights, up to ")
    # Ids apart: a flag of a bit, three numbers and sixteen plain ones, influence and leakage in half precision, and two
    # spectra an attack.
    row = (1 + 8 * ((3 + 16) * 4 + 2 * 64 * 2 + 2 * 2 * 4 * 20 * 4) + 7) // 8
    assert said["writing"] == f"{scaled(48 * row, 'B')} of rows before compression, {scaled(row, 'B')} each"
    assert said["largest"].endswith("--geometry.distortion-share 0.25 takes half")
    assert "calibration" not in said


def test_time_follows_the_hardware(tmp_path: Path, tiny_shards: Path, bare: Path, say: Say) -> None:
    def time(*flags: object) -> tuple[float, float, str]:
        """GPU hours, samples a GPU hour, and what is between them."""
        said = say("--out", tmp_path / "run", "--shards", tiny_shards, "--target", bare, *flags)["time"]
        hours, between, rate = said.removesuffix(" samples a GPU hour").split("; ")
        return float(hours.split()[0].replace(",", "")), float(rate.replace(",", "")), between

    hours, rate, wall = time("--hardware.flops", 2e4)
    # Three digits are shown of each.
    assert hours * rate == pytest.approx(48, rel=0.01)
    assert " on 1 GPU: " in wall
    assert time("--hardware.flops", 1e4)[:2] == (pytest.approx(2 * hours, rel=0.01), pytest.approx(rate / 2, rel=0.01))
    four = time("--hardware.flops", 2e4, "--hardware.gpus", 4)
    assert four[:2] == (hours, rate)
    assert " on 4 GPUs: " in four[2]
    assert time("--hardware.flops", 2e4, "--gpus", "0..4") == four
    # Reading holds the GPU up: shards and weights at ten bytes a second.
    size = sum(shard["bytes"] for shard in json.loads((tiny_shards / "manifest.json").read_text())["shards"])
    size += sum(4 * weight.numel() for weight in load_target(bare, "meta").weights())
    slow = time("--hardware.flops", 2e9, "--hardware.bandwidth", 10)
    assert slow[0] == pytest.approx(size / 10 / 3600, rel=0.01)


@pytest.mark.parametrize(
    ("flags", "largest"),
    [
        (("--geometry.distortion", "off", "--geometry.probes", 500), "influence.*--geometry.probes 250 takes half"),
        (("--geometry.influence", "exact"), "influence.*--geometry.influence hutchinson takes 16 products"),
        (("--geometry.distortion", "off", "--geometry.probes", 1), "denoiser.*every other of the attacks' timesteps"),
    ],
)
def test_it_names_the_most_expensive_part(
    flags: tuple[object, ...], largest: str, tmp_path: Path, tiny_shards: Path, bare: Path, say: Say
) -> None:
    said = say("--out", tmp_path / "run", "--shards", tiny_shards, "--target", bare, *flags)
    assert re.match(largest, said["largest"])


def test_a_job_of_a_data_set_takes_the_flag(
    tmp_path: Path, tiny_shards: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`python jobs/coco.py --dry-run`, on a target of its kind below LDM_SCALE_ROOT."""
    recipe = runpy.run_path(str(JOBS / "coco.py"))["RECIPE"]
    without_weights(tiny.stable_diffusion(tmp_path / "root/targets/coco"))
    shutil.copytree(tiny_shards, tmp_path / "root/shards/coco")
    monkeypatch.setenv(ROOT, str(tmp_path / "root"))
    before = tree(tmp_path)
    assert run_job("COCO.", recipe, ["--dry-run"], dataset="coco") == 0
    assert tree(tmp_path) == before
    said = parse(capsys.readouterr().out)
    assert said["target"].startswith(f"{tmp_path}/root/targets/coco: StableDiffusionTarget: 16 px images")
    assert (said["text"].split()[0], said["denoiser"].split()[0]) == ("1", "80")
    assert said["calibration"].startswith("about 48 samples are encoded and probed first")


@pytest.mark.parametrize(
    "make",
    [
        tiny.strided,
        tiny.class_token,
        tiny.class_conditional_unet,
        tiny.dit,
        tiny.stable_diffusion_xl,
        tiny.stable_diffusion_3,
        tiny.flux,
    ],
)
def test_every_family_is_estimated(make: Callable[[Path], Path], tmp_path: Path, tiny_shards: Path, say: Say) -> None:
    target = without_weights(make(tmp_path / "target"))
    said = say("--out", tmp_path / "run", "--shards", tiny_shards, "--target", target, "--attacks.sima.timesteps", 10)
    assert said["denoiser"].split()[0] == "1"
    assert ("text" in said) == (target / "text_encoder").is_dir()


def test_of_a_split_the_keys_are_counted_and_shards_are_read_twice(
    tmp_path: Path, tiny_shards: Path, bare: Path, say: Say
) -> None:
    split = tmp_path / "split.json"
    split.write_text(
        json.dumps(
            {"members": [f"dog/{n:03d}" for n in range(0, 10, 2)], "heldout": [f"cat/{n:03d}" for n in range(1, 9, 2)]}
        )
    )
    said = say("--out", tmp_path / "run", "--shards", tiny_shards, "--target", bare, "--split", split)
    assert said["samples"] == f"9: 5 members, 4 held-out, by {split}"
    assert "once more at first for the keys of the split" in said["reading"]


def test_of_a_target_on_s3_configurations_alone_are_fetched(
    tmp_path: Path, tiny_shards: Path, tiny_target: Path, bucket: str, monkeypatch: pytest.MonkeyPatch, say: Say
) -> None:
    monkeypatch.setenv(CACHE, str(tmp_path / "cache"))
    upload(tiny_target, f"{bucket}/target")
    upload(tiny_shards, f"{bucket}/shards")
    said = say("--out", f"{bucket}/run", "--shards", f"{bucket}/shards", "--target", f"{bucket}/target")
    assert said["shards"] == f"{bucket}/shards: 8 to audit"
    fetched = {path.suffix for path in (tmp_path / "cache").rglob("*") if path.is_file()}
    assert ".json" in fetched
    assert ".safetensors" not in fetched
    assert (Location.of(bucket) / "run").is_empty()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--shards {tmp}/gone --target {target}", "shard folder .*/gone does not exist"),
        ("--shards {shards} --target {tmp}/gone", "target folder .*/gone does not exist"),
        ("--shards {shards} --target {target} --attacks simo", "'simo'; did you mean 'sima'"),
        ("--shards {shards} --target {target} --attacks.sima.timesteps 0:1001:500", "1000 is evaluated, .* 0 to 999"),
        ("--shards {shards} --target {target} --images.size 18", "images.size = 18.* takes 16 px"),
        ("--shards {shards} --target {target} --lora {tmp}/gone", "gone"),
        ("--shards {shards} --target {target} --hardware.flops 0", r"^hardware\.flops: "),
        ("--shards {shards} --target {target} --hardware.gpus none", r"^hardware\.gpus: "),
        (
            "--shards {shards} --target {target} --dry-run=false --hardware.gpus 2",
            "hardware: its numbers are for --dry",
        ),
    ],
)
def test_input_errors_are_those_of_an_audit(
    flags: str, message: str, tmp_path: Path, tiny_shards: Path, bare: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = flags.format(tmp=tmp_path, shards=tiny_shards, target=bare).split()
    assert main(["audit", "--dry-run", "--out", str(tmp_path / "run"), *line]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert re.search(message, captured.err.removeprefix("ldm-scale: error: "))
    assert not (tmp_path / "run").exists()


def test_a_target_of_a_broken_configuration_is_named(
    tmp_path: Path, tiny_shards: Path, bare: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = bare / "unet/config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"block_out_channels": [1, 2, 3]}))
    flags = ["--out", str(tmp_path / "run"), "--shards", str(tiny_shards), "--target", str(bare)]
    assert main(["audit", "--dry-run", *flags]) == 2
    assert re.search(r"target denoiser .*/unet cannot be loaded: ", capsys.readouterr().err)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0 B"),
        (0.5, "0.5 B"),
        (999, "999 B"),
        (999.7, "1 kB"),
        (1000, "1 kB"),
        (2_514_518_933_504, "2.51 TB"),
        (1e24, "1e+06 EB"),
    ],
)
def test_quantities_have_three_digits_and_a_prefix(value: float, text: str) -> None:
    assert scaled(value, "B") == text


def test_a_rows_bytes_are_those_of_its_columns() -> None:
    schema = row_schema(64, {"sima": 3}, 5, {}, one_ranking=True)
    values = dict.fromkeys(schema.names)
    lists = {
        "influence": [0] * 64,
        "leakage": [0] * 64,
        **dict.fromkeys(("sima", "sima_random", "sima_global"), [0] * 15),
    }
    numbers = dict.fromkeys(("distortion", "stability_correlation", "stability_overlap"), 0.0)
    rows = [values | lists | numbers | {"sample_id": "", "member": True}] * 800
    table = pa.Table.from_pylist(rows, schema=schema)
    held = sum(
        buffer.size for column in table.drop(["sample_id"]).columns for buffer in column.chunk(0).buffers() if buffer
    )
    assert row_bytes(schema) == pytest.approx(held / 800, rel=0.01)

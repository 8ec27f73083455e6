"""`ldm-scale validate` on a real Ray: what is there, what is wrong, and the exit status."""

import json
import shutil
from pathlib import Path

import pytest

from ldm_scale.cli import main
from ldm_scale.storage import Location
from tests.targets import tiny

pytestmark = pytest.mark.usefixtures("local_ray")


def validate(capsys: pytest.CaptureFixture[str], *flags: object) -> tuple[int, str, str]:
    status = main(["validate", *map(str, flags)])
    printed = capsys.readouterr()
    return status, printed.out, printed.err


def test_a_good_folder_and_target_are_described(
    tiny_shards: Path, tiny_target: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, out, _ = validate(capsys, "--shards", tiny_shards, "--target", tiny_target, "--decode-share", 1)
    assert status == 0
    assert "48 samples; by the manifest 24 members, 24 held-out" in out
    assert "files: 48 cls, 48 png, 48 txt; 48 images decoded, sides of 16 to 16 px" in out
    assert "captions: 48; classes 0 to 1, the manifest names 2" in out
    assert "UnconditionalTarget: 16 px images, 4 x 4 x 4 latents (64 dimensions), 1000 timesteps" in out
    assert "8 images: mean error of reconstruction" in out
    assert out.endswith("no problem was found\n")


def test_damage_is_named_and_fails_the_command(
    tmp_path: Path, tiny_shards: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shards = Path(shutil.copytree(tiny_shards, tmp_path / "shards"))
    victim = shards / "heldout/heldout-000001.tar"
    victim.write_bytes(victim.read_bytes()[:5000])
    status, out, err = validate(capsys, "--shards", shards)
    assert status == 1
    assert "heldout-000001.tar" in out
    assert "problem: " in out
    assert "problems were found" in err


def test_samples_that_the_target_cannot_take_are_counted(
    tmp_path: Path, tiny_shards: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tiny.class_unet(tmp_path / "target")
    assert validate(capsys, "--shards", tiny_shards, "--target", target)[0] == 0
    manifest = json.loads((tiny_shards / "manifest.json").read_text())
    emoji = Path(__file__).parents[2] / "ldm_scale/demo/shards"
    assert len(manifest["classes"]) == 2
    status, out, _ = validate(capsys, "--shards", emoji, "--target", target, "--decode-share", 0)
    beyond = out.split("cannot take ")[1].split(" samples")[0]
    assert (status, int(beyond) > 100) == (1, True)


def test_a_split_is_looked_up_in_the_shards(
    tmp_path: Path, tiny_shards: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    split = tmp_path / "split.json"
    split.write_text(json.dumps({"members": ["dog/000", "dog/999"], "heldout": ["cat/001"]}))
    status, out, _ = validate(capsys, "--shards", tiny_shards, "--split", split)
    assert status == 1
    assert f"problem: {split}: 1 keys are in no shard, the first is 'dog/999'" in out


def test_a_target_alone_and_nothing_at_all(tiny_target: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = validate(capsys, "--target", tiny_target)
    assert (status, out.splitlines()[-1]) == (0, "no problem was found")
    status, _, err = validate(capsys)
    assert (status, "give --shards, --target or both" in err) == (2, True)
    status, _, err = validate(capsys, "--target", "/nowhere")
    assert (status, "does not exist" in err) == (2, True)


def test_shards_on_s3(bucket: str, tiny_shards: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for path in tiny_shards.rglob("*"):
        if path.is_file():
            (Location.of(bucket) / f"shards/{path.relative_to(tiny_shards)}").create(path.read_bytes())
    status, out, _ = validate(capsys, "--shards", f"{bucket}/shards")
    assert (status, out.splitlines()[-1]) == (0, "no problem was found")

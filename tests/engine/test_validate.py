"""`ldm-scale validate` on a real Ray: what is there, what is wrong, and the exit status."""

import json
import shutil
from pathlib import Path

import pytest

from ldm_scale.cli import main
from ldm_scale.data.manifest import ShardInfo, read_manifest
from ldm_scale.data.samples import Sample
from ldm_scale.data.shards import write_shard
from ldm_scale.files.digests import digest
from ldm_scale.files.storage import Location
from tests.addresses import tree, upload
from tests.targets import tiny

pytestmark = pytest.mark.usefixtures("inline")


def validate(capsys: pytest.CaptureFixture[str], *flags: object) -> tuple[int, str, str]:
    status = main(["validate", *map(str, flags)])
    printed = capsys.readouterr()
    return status, printed.out, printed.err


def test_a_good_folder_and_target_are_described(
    tiny_shards: Path, tiny_target: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, out, _ = validate(capsys, "--shards", tiny_shards, "--target", tiny_target, "--decode-share", 1)
    assert status == 0
    assert "48 samples; by their folders 24 members, 24 held-out" in out
    assert "files: 48 cls, 48 png, 48 txt; 48 images decoded, sides of 16 to 16 px" in out
    assert "captions: 48, 1 to 1 a sample; classes 0 to 1, the manifest names 2" in out
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


def test_a_target_of_another_table_of_classes_is_a_problem(
    tmp_path: Path, tiny_shards: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tiny.class_unet(tmp_path / "target")
    for names, status in ((["cat", "dog"], 0), (["Felis catus, Cat", "dog"], 0), (["dog", "cat"], 1)):
        index = {"id2label": {str(number): name for number, name in enumerate(names)}}
        (target / "model_index.json").write_text(json.dumps(index))
        found, out, _ = validate(capsys, "--shards", tiny_shards, "--target", target)
        assert found == status
        assert "class names: 0 cat, 1 dog" in out
        assert ("class 0 is 'cat' in the shards' manifest, 'dog' in the target" in out) == (status == 1)


def test_a_split_is_looked_up_in_the_shards(
    tmp_path: Path, tiny_shards: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    split = tmp_path / "split.json"
    split.write_text(json.dumps({"members": ["dog/000", "dog/999"], "heldout": ["cat/001"]}))
    status, out, _ = validate(capsys, "--shards", tiny_shards, "--split", split)
    assert status == 1
    assert f"problem: {split}: 1 keys are in no shard, the first is 'dog/999'" in out


def test_what_was_found_comes_as_json(tiny_target: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, err = validate(capsys, "--target", tiny_target, "--json")
    found = json.loads(out)
    assert (status, found["problems"]) == (0, [])
    assert err.splitlines() == [*found["facts"], "no problem was found"]


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


@pytest.fixture
def undescribed(tmp_path: Path, tiny_shards: Path) -> Path:
    """The tiny shards without their manifest."""
    return Path(shutil.copytree(tiny_shards, tmp_path / "shards", ignore=shutil.ignore_patterns("manifest.json")))


def described(folder: Path) -> dict[str, ShardInfo]:
    return {shard.name: shard for shard in read_manifest(Location.of(folder)).shards}


def test_shards_without_a_manifest_are_described_and_it_is_written_when_asked(
    undescribed: Path, tiny_shards: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = tree(undescribed)
    status, out, _ = validate(capsys, "--shards", undescribed)
    assert (status, tree(undescribed)) == (1, before)
    assert "8 shards" in out
    assert "48 samples; by their folders 24 members, 24 held-out" in out
    assert "problem: has no manifest, and audits need one; --write-manifest makes it" in out
    status, out, _ = validate(capsys, "--shards", undescribed, "--write-manifest")
    assert (status, out.splitlines()[-1]) == (0, "no problem was found")
    assert f"manifest: {undescribed}/manifest.json, written now" in out
    assert described(undescribed) == described(tiny_shards)
    # Who is a member is in the shards' names alone, and so in what the split is known by.
    split = read_manifest(Location.of(undescribed)).split_sha256
    assert split == digest(sorted(described(tiny_shards)))
    written = tree(undescribed)
    status, _, err = validate(capsys, "--shards", undescribed, "--write-manifest")
    assert (status, tree(undescribed)) == (2, written)
    assert "manifest.json exists already; nothing is overwritten" in err


def test_no_manifest_is_written_of_shards_that_cannot_be_read(
    undescribed: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (undescribed / "members/members-000001.tar").write_bytes(b"<html></html>")
    before = tree(undescribed)
    status, out, _ = validate(capsys, "--shards", undescribed, "--write-manifest")
    assert (status, tree(undescribed)) == (1, before)
    assert f"first: {undescribed}/members/members-000001.tar)" in out
    assert "problem: a manifest is not written if shards cannot be read or hold no samples" in out


@pytest.mark.parametrize("name", ["0.tar.part", "0.tar.gz", "0.TAR", "0.tgz", "0.tar"])
def test_what_may_be_a_shard_and_is_left_out_is_a_problem(
    undescribed: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    (undescribed / "stats.json").write_text("{}")
    others = 2 + sum(not path.endswith(".tar") for path in tree(undescribed))
    if name == "0.tar":
        assert validate(capsys, "--shards", undescribed, "--write-manifest")[0] == 0
    (undescribed / "members" / name).write_bytes(b"")
    (undescribed / "members" / f"._{name}").write_bytes(b"")
    before = tree(undescribed)
    flags = () if name == "0.tar" else ("--write-manifest",)
    status, out, _ = validate(capsys, "--shards", undescribed, *flags)
    assert (status, tree(undescribed)) == (1, before)
    assert f"(1; the first: members/{name})" in out
    assert f"  other files there, which are not read: {others}\n" in out
    # A pattern chooses.
    if name == "0.tar":
        assert validate(capsys, "--shards", f"{undescribed}/members/members-{{000000..000001}}.tar")[0] == 0


def test_a_manifest_is_written_of_shards_with_a_bad_sample(
    undescribed: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shard = write_shard([Sample("a", b"no image", "png", ("one",))], Location.of(undescribed), "members/extra.tar")
    status, out, _ = validate(capsys, "--shards", undescribed, "--write-manifest", "--decode-share", 1)
    assert status == 1
    assert "members/extra.tar a" in out
    assert described(undescribed)["members/extra.tar"] == shard


def test_a_manifest_is_written_elsewhere_for_shards_that_are_named_by_a_pattern(
    bucket: str, tmp_path: Path, tiny_shards: Path, undescribed: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    upload(undescribed, f"{bucket}/shards")
    before = Location.of(f"{bucket}/shards").versions()
    shards = ("--shards", f"{bucket}/shards/{{members/members,heldout/heldout}}-{{000001..000002}}.tar")
    file = tmp_path / "manifest.json"
    status, _, err = validate(capsys, *shards, "--manifest", file)
    assert (status, f"manifest {file} does not exist" in err) == (2, True)
    status, out, _ = validate(capsys, *shards, "--manifest", file, "--write-manifest")
    assert (status, Location.of(f"{bucket}/shards").versions()) == (0, before)
    assert f"{bucket}/shards: 4 shards" in out
    everything = described(tiny_shards)
    assert described(tmp_path) == {name: everything[name] for name in sorted(everything) if name[-5] in "12"}
    status, out, _ = validate(capsys, *shards, "--manifest", file)
    assert (status, out.splitlines()[-1]) == (0, "no problem was found")
    # The one that was given is the one that shards are held against.
    content = json.loads(file.read_text())
    content["shards"][0]["samples"] += 1
    file.write_text(json.dumps(content))
    status, out, _ = validate(capsys, *shards, "--manifest", file)
    assert (status, "holds 6 samples, its manifest says 7" in out) == (1, True)

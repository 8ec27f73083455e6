"""Addresses of shards: folders, brace patterns and single files, here and on S3, with a manifest there or elsewhere."""

import json
from pathlib import Path

import boto3
import pytest

from ldm_scale.data.addresses import Shards, find_manifest, list_shards, open_shards
from ldm_scale.data.manifest import Manifest, ShardInfo, write_manifest
from ldm_scale.errors import UsageError
from ldm_scale.files.storage import Location

NAMES = [f"{side}/{side}-{number:06d}.tar" for side in ("members", "heldout") for number in range(12)]
MANIFEST = Manifest(
    shards=tuple(ShardInfo(name=name, samples=3, bytes=9, sha256=name) for name in NAMES),
    classes=("cat", "dog"),
    split="random halves",
    split_sha256="abc",
)


@pytest.fixture(params=["local", "s3"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> Location:
    """An empty folder, here or in a bucket."""
    return Location.of(tmp_path if request.param == "local" else request.getfixturevalue("bucket")) / "data/images"


@pytest.fixture
def folder(root: Location) -> Location:
    """A shard folder, as its manifest says."""
    write_manifest(root, MANIFEST)
    return root


def names(shards: Shards) -> list[str]:
    return [shard.name for shard in shards.manifest.shards]


def test_a_folder_stands_for_all_its_manifest_names(folder: Location) -> None:
    assert open_shards(folder.uri) == Shards(folder, MANIFEST)
    assert open_shards(f"{folder}/") == Shards(folder, MANIFEST)


def test_a_pattern_stands_for_exactly_its_shards_in_the_manifests_order(folder: Location) -> None:
    shards = open_shards(f"{folder}/{{heldout/heldout,members/members}}-{{000010..000009}}.tar")
    assert shards.folder == folder
    assert names(shards) == [
        "members/members-000009.tar",
        "members/members-000010.tar",
        "heldout/heldout-000009.tar",
        "heldout/heldout-000010.tar",
    ]
    assert shards.manifest.samples == 12
    # What the manifest says of the whole folder is kept; its digest is that of the selection.
    assert (shards.manifest.classes, shards.manifest.split_sha256) == (("cat", "dog"), "abc")
    assert shards.manifest.sha256 != MANIFEST.sha256
    assert shards.manifest.shards[0] == MANIFEST.shards[9]


def test_all_shards_by_a_pattern_are_those_of_the_folder(folder: Location) -> None:
    pattern = f"{folder}/{{heldout/heldout,members/members}}-{{000000..000011}}.tar"
    assert open_shards(pattern) == open_shards(folder.uri)


def test_one_tar_is_a_pattern_without_braces(folder: Location) -> None:
    shards = open_shards(f"{folder}/members/members-000003.tar")
    assert (shards.folder, names(shards)) == (folder, ["members/members-000003.tar"])


def test_the_deepest_manifest_at_or_above_the_shards_counts(folder: Location) -> None:
    pattern = f"{folder}/members/members-{{000000..000001}}.tar"
    assert find_manifest(pattern) == folder / "manifest.json"
    assert names(open_shards(pattern)) == NAMES[:2]
    inner = Manifest(
        shards=(
            ShardInfo(name="members-000001.tar", samples=5, bytes=9, sha256="x"),
            ShardInfo(name="members-000000.tar", samples=5, bytes=9, sha256="y"),
        )
    )
    write_manifest(folder / "members", inner)
    assert open_shards(pattern) == Shards(folder / "members", inner)


def test_a_shard_that_the_manifest_does_not_name_is_named(folder: Location) -> None:
    with pytest.raises(UsageError) as caught:
        open_shards(f"{folder}/members/members-{{000010..000013}}.tar")
    assert str(caught.value) == f"{folder}/manifest.json does not name the shard {folder}/members/members-000012.tar"
    # The tail of a name is not the name.
    with pytest.raises(UsageError, match="does not name the shard"):
        open_shards(f"{folder}/other/members/members-000000.tar")


def test_a_manifest_that_lies_elsewhere_names_shards_relative_to_their_folder(root: Location, tmp_path: Path) -> None:
    manifest = tmp_path / "elsewhere.json"
    manifest.write_text(json.dumps(MANIFEST.model_dump()))
    assert find_manifest(root.uri, str(manifest)) == Location.of(manifest)
    assert open_shards(root.uri, str(manifest)) == Shards(root, MANIFEST)
    shards = open_shards(f"{root}/members/members-{{000000..000001}}.tar", str(manifest))
    assert (shards.folder, names(shards)) == (root, NAMES[:2])
    with pytest.raises(UsageError, match=r"elsewhere\.json does not name the shard .*/members/members-000012\.tar$"):
        open_shards(f"{root}/members/members-{{000011..000012}}.tar", str(manifest))
    with pytest.raises(UsageError, match=r"elsewhere\.json does not name the shard .*/members/others-000000\.tar$"):
        open_shards(f"{root}/members/others-{{000000..000001}}.tar", str(manifest))


def test_a_manifest_on_s3_describes_local_shards(tmp_path: Path, bucket: str) -> None:
    write_manifest(Location.of(bucket), MANIFEST)
    assert open_shards(str(tmp_path), f"{bucket}/manifest.json") == Shards(Location.of(tmp_path), MANIFEST)


def test_a_manifest_that_is_given_wins_over_the_folders(folder: Location, tmp_path: Path) -> None:
    manifest = tmp_path / "elsewhere.json"
    manifest.write_text(json.dumps({"shards": [MANIFEST.shards[5].model_dump()]}))
    assert names(open_shards(folder.uri, str(manifest))) == [NAMES[5]]


def test_where_there_is_no_manifest_the_message_says_how_to_make_one(root: Location) -> None:
    (root / "members/members-000000.tar").create(b"x")
    with pytest.raises(UsageError) as caught:
        open_shards(root.uri)
    command = f"make one with `ldm-scale validate --shards '{root}' --write-manifest`"
    assert str(caught.value) == f"shard folder {root} holds no manifest.json; {command}"
    pattern = f"{root}/members/members-{{000000..000001}}.tar"
    assert find_manifest(pattern) is None
    with pytest.raises(UsageError) as caught:
        open_shards(pattern)
    command = command.replace(root.uri, pattern)
    assert str(caught.value) == f"no manifest.json lies in {root}/members or above it; {command}"
    with pytest.raises(UsageError, match=f"^manifest {root}/described.json does not exist$"):
        open_shards(root.uri, f"{root}/described.json")
    with pytest.raises(UsageError, match=r"nowhere does not exist$"):
        open_shards(f"{root}/nowhere")


def test_a_manifest_far_above_is_not_that_of_the_shards(folder: Location) -> None:
    tail = "a/b/c/0.tar"
    assert find_manifest(f"{folder}/{tail}") == folder / "manifest.json"
    assert find_manifest(f"{folder}/d/{tail}") is None


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("s3://b/{000..003", "its braces are not balanced"),
        ("s3://b/{members,heldout}", "s3://b/members is none"),
        ("s3://b/x-{0..2}.tar{,.gz}", r"s3://b/x-0\.tar\.gz is none"),
        ("s3://{a,b}/{0..1}.tar", "lie in two buckets"),
        ("http://b/{0..1}.tar", "only local paths and s3:// addresses"),
    ],
)
def test_patterns_that_make_no_sense_are_refused(address: str, message: str) -> None:
    for function in (open_shards, list_shards, find_manifest):
        with pytest.raises(UsageError, match=message):
            function(address)


def test_escaped_braces_are_letters(tmp_path: Path) -> None:
    write_manifest(Location.of(tmp_path / "{a,b}"), MANIFEST)
    assert open_shards(rf"{tmp_path}/\{{a,b\}}").folder.uri == f"{tmp_path}/{{a,b}}"
    assert names(open_shards(rf"{tmp_path}/\{{a,b\}}/members/members-{{000000,000001}}.tar")) == NAMES[:2]


def test_relative_patterns_are_made_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_manifest(Location.of(tmp_path), MANIFEST)
    monkeypatch.chdir(tmp_path)
    shards = open_shards("members/members-{000000..000001}.tar")
    assert (shards.folder.uri, names(shards)) == (str(tmp_path), NAMES[:2])


def test_a_listing_finds_tars_at_any_depth_and_nothing_else(root: Location) -> None:
    for name in ("members/b.tar", "members/deep/a.tar", "c.tar", "notes.txt", "members/d.tar.gz"):
        (root / name).create(b"x")
    assert list_shards(root.uri) == (root, ("c.tar", "members/b.tar", "members/deep/a.tar"))
    assert list_shards(f"{root}/members") == (root / "members", ("b.tar", "deep/a.tar"))


def test_objects_that_stand_for_folders_are_left_out(bucket: str) -> None:
    client = boto3.client("s3")
    name = bucket.removeprefix("s3://")
    for key in ("x/", "x/members/", "x/odd.tar/"):
        client.put_object(Bucket=name, Key=key)
    client.put_object(Bucket=name, Key="x/members/a.tar", Body=b"x")
    assert list_shards(f"{bucket}/x") == (Location.of(f"{bucket}/x"), ("members/a.tar",))


def test_a_patterns_list_is_the_pattern_whatever_is_there() -> None:
    pattern = "s3://b/x/{members/m,heldout/h}-{1..0}.tar"
    found = ("heldout/h-0.tar", "heldout/h-1.tar", "members/m-0.tar", "members/m-1.tar")
    assert list_shards(pattern) == (Location.of("s3://b/x"), found)
    assert list_shards("s3://b/x/members/{0,1,1}.tar") == (Location.of("s3://b/x/members"), ("0.tar", "1.tar"))


def test_nothing_to_list_and_two_of_one_stem_are_refused(root: Location) -> None:
    with pytest.raises(UsageError, match=f"^shard folder {root} does not exist$"):
        list_shards(root.uri)
    (root / "notes.txt").create(b"x")
    with pytest.raises(UsageError, match=rf"^shard folder {root} holds no \.tar files; "):
        list_shards(root.uri)
    (root / "members/000.tar").create(b"x")
    (root / "heldout/000.tar").create(b"x")
    with pytest.raises(UsageError, match="holds two shards named 000; sample ids would clash"):
        list_shards(root.uri)

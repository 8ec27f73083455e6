"""Addresses: a local folder is left where it is, S3 and the hub are copied once, and no file that is not read."""

import re
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import constants

from ldm_scale.errors import RunError, UsageError
from ldm_scale.files.storage import Location
from ldm_scale.targets import fetch
from ldm_scale.targets.fetch import CACHE, LORA, TARGET
from ldm_scale.targets.load import load_target, target_digest
from tests.addresses import tree, upload
from tests.targets import tiny
from tests.targets.hub import NAME, Hub, serve

COMMIT, NEXT = "a" * 40, "b" * 40
# Files that lie beside a target's own in its folder, on the hub and in buckets.
STRAY = (
    *("README.md", "v1-5-pruned.safetensors", "setup.py", "safety_checker/model.safetensors", "unet/old/config.json"),
    *("unet/diffusion_pytorch_model.bin", "unet/diffusion_pytorch_model.fp16.safetensors", "unet/custom.py"),
    *("unet/diffusion_pytorch_model.non_ema.safetensors", "text_encoder/flax_model.msgpack", "vae/weights.ckpt"),
)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(CACHE, str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.stable_diffusion(tmp_path_factory.mktemp("fetch") / "target")


@pytest.fixture
def littered(target: Path, tmp_path: Path) -> Path:
    """The target with strangers in its folder."""
    folder = Path(shutil.copytree(target, tmp_path / "littered"))
    for name in STRAY:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(f"stray {name}")
    return folder


def refused(address: str, message: str, kind: fetch.Kind = TARGET) -> None:
    with pytest.raises(UsageError, match=re.escape(message)) as caught:
        fetch.fetch(address, kind)
    assert "\n" not in str(caught.value)


def test_a_local_folder_is_left_where_it_is(target: Path, monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    monkeypatch.chdir(target.parent)
    for address in (str(target), "target", "./target"):
        assert fetch.fetch(address, TARGET) == fetch.Source(str(target), target, is_copy=False)
    assert not cache.exists()


def test_a_folder_that_looks_like_a_hub_id_comes_first(
    target: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    shutil.copytree(target, tmp_path / NAME)
    monkeypatch.chdir(tmp_path)
    assert fetch.fetch(NAME, TARGET).path == tmp_path / NAME


@pytest.mark.parametrize("address", ["nowhere", "./no/where", "/no/where", "a/b/c", "../a/b", "~nobody/model"])
def test_an_address_of_nothing_is_shown_what_addresses_are(address: str) -> None:
    refused(address, "does not exist; give a local path, s3://bucket/prefix or a hub id")
    refused(address, "lora file or folder ", LORA)


def test_an_address_of_another_kind_is_refused() -> None:
    refused("https://host/model", "only local paths and s3:// addresses can be read")


def test_s3_is_copied_without_what_is_not_read(littered: Path, target: Path, bucket: str, cache: Path) -> None:
    address = upload(littered, f"{bucket}/models/mine")
    source = fetch.fetch(f"{address}/", TARGET)
    assert (source.address, source.is_copy) == (address, True)
    assert source.path.parent == cache
    assert tree(source.path) == tree(target)
    assert target_digest(source.path) == target_digest(target)
    load_target(source.path, "cpu")


def test_half_precision_is_fetched_where_there_is_no_other(target: Path, bucket: str, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(target, tmp_path / "half"))
    half = folder / "unet/diffusion_pytorch_model.fp16.safetensors"
    (folder / "unet/diffusion_pytorch_model.safetensors").rename(half)
    (folder / "vae/diffusion_pytorch_model.fp16.safetensors").write_text("beside the plain one")
    found = set(tree(fetch.fetch(upload(folder, bucket), TARGET).path))
    assert found == set(tree(folder)) - {"vae/diffusion_pytorch_model.fp16.safetensors"}


def test_weights_in_parts_are_all_fetched(target: Path, bucket: str, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(target, tmp_path / "parts"))
    weights = folder / "unet/diffusion_pytorch_model.safetensors"
    for number in (1, 2):
        shutil.copy(weights, weights.with_name(f"diffusion_pytorch_model-0000{number}-of-00002.safetensors"))
    weights.rename(weights.with_name("diffusion_pytorch_model.safetensors.index.json"))
    assert tree(fetch.fetch(upload(folder, bucket), TARGET).path) == tree(folder)


def test_s3_is_copied_once_however_many_ask(target: Path, bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    upload(target, bucket)
    copies = []
    copy = fetch._copy
    monkeypatch.setattr(fetch, "_copy", lambda *arguments: (copies.append(1), copy(*arguments)))
    found: list[Path] = []
    threads = [threading.Thread(target=lambda: found.append(fetch.fetch(bucket, TARGET).path)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    assert len(set(found)) == len(copies) == 1


def test_a_changed_bucket_is_another_copy(target: Path, bucket: str) -> None:
    before = fetch.fetch(upload(target, bucket), TARGET).path
    (Location.of(bucket) / "scheduler/scheduler_config.json").replace(b"{}")
    after = fetch.fetch(bucket, TARGET).path
    assert after != before
    assert tree(before) == tree(target)
    assert tree(after)["scheduler/scheduler_config.json"] == b"{}"


def test_a_bucket_that_changes_under_the_copy_is_named_and_leaves_none(
    target: Path, bucket: str, monkeypatch: pytest.MonkeyPatch, cache: Path
) -> None:
    upload(target, bucket)
    listing = fetch._listing

    def change(root: Location, kind: fetch.Kind) -> dict[str, tuple[int, int]]:
        found = listing(root, kind)
        (root / "model_index.json").replace(b"another length")
        return found

    monkeypatch.setattr(fetch, "_listing", change)
    with pytest.raises(RunError, match=f"target {bucket} changed while it was copied"):
        fetch.fetch(bucket, TARGET)
    assert not [path for path in cache.iterdir() if path.is_dir() and path.suffix != ".partial"]
    monkeypatch.undo()
    monkeypatch.setenv(CACHE, str(cache))


def test_the_rest_of_a_copy_that_was_cut_off_is_no_part_of_the_next(target: Path, bucket: str) -> None:
    copy = fetch.fetch(upload(target, bucket), TARGET).path
    partial = copy.rename(copy.with_name(f"{copy.name}.partial"))
    (partial / "rest.json").write_text("{}")
    assert tree(fetch.fetch(bucket, TARGET).path) == tree(target)


def test_keys_cannot_leave_the_cache(target: Path, bucket: str) -> None:
    found = {"unet/../../../escaped.json": (2, 1), "../vae/config.json": (2, 1), "vae/config.json": (2, 1)}

    class Listed(Location):
        def versions(self) -> dict[str, tuple[int, int]]:
            return found

    assert fetch._listing(Listed(bucket), TARGET) == {"vae/config.json": (2, 1)}


def test_an_empty_prefix_and_a_missing_bucket_are_named(bucket: str) -> None:
    refused(f"{bucket}/nothing", f"target {bucket}/nothing does not exist, or holds no file of a target")
    refused("s3://no-such-bucket-here/x", "cannot list s3://no-such-bucket-here/x: there is no such bucket")


def test_a_lora_on_s3_is_a_file_or_a_folder(bucket: str, tmp_path: Path) -> None:
    folder = tmp_path / "lora"
    (folder / "checkpoint-500").mkdir(parents=True)
    for name in ("a.safetensors", "b[1].safetensors", "optimizer.bin", "checkpoint-500/model.safetensors"):
        (folder / name).write_text(name)
    address = upload(folder, f"{bucket}/lora")
    assert set(tree(fetch.fetch(address, LORA).path)) == {"a.safetensors", "b[1].safetensors"}
    assert fetch.fetch(f"{address}/b[1].safetensors", LORA).path.read_text() == "b[1].safetensors"
    (Location.of(address) / "pytorch_lora_weights.safetensors").replace(b"the one")
    assert tree(fetch.fetch(address, LORA).path) == {"pytorch_lora_weights.safetensors": b"the one"}
    refused(f"{address}/c.safetensors", "does not exist", LORA)


def test_the_digest_of_a_copy_is_computed_once(target: Path, tmp_path: Path) -> None:
    asked = []

    def compute(path: Path) -> str:
        asked.append(path)
        return str(len(asked))

    copy, local = fetch.Source("s3://b", tmp_path / "copy", True), fetch.Source("x", tmp_path / "local", False)
    assert [copy.digest(compute), copy.digest(compute)] == ["1", "1"]
    assert fetch.Source("s3://b", tmp_path / "other", True).digest(compute) == "2"
    assert [local.digest(compute), local.digest(compute)] == ["3", "4"]


@pytest.fixture
def hub(littered: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    with serve(Hub({"main": COMMIT, "fp32": COMMIT}, {COMMIT: littered})) as served:
        # Read from HF_ENDPOINT when the library is imported, which is before any test.
        monkeypatch.setattr(constants, "ENDPOINT", served.address)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", served.address + "/{repo_id}/resolve/{revision}/{filename}"
        )
        yield served


def test_a_hub_id_is_pinned_to_its_commit_and_only_what_is_read_is_sent(hub: Hub, target: Path) -> None:
    source = fetch.fetch(NAME, TARGET)
    assert (source.address, source.is_copy) == (f"{NAME}@{COMMIT}", True)
    assert tree(source.path) == tree(target)
    assert set(hub.sent) == set(tree(target))
    assert target_digest(source.path) == target_digest(target)


def test_a_revision_is_a_branch_or_a_commit(hub: Hub, target: Path, tmp_path: Path) -> None:
    moved = Path(shutil.copytree(target, tmp_path / "moved"))
    (moved / "model_index.json").write_text("{}")
    before = fetch.fetch(f"{NAME}@fp32", TARGET)
    hub.commits[NEXT], hub.branches["main"] = moved, NEXT
    after = fetch.fetch(NAME, TARGET)
    assert (before.address, after.address) == (f"{NAME}@{COMMIT}", f"{NAME}@{NEXT}")
    assert fetch.fetch(before.address, TARGET) == before
    assert tree(after.path) == tree(moved)


def test_half_precision_comes_from_the_hub_too(hub: Hub, littered: Path, target: Path) -> None:
    (littered / "unet/diffusion_pytorch_model.safetensors").unlink()
    found = set(tree(fetch.fetch(NAME, TARGET).path))
    plain = "unet/diffusion_pytorch_model.safetensors"
    assert found == set(tree(target)) - {plain} | {plain.replace(".safe", ".fp16.safe")}


@pytest.mark.parametrize("where", ["hub", "s3"])
@pytest.mark.parametrize("names", [("bf16",), ("bf16", "non_ema"), ("fp32", "fp16"), ("non_ema",)])
def test_the_best_variant_is_fetched_alone(
    names: tuple[str, ...], where: str, hub: Hub, target: Path, tmp_path: Path, bucket: str
) -> None:
    folder = Path(shutil.copytree(target, tmp_path / "variants"))
    plain = folder / "unet/diffusion_pytorch_model.safetensors"
    for name in names:
        shutil.copy(plain, plain.with_suffix(f".{name}.safetensors"))
    plain.unlink()
    hub.commits[NEXT], hub.branches["main"] = folder, NEXT
    source = fetch.fetch(NAME if where == "hub" else upload(folder, bucket), TARGET)
    best = f"unet/diffusion_pytorch_model.{names[0]}.safetensors"
    assert {name for name in tree(source.path) if name.startswith("unet/") and "safe" in name} == {best}
    assert load_target(source.path, "cpu").latent_shape == (4, 4, 4)


def test_a_cache_that_cannot_be_made_is_named_with_the_remedy(
    bucket: str, target: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv(CACHE, str(tmp_path / "file/cache"))
    refused(upload(target, bucket), f"no copies can be kept in {tmp_path}/file/cache (Not a directory); set {CACHE}")


def test_a_hub_cache_that_cannot_be_written_is_named_with_the_remedy(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "file/hub"))
    refused(NAME, "set HF_HOME to a folder that can be written")


def test_the_outline_of_a_target_comes_without_weights(hub: Hub, target: Path) -> None:
    described = {name for name in tree(target) if not name.endswith(".safetensors")}
    source = fetch.fetch(NAME, TARGET.outline)
    assert set(tree(source.path)) == set(hub.sent) == described
    assert load_target(source.path, "meta").latent_shape == (4, 4, 4)
    # The rest comes when it is asked for.
    assert tree(fetch.fetch(NAME, TARGET).path) == tree(target)


def test_a_lora_comes_from_the_hub(hub: Hub, littered: Path) -> None:
    assert set(tree(fetch.fetch(NAME, LORA).path)) == {"v1-5-pruned.safetensors"}
    hub.commits[NEXT] = littered
    (littered / "pytorch_lora_weights.safetensors").write_text("the one")
    assert set(tree(fetch.fetch(f"{NAME}@{NEXT}", LORA).path)) == {"pytorch_lora_weights.safetensors"}


def test_what_the_hub_does_not_give_is_named(hub: Hub) -> None:
    refused("nobody/nothing@v1", "target nobody/nothing@v1 is no local path, and the hub does not give it: Repository")
    refused(f"{NAME}@gone", f"target {NAME}@gone is no local path, and the hub does not give it: RevisionNotFound")
    hub.gated = True
    refused(NAME, f"target {NAME} is no local path, and the hub does not give it: GatedRepo")


def test_without_a_network_the_hub_is_named(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    refused(NAME, f"target {NAME} is no local path, and the hub does not give it: LocalEntryNotFound")


def test_offline_the_hubs_own_cache_serves(target: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder in the layout of huggingface_hub, as other programs leave it."""
    repository = tmp_path / "hub/models--someone--some-model"
    shutil.copytree(target, repository / "snapshots" / COMMIT)
    (repository / "refs").mkdir()
    (repository / "refs/main").write_text(COMMIT)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    for address in (NAME, f"{NAME}@main", f"{NAME}@{COMMIT}"):
        source = fetch.fetch(address, TARGET)
        assert source.address == f"{NAME}@{COMMIT}"
        assert target_digest(source.path) == target_digest(target)
    refused(f"{NAME}@other", f"target {NAME}@other is no local path, and the hub does not give it")

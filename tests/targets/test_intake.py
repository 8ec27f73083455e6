"""Of a target's folder the files on our list are read, and no others: whatever they name, and wherever they lead."""

import errno
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from ldm_scale.errors import RunError, UsageError
from ldm_scale.targets.fetch import AUTOENCODER, TARGET, fetch
from ldm_scale.targets.intake import LARGEST, check_file, handed_over, read_files
from ldm_scale.targets.layout import MODEL, TOKENIZER
from ldm_scale.targets.load import load_target, target_digest
from ldm_scale.targets.weights import fetch_weights
from tests.addresses import tree, upload
from tests.targets import tiny
from tests.targets.hostile import Trap, edit, noise_of
from tests.targets.loras import diffusers_file, make_weights
from tests.targets.opened import opened

DEMO = Path(__file__).parents[2] / "ldm_scale/demo/target"
# Of a digest that changes, no run goes on.
DIGESTS = {
    DEMO: "e8787aa52b9f87bde07896f26705d9706906625f2748d268edd6f2bdf9deaa65",
}
WEIGHTS = {"unet": "diffusion_pytorch_model", "text_encoder": "model"}


@pytest.fixture
def trap(tmp_path: Path) -> Iterator[Trap]:
    """Weights whose pickle leaves a mark; every test ends by looking for it."""
    trap = Trap(tmp_path / "mark")
    yield trap
    assert not trap.mark.exists()


def refused(target: Path, *parts: str) -> None:
    """The target is refused in one line that holds these words."""
    with pytest.raises(UsageError) as caught:
        load_target(target, "cpu")
    assert "\n" not in str(caught.value)
    assert all(part in str(caught.value) for part in parts), caught.value


def test_the_trap_is_live(tmp_path: Path) -> None:
    trap = Trap(tmp_path / "mark")
    trap.write(tmp_path / "hidden.bin")
    with pytest.raises(Exception, match=r"weights_only|Weights only"):
        torch.load(tmp_path / "hidden.bin", weights_only=True)
    torch.load(tmp_path / "hidden.bin", weights_only=False)
    assert trap.mark.exists()


@pytest.mark.parametrize("part", WEIGHTS)
@pytest.mark.parametrize(
    "name", ["hidden.bin", "hidden.safetensors", "../hidden.safetensors", "/etc/passwd", "", ["hidden.bin"]]
)
def test_an_index_names_weights_of_its_own_folder_alone(target: Path, trap: Trap, part: str, name: object) -> None:
    weights = target / part / f"{WEIGHTS[part]}.safetensors"
    trap.write(target / part / "hidden.bin")
    for place in ("hidden.safetensors", "../hidden.safetensors"):
        shutil.copy(weights, target / part / place)
    index = weights.with_name(f"{weights.name}.index.json")
    index.write_text(json.dumps({"metadata": {}, "weight_map": dict.fromkeys(load_file(weights), name)}))
    with opened() as files:
        refused(target, str(index), "in its own folder")
    assert not any("hidden" in path.name for path in files)


@pytest.mark.parametrize("text", ["[]", "{}", '{"weight_map": []}', '{"weight_map": {"a": null}}', "[" * 100_000])
def test_a_broken_index_is_named(target: Path, text: str) -> None:
    index = target / "unet/diffusion_pytorch_model.safetensors.index.json"
    index.write_text(text)
    refused(target, str(index))


def test_an_index_of_files_that_are_not_there_is_named(target: Path) -> None:
    weights = target / "unet/diffusion_pytorch_model.safetensors"
    name = "diffusion_pytorch_model-00001-of-00002.fp16.safetensors"
    shutil.copy(weights, weights.with_name(name))
    index = weights.with_name(f"{weights.name}.index.json")
    index.write_text(json.dumps({"metadata": {}, "weight_map": dict.fromkeys(load_file(weights), name)}))
    refused(target, f"{target}/unet cannot be loaded: ")


def test_an_adapter_beside_the_weights_is_no_part_of_the_target(target: Path, trap: Trap) -> None:
    expected, digest = noise_of(target), target_digest(target)
    folder = target / "text_encoder"
    layer = "base_model.model.encoder.layers.0.self_attn.q_proj"
    matrices = {f"{layer}.lora_{name}.weight": torch.ones(shape) for name, shape in (("A", (2, 8)), ("B", (8, 2)))}
    save_file(matrices, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    trap.write(folder / "adapter_model.bin")
    adapter = {"peft_type": "LORA", "r": 2, "lora_alpha": 64, "target_modules": ["q_proj"]}
    (folder / "adapter_config.json").write_text(json.dumps(adapter))
    with opened() as files:
        torch.testing.assert_close(noise_of(target), expected, rtol=0, atol=0)
    assert target_digest(target) == digest
    assert not any("adapter" in path.name for path in files)


def test_what_is_opened_is_what_is_digested(target: Path) -> None:
    """But for what says which model it is, and the libraries' own files."""
    for part in ("unet", "vae", "text_encoder", "tokenizer", "scheduler"):
        for name in ("generation_config.json", "chat_template.jinja", "notes.txt", "extra.json", "spiece.model"):
            (target / part / name).write_text("{}")
    with opened() as digested:
        target_digest(target)
    with opened() as loaded:
        load_target(target, "cpu")
    described = {path for path in loaded if path.is_relative_to(target)}
    listed = {path for path in digested if path.is_relative_to(target)}
    assert {path for path in listed if path.suffix != ".safetensors"} == described
    assert {path.name for path in listed - described} == {"diffusion_pytorch_model.safetensors", "model.safetensors"}


@pytest.mark.parametrize("folder", DIGESTS, ids=lambda path: path.parent.name)
def test_digests_are_what_they_were(folder: Path) -> None:
    assert target_digest(folder) == DIGESTS[folder]


def test_a_folder_of_our_own_holds_the_list_and_links_to_the_weights(target: Path) -> None:
    component = target / "unet"
    (component / "hidden.bin").write_bytes(b"")
    with handed_over(component, MODEL, lambda path, data: b"given " + data[:1]) as own:
        assert {path.name for path in own.iterdir()} == {"config.json", "diffusion_pytorch_model.safetensors"}
        assert (own / "config.json").read_bytes() == b"given {"
        weights = own / "diffusion_pytorch_model.safetensors"
        assert weights.samefile(component / weights.name)
        assert weights.is_symlink()
    assert not own.exists()
    assert (component / "diffusion_pytorch_model.safetensors").is_file()


# Changes


def change_weights(target: Path) -> None:
    path = target / "unet/diffusion_pytorch_model.safetensors"
    before = path.stat()
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    # As someone does who hides it.
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def another_variant(target: Path) -> None:
    (target / "unet/diffusion_pytorch_model.safetensors").rename(
        target / "unet/diffusion_pytorch_model.fp16.safetensors"
    )


@pytest.mark.parametrize("change", [change_weights, another_variant])
@pytest.mark.parametrize("first", ["digested", "loaded"])
def test_what_is_digested_and_what_is_loaded_are_one(target: Path, first: str, change: Callable[[Path], None]) -> None:
    weights = fetch_weights(str(target))
    steps = [weights.science, lambda: weights.load("cpu")]
    if first == "loaded":
        steps.reverse()
    steps[0]()
    change(target)
    with pytest.raises(RunError, match=rf"{target}/unet/\S+ has changed since"):
        steps[1]()


def test_a_lora_that_changes_is_noticed(target: Path, tmp_path: Path) -> None:
    file = diffusers_file(tmp_path / "lora.safetensors", make_weights(target))
    weights = fetch_weights(str(target), str(file))
    weights.load("cpu")
    file.write_bytes(file.read_bytes())
    with pytest.raises(RunError, match=rf"{file} has changed since"):
        weights.science()


def test_files_that_are_not_read_may_change(target: Path) -> None:
    weights = fetch_weights(str(target))
    (target / "unet/notes.txt").write_text("")
    weights.load("cpu")
    weights.science()


# Links


def place(path: Path, link: Path | str) -> None:
    path.unlink(missing_ok=True)
    path.symlink_to(link)


@pytest.mark.parametrize(
    "name",
    [
        *("unet/config.json", "vae/diffusion_pytorch_model.safetensors"),
        *("scheduler/scheduler_config.json", "tokenizer/added_tokens.json"),
    ],
)
@pytest.mark.parametrize("to", ["/etc/passwd", "/dev/zero", "../secret"])
def test_a_link_out_of_its_folder_is_not_followed(target: Path, name: str, to: str) -> None:
    (target / "secret").write_text(json.dumps({"_class_name": "hunter2"}))
    place(target / name, to)
    with opened() as files:
        refused(target, f"{target / name} is a link that leads out of its folder")
        with pytest.raises(UsageError, match="leads out of its folder"):
            target_digest(target)
    assert not any(os.path.realpath(path) == os.path.realpath(target / name) for path in files)


def test_a_link_of_the_table_of_parts_is_not_followed(target: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text('{"_class_name": "hunter2"}')
    place(target / "model_index.json", tmp_path / "secret")
    edit(target / "unet/config.json", _class_name="PixArtTransformer2DModel")
    refused(target, "model_index.json is a link that leads out of its folder")


def test_a_pipe_is_not_waited_for(target: Path) -> None:
    (target / "tokenizer/merges.txt").unlink()
    os.mkfifo(target / "tokenizer/merges.txt")
    refused(target, f"{target}/tokenizer/merges.txt is no file")


def test_a_link_that_leads_nowhere_is_named(target: Path) -> None:
    place(target / "tokenizer/merges.txt", "merges-2.txt")
    refused(target, f"{target}/tokenizer/merges.txt")
    place(target / "tokenizer/merges.txt", "merges.txt")
    refused(target, f"{target}/tokenizer/merges.txt")


def test_links_inside_a_folder_and_to_a_folder_are_followed(target: Path, tmp_path: Path) -> None:
    expected, digest = noise_of(target), target_digest(target)
    (target / "vae").rename(tmp_path / "shared")
    (target / "vae").symlink_to(tmp_path / "shared")
    weights = target / "unet/diffusion_pytorch_model.safetensors"
    weights.rename(weights.with_name("mine"))
    place(weights, "mine")
    torch.testing.assert_close(noise_of(target), expected, rtol=0, atol=0)
    assert target_digest(target) == digest


def as_cached(target: Path, cache: Path) -> Path:
    """The target as the hub's cache keeps it: links to files that are named by their content."""
    snapshot, blobs = cache / "models--a--b/snapshots/c0ffee", cache / "models--a--b/blobs"
    blobs.mkdir(parents=True)
    for number, name in enumerate(tree(target)):
        (snapshot / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(target / name, blobs / str(number))
        (snapshot / name).symlink_to(os.path.relpath(blobs / str(number), (snapshot / name).parent))
    return snapshot


def test_the_hubs_cache_is_read(target: Path, tmp_path: Path) -> None:
    snapshot = as_cached(target, tmp_path / "cache")
    assert target_digest(snapshot) == target_digest(target)
    torch.testing.assert_close(noise_of(snapshot), noise_of(target), rtol=0, atol=0)
    # An autoencoder by itself lies one folder higher.
    assert {path.name for path in read_files(as_cached(target / "vae", tmp_path / "alone"), MODEL)} == {
        *("config.json", "diffusion_pytorch_model.safetensors")
    }


def test_a_folder_that_looks_like_the_hubs_cache_leads_nowhere_else(target: Path, tmp_path: Path) -> None:
    snapshot = as_cached(target, tmp_path / "cache")
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets/0").write_text("hunter2")
    blobs = tmp_path / "cache/models--a--b/blobs"
    place(snapshot / "tokenizer/merges.txt", "../../../blobs/0")
    blobs.rename(blobs.with_name("old"))
    blobs.symlink_to(tmp_path / "secrets")
    with pytest.raises(UsageError, match="leads out of its folder"):
        check_file(snapshot / "tokenizer/merges.txt")


# Sizes


@pytest.mark.parametrize("name", ["unet/config.json", "scheduler/scheduler_config.json", "model_index.json"])
def test_a_description_of_any_length_is_not_read_to_its_end(target: Path, name: str) -> None:
    if name == "model_index.json":
        edit(target / "unet/config.json", _class_name="PixArtTransformer2DModel")
    # 1 TB of nothing: a sparse file.
    os.truncate(target / name, 1 << 40)
    refused(target, f"{target / name} has more than {LARGEST:,} bytes")


def test_a_vocabulary_of_any_length_is_not_read_to_its_end(target: Path) -> None:
    os.truncate(target / "tokenizer/merges.txt", 1 << 40)
    refused(target, f"{target}/tokenizer/merges.txt has more than ")


# Addresses


@pytest.mark.parametrize("where", ["local", "s3"])
def test_what_is_not_on_the_list_is_nowhere_read(target: Path, trap: Trap, where: str, bucket: str) -> None:
    digest = target_digest(target)
    trap.write(target / "unet/hidden.bin")
    shutil.copy(target / "unet/diffusion_pytorch_model.safetensors", target / "unet/hidden.safetensors")
    (target / "text_encoder/adapter_config.json").write_text("{}")
    (target / "unet/notes.json").write_text("{}")
    source = fetch(str(target) if where == "local" else upload(target, bucket), TARGET)
    assert source.digest(target_digest) == digest
    if source.is_copy:
        assert not {"hidden.bin", "hidden.safetensors", "adapter_config.json", "notes.json"} & {
            path.name for path in source.path.rglob("*")
        }


def test_an_autoencoder_by_itself_comes_with_its_index(target: Path, bucket: str) -> None:
    (target / "vae/diffusion_pytorch_model.safetensors.index.json").write_text("{}")
    (target / "vae/notes.json").write_text("{}")
    folder = fetch(upload(target / "vae", bucket), AUTOENCODER).path
    assert set(tree(folder)) == {
        *("config.json", "diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.safetensors.index.json")
    }


@pytest.mark.parametrize("make", [tiny.flux, tiny.stable_diffusion_3])
def test_the_list_holds_what_the_libraries_write(make: Callable[[Path], Path], tmp_path: Path) -> None:
    folder = make(tmp_path)
    for part in ("tokenizer", "tokenizer_2"):
        assert {path.name for path in read_files(folder / part, TOKENIZER)} == {
            path.name for path in (folder / part).iterdir()
        }


def test_a_full_tmpdir_is_told_as_such_and_not_as_a_fault_of_the_target(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(path: Path, data: bytes) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    folder = tiny.unconditional(tmp_path / "target")
    monkeypatch.setattr(Path, "write_bytes", fail)
    with pytest.raises(RunError, match=r"cannot be written: the file system .* left; free some space, or set TMPDIR"):
        fetch_weights(str(folder)).load("cpu")

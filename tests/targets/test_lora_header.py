"""A LoRA's names and the configuration in its header are followed as far as its weights go, and choose no code."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig
from safetensors.torch import load_file, save_file

from ldm_scale.errors import UsageError
from ldm_scale.targets.load import load_target
from ldm_scale.targets.lora import Lora, find_weights
from ldm_scale.targets.lora_header import followed
from tests.targets import tiny
from tests.targets.hostile import Trap
from tests.targets.loras import RANK, UNET, diffusers_file, make_weights


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.stable_diffusion(tmp_path_factory.mktemp("lora") / "target")


@pytest.fixture
def file(target: Path, tmp_path: Path) -> Path:
    """A LoRA of the denoiser alone."""
    return diffusers_file(tmp_path / "lora.safetensors", make_weights(target, text=()))


def say(file: Path, **values: object) -> None:
    """Write a configuration into the file's header, as diffusers does, with these keys of the denoiser's changed."""
    config = LoraConfig(r=RANK, lora_alpha=RANK, target_modules=list(UNET)).to_dict()
    plain = json.loads(json.dumps(config | values, default=sorted))
    header = {"lora_adapter_metadata": json.dumps({f"unet.{key}": value for key, value in plain.items()})}
    save_file(load_file(file), file, metadata=header)


def noise_of(target: Path, file: Path) -> torch.Tensor:
    loaded = load_target(target, "cpu", lora=Lora(file, 1.0))
    z = torch.randn(1, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    return loaded.predict_noise(z, tiny.at(100, z), loaded.condition(["a cat"], [None]))


def refused(target: Path, file: Path, *parts: str) -> None:
    with pytest.raises(UsageError) as caught:
        load_target(target, "cpu", lora=Lora(file, 1.0))
    line = str(caught.value)
    assert line.startswith(f"lora {file} cannot be applied to this target")
    assert "\n" not in line
    assert all(part in line for part in parts), line


def test_what_the_training_was_like_changes_nothing(target: Path, file: Path) -> None:
    expected = noise_of(target, file)
    say(file)
    torch.testing.assert_close(noise_of(target, file), expected)
    say(
        file,
        base_model_name_or_path="someone/evil",
        auto_mapping={"base_model_class": "Evil", "parent_library": "evil"},
        megatron_core="evil.core",
        loftq_config={"evil": 1},
        runtime_config={"ephemeral_gpu_offload": True},
        lora_dropout=0.5,
        init_lora_weights="gaussian",
    )
    torch.testing.assert_close(noise_of(target, file), expected)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("megatron_config", {"use_cpu_initialization": True}),
        ("layer_replication", [[0, 1_000_000_000]]),
        ("init_lora_weights", "pissa_niter_4"),
        ("modules_to_save", ["conv_in"]),
        ("target_parameters", ["weight"]),
        ("trainable_token_indices", [1]),
        ("bias", "all"),
        ("use_dora", True),
        ("arrow_config", {"top_k": 1}),
        ("evil", "evil"),
    ],
)
def test_what_makes_it_another_kind_of_adapter_is_refused(target: Path, file: Path, key: str, value: object) -> None:
    say(file, **{key: value})
    refused(target, file, f"its header asks for {key}, which is not supported")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("r", 1_000_000_000),
        ("r", 3.5),
        ("r", [2]),
        ("rank_pattern", {"to_q": 1_000_000_000}),
        ("rank_pattern", {"to_q": [2]}),
    ],
)
def test_ranks_are_those_of_the_weights(target: Path, file: Path, key: str, value: object) -> None:
    say(file, **{key: value})
    refused(target, file)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("target_modules", "(.*a)*b$"),
        ("target_modules", [UNET[0], "(a+)+$"]),
        ("exclude_modules", "(a+)+$"),
        ("rank_pattern", {"(a+)+$": 2}),
        ("alpha_pattern", {"(a+)+$": 2}),
        ("layers_pattern", "(a+)+"),
    ],
)
def test_patterns_in_a_header_are_names_of_modules(target: Path, file: Path, key: str, value: object) -> None:
    say(file, **{key: value})
    refused(target, file, "is no name of a module")


@pytest.mark.parametrize("name", ["(a+)+$", "a b", "a\x1b[31m", "x" * 400, "", "unet.a|b"])
def test_names_of_weights_are_names_of_modules(target: Path, file: Path, name: str) -> None:
    weights = load_file(file)
    save_file(
        weights | {f"{name}.lora_{side}.weight": torch.zeros(2, 2) for side in "AB"} | {name: torch.ones(1)}, file
    )
    refused(target, file)
    with pytest.raises(UsageError) as caught:
        load_target(target, "cpu", lora=Lora(file, 1.0))
    assert "\x1b" not in str(caught.value)
    assert len(str(caught.value)) < 1_000


@pytest.mark.parametrize("text", ["[" * 100_000, "null", "[]", "1", '"r"'])
def test_a_broken_configuration_is_named(target: Path, file: Path, text: str) -> None:
    save_file(load_file(file), file, metadata={"lora_adapter_metadata": text})
    if text == "null":
        noise_of(target, file)
    else:
        refused(target, file)


@pytest.mark.parametrize(
    "data",
    [
        (1 << 63).to_bytes(8, "little") + b"{}",
        (90_000_000).to_bytes(8, "little") + b"{}",
        (64).to_bytes(8, "little") + b'{"a":{"dtype":"F32","shape":[1099511627776],"data_offsets":[0,4398046511104]}}',
        (2).to_bytes(8, "little") + b"{}",
        b"",
    ],
    ids=["8 EiB of header", "90 MB of header", "4 TB of weights", "no weights", "nothing"],
)
def test_a_header_that_declares_more_than_there_is_is_refused(target: Path, file: Path, data: bytes) -> None:
    file.write_bytes(data)
    refused(target, file)


@pytest.mark.parametrize("shape", [(0, 8), (8, 0), (), (1,), (2, 8, 1, 1, 1)])
def test_weights_of_no_rank_are_refused(target: Path, file: Path, shape: tuple[int, ...]) -> None:
    save_file({name: torch.zeros(shape) for name in load_file(file)}, file)
    refused(target, file)


@pytest.mark.parametrize("alpha", [float("nan"), float("inf"), "2", None, [2]])
def test_an_alpha_that_is_no_number_is_refused(target: Path, file: Path, alpha: object) -> None:
    say(file, lora_alpha=alpha)
    refused(target, file)


def test_a_link_in_a_folder_does_not_lead_out_of_it(file: Path, tmp_path: Path) -> None:
    for name in ("pytorch_lora_weights.safetensors", "mine.safetensors"):
        folder = tmp_path / name.split(".")[0]
        folder.mkdir()
        (folder / name).symlink_to(file)
        with pytest.raises(UsageError, match=f"{folder / name} is a link that leads out of its folder"):
            find_weights(folder)
        (folder / name).unlink()
        (folder / name).symlink_to("/dev/zero")
        with pytest.raises(UsageError, match=f"{folder / name} is a link that leads out of its folder|has 1 "):
            find_weights(folder)
    # The address itself may be a link: it is the user's.
    (tmp_path / "link.safetensors").symlink_to(file)
    assert find_weights(tmp_path / "link.safetensors") == tmp_path / "link.safetensors"


def test_a_pickle_beside_the_weights_is_not_read(target: Path, file: Path, tmp_path: Path) -> None:
    trap = Trap(tmp_path / "mark")
    for name in ("pytorch_lora_weights.bin", "adapter_model.bin"):
        trap.write(tmp_path / name)
    (tmp_path / "adapter_config.json").write_text("{}")
    noise_of(target, file)
    assert not trap.mark.exists()


@pytest.mark.parametrize("make", [dict, lambda: None])
def test_no_configuration_is_none(make: Callable[[], Any]) -> None:
    assert followed(make(), [(2, 2)]) == make()

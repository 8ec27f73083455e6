"""What a configuration may say: it chooses neither files nor code, and its numbers are checked before they are used."""

import base64
import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import (
    AutoencoderKL,
    DDPMScheduler,
    DiTTransformer2DModel,
    FlowMatchEulerDiscreteScheduler,
    UNet2DConditionModel,
)
from transformers import CLIPTextModel, CLIPTokenizer

from ldm_scale.errors import RunError, UsageError
from ldm_scale.targets import components
from ldm_scale.targets.configurations import LONGEST_PIECE, MOST, given, kept_keys
from ldm_scale.targets.load import load_target, target_digest
from tests.targets import tiny
from tests.targets.hostile import edit, noise_of
from tests.targets.opened import opened


@pytest.fixture(scope="module")
def made_of_flow(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.flux(tmp_path_factory.mktemp("configurations") / "flux")


@pytest.fixture
def flux(made_of_flow: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made_of_flow, tmp_path / "flux"))


def refused(target: Path, *parts: str, device: str = "cpu") -> None:
    """The target is refused, at once and in one line that holds these words."""
    began = time.monotonic()
    with pytest.raises(UsageError) as caught:
        load_target(target, device)
    assert time.monotonic() - began < 30
    assert "\n" not in str(caught.value)
    assert "ldm-scale-target" not in str(caught.value)
    assert all(part in str(caught.value) for part in parts), caught.value


# Keys

CHOOSING: dict[str, dict[str, object]] = {
    "text_encoder/config.json": {
        "attn_implementation": "evil/kernel",
        "_attn_implementation": "evil/kernel",
        "_attn_implementation_internal": "evil/kernel",
        "experts_implementation": "evil/kernel",
        "fusion_config": {"patch_embeddings": True},
        "distributed_config": {"tp_size": 2},
        "auto_map": {"AutoModel": "evil.Evil"},
        "_name_or_path": "someone/evil",
        "base_model_tp_plan": {"layers.*": "colwise"},
    },
    "unet/config.json": {
        "_name_or_path": "someone/evil",
        "_use_default_values": ["sample_size", "block_out_channels"],
        "auto_map": {"AutoModel": "evil.Evil"},
    },
    "tokenizer/tokenizer_config.json": {
        "fast_tokenizer_files": ["../../hidden/tokenizer.json"],
        "gguf_file": "../../hidden/tokenizer.gguf",
        "vocab_file": "../../hidden/vocab.json",
        "init_inputs": ["../../hidden/vocab.json"],
        "auto_map": {"AutoTokenizer": ["evil.Evil", None]},
        "chat_template": "{{ evil }}",
    },
    "tokenizer/special_tokens_map.json": {
        "vocab_file": "../../hidden/vocab.json",
        "merges_file": "../../hidden/merges.txt",
        "vocab": {"a": 0},
        "tokenizer_file": "../../hidden/tokenizer.json",
        "gguf_file": "../../hidden/tokenizer.gguf",
        "add_bos_token": False,
    },
    "scheduler/scheduler_config.json": {"_class_name": "OnnxStableDiffusionPipeline", "evil": "evil"},
}


@pytest.mark.parametrize("file", CHOOSING)
def test_keys_that_choose_files_or_code_are_not_handed_over(target: Path, file: str, tmp_path: Path) -> None:
    """The keys are no part of the model, but the digest is of the file."""
    expected, digest = noise_of(target), target_digest(target)
    (tmp_path / "hidden").mkdir()
    for name in ("vocab.json", "merges.txt", "tokenizer.json", "tokenizer.gguf"):
        (tmp_path / "hidden" / name).write_text("{}")
    edit(target / file, **CHOOSING[file])
    with opened() as files:
        torch.testing.assert_close(noise_of(target), expected, rtol=0, atol=0)
    assert not any("hidden" in str(path) for path in files)
    assert target_digest(target) != digest


@pytest.mark.parametrize(
    ("kind", "name", "kept"),
    [
        (UNet2DConditionModel, "config.json", {"sample_size", "cross_attention_dim"}),
        (AutoencoderKL, "config.json", {"scaling_factor", "latent_channels"}),
        (DiTTransformer2DModel, "config.json", {"num_embeds_ada_norm", "norm_type"}),
        (CLIPTextModel, "config.json", {"hidden_size", "dtype", "architectures"}),
        (DDPMScheduler, "scheduler_config.json", {"beta_start", "prediction_type"}),
        (FlowMatchEulerDiscreteScheduler, "scheduler_config.json", {"shift", "use_dynamic_shifting"}),
        (CLIPTokenizer, "tokenizer_config.json", {"pad_token", "model_max_length"}),
    ],
)
def test_what_describes_a_component_is_handed_over(kind: Any, name: str, kept: set[str]) -> None:
    keys = kept_keys(kind)[name]
    assert kept <= keys
    assert not {"self", "kwargs", "auto_map", "quantization_config", "_name_or_path", "attn_implementation"} & keys
    config = dict.fromkeys([*kept, "auto_map", "evil"])
    assert json.loads(given(kind, Path(name), json.dumps(config).encode())).keys() == kept


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize(
    ("file", "key", "value"),
    [
        ("text_encoder/config.json", "transformers_weights", "hidden.safetensors"),
        ("text_encoder/config.json", "quantization_config", {"quant_method": "bitsandbytes", "load_in_8bit": True}),
        ("unet/config.json", "quantization_config", {"quant_method": "gguf"}),
        ("text_encoder/config.json", "text_config", {"hidden_size": 8}),
    ],
)
def test_a_key_without_which_the_model_is_another_is_refused(
    target: Path, file: str, key: str, value: object, device: str
) -> None:
    edit(target / file, **{key: value})
    refused(target, f"{target / file}: {key} is not supported", device=device)


@pytest.mark.parametrize("text", ["[]", "1", "null", "[" * 100_000, "\udcff"])
def test_a_configuration_that_is_no_table_is_named(target: Path, text: str) -> None:
    path = target / "tokenizer/special_tokens_map.json"
    path.write_bytes(text.encode(errors="surrogateescape"))
    refused(target, f"{path} holds no table of JSON")


# Sizes of models


def never(*_: object, **__: object) -> None:
    raise AssertionError("a model of this size was made")


@pytest.mark.parametrize(
    ("file", "values"),
    [
        ("vae/config.json", {"latent_channels": 10_000_000}),
        ("vae/config.json", {"block_out_channels": [4, 4, 2_000_000]}),
        ("unet/config.json", {"cross_attention_dim": 10_000_000_000}),
        ("unet/config.json", {"block_out_channels": [8, 1_000_000]}),
        ("text_encoder/config.json", {"vocab_size": 1_000_000_000}),
        ("text_encoder/config.json", {"max_position_embeddings": 1_000_000_000_000}),
        ("text_encoder/config.json", {"intermediate_size": 1 << 40}),
    ],
)
def test_a_model_larger_than_its_weights_is_never_made(
    target: Path, file: str, values: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    kinds = {"vae": AutoencoderKL, "unet": UNet2DConditionModel, "text_encoder": CLIPTextModel}
    monkeypatch.setattr(kinds[Path(file).parent.name], "from_pretrained", never)
    edit(target / file, **values)
    refused(target, f"{target / file}".removesuffix("/config.json"), "its configuration asks for ", " numbers")


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize(
    ("file", "values"),
    [
        ("text_encoder/config.json", {"num_hidden_layers": 1_000}),
        ("unet/config.json", {"layers_per_block": 1_000}),
        ("unet/config.json", {"transformer_layers_per_block": 1_000}),
        ("vae/config.json", {"layers_per_block": 1_000}),
    ],
)
def test_layers_of_layers_are_made_up_to_a_limit(
    target: Path, file: str, values: dict[str, object], device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As many as are made in a moment.
    monkeypatch.setattr(components, "MOST_WEIGHTS", 500)
    edit(target / file, **values)
    refused(target, "asks for more than 500 weights", device=device)


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize(
    ("file", "values"),
    [
        ("text_encoder/config.json", {"num_hidden_layers": 1_001}),
        # diffusers would make a list of so many numbers.
        ("unet/config.json", {"layers_per_block": 1_000_000_000}),
        ("unet/config.json", {"transformer_layers_per_block": [1, [1_000_000_000]]}),
        ("unet/config.json", {"layers_per_block": 1.5}),
        ("vae/config.json", {"layers_per_block": -1}),
    ],
)
def test_layers_are_a_number_that_models_have(target: Path, file: str, values: dict[str, object], device: str) -> None:
    edit(target / file, **values)
    refused(target, f"{target / file}: {next(iter(values))} = ", "no whole number up to 1,000", device=device)


@pytest.mark.parametrize("size", [1 << 20, 10**30])
def test_places_of_any_number_are_not_computed(tmp_path: Path, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tiny.dit(tmp_path)
    monkeypatch.setattr(DiTTransformer2DModel, "from_pretrained", never)
    edit(folder / "transformer/config.json", sample_size=size)
    refused(folder, f"target denoiser {folder}/transformer cannot be loaded")


def test_the_largest_models_are_below_the_limit_of_weights() -> None:
    """Stable Diffusion XL's U-Net has the most."""
    with torch.device("meta"), components._counted():
        unet = UNet2DConditionModel(
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            block_out_channels=(320, 640, 1280),
            transformer_layers_per_block=(1, 2, 10),
            cross_attention_dim=2048,
        )
    assert 1_000 < len(list(unet.parameters())) < components.MOST_WEIGHTS / 10


def test_images_of_any_size_are_refused(target: Path) -> None:
    edit(target / "unet/config.json", sample_size=1 << 16)
    refused(target, "the target's images are 262,144 px wide; up to 16,384 are supported")


# Schedules


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize("value", [200_000_000, -1, 1e3, "1000", True])
def test_timesteps_are_a_number_that_schedules_have(target: Path, value: object, device: str) -> None:
    path = target / "scheduler/scheduler_config.json"
    edit(path, num_train_timesteps=value)
    refused(target, f"{path}: num_train_timesteps = ", f"up to {MOST['num_train_timesteps']:,}", device=device)


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize(
    "values",
    [
        {"beta_start": -0.1, "beta_schedule": "linear"},
        {"beta_end": -0.012, "beta_schedule": "linear"},
        {"beta_start": 1.2, "beta_end": 1.5, "beta_schedule": "linear"},
        {"beta_start": 0.0, "beta_end": 0.0},
        {"beta_end": float("nan")},
        {"beta_end": float("inf")},
        {"trained_betas": [0.1, -0.1]},
        {"trained_betas": []},
        {"num_train_timesteps": 0},
    ],
)
def test_noise_that_does_not_grow_is_refused(target: Path, values: dict[str, object], device: str) -> None:
    edit(target / "scheduler/scheduler_config.json", **values)
    refused(target, f"target scheduler {target}/scheduler", device=device)


def test_a_schedule_that_ends_in_noise_alone_is_one(target: Path) -> None:
    edit(target / "scheduler/scheduler_config.json", rescale_betas_zero_snr=True)
    assert load_target(target, "cpu").alphas_cumprod[-1] == 0


@pytest.mark.parametrize(
    "values",
    [
        {"num_train_timesteps": 200_000_000},
        {"shift": -3.0, "use_dynamic_shifting": False},
        {"shift": float("nan"), "use_dynamic_shifting": False},
        {"base_image_seq_len": 256, "max_image_seq_len": 256},
        {"max_shift": 1e6, "base_shift": 1e6},
        {"base_shift": "0.5"},
    ],
)
def test_flow_that_is_none_is_refused(flux: Path, values: dict[str, object]) -> None:
    edit(flux / "scheduler/scheduler_config.json", **values)
    refused(flux, str(flux))


# Tokenizers


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("tokenizer_config.json", {"model_max_length": 10**12}, "model_max_length = 1000000000000"),
        ("tokenizer_config.json", {"model_max_length": tiny.TOKENS + 1}, "to the 12 that its encoder takes"),
        ("tokenizer_config.json", {"model_max_length": 0}, "model_max_length = 0"),
        ("tokenizer_config.json", {"model_max_length": -5}, "model_max_length = -5"),
        ("tokenizer_config.json", {"model_max_length": "77"}, 'model_max_length = "77"'),
        ("tokenizer_config.json", {"added_tokens_decoder": {"9": {"content": "new"}}}, "has a token 58"),
        ("tokenizer_config.json", {"pad_token": "a" * 2000}, "has a piece of 2,000 characters"),
        ("vocab.json", {"ca": 1_000_000}, "has a token 1000000, its encoder 58 embeddings"),
        ("vocab.json", {"ca": -1}, "cannot be loaded"),
        ("vocab.json", {"a" * 1_000_000: 3}, "has a piece of 1,000,000 characters"),
    ],
)
def test_a_vocabulary_that_does_not_fit_its_encoder_is_refused(
    target: Path, file: str, change: dict[str, object], message: str
) -> None:
    edit(target / "tokenizer" / file, **change)
    refused(target, f"{target}/tokenizer", message)


def piece(table: dict[str, Any], text: str) -> None:
    table["model"]["vocab"].append([text, -1.0])


def characters(table: dict[str, Any], data: bytes) -> None:
    table["normalizer"] = {"type": "Precompiled", "precompiled_charsmap": base64.b64encode(data).decode()}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        # tokenizers itself dies of it, without an error.
        (lambda table: piece(table, "a" * 1_000_000), f"up to {LONGEST_PIECE:,} are read"),
        (lambda table: piece(table, "new"), "has a token 32, its encoder 32 embeddings"),
        # The first is a panic when it is read, the second when a caption is.
        (lambda table: characters(table, b"\xff\xff\xff\x7f" + b"A" * 40), "cannot be loaded: Precompiled"),
        (
            lambda table: characters(table, b"\x08\0\0\0" + b"\xff" * 8 + b"A" * 40),
            "cannot be loaded: the target's",
        ),
        (lambda table: table["model"].update(vocab=[]), "cannot be loaded"),
        (lambda table: table["model"].update(unk_id=1_000_000_000), "cannot be loaded"),
        (lambda table: table["added_tokens"].append({"id": 1 << 40, "content": "x"}), "cannot be loaded"),
        (lambda table: table.update(truncation={"max_length": -1}), "cannot be loaded"),
        (dict.clear, "cannot be loaded"),
    ],
)
def test_a_hostile_tokenizer_json_is_refused(
    flux: Path, change: Callable[[dict[str, Any]], None], message: str
) -> None:
    path = flux / "tokenizer_2/tokenizer.json"
    table = json.loads(path.read_text())
    change(table)
    path.write_text(json.dumps(table))
    refused(flux, f"{flux}/tokenizer_2", message)


def test_a_regular_expression_of_a_tokenizer_json_is_not_run(flux: Path) -> None:
    """This one takes for ever on a text that almost fits; T5's own way to split is what counts."""
    path = flux / "tokenizer_2/tokenizer.json"
    pattern = {"type": "Split", "pattern": {"Regex": "(a|a)+$"}, "behavior": "Isolated", "invert": False}
    expected = load_target(flux, "cpu").condition(["a" * 60 + "!"], [None])
    edit(path, pre_tokenizer=pattern, padding=None)
    torch.testing.assert_close(load_target(flux, "cpu").condition(["a" * 60 + "!"], [None]), expected)


def test_tokens_of_its_own_are_a_number_that_tokenizers_have(flux: Path) -> None:
    path = flux / "tokenizer_2/tokenizer_config.json"
    edit(path, extra_ids=1_000_000_000)
    refused(flux, f"{path}: extra_ids = 1000000000 is no whole number up to 10,000")


def test_a_tokenizer_that_breaks_down_on_a_caption_says_so(flux: Path) -> None:
    class PanicException(BaseException):
        pass

    def panic(*_: object, **__: object) -> None:
        raise PanicException("index out of bounds")

    _, text = load_target(flux, "cpu")._texts
    text._tokenizer = panic
    with pytest.raises(RunError, match="cannot read a caption: index out of bounds"):
        text(["a"], length=1)

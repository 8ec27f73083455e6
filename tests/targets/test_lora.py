"""LoRA: the weights that fusing gives are those of the formula, in each format, and what does not fit is refused."""

import re
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, DDPMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import CLIPTokenizer

from ldm_scale.errors import UsageError
from ldm_scale.targets.base import Target
from ldm_scale.targets.load import load_target
from ldm_scale.targets.lora import Lora, find_weights
from ldm_scale.targets.stable_diffusion import StableDiffusionTarget
from ldm_scale.targets.text import TextEncoder
from tests.targets import tiny
from tests.targets.loras import ALPHA, RANK, UNET, Weights, diffusers_file, make_weights, models_of

Writer = Callable[[Path, Weights], Path]


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.stable_diffusion(tmp_path_factory.mktemp("lora") / "target")


def kohya_file(path: Path, weights: Weights, alphas: Sequence[float | None] | None = None) -> Path:
    """kohya's names, with the alpha of each module that has one."""
    tensors = {}
    for ((model, module), (a, b)), alpha in zip(weights.items(), alphas or [ALPHA] * len(weights), strict=True):
        prefix = {"unet": "lora_unet_", "text_encoder": "lora_te_text_model_"}[model] + module.replace(".", "_")
        tensors |= {f"{prefix}.lora_down.weight": a, f"{prefix}.lora_up.weight": b}
        tensors |= {} if alpha is None else {f"{prefix}.alpha": torch.tensor(alpha)}
    save_file(tensors, path)
    return path


def merged_by_hand(target: Path, weights: Weights, factor: float) -> StableDiffusionTarget:
    """W + factor * B A."""
    models = models_of(target)
    for (model, module), (a, b) in weights.items():
        weight = models[model].get_submodule(module).weight
        weight.data += factor * (b.flatten(1) @ a.flatten(1)).reshape(weight.shape)
    return StableDiffusionTarget(
        AutoencoderKL.from_pretrained(target / "vae"),
        models["unet"],
        DDPMScheduler.from_pretrained(target / "scheduler"),
        TextEncoder(CLIPTokenizer.from_pretrained(target / "tokenizer"), models["text_encoder"]),
    )


def outputs(target: StableDiffusionTarget) -> tuple[Tensor, Tensor]:
    condition = target.condition(["cat", "do cat"], [None, None])
    z = torch.randn(2, 4, 4, 4, generator=torch.Generator().manual_seed(1))
    return condition, target.predict_noise(z, tiny.at(100, z), condition)


def assert_same(found: StableDiffusionTarget, expected: StableDiffusionTarget) -> None:
    torch.testing.assert_close(outputs(found), outputs(expected), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("scale", [1.0, 0.5, -2.0])
@pytest.mark.parametrize(("write", "alpha"), [(diffusers_file, RANK), (kohya_file, ALPHA)])
def test_the_formula_by_hand_gives_the_same_target(
    target: Path, tmp_path: Path, write: Writer, alpha: float, scale: float
) -> None:
    weights = make_weights(target)
    file = write(tmp_path / "lora.safetensors", weights)
    expected = merged_by_hand(target, weights, scale * alpha / RANK)
    found = load_target(target, "cpu", lora=Lora(file, scale))
    assert_same(found, expected)
    # Of another size than rounding: the base model is another one, in its text and in its noise.
    for changed, base in zip(outputs(expected), outputs(load_target(target, "cpu")), strict=True):
        assert (changed - base).abs().max() > 1e-2


@pytest.mark.parametrize("alphas", [(1, 2, 3, 4, 5, 6), (None, 4, None, 6, None, 5)], ids=str)
def test_each_module_has_its_own_alpha_or_that_of_its_rank(
    target: Path, tmp_path: Path, alphas: tuple[float | None, ...]
) -> None:
    """diffusers #3910, #4852: as kohya's files have them; of modules of several ranks, convolutions among them."""
    modules = (UNET[0], UNET[1], "down_blocks.0.resnets.0.conv1")
    weights = make_weights(target, unet=modules)
    # One of twice the rank.
    a, b = weights["unet", UNET[1]]
    weights["unet", UNET[1]] = (torch.cat([a, -2 * a]), torch.cat([b, b], dim=1))
    file = kohya_file(tmp_path / "lora.safetensors", weights, alphas)
    scaled = {
        name: (a, b * (1 if alpha is None else alpha / len(a)))
        for (name, (a, b)), alpha in zip(weights.items(), alphas, strict=True)
    }
    assert_same(load_target(target, "cpu", lora=Lora(file, 0.5)), merged_by_hand(target, scaled, 0.5))


def fused_by_hand(model: nn.Module, updates: dict[str, Tensor]) -> dict[str, Tensor]:
    """Every weight of a model, with what is added to some modules'."""
    return {name: weight + updates.get(name.removesuffix(".weight"), 0) for name, weight in model.named_parameters()}


def assert_fused(model: nn.Module, expected: dict[str, Tensor]) -> None:
    for name, weight in model.named_parameters():
        torch.testing.assert_close(weight, expected[name], rtol=1e-5, atol=1e-5)


def low_rank(weights: list[Tensor], rank: int, seed: int) -> tuple[Tensor, Tensor]:
    """A, and B of weights that are one above the other."""
    generator = torch.Generator().manual_seed(seed)
    outside = sum(map(len, weights))
    return torch.randn(rank, weights[0].shape[1], generator=generator), torch.randn(outside, rank, generator=generator)


# kohya's names: blocks numbered as in XL's original checkpoints, and two text encoders.
XL = {
    "unet": {
        "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q": "unet_input_blocks_1_1_transformer_blocks_0",
        "mid_block.attentions.0.transformer_blocks.0.attn1.to_q": "unet_middle_block_1_transformer_blocks_0",
        "up_blocks.1.attentions.1.transformer_blocks.0.attn1.to_q": "unet_output_blocks_3_1_transformer_blocks_0",
    },
    "text_encoder": {"encoder.layers.0.self_attn.out_proj": "te1_text_model_encoder_layers_0_self_attn_out_proj"},
    "text_encoder_2": {
        "text_model.encoder.layers.1.self_attn.out_proj": "te2_text_model_encoder_layers_1_self_attn_out_proj",
        "text_model.encoder.layers.1.mlp.fc1": "te2_text_model_encoder_layers_1_mlp_fc1",
    },
}


def test_a_lora_of_kohyas_for_xl_is_fused_by_the_formula(tmp_path: Path) -> None:
    """diffusers #4322 and ComfyUI #5972, each module with an alpha of its own."""
    folder = tiny.stable_diffusion_xl(tmp_path / "target")
    base = load_target(folder, "cpu")
    models = {"unet": base._denoiser, "text_encoder": base._texts[0].model, "text_encoder_2": base._texts[1].model}
    tensors: dict[str, Tensor] = {}
    updates: dict[str, dict[str, Tensor]] = {part: {} for part in models}
    for part, names in XL.items():
        for module, name in names.items():
            alpha = len(tensors) + 1.0
            a, b = low_rank([models[part].get_submodule(module).weight], 2, len(tensors))
            stem = f"lora_{name}_attn1_to_q" if part == "unet" else f"lora_{name}"
            tensors |= {f"{stem}.lora_down.weight": a, f"{stem}.lora_up.weight": b}
            tensors[f"{stem}.alpha"] = torch.tensor(alpha)
            updates[part][module] = alpha / 2 * b @ a
    save_file(tensors, tmp_path / "lora.safetensors")
    found = load_target(folder, "cpu", lora=Lora(tmp_path / "lora.safetensors", 1.0))
    fused = (found._denoiser, found._texts[0].model, found._texts[1].model)
    for (part, model), changed in zip(models.items(), fused, strict=True):
        assert_fused(changed, fused_by_hand(model, updates[part]))


# kohya's names of FLUX's modules, its alpha and its rank: queries, keys and values are one.
BLOCK = "transformer_blocks.0.attn"
FLUX = {
    "double_blocks_0_img_attn_proj": ([f"{BLOCK}.to_out.0"], 1, 2),
    "double_blocks_0_img_attn_qkv": ([f"{BLOCK}.to_q", f"{BLOCK}.to_k", f"{BLOCK}.to_v"], 4, 2),
    "double_blocks_0_txt_attn_qkv": ([f"{BLOCK}.add_q_proj", f"{BLOCK}.add_k_proj", f"{BLOCK}.add_v_proj"], None, 2),
    "double_blocks_0_img_mod_lin": (["transformer_blocks.0.norm1.linear"], 8, 4),
    "single_blocks_0_linear2": (["single_transformer_blocks.0.proj_out"], 5, 2),
}
# Modules of which one's name ends another's, in ranks of their own.
RANKS = {"proj_out": 2, "single_transformer_blocks.0.proj_out": 4, "x_embedder": 3, f"{BLOCK}.to_q": 2}


def test_a_lora_of_flux_is_fused_by_the_formula(tmp_path: Path) -> None:
    """diffusers #9291 and peft #2419: by kohya's names with their alphas, and by diffusers' in several ranks."""
    folder = tiny.flux(tmp_path / "target")
    base = load_target(folder, "cpu")._denoiser
    files: list[tuple[dict[str, Tensor], dict[str, Tensor]]] = [({}, {}), ({}, {})]
    (tensors, updates), (ranked, others) = files
    for seed, (name, (modules, alpha, rank)) in enumerate(FLUX.items()):
        weights = [base.get_submodule(module).weight for module in modules]
        a, b = low_rank(weights, rank, seed)
        tensors |= {f"lora_unet_{name}.lora_down.weight": a, f"lora_unet_{name}.lora_up.weight": b}
        tensors |= {} if alpha is None else {f"lora_unet_{name}.alpha": torch.tensor(float(alpha))}
        factor = 1 if alpha is None else alpha / rank
        added = torch.split(factor * b @ a, [*map(len, weights)])
        updates |= dict(zip(modules, added, strict=True))
    for module, rank in RANKS.items():
        a, b = low_rank([base.get_submodule(module).weight], rank, rank)
        ranked |= {f"transformer.{module}.lora_A.weight": a, f"transformer.{module}.lora_B.weight": b}
        others[module] = b @ a
    for number, (written, added_to) in enumerate(files):
        save_file(written, tmp_path / f"{number}.safetensors")
        found = load_target(folder, "cpu", lora=Lora(tmp_path / f"{number}.safetensors", 1.0))
        assert_fused(found._denoiser, fused_by_hand(base, added_to))


def test_what_peft_saves_of_a_model_of_its_own_is_refused(target: Path, tmp_path: Path) -> None:
    """peft #2608: all its names begin with base_model."""
    peft_model = get_peft_model(models_of(target)["unet"], LoraConfig(r=RANK, target_modules=["to_q"]))
    peft_model.save_pretrained(tmp_path)
    with pytest.raises(UsageError, match=r"its first weight is 'base_model\.model\..*have no place in unet"):
        load_target(target, "cpu", lora=Lora(find_weights(tmp_path), 1.0))


def test_fused_models_have_the_parameters_of_the_base(target: Path, tmp_path: Path) -> None:
    file = diffusers_file(tmp_path / "lora.safetensors", make_weights(target))
    found, base = load_target(target, "cpu", lora=Lora(file, 1.0)), load_target(target, "cpu")
    for fused, plain in ((found._denoiser, base._denoiser), (found._texts[0].model, base._texts[0].model)):
        assert [name for name, _ in fused.named_parameters()] == [name for name, _ in plain.named_parameters()]
        assert not any(weight.requires_grad for weight in fused.parameters())
        assert not fused.training


def test_scale_zero_is_the_base(target: Path, tmp_path: Path) -> None:
    file = kohya_file(tmp_path / "lora.safetensors", make_weights(target))
    torch.testing.assert_close(
        outputs(load_target(target, "cpu", lora=Lora(file, 0.0))), outputs(load_target(target, "cpu")), rtol=0, atol=0
    )


def test_a_lora_of_one_model_leaves_the_other(target: Path, tmp_path: Path) -> None:
    weights = make_weights(target, text=())
    file = diffusers_file(tmp_path / "lora.safetensors", weights)
    assert_same(load_target(target, "cpu", lora=Lora(file, 1.0)), merged_by_hand(target, weights, 1.0))


def test_a_lora_as_diffusers_saves_it_keeps_its_alpha(target: Path, tmp_path: Path) -> None:
    """save_lora_weights writes alpha into the file's header."""
    config = LoraConfig(r=RANK, lora_alpha=5, target_modules=["to_q", "to_v"], init_lora_weights=False)
    unet = models_of(target)["unet"]
    unet.add_adapter(config)
    layers = {name: weight for name, weight in unet.named_parameters() if ".lora_" in name}
    StableDiffusionPipeline.save_lora_weights(
        tmp_path,
        unet_lora_layers={name.replace(".default", ""): weight for name, weight in layers.items()},
        unet_lora_adapter_metadata=config.to_dict(),
    )
    weights: Weights = {
        ("unet", name.split(".lora_A")[0]): (weight.data, layers[name.replace("lora_A", "lora_B")].data)
        for name, weight in layers.items()
        if ".lora_A" in name
    }
    assert weights
    found = load_target(target, "cpu", lora=Lora(find_weights(tmp_path), 1.0))
    assert_same(found, merged_by_hand(target, weights, 5 / RANK))


def linear_modules(target: Target) -> dict[str, dict[str, nn.Module]]:
    """Attention projections of the denoiser and of the first CLIP."""
    parts = {"text_encoder": target._texts[0].model}
    parts["unet" if isinstance(target._denoiser, UNet2DConditionModel) else "transformer"] = target._denoiser
    return {
        part: {n: m for n, m in model.named_modules() if n.endswith((".to_q", ".to_v", "q_proj", ".attn.add_k_proj"))}
        for part, model in parts.items()
    }


@pytest.mark.parametrize("make", [tiny.stable_diffusion_xl, tiny.stable_diffusion_3, tiny.flux])
def test_other_families_take_a_lora_too(make: Callable[[Path], Path], tmp_path: Path) -> None:
    """Every projection of denoiser and first text encoder becomes W + scale B A, and nothing else changes."""
    folder = make(tmp_path / "target")
    base = load_target(folder, "cpu")
    generator = torch.Generator().manual_seed(0)
    weights = {
        (part, name): tuple(
            torch.randn(shape, generator=generator)
            for shape in ((RANK, module.weight.shape[1]), (module.weight.shape[0], RANK))
        )
        for part, modules in linear_modules(base).items()
        for name, module in modules.items()
    }
    assert len({part for part, _ in weights}) == 2
    file = diffusers_file(tmp_path / "lora.safetensors", weights)
    fused = load_target(folder, "cpu", lora=Lora(file, 0.5))
    expected = {part: dict(modules) for part, modules in linear_modules(base).items()}
    for (part, name), (a, b) in weights.items():
        expected[part][name].weight.data += 0.5 * b @ a
    for found, wanted in ((fused._denoiser, base._denoiser), (fused._texts[0].model, base._texts[0].model)):
        assert found.state_dict().keys() == wanted.state_dict().keys()
        for name, weight in wanted.state_dict().items():
            torch.testing.assert_close(found.state_dict()[name], weight, msg=lambda text, n=name: f"{n}: {text}")


def refused(target: Path, file: Path, message: str) -> None:
    with pytest.raises(UsageError, match=re.escape(message)) as caught:
        load_target(target, "cpu", lora=Lora(file, 1.0))
    assert str(file) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("write", [diffusers_file, kohya_file])
def test_weights_that_have_no_place_are_refused(target: Path, tmp_path: Path, write: Writer) -> None:
    weights = make_weights(target)
    a, b = weights["unet", UNET[0]]
    lost = {("unet", UNET[0].replace("down_blocks.0", "down_blocks.7")): (a.clone(), b.clone())}
    refused(target, write(tmp_path / "a.safetensors", lost), "cannot be applied")
    file = write(tmp_path / "b.safetensors", weights | lost)
    refused(target, file, "2 of its 14 weights have no place in unet and text_encoder")


def test_weights_of_another_shape_are_refused(target: Path, tmp_path: Path) -> None:
    weights = {key: (a[:, :-1].contiguous(), b) for key, (a, b) in make_weights(target).items()}
    refused(target, diffusers_file(tmp_path / "lora.safetensors", weights), "cannot be applied")


def test_weights_that_are_not_finite_are_refused(target: Path, tmp_path: Path) -> None:
    weights = {key: (a * torch.nan, b) for key, (a, b) in make_weights(target).items()}
    refused(target, diffusers_file(tmp_path / "lora.safetensors", weights), "cannot be applied")


def test_files_that_are_no_lora_are_refused(target: Path, tmp_path: Path) -> None:
    file = tmp_path / "lora.safetensors"
    file.write_bytes(b"not weights")
    refused(target, file, "cannot be applied")
    save_file({}, file)
    refused(target, file, "it holds no weights")
    save_file({"unet.conv_in.weight": torch.zeros(3)}, file)
    refused(target, file, "cannot be applied")


MODULE = UNET[0].replace(".", "_")
# Files that are trained otherwise, or on other models, and the first name in each.
OTHER_KINDS = {
    "loha": [f"lora_unet_{MODULE}.hada_{name}" for name in ("w1_a", "w1_b", "w2_a", "w2_b")],
    "lokr": [f"lora_unet_{MODULE}.lokr_{name}" for name in ("w1", "w2")],
    "embedding": ["emb_params"],
    "whole model": ["conv_in.weight"],
    "of flux": [f"transformer.single_transformer_blocks.0.attn.to_q.lora_{name}.weight" for name in "AB"],
    "of peft": [f"base_model.model.x.lora_{name}.weight" for name in "AB"],
    "of sdxl": [
        f"lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_k.lora_{name}.weight" for name in ("down", "up")
    ],
}


@pytest.mark.parametrize("kind", OTHER_KINDS)
def test_a_lora_of_another_kind_is_refused_in_one_whole_sentence(
    kind: str, target: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "lora.safetensors"
    save_file({name: torch.zeros(2, 2) for name in OTHER_KINDS[kind]}, file)
    capfd.readouterr()
    with pytest.raises(UsageError) as caught:
        load_target(target, "cpu", lora=Lora(file, 1.0))
    line = str(caught.value)
    assert line.startswith(
        f"lora {file} cannot be applied to this target, its first weight is {OTHER_KINDS[kind][0]!r}: "
    )
    assert re.search(r": [^:;\n]{20,}.*; give a LoRA of this base model in diffusers' or kohya's format", line)
    assert capfd.readouterr().err == ""


def test_sizes_that_do_not_fit_are_told_whole(target: Path, tmp_path: Path) -> None:
    weights = {key: (a.repeat(1, 40), b) for key, (a, b) in make_weights(target, text=(), unet=UNET[:1]).items()}
    refused(target, diffusers_file(tmp_path / "lora.safetensors", weights), "size mismatch for ")


def test_a_dora_is_refused_and_not_taken_for_a_lora(target: Path, tmp_path: Path) -> None:
    weights = make_weights(target, text=())
    file = kohya_file(tmp_path / "lora.safetensors", weights)
    name = "lora_unet_" + UNET[0].replace(".", "_")
    save_file(load_file(file) | {f"{name}.dora_scale": torch.ones(1, 8)}, file)
    refused(target, file, "1 of its 7 weights have no place")


def test_a_target_without_a_loader_takes_no_lora(tmp_path: Path, target: Path) -> None:
    file = diffusers_file(tmp_path / "lora.safetensors", make_weights(target))
    refused(tiny.dit(tmp_path / "dit"), file, "a target with a DiTTransformer2DModel takes no LoRA")


def test_the_file_of_a_folder_is_found(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"has 0 \.safetensors files"):
        find_weights(tmp_path)
    (tmp_path / "mine.safetensors").touch()
    assert find_weights(tmp_path) == tmp_path / "mine.safetensors" == find_weights(tmp_path / "mine.safetensors")
    (tmp_path / "other.safetensors").touch()
    with pytest.raises(UsageError, match=r"has 2 \.safetensors files; give the address of one"):
        find_weights(tmp_path)
    shutil.copy(tmp_path / "mine.safetensors", tmp_path / "pytorch_lora_weights.safetensors")
    assert find_weights(tmp_path).name == "pytorch_lora_weights.safetensors"


def test_a_pickle_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "pytorch_lora_weights.bin").touch()
    with pytest.raises(UsageError, match=r"is no \.safetensors file"):
        find_weights(tmp_path / "pytorch_lora_weights.bin")

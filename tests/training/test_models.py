"""What a training starts from: fresh networks, a frozen autoencoder, or a base; and what is refused."""

import json
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel

from ldm_scale.errors import UsageError
from ldm_scale.training.models import check_base, find_sources, make_models, source_digest
from tests.addresses import upload
from tests.conftest import tiny_recipe
from tests.targets import tiny
from tests.training.cases import CPU, models


def trained(module: torch.nn.Module) -> list[str]:
    return [name for name, weight in module.named_parameters() if weight.requires_grad]


def test_a_seed_gives_the_same_weights() -> None:
    first, again, other = (models(seed).denoiser.conv_in.weight for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_a_pretrained_autoencoder_is_frozen_and_keeps_its_scale(tmp_path: Path) -> None:
    tiny.kl().save_pretrained(tmp_path)
    made = models(autoencoder={"pretrained": str(tmp_path)}, denoiser={"classes": True})
    stored = AutoencoderKL.from_pretrained(tmp_path, low_cpu_mem_usage=False)
    assert made.autoencoder.config.scaling_factor == 0.7
    assert trained(made.autoencoder) == []
    assert all(torch.equal(a, b) for a, b in zip(made.autoencoder.parameters(), stored.parameters(), strict=True))
    assert made.denoiser.config.num_class_embeds == 2


def test_of_a_base_the_unet_is_trained_alone(tmp_path: Path) -> None:
    base = tiny.stable_diffusion(tmp_path)
    made = models(base=str(base))
    stored = UNet2DConditionModel.from_pretrained(base / "unet", low_cpu_mem_usage=False)
    assert trained(made.denoiser) == [name for name, _ in stored.named_parameters()]
    assert trained(made.autoencoder) == []
    assert all(torch.equal(a, b) for a, b in zip(made.denoiser.parameters(), stored.parameters(), strict=True))


def test_lora_trains_adapters_of_every_attention_projection_alone(tmp_path: Path) -> None:
    made = models(base=str(tiny.stable_diffusion(tmp_path)), lora_rank=3)
    projections = [
        name
        for name, module in made.denoiser.named_modules()
        if name.endswith((".to_q", ".to_k", ".to_v", ".to_out.0")) and "lora" not in name
    ]
    assert projections
    assert sorted(trained(made.denoiser)) == sorted(
        f"{name}.lora_{side}.default.weight" for name in projections for side in "AB"
    )
    ranks = {weight.shape[0] for name, weight in made.denoiser.named_parameters() if ".lora_A." in name}
    assert ranks == {3}


def test_what_cannot_be_trained_is_refused_by_name(tmp_path: Path, tiny_target: Path) -> None:
    with pytest.raises(UsageError, match=r"^denoiser\.classes: the manifest of unused names no classes$"):
        make_models(tiny_recipe(denoiser={"classes": True}), 0, CPU)
    with pytest.raises(UsageError, match=r"^size = 20: .* multiples of 8$"):
        make_models(tiny_recipe(size=20), 0, CPU)
    for folder, message in {
        tmp_path: r"config\.json is not a configuration",
        tiny_target / "unet": "unet is a UNet2DModel; supported are",
        tiny.vq_ldm(tmp_path / "vq") / "vqvae": "vqvae is a VQModel; a denoiser is trained on a KL one",
    }.items():
        with pytest.raises(UsageError, match=message):
            make_models(tiny_recipe(autoencoder={"pretrained": str(folder)}), 0, CPU)
    with pytest.raises(UsageError, match="is no Stable Diffusion"):
        check_base(tiny_recipe(base=str(tiny_target)), CPU)
    base = str(tiny.stable_diffusion(tmp_path / "base"))
    with pytest.raises(UsageError, match=r"^size = 32: the base .* takes 16 px$"):
        check_base(tiny_recipe(base=base, size=32), CPU)
    check_base(tiny_recipe(base=base), CPU)


def test_weights_that_do_not_fit_their_configuration_are_refused(tmp_path: Path) -> None:
    tiny.kl().save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"latent_channels": 3}))
    with pytest.raises(UsageError, match=f"autoencoder {tmp_path} cannot be loaded"):
        make_models(tiny_recipe(autoencoder={"pretrained": str(tmp_path)}), 0, CPU)


def test_sources_become_absolute_and_have_a_digest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("one", "two"):
        torch.manual_seed(len(name) + (name == "two"))
        tiny.kl().save_pretrained(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    configs = [find_sources(tiny_recipe(autoencoder={"pretrained": name})) for name in ("one", "two")]
    assert configs[0].autoencoder.pretrained == str(tmp_path / "one")
    digests = [source_digest(config) for config in configs]
    assert digests[0] != digests[1]
    assert digests == [source_digest(config) for config in configs]
    assert source_digest(find_sources(tiny_recipe())) is None
    with pytest.raises(UsageError, match=r"^base folder .*gone does not exist; give a local path, s3://"):
        find_sources(tiny_recipe(base="gone"))


def test_sources_come_from_s3_too(tmp_path: Path, bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LDM_SCALE_CACHE", str(tmp_path / "cache"))
    tiny.kl().save_pretrained(tmp_path / "vae")
    tiny.stable_diffusion(tmp_path / "base")
    local, there = (
        [
            {"autoencoder": {"pretrained": f"{root}/vae"}},
            {"base": f"{root}/base"},
        ]
        for root in (tmp_path, bucket)
    )
    for name in ("vae", "base"):
        upload(tmp_path / name, f"{bucket}/{name}")
    for ours, theirs in zip(local, there, strict=True):
        assert source_digest(find_sources(tiny_recipe(**theirs))) == source_digest(find_sources(tiny_recipe(**ours)))
        found, expected = models(**theirs), models(**ours)
        pairs = zip(found.autoencoder.parameters(), expected.autoencoder.parameters(), strict=True)
        assert all(torch.equal(a, b) for a, b in pairs)

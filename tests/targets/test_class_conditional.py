"""The class-conditional targets against diffusers' denoisers called directly."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers import DiTTransformer2DModel, UNet2DConditionModel, UNet2DModel

from ldm_scale.errors import UsageError
from ldm_scale.targets.base import Target
from ldm_scale.targets.load import load_target
from tests.targets import tiny

LABELS = [3, 0, 3]


def predict(target: Target, labels: list[int], t: int) -> torch.Tensor:
    with torch.no_grad():
        return target.predict_noise(latents(), tiny.at(t, latents()), target.condition([None] * 3, labels))


def latents() -> torch.Tensor:
    return torch.randn(3, 4, 4, 4, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("t", [0, 640])
@pytest.mark.parametrize("out_channels", [4, 8])
def test_a_unet_is_given_the_classes(tmp_path: Path, out_channels: int, t: int) -> None:
    folder = tiny.class_unet(tmp_path, out_channels)
    unet = UNet2DModel.from_pretrained(folder / "unet", low_cpu_mem_usage=False).eval()
    with torch.no_grad():
        expected = unet(latents(), torch.tensor(t), class_labels=torch.tensor(LABELS)).sample[:, :4]
    torch.testing.assert_close(predict(load_target(str(folder), "cpu"), LABELS, t), expected)


@pytest.mark.parametrize("t", [0, 640])
@pytest.mark.parametrize("name", ["DiTTransformer2DModel", "Transformer2DModel"])
def test_a_dit_is_given_the_classes_and_its_sigma_is_left_out(tmp_path: Path, name: str, t: int) -> None:
    folder = tiny.dit(tmp_path)
    transformer = DiTTransformer2DModel.from_pretrained(folder / "transformer", low_cpu_mem_usage=False).eval()
    with torch.no_grad():
        expected, sigma = transformer(latents(), torch.full((3,), t), class_labels=torch.tensor(LABELS)).sample.split(
            4, dim=1
        )
    path = folder / "transformer/config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"_class_name": name}))
    found = predict(load_target(str(folder), "cpu"), LABELS, t)
    torch.testing.assert_close(found, expected)
    assert (found - sigma).abs().max() > 1e-3


@pytest.mark.parametrize("t", [0, 640])
def test_a_conditional_unet_without_cross_attention_is_given_the_classes(tmp_path: Path, t: int) -> None:
    folder = tiny.class_conditional_unet(tmp_path)
    unet = UNet2DConditionModel.from_pretrained(folder / "unet", low_cpu_mem_usage=False).eval()
    text = torch.randn(3, 2, 1280)  # which it must not look at
    with torch.no_grad():
        expected = unet(latents(), torch.tensor(t), text, class_labels=torch.tensor(LABELS)).sample
    torch.testing.assert_close(predict(load_target(str(folder), "cpu"), LABELS, t), expected)


MAKERS = [tiny.class_unet, tiny.class_conditional_unet, tiny.dit]


@pytest.mark.parametrize("make", MAKERS)
def test_another_class_gives_another_prediction(tmp_path: Path, make: Callable[[Path], Path]) -> None:
    target = load_target(str(make(tmp_path)), "cpu")
    differs = (predict(target, [3, 0, 3], 50) - predict(target, [3, 1, 3], 50)).flatten(1).abs().amax(1) > 1e-4
    assert differs.tolist() == [False, True, False]


@pytest.mark.parametrize("make", MAKERS)
def test_samples_without_a_known_class_are_refused(tmp_path: Path, make: Callable[[Path], Path]) -> None:
    target = load_target(str(make(tmp_path)), "cpu")
    assert [target.refusal(None, label) for label in (0, 4, None, 5, -1)] == [
        None,
        None,
        "no class label",
        "a class label 5, which is not in 0 ... 4",
        "a class label -1, which is not in 0 ... 4",
    ]


def test_a_dits_null_class_is_the_embedding_after_the_last(tmp_path: Path) -> None:
    """The one that diffusers' label embedding puts in place of a dropped label."""
    folder = tiny.dit(tmp_path)
    transformer = DiTTransformer2DModel.from_pretrained(folder / "transformer", low_cpu_mem_usage=False).eval()
    embedder = transformer.transformer_blocks[0].norm1.emb.class_embedder
    dropped = embedder.token_drop(torch.tensor(LABELS), force_drop_ids=torch.ones(3))
    assert load_target(str(folder), "cpu").condition([None] * 3, [None] * 3).tolist() == dropped.tolist()


@pytest.mark.parametrize("make", MAKERS[:2])
def test_a_unet_has_no_null_class(tmp_path: Path, make: Callable[[Path], Path]) -> None:
    with pytest.raises(UsageError, match=r"^conditioning = none: "):
        load_target(str(make(tmp_path)), "cpu").condition([None], [None])

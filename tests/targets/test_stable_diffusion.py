"""The Stable Diffusion target against the pipeline's components called directly."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, PNDMScheduler, UNet2DConditionModel
from safetensors.torch import load_file, save_file
from transformers import CLIPTextModel, CLIPTokenizer

from ldm_scale.targets.load import load_target
from tests.targets import tiny

SCALE = 0.7  # of the tiny target
CAPTIONS = ["A cat", None, "do cats dog"]
# Of the tiny vocabulary: "!" is 0, a ... z are 1 ... 26, a</w> ... z</w> are 27 ... 52.
CA, CAT, DO, START, END = range(53, 58)
TOKENS = [[START, 27, CAT, END], [START, END], [START, 4, 41, CA, 20, 45, DO, 33, END]]


def padded(pad: int) -> torch.Tensor:
    return torch.tensor([tokens + [pad] * (tiny.TOKENS - len(tokens)) for tokens in TOKENS])


def embeddings(folder: Path, pad: int) -> torch.Tensor:
    encoder = CLIPTextModel.from_pretrained(folder / "text_encoder").eval()
    with torch.no_grad():
        return encoder(padded(pad))[0]


@pytest.mark.parametrize(("pad", "number"), [("<|endoftext|>", END), ("!", 0)])
def test_captions_are_padded_and_embedded(tmp_path: Path, pad: str, number: int) -> None:
    folder = tiny.stable_diffusion(tmp_path, pad=pad)
    found = load_target(str(folder), "cpu").condition(CAPTIONS, [None] * 3)
    torch.testing.assert_close(found, embeddings(folder, number))
    assert not found.requires_grad


def test_only_no_caption_is_refused(tmp_path: Path) -> None:
    target = load_target(str(tiny.stable_diffusion(tmp_path)), "cpu")
    assert [target.refusal(caption, None) for caption in ("a cat", "", None)] == [None, None, "no caption"]


def test_a_long_caption_is_cut(tmp_path: Path) -> None:
    folder = tiny.stable_diffusion(tmp_path)
    cut = torch.tensor([[START, *[CAT] * (tiny.TOKENS - 2), END]])
    with torch.no_grad():
        expected = CLIPTextModel.from_pretrained(folder / "text_encoder").eval()(cut)[0]
    found = load_target(str(folder), "cpu").condition(["cat " * 40], [None])
    torch.testing.assert_close(found, expected)


def test_weights_named_as_in_published_checkpoints_are_read(tmp_path: Path) -> None:
    folder = tiny.stable_diffusion(tmp_path)
    expected, path = embeddings(folder, END), folder / "text_encoder/model.safetensors"
    weights = {f"text_model.{name.removeprefix('text_model.')}": value for name, value in load_file(path).items()}
    positions = {"text_model.embeddings.position_ids": torch.arange(tiny.TOKENS)[None]}
    save_file(weights | positions, path, metadata={"format": "pt"})
    torch.testing.assert_close(load_target(str(folder), "cpu").condition(CAPTIONS, [None] * 3), expected)


@pytest.mark.parametrize("t", [20, 700])
@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_noise_is_the_unets_own(tmp_path: Path, prediction_type: str, t: int) -> None:
    folder = tiny.stable_diffusion(tmp_path, prediction_type)
    unet = UNet2DConditionModel.from_pretrained(folder / "unet", low_cpu_mem_usage=False).eval()
    abar = PNDMScheduler.from_pretrained(folder / "scheduler").alphas_cumprod[t]
    z = torch.randn(3, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    target = load_target(str(folder), "cpu")
    with torch.no_grad():
        output = unet(z, torch.tensor(t), encoder_hidden_states=embeddings(folder, END)).sample
        found = target.predict_noise(z, tiny.at(t, z), target.condition(CAPTIONS, [None] * 3))
    expected = output if prediction_type == "epsilon" else abar.sqrt() * output + (1 - abar).sqrt() * z
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_another_caption_gives_another_prediction(tmp_path: Path) -> None:
    target = load_target(str(tiny.stable_diffusion(tmp_path)), "cpu")
    z = torch.randn(1, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        cat, dog = (
            target.predict_noise(z, tiny.at(50, z), target.condition([word], [None])) for word in ("cat", "dog")
        )
    assert (cat - dog).abs().max() > 1e-5


def test_encode_and_decode_are_the_autoencoders_own(tmp_path: Path) -> None:
    folder = tiny.stable_diffusion(tmp_path)
    vae, target = AutoencoderKL.from_pretrained(folder / "vae").eval(), load_target(str(folder), "cpu")
    images = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        latents = vae.encode(images).latent_dist.mode()
        torch.testing.assert_close(target.encode(images, None), latents * SCALE)
        torch.testing.assert_close(target.decode(latents * SCALE), vae.decode(latents).sample)


def test_tokens_that_were_added_to_the_vocabulary_are_read(tmp_path: Path) -> None:
    """diffusers #357: textual inversion, as transformers 5 saves it and in the files that older ones saved."""
    folders = [tiny.stable_diffusion(tmp_path / name) for name in ("new", "old")]
    words = CLIPTokenizer.from_pretrained(folders[0] / "tokenizer")
    encoder = CLIPTextModel.from_pretrained(folders[0] / "text_encoder")
    count = len(words)
    words.add_tokens(["<toy>", "<toy_1>"])
    encoder.resize_token_embeddings(len(words), mean_resizing=False)
    shutil.rmtree(folders[0] / "tokenizer")
    words.save_pretrained(folders[0] / "tokenizer")
    (folders[1] / "tokenizer/added_tokens.json").write_text(json.dumps({"<toy>": count, "<toy_1>": count + 1}))
    options = {"padding": "max_length", "max_length": tiny.TOKENS, "truncation": True, "return_tensors": "pt"}
    tokens = words(["a <toy> do", "a cat"], **options).input_ids
    assert count in tokens[0]
    with torch.no_grad():
        expected = encoder(tokens).last_hidden_state
    for folder in folders:
        encoder.save_pretrained(folder / "text_encoder")
        found = load_target(str(folder), "cpu").condition(["a <toy> do", "a cat"], [None, None])
        torch.testing.assert_close(found, expected)

"""Counted arithmetic, against counts by hand over the modules, and the README's numbers for the paper's rows."""

import math
import runpy
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.models.attention_processor import Attention
from torch import Tensor, nn
from transformers.models.clip.modeling_clip import CLIPAttention

from ldm_scale import costs
from ldm_scale.attacks.registry import make_attack
from ldm_scale.config.audit import AuditConfig
from ldm_scale.config.base import build
from ldm_scale.config.train import TrainConfig
from ldm_scale.costs.counts import decoder_products, denoiser_evaluations
from ldm_scale.costs.flops import Products, count_flops, count_products, measure_pass, measure_target
from ldm_scale.geometry.pullback import Jacobian, TracedDecoder, product_bytes
from ldm_scale.targets.class_conditional import ClassConditionalTarget
from ldm_scale.targets.latent_diffusion import LatentDiffusion
from ldm_scale.targets.load import load_target
from ldm_scale.targets.stable_diffusion import StableDiffusionTarget
from ldm_scale.targets.unconditional import UnconditionalTarget
from ldm_scale.training.networks import build_autoencoder, build_denoiser, build_schedule
from tests.counting import measured, trace_once, traced_once
from tests.targets import tiny

JOBS = Path(__file__).parents[2] / "jobs"
FIRST_PAGE = Path(__file__).parents[2] / "README.md"
README = Path(costs.__file__).parent / "README.md"


def tokens(states: Tensor) -> int:
    return states[0, 0].numel() if states.ndim == 4 else states.shape[1]


@contextmanager
def counted_by_hand(*models: nn.Module) -> Iterator[list[int]]:
    """The operations of convolutions, linear layers and attention's two products, appended as modules are called."""
    found: list[int] = []

    def convolution(module: nn.Conv2d, _: Any, output: Tensor) -> None:
        taps = module.kernel_size[0] * module.kernel_size[1]
        found.append(2 * output.numel() * module.in_channels // module.groups * taps)

    def transposed(module: nn.ConvTranspose2d, given: Any, _: Any) -> None:
        # Each number that goes in is spread over the kernel.
        taps = module.kernel_size[0] * module.kernel_size[1]
        found.append(2 * given[0].numel() * module.out_channels * taps)

    def linear(module: nn.Linear, _: Any, output: Tensor) -> None:
        found.append(2 * output.numel() * module.in_features)

    def attention(module: Any, args: Any, kwargs: Any, _: Any) -> None:
        given = {**dict(zip(("hidden_states", "encoder_hidden_states"), args, strict=False)), **kwargs}
        asked = given["hidden_states"]
        context = given.get("encoder_hidden_states")
        width = module.embed_dim if isinstance(module, CLIPAttention) else module.inner_dim
        queries, keys = tokens(asked), tokens(asked if context is None else context)
        # Scores, and the values they weight.
        found.append(2 * (2 * len(asked) * queries * keys * width))

    with ExitStack() as hooks:
        for module in (module for model in models for module in model.modules()):
            match module:
                case nn.Conv2d():
                    handle = module.register_forward_hook(convolution)
                case nn.ConvTranspose2d():
                    handle = module.register_forward_hook(transposed)
                case nn.Linear():
                    handle = module.register_forward_hook(linear)
                case Attention() | CLIPAttention():
                    handle = module.register_forward_hook(attention, with_kwargs=True)
                case _:
                    continue
            hooks.callback(handle.remove)
        yield found


@pytest.mark.parametrize("make", [tiny.stable_diffusion, tiny.strided, tiny.class_token])
def test_a_pass_takes_what_its_modules_take(
    make: Callable[[Path], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trace_once(monkeypatch)
    folder = make(tmp_path / "target")
    target = load_target(folder, "meta")
    assert isinstance(target, LatentDiffusion)
    arithmetic = measure_target(target, lambda: target.condition([""], [0]))
    loaded: Any = load_target(folder, "cpu")
    z, images = torch.zeros(1, 4, 4, 4), torch.zeros(1, 3, 16, 16)
    condition = loaded.condition(["a cat"], [0])
    calls: dict[str, Callable[[], object]] = {
        "condition": lambda: loaded.condition(["a cat"], [0]),
        "encoding": lambda: loaded.encode(images, None),
        "evaluation": lambda: loaded.predict_noise(z, torch.zeros(1, dtype=torch.long), condition),
        "decoding": lambda: loaded.decode(z),
    }
    for name, call in calls.items():
        with counted_by_hand(*loaded._models) as found:
            call()
        assert getattr(arithmetic, name).flops == sum(found), name
        # Only a text is encoded.
        assert bool(found) == (name != "condition" or make is tiny.stable_diffusion)


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_products_with_a_linear_decoder_take_what_it_takes(device: str) -> None:
    """J v is the decoder itself, and J^T v its transpose: as many operations.

    Nothing is to be linearised, but torch's backward pass of a convolution is handed its input, whose shape it asks
    for, and the second backward pass what the first one had: passes that vectors share, at most two there and back.
    """
    first, second = (torch.zeros(*shape, 3, 3, device=device) for shape in ((8, 4), (3, 8)))
    once = 2 * 6 * 6 * 9 * (4 * 8 + 8 * 3)
    z = torch.zeros(1, 4, 6, 6, device=device)

    def decode(z: Tensor) -> Tensor:
        return nn.functional.conv2d(nn.functional.conv2d(z, first, padding=1), second, padding=1)

    assert count_flops(lambda: decode(z)) == once
    decoder = TracedDecoder(decode)
    pulls = count_products(lambda vectors: Jacobian(decoder, z, len(vectors)).pull(vectors), decode(z)[0])
    pushes = count_products(lambda vectors: Jacobian(decoder, z, len(vectors)).push(vectors), z[0])
    assert pulls == Products(each=once, shared=2 * 6 * 6 * 9 * 4 * 8)
    assert pushes.each == once
    assert 0 <= pushes.shared <= 2 * once


@pytest.mark.parametrize("at_once", [5, 2])
def test_products_are_linear_in_vectors(at_once: int, tiny_target: Path) -> None:
    """Chunks begin from one linearisation."""
    target, arithmetic = measured(tiny_target)
    decoder: TracedDecoder = traced_once(target.decode)
    z = torch.empty(1, 4, 4, 4, device="meta")
    for products, name, shape in ((arithmetic.pushes, "push", (4, 4, 4)), (arithmetic.pulls, "pull", (3, 16, 16))):

        def multiply(name: str = name, shape: tuple[int, ...] = shape) -> Tensor:
            return getattr(Jacobian(decoder, z, at_once), name)(z.new_empty(5, 1, *shape))

        multiply()  # which traces it
        assert count_flops(multiply) == 5 * products.each + products.shared


def test_memory_is_what_lives_at_once() -> None:
    x = torch.empty(1000, device="meta")

    def chain() -> Tensor:
        y = x + 1
        for _ in range(5):
            # The one before lives until the next is there; views are no memory of their own.
            y = y[:].view(10, 100).flatten() * 2
        return y

    assert measure_pass(chain).memory == 2 * 4000
    assert measure_pass(lambda: [x + 1, x + 2, x + 3]).memory == 3 * 4000
    assert measure_pass(lambda: x.view(10, 100)).memory <= 4000


def test_memory_of_a_pass_is_between_its_largest_result_and_all_of_them(tiny_target: Path) -> None:
    _, arithmetic = measured(tiny_target)
    # The last resolution's: 8 channels of 16 x 16, in and out of a convolution.
    assert arithmetic.decoding.memory >= 2 * 4 * 8 * 16 * 16
    assert (
        arithmetic.decoding.memory
        < arithmetic.product_memory
        == product_bytes(load_target(tiny_target, "cpu").decode, torch.zeros(1, 4, 4, 4))
    )


@dataclass(frozen=True)
class Counted:
    """Operations of one pass of each part, of a target on the device "meta"."""

    latent_shape: tuple[int, int, int]
    encoding: int
    evaluation: int
    decoding: int


def count(kind: Any, autoencoder: Any, denoiser: Any, condition: Callable[[Any], object]) -> Counted:
    target = kind(autoencoder, denoiser, build_schedule())
    z, told = torch.empty(1, *target.latent_shape, device="meta"), condition(target)
    first = torch.zeros(1, dtype=torch.long, device="meta")
    images = torch.empty(1, 3, target.image_size, target.image_size, device="meta")
    with torch.inference_mode():
        return Counted(
            target.latent_shape,
            count_flops(lambda: target.encode(images, None)),
            count_flops(lambda: target.predict_noise(z, first, told)),
            count_flops(lambda: target.decode(z)),
        )


def stable_diffusion_autoencoder(size: int) -> AutoencoderKL:
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(128, 256, 512, 512),
        layers_per_block=2,
        latent_channels=4,
        sample_size=size,
    )


@cache
def stable_diffusion() -> Counted:
    """v1-4: the configurations of its U-Net and autoencoder."""
    with torch.device("meta"):
        unet = UNet2DConditionModel(
            sample_size=64,
            cross_attention_dim=768,
            block_out_channels=(320, 640, 1280, 1280),
            layers_per_block=2,
            attention_head_dim=8,
        )
        autoencoder = stable_diffusion_autoencoder(512)
    text = torch.empty(1, 77, 768, device="meta")
    return count(StableDiffusionTarget, autoencoder, unet, lambda target: text)


def from_scratch(preset: str) -> Counted:
    config = build(TrainConfig, {"preset": preset, "shards": "s", "out": "o"})
    with torch.device("meta"):
        autoencoder = build_autoencoder(config.autoencoder, config.size)
        denoiser = build_denoiser(config.denoiser, 4, config.size // 4, None)
    return count(UnconditionalTarget, autoencoder, denoiser, lambda target: None)


def imagenet() -> Counted:
    config = build(TrainConfig, {"preset": "imagenet", "shards": "s", "out": "o", "autoencoder": {"pretrained": "p"}})
    with torch.device("meta"):
        autoencoder, denoiser = stable_diffusion_autoencoder(256), build_denoiser(config.denoiser, 4, 32, 1000)
    return count(ClassConditionalTarget, autoencoder, denoiser, lambda target: target.condition([None], [7]))


MAKERS: dict[str, Callable[[], Counted]] = {
    "cifar10": partial(from_scratch, "cifar10"),
    "celeba": partial(from_scratch, "celeba"),
    "imagenet": imagenet,
    "pokemon": stable_diffusion,
    "coco": stable_diffusion,
    "flickr": stable_diffusion,
}


def stated(job: str) -> list[str]:
    """E, P, GFLOP of an evaluation and of a pass through the decoder, and TFLOP a sample, as the README has them."""
    (line,) = [line for line in README.read_text(encoding="utf-8").splitlines() if line.startswith(f"| {job} |")]
    return [cell.strip().replace(",", "") for cell in line.split("|")[2:7]]


def digits(number: str) -> int:
    return len(number.partition(".")[2])


@pytest.mark.parametrize("job", MAKERS)
def test_the_papers_rows_take_what_the_readme_says(job: str) -> None:
    """Its formula counts a product as a pass through the decoder."""
    evaluations, products, evaluation, decoding, sample = stated(job)
    counted = MAKERS[job]()
    recipe = runpy.run_path(str(JOBS / f"{job}.py"))["RECIPE"]
    config = build(AuditConfig, {"out": "o", "shards": "s", "target": "t", **recipe})
    attacks = [make_attack(name, options) for name, options in config.attacks.items()]
    asked = denoiser_evaluations(attacks, torch.linspace(0.999, 0.01, 1000), counted.latent_shape)
    taken = decoder_products(config.geometry, math.prod(counted.latent_shape))
    assert (asked, taken) == (int(evaluations), pytest.approx(float(products)))
    assert f"{counted.evaluation / 1e9:.{digits(evaluation)}f}" == evaluation
    assert f"{counted.decoding / 1e9:.{digits(decoding)}f}" == decoding
    total = asked * counted.evaluation + taken * counted.decoding + counted.encoding
    assert f"{total / 1e12:.{digits(sample)}f}" == sample


@pytest.mark.parametrize("job", MAKERS)
def test_the_first_page_says_the_same(job: str) -> None:
    lines = FIRST_PAGE.read_text(encoding="utf-8").splitlines()
    (line,) = [line for line in lines if line.startswith(f"| [{job}](")]
    assert line.endswith(f"| {stated(job)[-1]} TFLOP |")

"""How a denoiser is run: the same numbers, to the precision asked for, and nothing else than the denoiser changed."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from ldm_scale.errors import UsageError
from ldm_scale.geometry.pullback import pullback_metric
from ldm_scale.targets.base import Target
from ldm_scale.targets.execution import PLAIN, Execution, allow_tf32
from ldm_scale.targets.load import load_target
from ldm_scale.targets.lora import Lora
from tests.targets import loras, tiny
from tests.targets.families import CAPTIONS, FAMILIES, LABELS


def predict(target: Target) -> Tensor:
    """The noise of three samples, at a timestep each."""
    z = torch.randn(3, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        return target.predict_noise(z, torch.tensor([0, 30, 640]), target.condition(CAPTIONS, LABELS))


def allowed() -> tuple[bool, bool]:
    return torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32


@pytest.fixture(scope="module", params=FAMILIES, ids=lambda make: make.__name__)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    make: Callable[[Path], Path] = request.param
    return make(tmp_path_factory.mktemp("family"))


def parts(condition: object) -> tuple[Tensor, ...]:
    return condition if isinstance(condition, tuple) else () if condition is None else (condition,)


def test_bfloat16_is_near_and_nothing_but_the_denoiser_has_it(folder: Path) -> None:
    """bfloat16 rounds to 8 bits: off by some hundredths of the whole, but not by nothing."""
    plain, half = load_target(folder, "cpu"), load_target(folder, "cpu", execution=Execution("bfloat16"))
    expected, found = predict(plain), predict(half)
    assert found.dtype == torch.float32
    assert 0 < ((found - expected).norm() / expected.norm()).item() < 0.03
    assert {parameter.dtype for parameter in half._denoiser.parameters()} == {torch.bfloat16}
    images = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(1)) * 2 - 1
    with torch.no_grad():
        z = half.encode(images, None)
        assert torch.equal(z, plain.encode(images, None))
        assert torch.equal(half.decode(z), plain.decode(z))
    conditions = [parts(target.condition(CAPTIONS, LABELS)) for target in (half, plain)]
    assert all(torch.equal(one, other) for one, other in zip(*conditions, strict=True))


class Called(TorchFunctionMode):
    """The functions of torch that a block calls."""

    def __init__(self) -> None:
        super().__init__()
        self.functions: set[Any] = set()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.functions.add(func)
        return func(*args, **(kwargs or {}))


# What attention is made of if it is not fused.
UNFUSED = {torch.softmax, F.softmax, torch.Tensor.softmax, torch.baddbmm}


def assert_fused(target: Target) -> None:
    """Text encoders and denoiser attend by torch's fused attention, and by nothing else."""
    with Called() as called:
        predict(target)
    assert F.scaled_dot_product_attention in called.functions
    assert not called.functions & UNFUSED


def test_attention_is_fused(folder: Path) -> None:
    assert_fused(load_target(folder, "cpu"))


def test_attention_is_fused_with_a_lora_too(tmp_path: Path) -> None:
    """Its loader wraps the layers that attention is made of."""
    folder = tiny.stable_diffusion(tmp_path / "target")
    lora = Lora(loras.diffusers_file(tmp_path / "lora.safetensors", loras.make_weights(folder)), 1.0)
    assert_fused(load_target(folder, "cpu", lora=lora))


def test_channels_last_gives_the_same_noise_in_the_usual_layout(folder: Path) -> None:
    found = predict(load_target(folder, "cpu", execution=Execution(channels_last=True)))
    torch.testing.assert_close(found, predict(load_target(folder, "cpu")), rtol=1e-4, atol=1e-5)


def test_the_decoder_keeps_its_layout_and_its_metric(tiny_target: Path) -> None:
    plain, changed = (load_target(tiny_target, "cpu", execution=how) for how in (PLAIN, Execution(channels_last=True)))
    convolutions = [weight for weight in changed._denoiser.parameters() if weight.dim() == 4]
    assert all(weight.is_contiguous(memory_format=torch.channels_last) for weight in convolutions)
    z = torch.randn(1, 4, 4, 4, generator=torch.Generator().manual_seed(2))
    assert torch.equal(pullback_metric(changed.decode, z, 2**28), pullback_metric(plain.decode, z, 2**28))


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("c++") is None, reason="torch.compile needs a C++ compiler on the CPU")
def test_a_compiled_denoiser_gives_the_same_noise(tmp_path: Path) -> None:
    """For batches of more than one size, in inference mode."""
    folder = tiny.class_unet(tmp_path)
    plain, compiled = load_target(folder, "cpu"), load_target(folder, "cpu", execution=Execution(compile="default"))
    z = torch.randn(5, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    for rows in (3, 5, 2):
        steps = torch.tensor([0, 30, 640, 10, 300])[:rows]
        with torch.inference_mode():
            found, expected = (
                target.predict_noise(z[:rows], steps, target.condition(["a cat"] * rows, [1] * rows))
                for target in (compiled, plain)
            )
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_compilation_is_asked_of_torch_for_the_denoiser_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[torch.nn.Module, str]] = []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda module, mode: asked.append((module, mode)))
    model = torch.nn.Linear(2, 2)
    for choice in ("off", "default", "graphs"):
        Execution(compile=choice).prepare(model)
    assert asked == [(model, "default"), (model, "reduce-overhead")]


def test_the_output_of_a_cuda_graph_is_copied() -> None:
    """The next replay writes into the same memory."""
    output = torch.ones(1, 1, 2, 2)
    assert Execution(compile="graphs").give(output).data_ptr() != output.data_ptr()
    assert Execution().give(output).data_ptr() == output.data_ptr()


def test_what_is_handed_on_has_the_usual_layout() -> None:
    output = torch.randn(2, 3, 4, 5, dtype=torch.bfloat16).contiguous(memory_format=torch.channels_last)
    found = Execution("bfloat16", channels_last=True).give(output)
    assert found.is_contiguous()
    assert torch.equal(found, output.float())


def test_tf32_is_allowed_in_the_denoiser_and_nowhere_else() -> None:
    allow_tf32(True)  # as somebody else may have left it
    for precision, expected in (("tf32", True), ("float32", False), ("bfloat16", False)):
        with Execution(precision).arithmetic():
            assert allowed() == (expected, expected)
            assert torch.get_float32_matmul_precision() == ("high" if expected else "highest")
        assert allowed() == (False, False)
    with pytest.raises(ZeroDivisionError), Execution("tf32").arithmetic():
        raise ZeroDivisionError
    assert allowed() == (False, False)


def test_a_loaded_target_computes_in_full_float32(tiny_target: Path) -> None:
    """cuDNN's convolutions are of TF32 by torch's own default: a decoder's geometry would be, too."""
    allow_tf32(True)
    load_target(tiny_target, "cpu")
    assert allowed() == (False, False)
    assert torch.backends.cudnn.conv.fp32_precision != "tf32"


@pytest.mark.parametrize(
    ("execution", "message"),
    [
        (Execution("float16"), "^precision float16 works on cuda only; take bfloat16 or float32$"),
        (Execution("tf32"), "^precision tf32 works on cuda only; take bfloat16 or float32$"),
        (Execution(compile="graphs"), r"^compute\.compile graphs works on cuda only; take default or off$"),
    ],
)
def test_what_a_cpu_cannot_do_is_refused(execution: Execution, message: str, tiny_target: Path) -> None:
    with pytest.raises(UsageError, match=message):
        load_target(tiny_target, "cpu", execution=execution)
    execution.check("cuda")
    execution.check("cuda:1")

"""The paper's class-conditional U-Net, against diffusers' U-Net that is given the token as its text."""

from pathlib import Path

import pytest
import torch
from diffusers import UNet2DConditionModel

from ldm_scale.errors import UsageError
from ldm_scale.targets.class_token import ClassTokenUNet
from ldm_scale.targets.load import load_target
from tests.targets import tiny


def test_it_has_the_papers_weights_beside_the_tokens() -> None:
    with torch.device("meta"):
        model = ClassTokenUNet()
    sizes = [sum(weight.numel() for weight in part.parameters()) for part in (model.unet, model.tokens)]
    assert sizes == [pytest.approx(400.9e6, rel=1e-4), 1000 * 512]


@pytest.mark.parametrize("t", [0, 640])
def test_it_attends_to_the_token_of_the_class(tmp_path: Path, t: int) -> None:
    target = load_target(tiny.class_token(tmp_path), "cpu")
    model = ClassTokenUNet.from_pretrained(tmp_path / "unet", low_cpu_mem_usage=False).eval()
    options = {**tiny.ATTENDING, "down_block_types": tiny.ATTENDING["down_block_types"][::-1]}
    unet = UNet2DConditionModel(
        **tiny.UNET, **options | {"up_block_types": options["up_block_types"][::-1], "cross_attention_dim": 8}
    ).eval()
    unet.load_state_dict(model.unet.state_dict())
    z, labels = torch.randn(3, 4, 4, 4, generator=torch.Generator().manual_seed(0)), [3, 0, 3]
    with torch.no_grad():
        expected = unet(z, torch.full((3,), t), model.tokens.weight[labels][:, None]).sample
        found = target.predict_noise(z, tiny.at(t, z), target.condition([None] * 3, labels))
        other = target.predict_noise(z, tiny.at(t, z), target.condition([None] * 3, [1, 1, 1]))
    torch.testing.assert_close(found, expected)
    assert (found - other).abs().amax((1, 2, 3)).min() > 1e-4


def test_there_is_no_null_class(tmp_path: Path) -> None:
    target = load_target(tiny.class_token(tmp_path), "cpu")
    assert target.refusal(None, tiny.CLASSES - 1) is None
    assert target.refusal(None, tiny.CLASSES) == f"a class label {tiny.CLASSES}, which is not in 0 ... 4"
    with pytest.raises(UsageError, match="null class"):
        target.condition([None], [None])

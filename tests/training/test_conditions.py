"""What denoisers are told, against what audits tell them."""

from pathlib import Path

import torch

from ldm_scale.targets.load import load_target
from ldm_scale.training.conditions import ByClass, Unconditional
from tests.targets import tiny
from tests.training.cases import batch, models


def test_captions_are_embedded_as_an_audit_embeds_them(tmp_path: Path) -> None:
    base = str(tiny.stable_diffusion(tmp_path))
    captions = ["cat", "a dog", "cat " * 30, "\u00e9t\u00e9"]
    told = models(base=base).condition(batch().__class__(batch().inputs, [None] * 4, list(captions)))
    with torch.no_grad():
        expected = load_target(base, "cpu").condition(captions, [None] * 4)
    torch.testing.assert_close(told["encoder_hidden_states"], expected, rtol=0, atol=0)


def test_classes_are_given_by_their_index() -> None:
    torch.testing.assert_close(ByClass(2)(batch())["class_labels"], torch.tensor([0, 1, 0, 1]))
    assert Unconditional()(batch()) == {}


def test_a_sample_may_lack_what_its_condition_takes(tmp_path: Path) -> None:
    by_caption = models(base=str(tiny.stable_diffusion(tmp_path))).condition
    assert [by_caption.lacks(None, caption) for caption in (None, "", " \n", "cat")] == ["caption"] * 3 + [None]
    unknown = "class label in 0 ... 1"
    assert [ByClass(2).lacks(label, None) for label in (None, -1, 2, 0, 1)] == [unknown] * 3 + [None] * 2
    assert Unconditional().lacks(None, None) is None

"""What hostile targets are made of."""

import json
from dataclasses import dataclass
from pathlib import Path

import torch

from ldm_scale.targets.load import load_target
from tests.targets import tiny


@dataclass(frozen=True)
class Trap:
    """An object whose pickle leaves a mark if it is loaded."""

    mark: Path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return exec, (f"open({str(self.mark)!r}, 'w').close()",)

    def write(self, path: Path) -> None:
        """A file of weights, as torch saves them, that holds it."""
        torch.save({"conv_in.weight": self}, path)


def edit(path: Path, **values: object) -> None:
    """Change keys of a file of JSON."""
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def noise_of(folder: Path) -> torch.Tensor:
    """What a text-conditional target predicts, of its text, its denoiser and its schedule."""
    z = torch.randn(1, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    target = load_target(str(folder), "cpu")
    return target.predict_noise(z, tiny.at(100, z), target.condition(["a cat"], [None]))

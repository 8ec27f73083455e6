"""The weights of an audit: a target from any address, and a LoRA that is fused into it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ldm_scale.errors import RunError
from ldm_scale.files.storage import Location
from ldm_scale.targets.base import Target
from ldm_scale.targets.execution import PLAIN, Execution
from ldm_scale.targets.fetch import LORA, OUTLINE, TARGET, Source, fetch
from ldm_scale.targets.load import load_target, target_digest, variants
from ldm_scale.targets.lora import Lora, find_weights


def _lora_digest(path: Path) -> str:
    return Location.of(find_weights(path)).sha256()


@dataclass(frozen=True)
class Weights:
    """A target and its LoRA, if any, as files on this node."""

    target: Source
    lora: Source | None
    lora_scale: float

    @property
    def addresses(self) -> dict[str, str | None]:
        """The addresses they came from, pinned: local paths are absolute, hub ids name their commit."""
        return {"target": self.target.address, "lora": self.lora.address if self.lora else None}

    def science(self) -> dict[str, Any]:
        """What they are: SHA-256 digests of the files that are read, and the LoRA's scale."""
        target = {"target": self.target.digest(target_digest)}
        if self.lora is None:
            return target
        return {**target, "lora": {"weights": self.lora.digest(_lora_digest), "scale": self.lora_scale}}

    def check(self, science: dict[str, Any]) -> None:
        """Raise RunError if these are not the weights that a run began with."""
        for name, found in self.science().items():
            if found != science[name]:
                raise RunError(
                    f"{name} {self.addresses[name]} is not the one the run began with: on this node it is {found}, "
                    f"it was {science[name]}"
                )

    def describe(self) -> str:
        """Which variants of the target's weights are read, in words; empty if all are plain ones."""
        return ", ".join(f"{name} in {variant}" for name, variant in variants(self.target.path).items())

    def load(self, device: str, size: int | None = None, execution: Execution = PLAIN) -> Target:
        """The target with its LoRA, as `load_target` loads it."""
        lora = Lora(find_weights(self.lora.path), self.lora_scale) if self.lora else None
        return load_target(self.target.path, device, size, lora, execution)


def fetch_weights(target: str, lora: str | None = None, lora_scale: float = 1.0, *, outline: bool = False) -> Weights:
    """The weights of a target and a LoRA, brought to this node.

    Args:
        target: local path, s3:// address or hub id.
        lora: likewise.
        lora_scale: the factor that the LoRA's weights are multiplied with.
        outline: fetch only the target's configurations and vocabularies, enough to load it on the device "meta".

    Raises:
        UsageError: An address cannot be read.
    """
    source = fetch(target, OUTLINE if outline else TARGET)
    return Weights(source, fetch(lora, LORA) if lora is not None else None, lora_scale)

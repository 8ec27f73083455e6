"""The weights of an audit: a target from any address, and a LoRA that is fused into it."""

from dataclasses import dataclass, field
from tempfile import gettempdir
from typing import Any

from ldm_scale.errors import RunError
from ldm_scale.files.space import MORE_ROOM, room_at
from ldm_scale.files.storage import Location
from ldm_scale.targets.base import Target
from ldm_scale.targets.execution import PLAIN, Execution
from ldm_scale.targets.fetch import LORA, TARGET, Source, fetch
from ldm_scale.targets.intake import Stamp, stamp
from ldm_scale.targets.load import family_package, load_target, target_digest, target_files, variants
from ldm_scale.targets.lora import Lora, find_weights


def _stamps(target: Source, lora: Source | None) -> frozenset[Stamp]:
    """Of the files that lie with the user; copies never change, and others may add to the hub's."""
    files = [] if target.is_copy else target_files(target.path)
    adapter = [find_weights(lora.path)] if lora is not None and not lora.is_copy else []
    return frozenset(map(stamp, files + adapter))


@dataclass(frozen=True)
class Weights:
    """A target and its LoRA, if any, as files on this node.

    Attributes:
        stamps: of its files when they were first looked at.
    """

    target: Source
    lora: Source | None
    lora_scale: float
    stamps: frozenset[Stamp] = field(repr=False)

    @property
    def addresses(self) -> dict[str, str | None]:
        """The addresses they came from, pinned: local paths are absolute, hub ids name their commit."""
        return {"target": self.target.address, "lora": self.lora.address if self.lora else None}

    def science(self) -> dict[str, Any]:
        """What they are: SHA-256 digests of the files that are read, another package's family, and the LoRA's scale."""
        science: dict[str, Any] = {"target": self.target.digest(target_digest)}
        if package := family_package(self.target.path):
            science["family"] = package
        if self.lora is not None:
            # Earlier runs gave some modules another one's alpha.
            how = {"scale": self.lora_scale, "alphas": "of each module"}
            weights = self.lora.digest(lambda path: Location.of(find_weights(path)).sha256())
            science["lora"] = {"weights": weights, **how}
        self._check_unchanged()
        return science

    def _check_unchanged(self) -> None:
        """Raise RunError if a file is not what it was at the beginning: what is digested and what is loaded are one."""
        if changed := self.stamps ^ _stamps(self.target, self.lora):
            raise RunError(f"{min(changed).path} has changed since the weights were first looked at; start again")

    def check(self, science: dict[str, Any]) -> None:
        """Raise RunError if these are not the weights that a run began with."""
        for name, found in self.science().items():
            if found != science.get(name):
                address = self.addresses.get(name, self.target.address)
                raise RunError(
                    f"{name} {address} is not the one the run began with: on this node it is {found}, "
                    f"it was {science.get(name)}"
                )

    def describe(self) -> str:
        """Which variants of the target's weights are read, in words; empty if all are plain ones."""
        return ", ".join(f"{name} in {variant}" for name, variant in variants(self.target.path).items())

    def load(self, device: str, size: int | None = None, execution: Execution = PLAIN) -> Target:
        """The target with its LoRA, as `load_target` loads it."""
        lora = Lora(find_weights(self.lora.path), self.lora_scale) if self.lora else None
        with room_at(gettempdir(), MORE_ROOM):
            target = load_target(self.target.path, device, size, lora, execution)
        self._check_unchanged()
        return target


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
    source, adapter = fetch(target, TARGET.outline if outline else TARGET), None if lora is None else fetch(lora, LORA)
    return Weights(source, adapter, lora_scale, _stamps(source, adapter))

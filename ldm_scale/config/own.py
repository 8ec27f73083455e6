"""The configuration of `ldm-scale own`: a data owner's question, from plain folders to a page."""

from typing import Literal

from pydantic import Field, NonNegativeInt, model_validator

from ldm_scale.config.audit import AuditConfig
from ldm_scale.config.base import Config, Device
from ldm_scale.config.data import PackConfig, ValidateConfig
from ldm_scale.config.values import Address, AttackNames

NO_HELDOUT = (
    "heldout: give images of the same kind that the model cannot have seen, such as those made after it was trained or "
    "never published: only that suspects score above such images is evidence; or give --reference MODEL, such as the "
    "base before fine-tuning: it shows a difference between two models, and no p-value of membership"
)


class OwnConfig(Config):
    """Was this model trained on these images? Which model, which images, and what they are compared with."""

    target: Address = Field(description="the model: a folder in diffusers' layout, s3:// or hub id[@revision]")
    suspect: Address = Field(description="folder of the images that it may have been trained on, local or s3://")
    heldout: Address | None = Field(
        None,
        description="folder of images of the same kind that it cannot have been trained on; only without a reference "
        "must it be given",
    )
    reference: Address | None = Field(
        None,
        description="the base model before fine-tuning, or an untrained one: scores are also given relative to it; "
        "without heldout that is all that can be said",
    )
    out: Address = Field(description="new folder for shards and run; the same command again goes on")
    attacks: AttackNames = Field(
        ("sima", "pia", "secmi"), min_length=1, description="attacks, comma-separated; all are combined"
    )
    conditioning: Literal["sample", "none"] | NonNegativeInt = Field(
        "none",
        description="none: the empty prompt, or a DiT's null class, as who owns images seldom knows their captions in "
        "training; sample: each one's caption or class; a number: that class for all",
    )
    seed: int = Field(0, description="seed of every random draw")
    device: Device = Field("auto", description="auto is cuda if the cluster has GPUs, else cpu")

    @model_validator(mode="after")
    def _compares(self) -> "OwnConfig":
        if self.heldout is None and self.reference is None:
            raise ValueError(NO_HELDOUT)
        return self

    def _at(self, name: str) -> str:
        return f"{self.out.rstrip('/')}/{name}"

    def pack(self) -> PackConfig:
        """The suspects as members, the others, if any, held-out, without near-duplicates."""
        return PackConfig(
            dataset="folder",
            source=self.suspect,
            heldout_folder=self.heldout,
            members_only=self.heldout is None,
            out=self._at("shards"),
            seed=self.seed,
        )

    def validate_inputs(self) -> ValidateConfig:
        """Every shard, and the model on a few images."""
        return ValidateConfig(shards=self._at("shards"), target=self.target, seed=self.seed)

    def audit(self) -> AuditConfig:
        """All attacks, each at its own default timesteps."""
        return AuditConfig.model_validate(
            {
                "shards": self._at("shards"),
                "target": self.target,
                "reference": self.reference,
                "out": self._at("run"),
                "attacks": {name: {} for name in self.attacks},
                "conditioning": self.conditioning,
                "seed": self.seed,
                "compute": {"device": self.device},
            }
        )

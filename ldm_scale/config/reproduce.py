"""The configuration of jobs/reproduce.py: the paper's CIFAR-10 row on photographs, at a size that is at hand."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from ldm_scale.config.audit import CALIBRATED, AuditConfig, Latent
from ldm_scale.config.base import Config, Device, build
from ldm_scale.config.data import PackConfig
from ldm_scale.config.train import TrainConfig
from ldm_scale.config.values import Address, Integers, Metavar, Widths, merge, parse_names
from ldm_scale.errors import UsageError

Attacked = Annotated[tuple[Latent, ...], BeforeValidator(parse_names), Metavar("NAMES", ("mode", "sample"))]

# Options that a size gives other defaults.
SIZES: dict[str, dict[str, Any]] = {
    "cpu": {},
    "gpu": {"members": 5000, "seeds": (0,), "steps": 6000, "widths": (128, 256, 256), "device": "cuda"},
}
# What is no option: the batch of the U-Net, and how finely is audited. SecMI's inversion takes steps of 10 either way.
BATCH = {"cpu": 64, "gpu": 256}
TIMESTEPS = {
    "cpu": {"sima": "0:300:30", "pia": "0:300:30", "secmi": "0:200:20"},
    "gpu": {"sima": "0:300:10", "pia": "0:300:10", "secmi": "0:190:10"},
}
# Exact distortion takes a product a dimension: more than all attacks together for every third sample.
DISTORTION_SHARE = {"cpu": 0.15, "gpu": 1.0}


class ReproduceConfig(Config):
    """Which target is trained on how many photographs, how it is audited, and how often."""

    size: Literal["cpu", "gpu"] = Field("cpu", description="other defaults, for two cores or for one GPU")
    data: Address = Field(description="folder of Parquet files with the columns image, label and text")
    out: Address = Field("runs/reproduce", description="folder of everything; the same command again resumes it")
    members: int = Field(1000, gt=3, description="members, and as many held-out, drawn at random by the seed")
    seeds: Integers = Field((0, 1, 2), description="seeds of drawing, training and audit, one after the other")
    steps: int = Field(1800, gt=0, description="steps that the U-Net is trained")
    widths: Widths = Field((64, 128, 128), description="channels of the U-Net, one a resolution")
    kl_weight: float = Field(1e-2, ge=0, description="weight of the autoencoder's KL term")
    latent: Latent = Field("sample", description="what the U-Net is trained on: the posterior's mode, or samples of it")
    flip: bool = Field(False, description="train on images mirrored at random, too")
    attacked: Attacked = Field(("sample", "mode"), description="what is attacked of one target: one audit for each")
    device: Device = Field("auto", description="auto is cuda if the cluster has GPUs, else cpu")
    cpus: int | None = Field(None, gt=0, description="of `ldm-scale train --cpus`: the CPUs that the training reserves")

    @model_validator(mode="before")
    @classmethod
    def _over_size(cls, data: Any) -> Any:
        size = data.get("size") if isinstance(data, dict) else None
        return merge(SIZES.get(size, {}), data) if isinstance(size, str) else data

    @model_validator(mode="after")
    def _consistent(self) -> "ReproduceConfig":
        for name in ("seeds", "attacked"):
            given = getattr(self, name)
            if not given or len({*given}) < len(given):
                raise ValueError(f"{name}: give at least one, and each once")
        for seed in self.seeds:
            try:
                self.train(seed)
            except UsageError as error:
                raise ValueError(f"the training cannot be so: {error}") from None
        return self

    def folder(self, seed: int) -> str:
        """All that is made of one seed."""
        return f"{self.out.rstrip('/')}/seed-{seed}"

    def pack(self, seed: int) -> PackConfig:
        """Members and held-out, drawn after near-duplicates are removed."""
        return PackConfig(
            dataset="parquet",
            source=self.data,
            out=f"{self.folder(seed)}/shards",
            seed=seed,
            max_samples=2 * self.members,
        )

    def train(self, seed: int) -> TrainConfig:
        """The demo's recipe but for what is asked."""
        batch = BATCH[self.size]
        denoiser = {
            "channels": self.widths,
            "epochs": self.steps * batch / self.members,
            "batch": batch,
            "latent": self.latent,
        }
        return build(
            TrainConfig,
            {
                "shards": f"{self.folder(seed)}/shards",
                "out": f"{self.folder(seed)}/target",
                "seed": seed,
                "flip": self.flip,
                "device": self.device,
                "cpus": self.cpus,
                "autoencoder": {"kl_weight": self.kl_weight},
                "denoiser": denoiser,
            },
        )

    def audit(self, seed: int, latent: Latent) -> AuditConfig:
        """Influence as the authors measure it, by 16 probes."""
        return AuditConfig.model_validate(
            {
                "shards": f"{self.folder(seed)}/shards",
                "target": f"{self.folder(seed)}/target",
                "out": f"{self.folder(seed)}/attacked-{latent}",
                "seed": seed,
                "latent": latent,
                "attacks": {name: {"timesteps": steps} for name, steps in TIMESTEPS[self.size].items()},
                "geometry": {"probes": 16, "distortion": "exact", "distortion_share": DISTORTION_SHARE[self.size]},
                "masks": {"ranking": CALIBRATED},
                "compute": {"device": self.device},
            }
        )

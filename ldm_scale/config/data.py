"""The configuration of images, and of what makes shards and checks them."""

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from ldm_scale.config.base import ELSEWHERE, SHARDS, Config
from ldm_scale.config.values import Address, Metavar, Names

# What can be packed; data/sources says how each is read.
DATASETS = ("cifar10", "celeba", "imagenet", "coco", "flickr30k", "parquet", "arrow", "webdataset", "folder", "emoji")
# Those whose images lie in columns, and those whose images lie in files of many, which come in some order.
IN_COLUMNS = ("parquet", "arrow")
IN_FILES = (*IN_COLUMNS, "webdataset")

# Unrelated images correlate by less.
LEAST_CORRELATION = 0.5


class ImageConfig(Config):
    """How stored images become the target's input; the papers' loaders, on Pillow."""

    size: int | None = Field(None, gt=0, description="side in pixels, one that the target takes; its own by default")
    crop: int | None = Field(None, gt=0, description="centre crop to this side before resizing (CelebA: 140)")
    filter: Literal["nearest", "bilinear", "bicubic", "lanczos"] = Field("bicubic", description="resize filter")
    max_pixels: int = Field(64_000_000, gt=0, description="larger images are rejected before they are decoded")


class PackConfig(Config):
    """From a source to shards."""

    dataset: Annotated[str, Metavar("DATASET", DATASETS)] = Field(
        description=f"one of {', '.join(DATASETS)}, or another package's (ldm-scale list sources)"
    )
    source: Address = Field(
        description="source folder: local, s3://, gs://bucket/folder or hf://datasets/organisation/name[@revision][/folder]"
    )
    out: Address = Field(description="new shard folder, local or s3://; the same command again resumes it")
    split: Address | None = Field(
        None, description="JSON of keys, or a paper's .npz of numbers; by default random halves"
    )
    order: Names = Field(
        (),
        description="how files or their folders begin, in the order in which an .npz numbers their images "
        "(parquet, arrow, webdataset); by default train, validation, test by their names, then by name",
    )
    members: Names = Field((), description="members are the keys that begin so, such as train/; by default all others")
    heldout: Names = Field((), description="held-out are the keys that begin so, such as val/ or valid-,test-")
    heldout_folder: Address | None = Field(
        None, description="held-out are all images of this folder, local or s3://, and members all of SOURCE (folder)"
    )
    members_only: bool = Field(
        False, description="all are members: to train on, or for scores relative to a reference model"
    )
    seed: int = Field(0, description="seed of the random halves, and of the draw of max-samples")
    near_duplicates: float = Field(
        0.94,
        ge=0,
        le=1,
        description="keep one of the images that show one picture, mirrored, cropped or recoloured: their details "
        "correlate by at least this, 0.5 to 1; 0 keeps all; a split file wins over it",
    )
    max_samples: int | None = Field(
        None, gt=1, description="draw this many at random, half of them members, after near-duplicates are removed"
    )
    size: int | None = Field(None, gt=0, description="store PNGs of this side; by default files are copied as they are")
    shard_samples: int = Field(10_000, gt=0, description="samples in a shard, at most (and at most about 256 MB)")
    max_pixels: int = Field(64_000_000, gt=0, description="larger images are rejected, if images are decoded")
    max_reject_fraction: float = Field(0.01, ge=0, le=1, description="more rejected images than this fail the pack")
    image_column: str = Field("image", description="column of images (parquet, arrow)")
    caption_column: str | None = Field(
        None,
        description="column of captions (parquet, arrow); by default text, caption or captions, if any; '' for none",
    )
    label_column: str | None = Field(
        None, description="column of classes (parquet, arrow); by default label, if any; '' for none"
    )

    @field_validator("near_duplicates")
    @classmethod
    def _correlates(cls, value: float) -> float:
        if 0 < value < LEAST_CORRELATION:
            raise ValueError(f"a correlation of at least {LEAST_CORRELATION}, or 0 to keep all")
        return value

    @model_validator(mode="after")
    def _consistent(self) -> "PackConfig":
        if self.members and not self.heldout:
            raise ValueError("members: give heldout too, the keys of the other side")
        if self.split is not None and self.heldout:
            raise ValueError("split: give a split file or heldout, not both")
        if self.heldout_folder is not None and (self.dataset != "folder" or self.heldout or self.split is not None):
            raise ValueError("heldout_folder: it is for folder, without heldout and without a split file")
        if self.members_only and (self.heldout or self.heldout_folder is not None or self.split is not None):
            raise ValueError("members_only: leave out heldout, heldout_folder and split")
        if self.order and self.dataset not in IN_FILES:
            raise ValueError(f"order: it is for {', '.join(IN_FILES)}")
        for name in ("image_column", "caption_column", "label_column"):
            if getattr(self, name) != type(self).model_fields[name].default and self.dataset not in IN_COLUMNS:
                raise ValueError(f"{name}: it is for {', '.join(IN_COLUMNS)}")
        return self

    @property
    def prefixes(self) -> tuple[Names, Names]:
        """How the keys of members and held-out begin; no prefixes of held-out if keys do not decide."""
        return (self.members, self.heldout) if self.heldout_folder is None else (("members/",), ("heldout/",))

    def science(self) -> dict[str, Any]:
        """The part of the configuration that shards depend on (addresses excepted: what is there is hashed)."""
        addresses = {"source", "heldout_folder", "out", "split"}
        # Not named if it is what it was before there was a choice.
        unnamed = set() if self.members_only else {"members_only"}
        return self.model_dump(mode="json", exclude={*addresses, *unnamed, "max_reject_fraction"})


class ValidateConfig(Config):
    """What is checked before an audit, without a GPU."""

    shards: Address | None = Field(None, description=f"{SHARDS}: every byte is read")
    manifest: Address | None = Field(None, description=ELSEWHERE)
    write_manifest: bool = Field(
        False, description="write the manifest of shards that have none: manifest.json in their folder, or --manifest"
    )
    target: Address | None = Field(None, description="target in diffusers' layout: loaded and tried on a few images")
    lora: Address | None = Field(None, description="LoRA fused into the target's weights first")
    split: Address | None = Field(None, description="JSON of member and held-out keys, looked up in the shards")
    decode_share: float = Field(0.05, ge=0, le=1, description="share of the images that are decoded, drawn by key")
    seed: int = Field(0, description="seed of that draw")
    images: ImageConfig = ImageConfig()

    @model_validator(mode="after")
    def _consistent(self) -> "ValidateConfig":
        if self.shards is None and (self.write_manifest or self.manifest is not None):
            raise ValueError("shards: give the shards that the manifest describes")
        if self.shards is None and self.split is not None:
            raise ValueError("split: give the shards in which its keys are looked up")
        if self.target is None and self.lora is not None:
            raise ValueError("lora: give the target that it is fused into")
        return self

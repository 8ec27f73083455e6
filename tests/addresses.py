"""Files at other addresses."""

from pathlib import Path

from ldm_scale.files.storage import Location


def upload(folder: Path, address: str) -> str:
    """Copy a folder to S3."""
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            (Location.of(address) / path.relative_to(folder).as_posix()).replace(path.read_bytes())
    return address


def tree(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}

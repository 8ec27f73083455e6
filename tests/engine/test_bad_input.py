"""Shards that hold everything that can be wrong at once: each sample ends up once, as a row or as a named reject."""

import html
import io
import json
import re
import shutil
import tarfile
import zlib
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from PIL import Image
from safetensors.torch import load_file, save_file

from ldm_scale.analysis.results import Results
from ldm_scale.cli import main
from ldm_scale.config.audit import AuditConfig
from ldm_scale.config.base import build
from ldm_scale.data.inspection import inspect_shard
from ldm_scale.data.manifest import read_manifest
from ldm_scale.engine.audit import run_audit
from ldm_scale.files.ownership import own
from ldm_scale.files.reductions import RANKING, write_reduction
from ldm_scale.files.rundir import RunDirectory
from ldm_scale.files.storage import Location
from tests.conftest import make_image
from tests.data.pngs import chunk, png_header
from tests.inline import inline_ray
from tests.s3 import KEYS
from tests.shards import tar, write_folder
from tests.targets import tiny

pytestmark = pytest.mark.usefixtures("inline")

Files = list[tuple[str | tarfile.TarInfo, bytes]]
SCRIPT = "<script>alert('caption')</script>"
HANDLER = '"><img src=x onerror=alert(1)>'
POISON = "z"
TOKEN = "planted-token"


def encode(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


PNG = encode(make_image(0))
BOMB = chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(100 << 20)))
FRAMES = [make_image(seed) for seed in range(3)]
# Key: image as stored, its suffix. Pillow makes RGB of all of these.
GOOD_IMAGES: dict[str, tuple[bytes, str]] = {
    "cmyk": (encode(make_image(1).convert("CMYK"), "JPEG"), "jpg"),
    "palette": (encode(make_image(2).quantize(8)), "png"),
    "16 bit": (encode(make_image(3).convert("I;16")), "png"),
    "alpha": (encode(make_image(4).convert("RGBA")), "png"),
    "animated": (encode(FRAMES[0], "WEBP", save_all=True, append_images=FRAMES[1:]), "webp"),
    "png named jpg": (PNG, "jpg"),
}
ODD_KEYS = ("../../etc/passwd", "/etc/passwd", HANDLER, "a\nb\x1b[31m'\"\u202e")
# Key: image as stored, the beginning of the reason.
BAD_IMAGES = {
    "truncated": (PNG[:200], "cannot be decoded: "),
    "empty": (b"", "no image"),
    "html": (b"<html>404 Not Found</html>", "cannot be decoded: no JPEG, PNG or WebP"),
    "gif": (encode(make_image(5), "GIF"), "cannot be decoded: no JPEG, PNG or WebP"),
    "bomb": (png_header(30_000, 30_000), "cannot be decoded: "),
    "large": (png_header(9000, 9000), "more than max_pixels = 64000000 (9000 x 9000)"),
    "text bomb": (PNG[:33] + BOMB + PNG[33:], "cannot be decoded: Decompressed data too large"),
    "long": (encode(Image.new("1", (1, 30_000_000 // 16))), "more than max_pixels = 64000000 when it is enlarged"),
}
UNREADABLE = "no caption (its caption is not UTF-8, or of more than 65536 bytes)"
BAD_CAPTIONS = {"latin": b"caf\xe9", "longest": b"S3CR3T " * 150_000}
FOREIGN_FILE = "one of its files is a link, a device or a sparse file"


def link(name: str, kind: bytes, target: str = "/etc/passwd") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def sample(key: str, image: bytes = PNG, suffix: str = "png", caption: bytes = b"cat") -> Files:
    return [(f"{key}.{suffix}", image), (f"{key}.txt", caption)]


def member_files() -> Files:
    """Good samples of odd images and keys, ten in all, so that the report shows each of them."""
    files = [file for key, (image, suffix) in GOOD_IMAGES.items() for file in sample(key, image, suffix)]
    return files + [file for key in ODD_KEYS for file in sample(key, caption=SCRIPT.encode())]


def bad_files() -> tuple[Files, dict[str, tuple[str, str]]]:
    """Files of a shard, and each sample that must be rejected with the stage and how the reason begins."""
    files: Files = []
    expected: dict[str, tuple[str, str]] = {}

    def add(key: str, stage: str, reason: str, listed: Files) -> None:
        files.extend(listed)
        expected[key] = (stage, reason)

    for key, (image, reason) in BAD_IMAGES.items():
        add(key, "decode", reason, sample(key, image))
    for key, caption in BAD_CAPTIONS.items():
        add(key, "condition", UNREADABLE, sample(key, caption=caption))
    # It may list more captions, one of which was meant.
    large = json.dumps({"captions": ["cat", "a cat"], "x": "x" * (1 << 20)}).encode()
    add("listed", "condition", "no caption (its json is none, or of ", [*sample("listed"), ("listed.json", large)])
    add("uncaptioned", "condition", "no caption", [("uncaptioned.png", PNG)])
    add("imageless", "read", "no image", [("imageless.txt", b"cat")])
    add("doubled", "read", "two files of one suffix", [("doubled.png", PNG), ("doubled.PNG", PNG)])
    add("two", "read", "more than one image", [("two.png", PNG), ("two.webp", PNG)])
    add("symlink", "read", FOREIGN_FILE, [(link("symlink.png", tarfile.SYMTYPE), b"")])
    add("hardlink", "read", FOREIGN_FILE, [(link("hardlink.png", tarfile.LNKTYPE, "truncated.png"), b"")])
    add("device", "read", FOREIGN_FILE, [(link("device.png", tarfile.CHRTYPE), b"")])
    add("truncated.again-2", "read", "its key was there before", sample("truncated"))
    add("symlink.again-2", "read", "its key was there before", [("symlink.txt", b"cat")])
    add("poison", "audit", "a number of sima is not finite", sample("poison", caption=POISON.encode()))
    passed: Files = [
        ("README", b"hello"),
        (link("folder", tarfile.DIRTYPE), b""),
        ("evil.pyd", b"cos\nsystem\n(S'id'\ntR."),
    ]
    expected["evil"] = ("read", "no image")
    return passed + files, expected


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten good members beside bad ones, six good held-out samples out of order, and a shard of nothing."""
    bad, expected = bad_files()
    heldout: Files = [file for number in (3, 1, 2, 6, 5, 4) for file in sample(str(number), encode(make_image(number)))]
    content = {
        "members/members-000000.tar": (tar(member_files()), len(GOOD_IMAGES) + len(ODD_KEYS)),
        "members/members-000001.tar": (tar(bad), len(expected)),
        "heldout/heldout-000000.tar": (tar(heldout), 6),
        "heldout/heldout-000001.tar": (tar([]), 0),
    }
    return write_folder(tmp_path_factory.mktemp("bad") / "shards", content)


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A text-conditional target that answers one word with NaN."""
    folder = tiny.stable_diffusion(tmp_path_factory.mktemp("poisoned") / "target")
    word = json.loads((folder / "tokenizer/vocab.json").read_text())[f"{POISON}</w>"]
    file = folder / "text_encoder/model.safetensors"
    weights = load_file(file)
    (name,) = [name for name in weights if name.endswith("token_embedding.weight")]
    weights[name][word] = float("nan")
    save_file(weights, file, metadata={"format": "pt"})
    return folder


def make_config(out: Path, shards: Path, target: Path, **changes: object) -> AuditConfig:
    values: dict[str, object] = {
        "out": str(out),
        "shards": str(shards),
        "target": str(target),
        "attacks": {"sima": {"timesteps": [0, 50]}},
        "geometry": {"influence": "exact"},
        "masks": {"bins": 5},
        "analysis": {"bootstrap": 50, "repeats": 2},
        "compute": {"device": "cpu", "batch_size": 8, "actors": 1},
    }
    return build(AuditConfig, values | changes)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, shards: Path, target: Path) -> Path:
    out = tmp_path_factory.mktemp("finished") / "run"
    with inline_ray(), pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_TOKEN", TOKEN)
        run_audit(make_config(out, shards, target, max_reject_fraction=1))
    return out


def ids(out: Path, folder: str) -> list[str]:
    tables = [pq.read_table(path, columns=["sample_id"]) for path in (out / folder).glob("*.parquet")]
    return [sample_id for table in tables for sample_id in table["sample_id"].to_pylist()]


def test_every_bad_sample_is_rejected_by_name_and_every_good_one_has_a_row(finished: Path, shards: Path) -> None:
    _, expected = bad_files()
    rejects = RunDirectory(Location.of(finished)).rejects().to_pylist()
    found = {row["sample_id"].removeprefix("members-000001/"): (row["stage"], row["reason"]) for row in rejects}
    assert found.keys() == expected.keys()
    for key, (stage, reason) in expected.items():
        assert found[key][0] == stage, key
        assert found[key][1].startswith(reason), key
    good = {f"members-000000/{key}" for key in (*GOOD_IMAGES, *ODD_KEYS)}
    assert set(ids(finished, "samples")) == good | {f"heldout-000000/{number}" for number in range(1, 7)}


def test_no_sample_is_lost_or_doubled_and_all_counts_agree(finished: Path, shards: Path) -> None:
    everything = ids(finished, "samples") + ids(finished, "rejects")
    assert len(set(everything)) == len(everything)
    manifest = read_manifest(Location.of(shards))
    assert len(everything) == manifest.samples
    results = Results.model_validate_json((finished / "results.json").read_bytes())
    assert results.members + results.heldout + sum(results.rejected.values()) == results.expected == manifest.samples
    inspected = {
        f"{shard.stem}/{key}"
        for shard in manifest.shards
        for key in inspect_shard(Location.of(shards), shard, 0, 0.0, 0, 10**6).keys
    }
    assert inspected == set(everything)


def test_results_count_rejects_by_stage_and_reason(finished: Path) -> None:
    rejected = Results.model_validate_json((finished / "results.json").read_bytes()).rejected
    assert rejected["decode: cannot be decoded"] == 5
    assert rejected["condition: no caption"] == 4
    assert rejected[f"read: {FOREIGN_FILE}"] == 3
    assert rejected["read: no image"] == 2
    assert rejected["audit: a number of sima is not finite"] == 1


def test_lost_rejects_come_again_and_nothing_else_does(
    tmp_path: Path, finished: Path, shards: Path, target: Path
) -> None:
    out = Path(shutil.copytree(finished, tmp_path / "run"))
    shutil.rmtree(out / "rejects")
    before = {path: path.read_bytes() for path in (out / "samples").iterdir()}
    run_audit(make_config(out, shards, target, max_reject_fraction=1))
    assert {path: path.read_bytes() for path in (out / "samples").iterdir()} == before
    again, first = (RunDirectory(Location.of(run)).rejects() for run in (out, finished))
    assert again.equals(first)


def test_reasons_are_text_on_the_terminal(tmp_path: Path, finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = Path(shutil.copytree(finished, tmp_path / "run"))
    results = Results.model_validate_json((out / "results.json").read_bytes())
    hostile = results.model_copy(update={"rejected": {"decode: [red]x[/red] \x1b[31m": 3}})
    run = RunDirectory(Location.of(out))
    with own(run.root, pytest.fail) as owner:
        write_reduction(owner, hostile.model_dump_json().encode(), {RANKING: run.reduction().read_ranking()})
    assert main(["report", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "rejected 3: decode: [red]x[/red] \\x1b[31m" in printed
    assert "\x1b" not in printed


def test_what_shards_say_is_text_in_the_report(finished: Path) -> None:
    page = (finished / "report.html").read_text()
    assert not re.search(r"<script|<img src=x", page)
    assert SCRIPT in html.unescape(page)
    assert HANDLER in html.unescape(page)
    assert "S3CR3T S3CR3T" not in page


def test_no_file_of_a_run_holds_a_secret(finished: Path) -> None:
    files = [path for path in finished.rglob("*") if path.is_file()]
    tables = [pq.read_table(path) for path in files if path.suffix == ".parquet"]
    text = b"".join(path.read_bytes() for path in files)
    text += "".join(f"{table.schema.metadata} {table.to_pylist()}" for table in tables).encode()
    assert b"members-000000/cmyk" in text
    # The workers have the one in their environment, the driver has both.
    for secret in (KEYS["secretKey"], TOKEN):
        assert secret.encode() not in text


def good_files(*numbers: int) -> Files:
    return [file for number in numbers for file in sample(str(number), encode(make_image(number)))]


@pytest.mark.parametrize("declared", [0, 1, 3, 5, 2**62])
def test_a_shard_that_holds_another_number_is_named_however_often_the_audit_is_resumed(
    tmp_path: Path, target: Path, declared: int, capsys: pytest.CaptureFixture[str]
) -> None:
    shards = {
        "members/members-000000.tar": (tar(good_files(1, 2, 9, 10)), 4),
        "members/members-000001.tar": (tar(good_files(3, 4, 5, 6)), declared),
        "heldout/heldout-000000.tar": (tar(good_files(7, 8, 11, 12)), 4),
    }
    config = make_config(tmp_path / "run", write_folder(tmp_path / "shards", shards), target)
    (tmp_path / "audit.yaml").write_text(json.dumps(config.model_dump(mode="json")))
    for _ in range(2):
        assert main(["audit", "--config", str(tmp_path / "audit.yaml")]) == 1
        *_, line = capsys.readouterr().err.splitlines()
        assert f"members-000001.tar holds 4 samples, its manifest says {declared}" in line
    assert not (tmp_path / "run/results.json").exists()


def test_too_many_rejects_stop_the_job_with_the_reasons(
    tmp_path: Path, shards: Path, target: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = make_config(tmp_path / "run", shards, target)
    (tmp_path / "audit.yaml").write_text(json.dumps(config.model_dump(mode="json")))
    assert main(["audit", "--config", str(tmp_path / "audit.yaml")]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert re.search(r"\d+ of 38 samples were rejected, more than max_reject_fraction = 0\.01; most often \d+ ", line)
    assert f"see {tmp_path}/run/rejects, and --retry-rejects" in line
    assert not (tmp_path / "run/results.json").exists()

"""The command line: exit statuses, and errors of exactly one line before anything is started or written."""

import errno
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import pyarrow as pa
import pytest

from ldm_scale import cli
from ldm_scale.cli import main, run_job
from ldm_scale.config.audit import AuditConfig
from ldm_scale.data.manifest import read_manifest
from ldm_scale.errors import RunError
from ldm_scale.files.ownership import Owner
from ldm_scale.files.parts import Expected
from ldm_scale.files.rundir import RunDirectory, RunRecord
from ldm_scale.files.storage import Location
from ldm_scale.flags import ENVIRONMENT
from ldm_scale.schema import REJECT, row_schema
from tests import made_up
from tests.conftest import make_folder
from tests.files.users import as_another_user, open_to_all

Fails = Callable[..., str]
COMMANDS = ("audit", "pack", "train", "reduce", "report", "status")


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """No Ray may start, and nothing comes from the environment."""

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("Ray was started")

    monkeypatch.setattr("ray.init", refuse)
    for name in ENVIRONMENT.values():
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def fails(capsys: pytest.CaptureFixture[str]) -> Fails:
    """Run a command that must end with a status and exactly one line on standard error; returns that line."""

    def run(*argv: object, status: int = 2) -> str:
        capsys.readouterr()
        assert main([str(word) for word in argv]) == status
        captured = capsys.readouterr()
        assert captured.err.endswith("\n")
        assert captured.err.count("\n") == 1, captured.err
        assert captured.err.startswith("ldm-scale: error: ")
        assert captured.out == ""
        return captured.err

    return run


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def make_run(folder: Path, fingerprint: str = "f") -> RunDirectory:
    run = RunDirectory(Location.of(folder))
    record = RunRecord(
        fingerprint=fingerprint,
        science={"seed": 12345},
        config=AuditConfig(out="o"),
        latent_shape=(1, 2, 2),
        timesteps={"sima": (0,)},
        expected=Expected(members={"s": 5}, heldout={"h": 4}),
        versions={},
    )
    run.begin(record)
    return run


@pytest.fixture
def target(tmp_path: Path, tiny_target: Path) -> Path:
    """A copy of the tiny target to break."""
    return Path(shutil.copytree(tiny_target, tmp_path / "broken-target"))


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("audit --shards {shards} --target {target}", "out: must be given"),
        ("audit --out {out} --shards {tmp}/gone --target {target}", "shard folder .*/gone does not exist"),
        (
            "audit --out {out} --shards {tmp}/absent.json --target {target}",
            r"shard folder .*/absent\.json is a file, not a folder",
        ),
        (
            "audit --out {out} --shards {shards}/members --target {target}",
            r"/members holds no manifest\.json, but the folder above it does: give /",
        ),
        (
            "audit --out {out} --shards {tmp}/empty --target {target}",
            "/empty holds no .*`ldm-scale pack folder '.*/empty' OUT`",
        ),
        ("audit --out {out} --shards {shards} --target {tmp}/gone", "target folder .*/gone does not exist"),
        (
            "audit --out {out} --shards {shards} --target {tmp}/absent.json",
            r"target folder .*/absent\.json is a file, not a folder",
        ),
        ("audit --out {out} --shards {shards} --target {tmp}/empty", "/empty has no denoiser"),
        ("audit --out {out} --shards {shards}", "give both shards and target"),
        ("audit --out {out} --shards {shards} --target {target} --split {tmp}/gone.json", r"gone\.json does not exist"),
        (
            "audit --out {out} --shards {shards} --target {target} --split {tmp}/empty",
            "split file .*/empty is a folder, not a file",
        ),
        (
            "audit --out {out} --shards {shards} --target {target} --split {tmp}/absent.json",
            "1 members and 1 held-out samples; 4 of each are needed",
        ),
        ("audit --out {out} --shards {shards} --target {target} --attacks simo", "'simo'; did you mean 'sima'"),
        ("audit --out {out} --shards {shards} --target {target} --attacks", "expected one argument"),
        (
            "audit --out {out} --shards {shards} --target {target} --attacks.sima.timesteps 0:1001:500",
            r"attacks\.sima\.timesteps: 1000 is evaluated, and the target's timesteps are 0 to 999",
        ),
        (
            "audit --out {out} --shards {shards} --target {target} --attacks.sima.timesteps 5:5",
            r"attacks\.sima\.timesteps: give at least one",
        ),
        ("audit --out {out} --shards {shards} --target {target} --attacks.sima.p x", r"attacks\.sima\.p: "),
        (
            "audit --out {out} --shards {shards} --target {target} --attacks secmi --attacks.secmi.timesteps 990",
            r"attacks\.secmi\.timesteps: 1000 is evaluated, and the target's timesteps are 0 to 999",
        ),
        (
            "audit --out {out} --shards {shards} --target {target} --attacks secmi --attacks.secmi.timesteps 15",
            r"attacks\.secmi: timesteps: 15 is not among 0, 10, 20",
        ),
        (
            "audit --out {out} --shards {shards} --target {target} --attacks secmi --attacks.secmi.timesteps 5:5",
            r"attacks\.secmi\.timesteps: give at least one",
        ),
        ("audit --out {out} --shards {shards} --target {target} --images.size 18", "images.size = 18.* takes 16 px"),
        (
            "audit --out {out} --shards {shards} --target {target} --masks.bins 5000",
            "masks.bins = 5000 is more than the latent's",
        ),
        ("audit --out {out} --shards {shards} --target {target} --analysis.drop 0.41", r"analysis\.drop = 0\.41"),
        ("audit --out {out} --shards {shards} --target {target} --seed many", "seed: "),
        ("audit --out {out} --config {tmp}/gone.yaml", r"configuration .*gone\.yaml"),
        ("audit --out https://example.org/run --shards {shards} --target {target}", "only local paths and s3://"),
        ("pack folder {tmp}/gone {out}", "source folder .*/gone does not exist"),
        ("pack folder {tmp}/absent.json {out}", r"source folder .*/absent\.json is a file, not a folder"),
        ("pack folder {tmp}/empty {out}", "/empty holds no images"),
        ("pack foldr {tmp}/empty {out}", "'foldr'; did you mean 'folder'"),
        ("pack emoji {tmp}/empty {out}", r"emoji\.json does not exist"),
        ("pack folder {source} {out} --split {tmp}/gone.json", r"gone\.json does not exist"),
        ("pack folder {source} {out} --split {tmp}/absent.json", "1 keys absent from .*, the first is 'bird/007'"),
        ("pack folder {source} {out} --near-duplicates 2", "near_duplicates: "),
        ("train --shards {tmp}/gone --out {out}", "shard folder .*/gone does not exist"),
        ("train --shards {tmp}/empty --out {out}", r"/empty holds no \.tar files"),
        ("train --shards {shards}", "out: must be given"),
        ("train --shards {shards} --out {out} --denoiser.channels a,b", "denoiser.channels: "),
        ("reduce {tmp}/gone", r"/gone holds no run\.json"),
        ("report {tmp}/empty", r"/empty holds no run\.json"),
        ("status {tmp}/gone", r"/gone holds no run\.json"),
        ("status {tmp}/absent.json", r"absent\.json holds no run\.json"),
    ],
)
def test_what_cannot_be_used_is_named_in_one_line_and_nothing_is_written(
    command: str, message: str, tmp_path: Path, tiny_shards: Path, tiny_target: Path, fails: Fails
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "absent.json").write_text(json.dumps({"members": ["dog/000"], "heldout": ["bird/007"]}))
    places = {"shards": tiny_shards, "target": tiny_target, "tmp": tmp_path, "out": tmp_path / "out"}
    line = command.format(**places, source=make_folder(tmp_path / "source", 3))
    if message == "expected one argument":
        with pytest.raises(SystemExit) as caught:
            main(line.split())
        assert caught.value.code == 2
    else:
        assert re.search(message, fails(*line.split()))
    assert not (tmp_path / "out").exists()
    assert list((tmp_path / "empty").iterdir()) == []


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda t: shutil.rmtree(t / "unet"), r"has no denoiser: unet/config\.json is missing"),
        (lambda t: shutil.rmtree(t / "vqvae"), r"has no autoencoder: vae/config\.json is missing"),
        (lambda t: shutil.rmtree(t / "scheduler"), r"has no scheduler: scheduler/scheduler_config\.json is missing"),
        (
            lambda t: (t / "unet/diffusion_pytorch_model.safetensors").unlink(),
            r"denoiser .*/unet has no \.safetensors file",
        ),
        (
            lambda t: (t / "vqvae/diffusion_pytorch_model.safetensors").rename(t / "vqvae/diffusion_pytorch_model.bin"),
            r"autoencoder .*/vqvae has no \.safetensors file; other weight formats are not read",
        ),
        (
            lambda t: (t / "unet/diffusion_pytorch_model.safetensors").write_bytes(b"cut short"),
            "denoiser .*/unet cannot be loaded",
        ),
        (lambda t: (t / "unet/config.json").write_text("{"), r"unet/config\.json is not a configuration"),
        (lambda t: (t / "unet/config.json").write_text("[]"), r"unet/config\.json is not a configuration"),
        (lambda t: (t / "unet/config.json").write_bytes(b"\xff\xfe"), r"config\.json is not a configuration"),
        (
            lambda t: (t / "unet/config.json").write_text('{"_class_name": "Transformer2DModel"}'),
            "unet is a Transformer2DModel of LDMPipeline; ",
        ),
        (lambda t: (t / "scheduler/scheduler_config.json").write_text("{"), "scheduler"),
        (
            lambda t: shutil.copytree(t / "vqvae", t / "unet", dirs_exist_ok=True),
            "unet is a AutoencoderKL of LDMPipeline; ",
        ),
    ],
)
def test_a_target_that_cannot_be_loaded_is_named_in_one_line(
    damage: Callable[[Path], object], message: str, tmp_path: Path, tiny_shards: Path, target: Path, fails: Fails
) -> None:
    damage(target)
    line = fails("audit", "--out", tmp_path / "out", "--shards", tiny_shards, "--target", target)
    assert re.search(message, line)
    assert not (tmp_path / "out").exists()


def test_a_malformed_manifest_stops_every_reader_of_shards(tmp_path: Path, tiny_target: Path, fails: Fails) -> None:
    (tmp_path / "shards").mkdir()
    (tmp_path / "shards/manifest.json").write_text("<html>")
    audit = fails("audit", "--out", tmp_path / "out", "--shards", tmp_path / "shards", "--target", tiny_target)
    train = fails("train", "--out", tmp_path / "out", "--shards", tmp_path / "shards")
    assert audit == train
    assert "manifest.json is not a shard manifest" in audit


def test_every_reader_of_shards_takes_patterns_and_manifests(
    tmp_path: Path, tiny_shards: Path, tiny_target: Path, fails: Fails
) -> None:
    manifest = tmp_path / "elsewhere.json"
    manifest.write_bytes((tiny_shards / "manifest.json").read_bytes())
    pattern = f"{tmp_path}/members/members-{{000000..000009}}.tar"
    audit = fails(
        "audit", "--out", tmp_path / "o", "--shards", pattern, "--manifest", manifest, "--target", tiny_target
    )
    train = fails("train", "--out", tmp_path / "o", "--shards", pattern, "--manifest", manifest)
    check = fails("validate", "--shards", pattern, "--manifest", manifest)
    assert audit == train == check
    assert audit.endswith(f"{manifest} does not name the shard {tmp_path}/members/members-000004.tar\n")


def test_training_needs_member_shards(tmp_path: Path, tiny_shards: Path, fails: Fails) -> None:
    manifest = read_manifest(Location.of(tiny_shards))
    heldout = [shard for shard in manifest.shards if shard.name.startswith("heldout/")]
    (tmp_path / "shards").mkdir()
    content = manifest.model_copy(update={"shards": tuple(heldout)}).model_dump_json()
    (tmp_path / "shards/manifest.json").write_text(content)
    assert "no members/ shards to train on" in fails(
        "train", "--out", tmp_path / "out", "--shards", tmp_path / "shards"
    )


@pytest.mark.parametrize("command", ["audit", "train", "pack"])
def test_an_out_folder_with_other_files_is_refused_and_left_alone(
    command: str, tmp_path: Path, tiny_shards: Path, tiny_target: Path, fails: Fails
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out/thesis.tex").write_text("mine")
    line = {
        "audit": ["--out", tmp_path / "out", "--shards", tiny_shards, "--target", tiny_target],
        "train": ["--out", tmp_path / "out", "--shards", tiny_shards],
        "pack": ["folder", make_folder(tmp_path / "source", 3), tmp_path / "out"],
    }[command]
    assert "out is not empty" in fails(command, *line)
    assert tree(tmp_path / "out") == {"thesis.tex": b"mine"}
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith("out")] == ["out"]


@pytest.mark.parametrize("command", ["audit", "train", "pack", "validate"])
def test_a_place_that_cannot_be_written_is_refused_before_the_work(
    command: str, tmp_path: Path, tiny_shards: Path, tiny_target: Path, fails: Fails, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = {
        "audit": ["--out", tmp_path / "out", "--shards", tiny_shards, "--target", tiny_target],
        "train": ["--out", tmp_path / "out", "--shards", tiny_shards],
        "pack": ["folder", make_folder(tmp_path / "source", 3), tmp_path / "out"],
        "validate": ["--shards", shutil.copytree(tiny_shards, tmp_path / "shards"), "--write-manifest"],
    }[command]
    (tmp_path / "shards/manifest.json").unlink(missing_ok=True)

    def fail(source: str, target: str) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(os, "replace", fail)
    before = tree(tmp_path)
    assert "Read-only file system; give a folder on another file system" in fails(command, *line)
    assert tree(tmp_path) == before


def test_an_out_folder_with_another_run_is_refused_with_the_difference_and_left_alone(
    tmp_path: Path, tiny_shards: Path, tiny_target: Path, fails: Fails
) -> None:
    make_run(tmp_path / "out")
    before = tree(tmp_path / "out")
    line = fails("audit", "--out", tmp_path / "out", "--shards", tiny_shards, "--target", tiny_target)
    assert "holds another run" in line
    assert "seed was 12345, is now 0" in line
    assert tree(tmp_path / "out") == before


def test_a_run_without_rows_or_results_is_said_to_have_none(tmp_path: Path, fails: Fails) -> None:
    run = make_run(tmp_path / "out")
    assert "results" in fails("report", run.root)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["run.json"]


@pytest.mark.parametrize("flags", [("--drop", "2"), ("--bootstrap", "few"), ("--confidence", "0")])
def test_reduce_refuses_wrong_flags_before_anything_is_started(
    flags: tuple[str, str], tmp_path: Path, fails: Fails
) -> None:
    line = fails("reduce", make_run(tmp_path / "out").root, *flags)
    assert f"{flags[0].removeprefix('--')}: " in line


def test_reduce_refuses_a_drop_share_between_two_bins(tmp_path: Path, fails: Fails) -> None:
    # The run has 20 bins.
    assert "drop = 0.41 is not a multiple of 1 / masks.bins = 0.05" in fails(
        "reduce", make_run(tmp_path / "out").root, "--drop", "0.41"
    )


FINGERPRINT = {"fingerprint": "f"}


def make_rows(*sample_ids: str) -> pa.Table:
    """A row for each sample, of a latent of four dimensions."""
    content = {
        "member": True,
        "distortion": None,
        "influence": [0.0] * 4,
        "leakage": [0.0] * 4,
        "sima": [1.0] * 20,
        "sima_random": [1.0] * 20,
    }
    schema = row_schema(4, {"sima": 1}, 20, FINGERPRINT, one_ranking=False)
    return pa.Table.from_pylist([{"sample_id": sample_id} | content for sample_id in sample_ids], schema=schema)


def test_status_says_how_far_a_run_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = make_run(tmp_path / "out")
    rows = make_rows("s/0", "s/1", "s/2")
    rejects = [{"sample_id": f"s/x{i}", "stage": "decode", "reason": f"cannot be decoded: {i}"} for i in range(2)]
    run.commit(rows, pa.Table.from_pylist(rejects, schema=REJECT.with_metadata(FINGERPRINT)))
    (run.root / "results.json").replace(b"{}")
    assert main(["status", str(tmp_path / "out")]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    lines = captured.out.splitlines()
    assert lines[0] == f"{tmp_path / 'out'}: 5 of 9 samples done, 4 left (5 members are expected)"
    (part,) = run.parts()
    changed = datetime.fromtimestamp(os.stat(part.uri).st_mtime, UTC)
    assert [line.strip() for line in lines[1:]] == [
        f"last rows: {changed:%Y-%m-%d %H:%M:%S} UTC",
        "rejected 2: decode: cannot be decoded",
        "results.json: written",
        "report.html: not yet",
    ]


def test_status_as_json_is_one_object_and_its_lines_go_elsewhere(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_run(tmp_path / "out")
    run.commit(make_rows("s/0", "s/1", "s/2"), REJECT.empty_table())
    assert main(["status", "--json", str(tmp_path / "out")]) == 0
    captured = capsys.readouterr()
    found = json.loads(captured.out)
    assert found["run"] == str(tmp_path / "out")
    assert (found["samples"], found["members"], found["rows"], found["left"]) == (9, 5, 3, 6)
    assert (found["rejects"], found["written"], found["ended"]) == ({}, [], None)
    assert captured.err.startswith(f"{tmp_path / 'out'}: 3 of 9 samples done")


def test_status_says_how_long_the_rest_takes_at_the_pace_so_far(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_run(tmp_path / "out")
    for second, names in ((100, ("s/0",)), (104, ("s/1", "s/2"))):
        before = set(run.parts())
        run.commit(make_rows(*names), REJECT.empty_table())
        (part,) = set(run.parts()) - before
        os.utime(part.uri, (second, second))
    assert main(["status", str(tmp_path / "out")]) == 0
    assert capsys.readouterr().out.splitlines()[1:3] == [
        "  last rows: 1970-01-01 00:01:44 UTC",
        "  pace of the last job: 0.5 samples/s, 12 s for what is left",
    ]


def test_status_reads_a_run_on_s3_without_ray(tmp_path: Path, bucket: str) -> None:
    run = RunDirectory(Location.of(bucket) / "run")
    run.begin(make_run(tmp_path / "local").read_record())
    run.commit(make_rows("s/0", "s/1"), REJECT.empty_table())
    owner = Owner(host="node-7", pid=12, since="2026-01-02 03:04:05+00:00")
    (run.root / "owners/000001.json").create(owner.model_dump_json().encode())
    code = "import sys; from ldm_scale.cli import main; main(['status', sys.argv[1]]); print('ray' in sys.modules)"
    command = [sys.executable, "-c", code, run.root.uri]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    assert lines[0] == f"{run.root}: 2 of 9 samples done, 7 left (5 members are expected)"
    assert lines[-2].startswith("  last job: node-7, process 12, since 2026-01-02")
    assert lines[-1] == "False"


def test_a_malformed_owner_is_named_in_one_line(tmp_path: Path, fails: Fails) -> None:
    run = make_run(tmp_path / "out")
    (run.root / "owners/000001.json").replace(b"{}")
    assert re.search(r"owners/000001\.json is not the record of a job: ", fails("status", run.root))


def test_status_names_the_last_job_and_whether_it_ended(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = make_run(tmp_path / "out")
    for ended, words in ((False, "running, or dead without a word"), (True, "ended")):
        owner = Owner(host="node-7", pid=12, since="2026-01-02 03:04:05+00:00", ended=ended)
        (run.root / f"owners/00000{1 + ended}.json").replace(owner.model_dump_json().encode())
        assert main(["status", str(tmp_path / "out")]) == 0
        last = capsys.readouterr().out.splitlines()[-1]
        assert last == f"  last job: node-7, process 12, since 2026-01-02 03:04:05+00:00; {words}"


def test_status_of_a_run_whose_samples_cannot_be_read_is_no_number(fails: Fails) -> None:
    with open_to_all() as folder:
        make_run(folder / "out")
        assert main(["status", str(folder / "out")]) == 0  # loads what the other user may not
        (folder / "out/samples").mkdir(mode=0)
        with as_another_user():
            assert f"'{folder}/out/samples'" in fails("status", folder / "out", status=1)
        (folder / "out/samples").rmdir()
        (folder / "out/samples").symlink_to(folder / "unmounted")
        assert f"{folder}/out/samples is a link that leads nowhere" in fails("status", folder / "out", status=1)


def test_status_counts_a_row_that_was_written_twice_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = make_run(tmp_path / "out")
    rows = make_rows("s/0")
    for _ in range(2):
        run.commit(rows, REJECT.empty_table())
    main(["status", str(tmp_path / "out")])
    assert ": 1 of 9 samples done" in capsys.readouterr().out


def test_status_names_a_foreign_file_among_the_owners(tmp_path: Path, fails: Fails) -> None:
    run = make_run(tmp_path / "out")
    (run.root / "owners/readme.json").create(b"{}")
    assert f"{tmp_path}/out/owners/readme.json is not the record of a job" in fails("status", run.root)


def test_the_name_of_an_owners_host_steers_no_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = make_run(tmp_path / "out")
    owner = Owner(host="\x1b]0;gone\x07\x1b[2J\u202eevil", pid=12, since="now\x1b[31m")
    (run.root / "owners/000001.json").create(owner.model_dump_json().encode())
    assert main(["status", str(run.root)]) == 0
    printed = capsys.readouterr().out
    assert "\\x1b]0;gone\\x07\\x1b[2J\\u202eevil, process 12, since now\\x1b[31m" in printed
    assert printed.replace("\n", "").isprintable()


@pytest.mark.parametrize("command", ["status", "reduce", "report"])
@pytest.mark.parametrize("size", [0, 1, 300])
def test_a_truncated_record_is_named(command: str, size: int, tmp_path: Path, fails: Fails) -> None:
    run = make_run(tmp_path / "out")
    os.truncate((run.root / "run.json").uri, size)
    assert "out/run.json is not a run record" in fails(command, run.root)


def test_a_record_that_is_too_long_is_not_read(tmp_path: Path, fails: Fails) -> None:
    run = make_run(tmp_path / "out")
    os.truncate((run.root / "run.json").uri, 1 << 40)
    assert "out/run.json has 1099511627776 bytes" in fails("status", run.root)


def test_a_run_that_cannot_be_written_to_is_only_read(
    fails: Fails, inline: None, capsys: pytest.CaptureFixture[str]
) -> None:
    with open_to_all() as folder:
        run = made_up.make_run(Location.of(folder / "out"))
        assert main(["reduce", str(run.root)]) == 0
        before = tree(folder)
        with as_another_user():
            capsys.readouterr()
            for command in ("reduce", "report"):
                assert f"{run.root} cannot be written" in fails(command, run.root)
            assert main(["status", str(run.root)]) == 0
        assert tree(folder) == before


def test_the_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["--version"])
    assert caught.value.code == 0
    assert capsys.readouterr().out.strip() == f"ldm-scale {version('ldm_scale')}"


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_every_command_has_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main([*command.split(), "--help"])
    assert caught.value.code == 0
    captured = capsys.readouterr()
    assert captured.out.startswith(f"usage: ldm-scale {command}".strip())
    assert captured.err == ""
    if not command:
        assert all(name in captured.out for name in COMMANDS)


def test_an_error_that_nobody_foresaw_is_one_line_and_its_traceback_is_kept(
    tmp_path: Path, fails: Fails, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_run(tmp_path / "out")
    (tmp_path / "temp").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temp"))

    def fail(run: RunDirectory) -> None:
        raise ZeroDivisionError("of nothing\nmore of it")

    monkeypatch.setattr(RunDirectory, "progress", fail)
    line = fails("status", tmp_path / "out", status=1)
    assert "status failed" in line
    assert "ZeroDivisionError in ldm_scale.cli._status" in line
    assert "of nothing" in line
    assert "more of it" not in line
    (kept,) = (tmp_path / "temp").iterdir()
    assert line.endswith(f"{kept}\n")
    assert kept.stat().st_mode & 0o777 == 0o600
    assert kept.read_text().startswith("Traceback")
    assert "ZeroDivisionError: of nothing\nmore of it" in kept.read_text()


def test_the_file_at_hand_is_named_if_an_error_was_not_foreseen(
    tmp_path: Path, fails: Fails, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_run(tmp_path / "out")

    def fail(location: Location, most: int | None = None) -> bytes:
        raise UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte")

    monkeypatch.setattr(Location, "read_bytes", fail)
    assert f" at {tmp_path}/out/run.json: 'utf-8' codec" in fails("status", tmp_path / "out", status=1)


def test_a_traceback_that_cannot_be_kept_is_no_second_error(
    tmp_path: Path, fails: Fails, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_run(tmp_path / "out")
    monkeypatch.setattr(RunDirectory, "progress", lambda run: 1 / 0)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "gone"))
    assert "could not be kept" in fails("status", tmp_path / "out", status=1)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), RunError("said"), OSError(28, "full", "x")])
def test_what_is_foreseen_leaves_no_traceback(
    error: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    make_run(tmp_path / "out")
    (tmp_path / "temp").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temp"))

    def fail(run: RunDirectory) -> None:
        raise error

    monkeypatch.setattr(RunDirectory, "progress", fail)
    assert main(["status", str(tmp_path / "out")]) == (130 if isinstance(error, KeyboardInterrupt) else 1)
    assert not list((tmp_path / "temp").iterdir())
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize("argv", [[], ["adit"], ["audit", "--sed", "3", "--no-such-flag", "4"], ["status"]])
def test_a_wrong_command_or_flag_has_status_two(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(argv)
    assert caught.value.code == 2
    assert ": error: " in capsys.readouterr().err.splitlines()[-1]


def test_a_run_that_failed_has_status_one(monkeypatch: pytest.MonkeyPatch, fails: Fails) -> None:
    def fail(path: str) -> None:
        raise RunError("shard x is gone")

    monkeypatch.setattr(cli, "_open_run", fail)
    assert fails("status", "run", status=1) == "ldm-scale: error: shard x is gone\n"


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupt_says_how_to_go_on(
    number: signal.Signals, status: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # Ray Train leaves a handler of its own behind in a process that trained.
    monkeypatch.setattr(cli, "_open_run", lambda path: signal.raise_signal(number))
    earlier = signal.signal(signal.SIGINT, signal.default_int_handler)
    before = signal.getsignal(signal.SIGTERM)
    assert main(["status", "run"]) == status
    assert "the same command again goes on" in capsys.readouterr().err
    assert signal.getsignal(signal.SIGTERM) is before
    signal.signal(signal.SIGINT, earlier)


def test_a_job_is_a_recipe_under_the_flags_of_audit(
    tmp_path: Path, tiny_shards: Path, tiny_target: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = {"out": str(tmp_path / "out"), "shards": "gone", "target": str(tiny_target), "attacks": {"simo": {}}}
    assert run_job("A job.", recipe, []) == 2
    assert "unknown attack 'simo'; did you mean 'sima'?\n" in capsys.readouterr().err
    assert run_job("A job.", recipe, ["--attacks", "sima"]) == 2
    assert "gone does not exist" in capsys.readouterr().err
    flags = ["--attacks", "sima", "--shards", str(tiny_shards), "--masks.bins", "5000"]
    assert run_job("A job.", recipe, flags) == 2
    assert "masks.bins = 5000 is more than the latent's" in capsys.readouterr().err


def test_training_is_checked_before_it_starts_ray(
    tmp_path: Path, tiny_shards: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["train", "--preset", "lora", "--out", str(tmp_path / "out"), "--shards"]
    assert main([*command, "gone"]) == 2
    assert "preset lora: give base\n" in capsys.readouterr().err
    assert main([*command, "gone", "--base", "nowhere"]) == 2
    assert "gone does not exist" in capsys.readouterr().err
    assert main([*command, str(tiny_shards), "--base", "nowhere"]) == 2
    assert "nowhere does not exist; give a local path" in capsys.readouterr().err


def test_a_job_with_a_stray_option_names_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_job("A job.", {"out": "o", "atacks": {}}, []) == 2
    assert "unknown option 'atacks'; did you mean 'attacks'?" in capsys.readouterr().err


def test_the_command_line_starts_without_ray() -> None:
    code = "import sys; from ldm_scale.cli import make_parser; make_parser(); print('ray' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"

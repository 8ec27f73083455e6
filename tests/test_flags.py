"""Flags: one for each option, and which of recipe, file, environment and flag wins."""

import argparse
import runpy
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import shtab

from ldm_scale.attacks.registry import make_attack, resolve_options
from ldm_scale.cli import SHELLS, main, make_parser
from ldm_scale.config.audit import AnalysisConfig, AuditConfig
from ldm_scale.config.base import build
from ldm_scale.config.data import DATASETS, PackConfig, ValidateConfig
from ldm_scale.config.published import PUBLISHED
from ldm_scale.config.train import TrainConfig
from ldm_scale.data.sources import SOURCES
from ldm_scale.errors import UsageError
from ldm_scale.files.storage import Location
from ldm_scale.flags import ENVIRONMENT, add_attack_flags, collect

ROOT = Path(__file__).parents[1]

ATTACKS = "{epsilon,loss,pfami,pfami_published,pia,pian,secmi,sima,sima_mc}"
ROOT_FOLDER = Path(__file__).parents[1]
FLAGS = {
    "audit": """
        --analysis.average --analysis.bootstrap --analysis.confidence --analysis.drop --analysis.repeats --attacks
        --attacks.epsilon.p --attacks.epsilon.timesteps --attacks.loss.p --attacks.loss.timesteps
        --attacks.pfami.crops --attacks.pfami.p --attacks.pfami.timesteps --attacks.pfami-published.crops
        --attacks.pfami-published.p --attacks.pfami-published.timesteps --attacks.pia.p --attacks.pia.timesteps
        --attacks.pian.p --attacks.pian.timesteps --attacks.secmi.p --attacks.secmi.step --attacks.secmi.timesteps
        --attacks.sima.p --attacks.sima.timesteps --attacks.sima-mc.draws --attacks.sima-mc.p
        --attacks.sima-mc.timesteps --captions --compute.actors --compute.batch-size --compute.channels-last
        --compute.compile --compute.cpus-per-actor --compute.cpus-per-decoder --compute.cpus-per-reader
        --compute.device --compute.evaluations --compute.gpus --compute.gpus-per-actor --compute.initial-actors
        --compute.rows-per-part --conditioning --config --dry-run --geometry.calibration --geometry.distortion
        --geometry.distortion-share --geometry.influence --geometry.latent --geometry.memory --geometry.precision
        --geometry.probes --geometry.rank --gpus --hardware.bandwidth --hardware.flops --hardware.gpus
        --hardware.memory --help --images.crop --images.filter --images.max-pixels --images.size --json --latent
        --leakage.attack --leakage.timestep --limit
        --lora --lora-scale --manifest --masks.bins --masks.ranking --max-reject-fraction --out --precision
        --reference --retry-rejects --seed --shards --split --target -h
    """,
    "benchmark audit": """
        --batch-size --config --device --help --precision --published --repeats --samples --seed --target -h
    """,
    "benchmark device": "--batches --config --device --help --json --numbers --repeats --targets -h",
    "benchmark evidence": "--config --draws --halvings --help --run --samples --seed --sides --targets -h",
    "benchmark influence": """
        --batch-size --calibration --config --device --help --memory --repeats --samples --seed --shards --target -h
    """,
    "benchmark reduce": """
        --analysis.average --analysis.bootstrap --analysis.confidence --analysis.drop --analysis.repeats --attacks
        --bins --config --dimensions --help --out --ranking --rows --rows-per-part --seed --timesteps -h
    """,
    "benchmark scale": "--batch-seconds --batch-size --batches --config --fake-gpus --help --rows-per-part -h",
    "benchmark sd": """
        --channels-last --compile --config --device --help --precision --probes --repeats --samples --timesteps -h
    """,
    "benchmark stream": """
        --batch-size --config --few --help --rows-per-part --s3 --samples --shards --side --size -h
    """,
    "benchmark train": "--config --cpus --device --help --presets --repeats --seed --steps -h",
    "completion": "--help -h SHELL",
    "convert": "--autoencoder --config --help --out --size --unet -h",
    "own": "--attacks --conditioning --device --heldout --help --out --reference --seed --suspect -h TARGET",
    "pack": """
        --caption-column --heldout --heldout-folder --help --image-column --label-column --max-pixels
        --max-reject-fraction --max-samples --members --members-only --near-duplicates --order --seed
        --shard-samples --size --split -h DATASET OUT SOURCE
    """,
    "train": """
        --autoencoder.accumulate --autoencoder.batch --autoencoder.channels --autoencoder.clip --autoencoder.decay
        --autoencoder.dropout --autoencoder.epochs --autoencoder.kind --autoencoder.kl-weight --autoencoder.layers
        --autoencoder.pretrained --autoencoder.rate --autoencoder.scaled --autoencoder.warmup --autoencoder.weight-decay
        --audit-every --base --captions --checkpoint-seconds --config --cpus --denoiser.accumulate --denoiser.attention
        --denoiser.batch --denoiser.betas --denoiser.channels --denoiser.classes --denoiser.clip --denoiser.decay
        --denoiser.dropout
        --denoiser.ema --denoiser.epochs --denoiser.kind --denoiser.latent --denoiser.layers --denoiser.rate
        --denoiser.warmup --denoiser.weight-decay --device --dry-run --failures --flip --half --hardware.bandwidth
        --hardware.flops --hardware.gpus --hardware.memory --help --images.crop --images.filter --images.max-pixels
        --images.size --lora-rank --manifest --out --precision --preset --seed --shards --size --workers -h
    """,
    "validate": """
        --config --decode-share --help --images.crop --images.filter --images.max-pixels --images.size --json --lora
        --manifest --seed --shards --split --target --write-manifest -h
    """,
    "compare": "--average --bootstrap --confidence --drop --help --out --repeats -h RUN",
    "reduce": "--average --bootstrap --confidence --drop --help --partial --repeats -h RUN",
    "report": "--files --help --track -h RUN",
    "status": "--help --json -h RUN",
    "list": "--help -h WHAT",
}


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ENVIRONMENT.values():
        monkeypatch.delenv(name, raising=False)


def commands(parser: argparse.ArgumentParser | None = None, prefix: str = "") -> dict[str, argparse.ArgumentParser]:
    """The parsers that take no further word, by their words."""
    parser = parser or make_parser()
    found = [action.choices for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    if not found:
        return {prefix.strip(): parser}
    nested = [commands(child, f"{prefix} {name}") for name, child in found[0].items()]
    return {name: child for some in nested for name, child in some.items()}


def flags_of(parser: argparse.ArgumentParser) -> list[str]:
    return sorted(name for action in parser._actions for name in action.option_strings or [str(action.metavar)])


def values(*flags: str, recipe: dict[str, Any] | None = None) -> dict[str, Any]:
    return collect(make_parser().parse_args(["audit", *flags]), AuditConfig, recipe or {})


def write(folder: Path, text: str) -> str:
    path = folder / "audit.yaml"
    path.write_text(text)
    return str(path)


def test_the_commands_are_frozen() -> None:
    assert sorted(commands()) == sorted(FLAGS)


@pytest.mark.parametrize("command", FLAGS)
def test_the_flags_of_every_command_are_frozen(command: str) -> None:
    assert flags_of(commands()[command]) == sorted(FLAGS[command].split())


def test_nothing_given_gives_nothing() -> None:
    assert values() == {}


def test_flags_are_nested_by_their_dots() -> None:
    given = values("--seed", "3", "--images.size", "64", "--images.max-pixels", "9", "--compute.batch-size", "2")
    assert given == {"seed": "3", "images": {"size": "64", "max_pixels": "9"}, "compute": {"batch_size": "2"}}
    config = build(AuditConfig, given | {"out": "o"})
    assert (config.seed, config.images.size, config.compute.batch_size) == (3, 64, 2)


def test_a_shorter_name_is_the_same_option() -> None:
    assert values("--gpus", "0..64") == values("--compute.gpus", "0..64") == {"compute": {"gpus": "0..64"}}


def test_each_of_recipe_file_environment_and_flag_wins_over_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = {"out": "recipe", "shards": "recipe", "target": "recipe", "seed": 1, "latent": "sample"}
    assert values(recipe=recipe) == recipe
    file = write(tmp_path, "shards: file\ntarget: file\nseed: 2\n")
    assert values("--config", file, recipe=recipe) == recipe | {"shards": "file", "target": "file", "seed": 2}
    monkeypatch.setenv("LDM_SCALE_TARGET", "environment")
    monkeypatch.setenv("LDM_SCALE_OUT", "environment")
    monkeypatch.setenv("LDM_SCALE_SHARDS", "")  # set and empty is as good as not set
    expected = {"out": "environment", "shards": "file", "target": "environment", "seed": 2, "latent": "sample"}
    assert values("--config", file, recipe=recipe) == expected
    flags = ("--target", "flag", "--seed", "3")
    assert values("--config", file, *flags, recipe=recipe) == expected | {"target": "flag", "seed": "3"}


@pytest.mark.parametrize("attacks", ["", "5", "[[sima]]", "[{sima: {}}]"])
def test_attacks_that_are_none_are_named_with_options_of_one_as_well(tmp_path: Path, attacks: str) -> None:
    file = write(tmp_path, f"out: o\nattacks: {attacks}\n")
    for flags in ((), ("--attacks.sima.timesteps", "0")):
        with pytest.raises(UsageError, match=r"^attacks: "):
            build(AuditConfig, values("--config", file, *flags))


def test_a_bare_flag_is_yes() -> None:
    for flags, expected in (((), False), (("--write-manifest",), True), (("--write-manifest", "false"), False)):
        arguments = make_parser().parse_args(["validate", "--shards", "s", *flags])
        assert build(ValidateConfig, collect(arguments, ValidateConfig, {})).write_manifest is expected


def test_a_configuration_file_may_lie_on_s3(bucket: str) -> None:
    (Location.of(bucket) / "audit.yaml").create(b"seed: 7\nout: o\n")
    assert values("--config", f"{bucket}/audit.yaml", "--out", "flag") == {"seed": 7, "out": "flag"}
    with pytest.raises(UsageError, match=rf"^configuration {bucket}/none\.yaml: "):
        values("--config", f"{bucket}/none.yaml")


def test_sections_are_merged_option_by_option(tmp_path: Path) -> None:
    recipe = {"geometry": {"influence": "exact", "probes": 4, "memory": "1GiB"}}
    file = write(tmp_path, "geometry: {probes: 8, distortion: 'off'}")
    assert values("--config", file, "--geometry.probes", "9", recipe=recipe) == {
        "geometry": {"influence": "exact", "probes": "9", "memory": "1GiB", "distortion": "off"}
    }
    assert recipe == {"geometry": {"influence": "exact", "probes": 4, "memory": "1GiB"}}


def test_attack_options_are_laid_over_the_attacks_of_recipe_and_file(tmp_path: Path) -> None:
    flags = ("--attacks.sima.timesteps", "0:20:10")
    assert values(*flags) == {"attacks": {"sima": {"timesteps": "0:20:10"}}}
    recipe = {"attacks": {"sima": {"timesteps": "0", "p": 2}, "loss": {}}}
    assert values(*flags, recipe=recipe) == {"attacks": {"sima": {"timesteps": "0:20:10", "p": 2}, "loss": {}}}
    file = write(tmp_path, "attacks: {sima: {p: 3}}")
    assert values("--config", file, *flags) == {"attacks": {"sima": {"timesteps": "0:20:10", "p": 3}}}


@pytest.mark.parametrize("attacks", ["sima, loss", "[sima, loss]", "{sima: {}, loss: {}}", "{sima: , loss: }"])
def test_attack_options_join_attacks_named_in_any_form(tmp_path: Path, attacks: str) -> None:
    file = write(tmp_path, f"attacks: {attacks}")
    given = values("--config", file, "--attacks.sima.p", "2")
    assert list(given["attacks"]) == ["sima", "loss"]
    assert given["attacks"]["sima"] == {"p": "2"}


def test_attacks_named_by_a_flag_replace_those_of_the_recipe_with_their_options() -> None:
    recipe = {"attacks": {"sima": {"p": 2}, "loss": {}}}
    assert values("--attacks", "sima", recipe=recipe) == {"attacks": {"sima": {}}}
    assert values("--attacks", "pia, sima", "--attacks.sima.p", "3", recipe=recipe) == {
        "attacks": {"pia": {}, "sima": {"p": "3"}}
    }


@pytest.mark.parametrize("name", PUBLISHED)
@pytest.mark.parametrize("published", [False, True])
def test_the_command_of_a_configuration_makes_it_again(name: str, published: bool) -> None:
    job = runpy.run_path(str(ROOT / f"jobs/{name}.py"))
    recipe = PUBLISHED[name].recipe if published else job["RECIPE"]
    more = {"seed": -3, "analysis": {"average": "", "confidence": 1 / 3}, "images": {"max_pixels": 7}, "limit": 40}
    wanted = build(AuditConfig, {"out": "a b", "shards": "s3://b/s", "target": "t", **recipe, **more})
    program, command, *words = shlex.split(wanted.command())
    assert (program, command) == ("ldm-scale", "audit")
    found = build(AuditConfig, values(*words))
    resolved = [
        {name: resolve_options(make_attack(name, options)) for name, options in config.attacks.items()}
        for config in (found, wanted)
    ]
    assert resolved[0] == resolved[1]
    assert found.model_copy(update={"attacks": {}, "compute": wanted.compute}) == wanted.model_copy(
        update={"attacks": {}}
    )


def test_options_of_an_attack_that_is_not_run_are_refused() -> None:
    with pytest.raises(UsageError, match=r"^--attacks\.sima: that attack is not run; add it to --attacks$"):
        values("--attacks", "loss", "--attacks.sima.p", "3")


def test_a_stray_option_of_a_file_or_recipe_is_answered_with_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"^unknown option 'shrads'; did you mean 'shards'"):
        values("--config", write(tmp_path, "shrads: x"))
    with pytest.raises(UsageError, match=r"^unknown option 'geometri'; did you mean 'geometry'"):
        values(recipe={"geometri": {}})


@pytest.mark.parametrize("key", ["1", "true", "null", "2020-01-01"])
def test_keys_that_are_no_text_are_unknown_options_too(tmp_path: Path, key: str) -> None:
    with pytest.raises(UsageError):
        build(AuditConfig, values("--config", write(tmp_path, f"out: o\n{key}: x")))


def test_the_environment_is_for_audits_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LDM_SCALE_OUT", "environment")
    monkeypatch.setenv("LDM_SCALE_SHARDS", "environment")
    arguments = make_parser().parse_args(["train", "--out", "o"])
    assert collect(arguments, TrainConfig, {}) == {"out": "o"}


def test_positional_arguments_and_recorded_values_are_collected() -> None:
    arguments = make_parser().parse_args(["pack", "folder", "in", "out", "--max-samples", "9"])
    assert collect(arguments, PackConfig, {}) == {
        "dataset": "folder",
        "source": "in",
        "out": "out",
        "max_samples": "9",
    }
    arguments = make_parser().parse_args(["reduce", "run", "--drop", "0.2"])
    recorded = {"drop": 0.4, "bootstrap": 7, "confidence": 0.9}
    assert collect(arguments, AnalysisConfig, recorded) == recorded | {"drop": "0.2"}


def help_of(command: str) -> dict[str, tuple[str, str]]:
    """What is shown after each flag of a command, and its text."""
    return {
        flag: (str(action.metavar), str(action.help))
        for action in commands()[command]._actions
        for flag in action.option_strings
    }


@pytest.mark.parametrize(
    ("command", "flag", "metavar", "default"),
    [
        ("audit", "--latent", "{mode,sample}", "[mode]"),
        ("audit", "--conditioning", "{sample,none,INT}", "[sample]"),
        ("audit", "--attacks", ATTACKS, "[sima]"),
        ("audit", "--analysis.average", ATTACKS, "[pfami,pfami_published]"),
        ("audit", "--masks.ranking", "{calibration,PATH}", ""),
        ("audit", "--geometry.memory", "SIZE", ""),
        ("audit", "--geometry.distortion-share", "FLOAT", "[1]"),
        ("audit", "--gpus", "SPAN", ""),
        ("audit", "--retry-rejects", "{true,false}", "[false]"),
        ("audit", "--out", "PATH", ""),
        ("audit", "--attacks.sima.timesteps", "INTS", "[0:300:10]"),
        ("audit", "--attacks.pfami.p", "FLOAT", "[2]"),
        ("audit", "--attacks.secmi.step", "INT", "[10]"),
        (
            "train",
            "--preset",
            "{demo,cifar10,celeba,imagenet,finetune,lora,cifar10-small,celeba-small,imagenet-small}",
            "[demo]",
        ),
        ("train", "--denoiser.channels", "INTS", "[64,128,128]"),
        # Of the preset that is taken if none is given.
        ("train", "--denoiser.latent", "{mode,sample}", "[sample]"),
        ("train", "--autoencoder.kl-weight", "FLOAT", "[0.01]"),
        ("pack", "--members", "NAMES", ""),
        ("pack", "--image-column", "TEXT", "[image]"),
        ("reduce", "--average", ATTACKS, "[pfami,pfami_published]"),
    ],
)
def test_help_shows_what_an_option_takes_and_its_default(command: str, flag: str, metavar: str, default: str) -> None:
    shown, text = help_of(command)[flag]
    assert shown == metavar
    assert text.endswith(default)
    assert text.endswith("]") == bool(default)


def test_every_source_is_offered() -> None:
    assert sorted(DATASETS) == sorted(SOURCES)


@pytest.mark.parametrize("command", FLAGS)
def test_every_option_has_a_line_of_help(command: str) -> None:
    assert all(text.strip().partition("[")[0] for _, text in help_of(command).values())
    assert commands()[command].format_help()


def test_help_shows_the_defaults_of_a_recipe() -> None:
    parser = argparse.ArgumentParser()
    add_attack_flags(parser, {"sima": {"timesteps": "0:9:3"}, "loss": None})
    shown = {action.dest: str(action.help) for action in parser._actions}
    assert shown["attacks.sima.timesteps"].endswith("[0:9:3]")
    assert shown["attacks.loss.timesteps"].endswith("[0:300:10]")


@pytest.mark.parametrize("flag", ["--latent", "--conditioning", "--compute.device"])
def test_a_value_that_is_no_choice_is_for_the_configuration_to_refuse(flag: str) -> None:
    given = values(flag, "no-such", "--out", "o")
    with pytest.raises(UsageError, match=rf"^{flag[2:]}"):
        build(AuditConfig, given)


def complete(*words: str) -> list[str]:
    """What bash offers for the last word of a line."""
    lines = (
        'eval "$1"; shift',
        'COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1))',
        "_shtab_ldm_scale",
        'printf "%s\\n" "${COMPREPLY[@]}"',
    )
    script = shtab.complete(make_parser(), "bash")
    command = ["bash", "-c", "\n".join(lines), "bash", script, "ldm-scale", *words]
    done = subprocess.run(command, cwd=ROOT_FOLDER, capture_output=True, text=True, check=True, timeout=60)
    return done.stdout.split()


@pytest.mark.skipif(not shutil.which("bash"), reason="there is no bash")
@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("au", "audit"),
        ("benchmark str", "stream"),
        ("audit --compute.dev", "--compute.device"),
        ("audit --compute.device c", "cpu cuda"),
        ("audit --attacks si", "sima sima_mc"),
        ("audit --config pypro", "pyproject.toml"),
        ("status pypro", "pyproject.toml"),
        ("pack fol", "folder"),
        ("pack folder pypro", "pyproject.toml"),
        ("completion z", "zsh"),
    ],
)
def test_bash_completes_commands_options_choices_and_files(line: str, expected: str) -> None:
    assert complete(*line.split()) == expected.split()


@pytest.mark.parametrize("shell", SHELLS)
def test_a_script_is_printed_for_each_shell(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", shell]) == 0
    script = capsys.readouterr().out
    assert "compute.device" in script
    if found := shutil.which(shell):
        subprocess.run([found, "-n"], input=script, text=True, check=True, timeout=60)

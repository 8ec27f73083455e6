"""The command `ldm-scale`, and the entry point of every job file."""

import argparse
import json
import os
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from importlib.metadata import version
from textwrap import fill
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, get_args

from ldm_scale.attacks.installed import known_attacks, load_attack
from ldm_scale.benchmarks.options import PARTS, BenchmarkConfig
from ldm_scale.config.audit import AnalysisConfig, AuditConfig, DryRunConfig, GeometryConfig, ReduceConfig, dropped_bins
from ldm_scale.config.base import Config, build
from ldm_scale.config.convert import ConvertConfig
from ldm_scale.config.data import PackConfig, ValidateConfig
from ldm_scale.config.installed import ATTACKS, ESTIMATORS, INFLUENCES, installed, whose
from ldm_scale.config.own import OwnConfig
from ldm_scale.config.presets import PRESETS
from ldm_scale.config.published import PUBLISHED, Procedure
from ldm_scale.config.reproduce import ReproduceConfig
from ldm_scale.config.train import TrainConfig
from ldm_scale.errors import GOES_ON, RunError, UnforeseenError, UsageError
from ldm_scale.flags import (
    FILES,
    ROOT,
    add_attack_flags,
    add_flags,
    at_root,
    collect,
    given_flags,
    names_attack_options,
)
from ldm_scale.terminal import Parser, answering, libraries_escaped, say

# What a command does is imported when it is run, so that --help needs no S3, torch or Ray.
if TYPE_CHECKING:
    from ldm_scale.analysis.comparison import Comparison
    from ldm_scale.analysis.results import Results
    from ldm_scale.analysis.suspects import Suspects
    from ldm_scale.files.rundir import RunDirectory
    from ldm_scale.files.storage import Location

SHELLS = ("bash", "zsh", "tcsh")
TRACKERS = ("mlflow", "tensorboard", "wandb")
COMPLETION = (
    "bash reads it from ~/.local/share/bash-completion/completions/ldm-scale, zsh from _ldm-scale in a folder of its "
    "fpath, tcsh by a line `source FILE` in ~/.tcshrc"
)
WHERE = f"""
What is audited must be given: by --shards, --target and --out; or by LDM_SCALE_SHARDS, LDM_SCALE_TARGET and
LDM_SCALE_OUT; or by {ROOT}, a folder or s3:// address that has shards/{{dataset}} and targets/{{dataset}}; the run
is then runs/{{dataset}} below it."""

PUBLISHED_AS = "By the recipe of the paper's authors, as the defaults below say. What departs from their scripts:"
PRESET = "default: this job's own recipe; published: the paper's authors', with what departs from it in the report"


def _open_run(path: str) -> "RunDirectory":
    from ldm_scale.files.rundir import RunDirectory
    from ldm_scale.files.storage import Location

    run = RunDirectory(Location.of(path))
    run.read_record()
    return run


def _print_outcome(run: "RunDirectory") -> None:
    from ldm_scale.report.table import print_results

    print_results(run)
    say(f"report: {run.root / 'report.html'}")


def _print_found(found: "Results | Suspects", out: str) -> None:
    from ldm_scale.analysis.suspects import Suspects
    from ldm_scale.report.suspects import print_suspects

    if isinstance(found, Suspects):
        print_suspects(found)
        say(f"report: {out.rstrip('/')}/report.html")
    else:
        _print_outcome(_open_run(out))


def _audit(config: AuditConfig, trial: DryRunConfig, procedure: Procedure | None, as_json: bool) -> None:
    with answering(as_json) as answer:
        if trial.dry_run:
            from ldm_scale.costs.dry_run import estimate_audit

            lines = []
            for line in estimate_audit(config, trial.hardware, procedure):
                say(line)
                lines.append(line)
            answer({"lines": lines})
            return
        from ldm_scale.inputs import check_inputs

        inputs = check_inputs(config, procedure=procedure)
        # Ray takes seconds, which whoever gave a wrong option need not wait for.
        from ldm_scale.engine.suspects import audit_samples

        found = audit_samples(inputs)
        _print_found(found, config.out)
        # By pydantic, which writes null for a number that there is none of.
        answer(json.loads(found.model_dump_json()))


def _pack(config: PackConfig) -> None:
    from ldm_scale.data.classes import describe_table
    from ldm_scale.data.counts import describe
    from ldm_scale.engine.pack import run_pack
    from ldm_scale.files.storage import Location

    manifest = run_pack(config)
    say(f"{config.out}: {manifest.samples} samples in {len(manifest.shards)} shards; {manifest.split}")
    classes = [f"  class names: {describe_table(manifest.classes)}"] if manifest.classes else []
    for line in (*classes, *describe(Location.of(config.out))):
        say(line)


def _own(config: OwnConfig) -> None:
    from ldm_scale.engine.own import run_own

    _print_found(run_own(config), config.audit().out)


def _validate(arguments: argparse.Namespace) -> None:
    from ldm_scale.engine.validate import run_validation

    config = build(ValidateConfig, collect(arguments, ValidateConfig))
    with answering(arguments.json) as answer:
        found = run_validation(config)
        for line in (*found.facts, *(f"problem: {problem}" for problem in found.problems)):
            say(line)
        answer({"facts": found.facts, "problems": found.problems})
        if found.problems:
            raise RunError(f"{len(found.problems)} problems were found")
        say("no problem was found")


def _train(arguments: argparse.Namespace) -> None:
    trial = build(DryRunConfig, given_flags(arguments, DryRunConfig))
    # What is only estimated needs no shards, and leaves nothing.
    absent = {"shards": "", "out": ""} if trial.dry_run else {}
    config = build(TrainConfig, absent | collect(arguments, TrainConfig))
    if trial.dry_run:
        from ldm_scale.costs.training import estimate_training

        for line in estimate_training(config, trial.hardware):
            say(line)
        return
    from ldm_scale.engine.train import run_training

    run_training(config)
    say(f"target: {config.out}")
    if config.audit_every is not None:
        from ldm_scale.engine.curve import audit_curve
        from ldm_scale.files.storage import Location
        from ldm_scale.notebook.compare import compare

        _print_comparison(compare(audit_curve(config)), Location.of(config.curve))


def _convert(config: ConvertConfig) -> None:
    from ldm_scale.training.convert import convert

    say(f"target: {config.out}: {convert(config)}")


def _benchmark_part(part: str, config: Config) -> None:
    from ldm_scale.benchmarks.suite import run_part

    run_part(part, config)


def _benchmark_suite(config: BenchmarkConfig) -> None:
    from ldm_scale.benchmarks.lines import encode, show
    from ldm_scale.benchmarks.machine import describe_machine, describe_versions
    from ldm_scale.benchmarks.suite import run_suite
    from ldm_scale.files.storage import Location

    lines = run_suite(config)
    machine, versions = describe_machine(), describe_versions()
    numbers = Location.of(config.numbers)
    numbers.replace(encode(lines, machine, versions))
    say("")
    say(f"{machine['cpu']}, {machine['cores']} cores, {machine['threads']} threads; torch {versions['torch']}")
    show(lines)
    say(f"numbers: {numbers}")


def _reproduce(config: ReproduceConfig) -> None:
    from ldm_scale.benchmarks.reproduce import NUMBERS, run_reproduction
    from ldm_scale.report.replication import print_replication

    print_replication(run_reproduction(config))
    say(f"numbers: {config.out}/{NUMBERS}")


def _reduce(arguments: argparse.Namespace) -> None:
    from ldm_scale.engine.reduce import reduce_run
    from ldm_scale.engine.session import session
    from ldm_scale.files.ownership import own
    from ldm_scale.report.page import write_report

    run = _open_run(arguments.run)
    recorded = run.read_record().config
    analysis = build(AnalysisConfig, collect(arguments, AnalysisConfig, recorded.analysis.model_dump()))
    partial = build(ReduceConfig, given_flags(arguments, ReduceConfig)).partial
    dropped_bins(analysis.drop, recorded.masks.bins)
    run.root.check_place()
    with session(), own(run.root, say) as owner:
        reduce_run(run, analysis, owner, partial)
        write_report(run, owner)
    _print_outcome(run)
    say(f"kept in {run.reduction().folder}, beside what was reduced before")


def _report(arguments: argparse.Namespace) -> None:
    from ldm_scale.files.ownership import own
    from ldm_scale.files.storage import Location
    from ldm_scale.report.page import write_report

    run = _open_run(arguments.run)
    run.reduction()
    run.root.check_place()
    files = None if arguments.files is None else Location.of(arguments.files)
    if files is not None:
        files.check_new("--files")
    with own(run.root, say) as owner:
        write_report(run, owner)
    if files is not None:
        from ldm_scale.report.export import write_files

        say(f"{files}: {len(write_files(run, files))} figures (SVG) and tables (CSV)")
    if arguments.track is not None:
        from ldm_scale.notebook.track import track

        track(run, arguments.track)
    _print_outcome(run)


def _compare(arguments: argparse.Namespace) -> None:
    from ldm_scale.files.storage import Location
    from ldm_scale.notebook.compare import compare
    from ldm_scale.notebook.run import Run

    runs = [Run(address) for address in arguments.runs]
    own = runs[0].record.config.analysis.model_dump()
    out = Location.of(arguments.out) if arguments.out else None
    if out is not None:
        out.check_new("--out")
    _print_comparison(compare(runs, build(AnalysisConfig, collect(arguments, AnalysisConfig, own))), out)


def _print_comparison(found: "Comparison", out: "Location | None") -> None:
    from ldm_scale.report.comparison import comparison_page, print_comparison

    print_comparison(found)
    if out is not None:
        (out / "comparison.json").create(found.model_dump_json(indent=1).encode())
        (out / "comparison.html").create(comparison_page(found))
        say(f"page: {out / 'comparison.html'}")


def _status(arguments: argparse.Namespace) -> None:
    from ldm_scale.files.ownership import latest_owner

    run = _open_run(arguments.run)
    with answering(arguments.json) as answer:
        record = run.read_record()
        progress, owner = run.progress(), latest_owner(run.root)
        left = progress.left
        members = f"{record.members} members are expected"
        say(f"{run.root}: {record.samples - left} of {record.samples} samples done, {left} left ({members})")
        if progress.latest is not None:
            say(f"  last rows: {progress.latest:%Y-%m-%d %H:%M:%S} UTC")
        if progress.pace is not None:
            say(f"  pace of the last job: {progress.pace:.1f} samples/s, {left / progress.pace:.0f} s for what is left")
        for reason, count in progress.rejects.items():
            say(f"  rejected {count}: {reason}")
        found = "results.json" if record.heldout else "suspects.json"
        written = {name: (run.root / name).is_file() for name in (found, "report.html")}
        for name, there in written.items():
            say(f"  {name}: {'written' if there else 'not yet'}")
        if owner is not None:
            say(f"  last job: {owner}; {'ended' if owner.ended else 'running, or dead without a word'}")
        for fault in progress.foreign:
            say(f"  not of this run: {fault}")
        answer(
            {
                "run": run.root.uri,
                "samples": record.samples,
                "members": record.members,
                **asdict(progress),
                "latest": progress.latest and progress.latest.isoformat(),
                "written": [name for name, there in written.items() if there],
                "ended": owner and owner.ended,
            }
        )
    if progress.foreign:
        raise RunError(f"{run.root}: {len(progress.foreign)} files or shards are not as this run left them")


def _list(arguments: argparse.Namespace) -> None:
    for name, text in LISTED[arguments.what]():
        say(f"{name:<20}{text}")


def _attacks() -> Iterator[tuple[str, str]]:
    for name, point in known_attacks().items():
        yield name, (load_attack(point).__doc__ or "").partition("\n")[0] + whose(ATTACKS, name)


def _estimators() -> Iterator[tuple[str, str]]:
    fields = GeometryConfig.model_fields
    known = {
        "influence": (*INFLUENCES, *installed(ESTIMATORS)),
        "distortion": get_args(fields["distortion"].annotation),
    }
    for name, estimators in known.items():
        for estimator in estimators:
            default = ", the default" if estimator == fields[name].default else ""
            yield estimator, f"--geometry.{name} {estimator}{default}{whose(ESTIMATORS, estimator)}"


def _families() -> Iterator[tuple[str, str]]:
    from ldm_scale.targets.layout import known_families

    yield from known_families().items()


def _sources() -> Iterator[tuple[str, str]]:
    from ldm_scale.data.sources import GROUP, SOURCES

    for name in (*SOURCES, *installed(GROUP)):
        yield name, f"ldm-scale pack {name} SOURCE OUT{whose(GROUP, name)}"


def _presets() -> Iterator[tuple[str, str]]:
    for name in PRESETS:
        yield name, f"ldm-scale train --preset {name}"
    for name in PUBLISHED:
        yield name, f"python jobs/{name}.py --preset published"


# What is listed, as pairs of a name and what it is.
LISTED: dict[str, Callable[[], Iterator[tuple[str, str]]]] = {
    "attacks": _attacks,
    "estimators": _estimators,
    "sources": _sources,
    "families": _families,
    "presets": _presets,
}


def _complete(arguments: argparse.Namespace) -> None:
    import shtab

    for line in shtab.complete(make_parser(), arguments.shell).split("\n"):
        say(line)


def _add_command(commands: Any, name: str, text: str) -> Any:
    return commands.add_parser(name, help=text, description=text)


def _add_run_command(commands: Any, name: str, function: Callable[[argparse.Namespace], None], text: str) -> Any:
    parser = _add_command(commands, name, text)
    parser.add_argument("run", metavar="RUN", help="run directory, local or s3://").complete = FILES
    parser.set_defaults(function=function)
    return parser


def _add_config_flags(
    parser: argparse.ArgumentParser,
    kind: type[Config],
    function: Callable[[Any], None],
    positional: tuple[str, ...] = (),
    recipe: Mapping[str, Any] = MappingProxyType({}),
) -> None:
    if not positional:
        _add_config(parser)
    add_flags(parser, kind, positional, recipe=recipe)
    parser.set_defaults(function=lambda arguments: function(build(kind, collect(arguments, kind, recipe))))


def _add_config(parser: Any) -> None:
    parser.add_argument("--config", metavar="FILE", help="YAML with the same names; flags win over it").complete = FILES


def _add_json(parser: Any) -> None:
    text = "print what was found as one JSON object; the lines for people go to standard error"
    parser.add_argument("--json", action="store_true", help=text)


def _add_audit_flags(
    parser: argparse.ArgumentParser, recipe: dict[str, Any], attacks: bool, procedure: Procedure | None = None
) -> None:
    def run(arguments: argparse.Namespace) -> None:
        trial = build(DryRunConfig, given_flags(arguments, DryRunConfig))
        config = build(AuditConfig, collect(arguments, AuditConfig, recipe))
        _audit(config, trial, procedure, arguments.json)

    _add_config(parser)
    _add_json(parser)
    add_flags(parser, AuditConfig, recipe=recipe)
    if attacks:
        try:
            add_attack_flags(parser, recipe.get("attacks", {}))
        except UsageError as error:
            parser.error(str(error))
    add_flags(parser, DryRunConfig)
    parser.set_defaults(function=run)


def make_parser(*, attacks: bool = True) -> argparse.ArgumentParser:
    """The parser of `ldm-scale`, with or without the options of an audit's attacks, which load torch."""
    parser = Parser(
        prog="ldm-scale",
        description="How much did this latent diffusion model memorise its training images, which images, and where in "
        "the latent space?",
    )
    parser.add_argument("--version", action="version", version=f"ldm-scale {version('ldm_scale')}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND", dest="command")
    audit = _add_command(commands, "audit", "audit a target on shards, all the way to the report")
    _add_audit_flags(audit, {}, attacks)
    own = _add_command(commands, "own", "was this model trained on these images? from plain folders to a page")
    _add_config_flags(own, OwnConfig, _own, ("target",))
    convert = _add_command(commands, "convert", "make a target of checkpoints (.pt) of the paper's authors")
    _add_config_flags(convert, ConvertConfig, _convert)
    pack = _add_command(commands, "pack", "make shards, manifest and split from a source")
    _add_config_flags(pack, PackConfig, _pack, ("dataset", "source", "out"))
    validate = _add_command(commands, "validate", "check shards and a target before an audit")
    _add_config(validate)
    _add_json(validate)
    add_flags(validate, ValidateConfig)
    validate.set_defaults(function=_validate)
    train = _add_command(commands, "train", "train a target on the members of a shard folder")
    _add_config(train)
    add_flags(train, TrainConfig, recipe=PRESETS[TrainConfig.model_fields["preset"].default])
    add_flags(train, DryRunConfig)
    train.set_defaults(function=_train)
    text = "time the models' part, the influence, the stream of images, the reducer, or the graph on pretended GPUs"
    parts = _add_command(commands, "benchmark", text).add_subparsers(required=True, metavar="WHAT")
    for part, (kind, text) in PARTS.items():
        _add_config_flags(_add_command(parts, part, text), kind, partial(_benchmark_part, part))
    text = "make results and report again from a run's rows, without a GPU"
    reduce = _add_run_command(commands, "reduce", _reduce, text)
    add_flags(reduce, AnalysisConfig)
    add_flags(reduce, ReduceConfig)
    report = _add_run_command(commands, "report", _report, "make the report again from a run's results")
    text = "new folder for the figures as SVG and the tables as CSV, each list of results.json under its name there"
    report.add_argument("--files", metavar="PATH", help=text).complete = FILES
    text = "give options, headline numbers and page to this experiment tracker, if it is installed"
    report.add_argument("--track", choices=TRACKERS, help=text)
    text = "compare finished runs over the same samples: each with the first, paired by sample"
    compare = _add_command(commands, "compare", text)
    compare.add_argument("runs", metavar="RUN", nargs="+", help="run directories; the one before comes first")
    compare.add_argument("--out", metavar="PATH", help="folder for comparison.html and comparison.json")
    add_flags(compare, AnalysisConfig)
    compare.set_defaults(function=_compare)
    _add_json(_add_run_command(commands, "status", _status, "say how far a run is, from its directory alone"))
    text = "name the attacks that are installed, estimators of geometry, kinds of source, model families, or presets"
    listing = _add_command(commands, "list", text)
    listing.add_argument("what", metavar="WHAT", choices=tuple(LISTED), help=", ".join(LISTED))
    listing.set_defaults(function=_list)
    text = "print a script that completes commands, options and their values"
    completion = commands.add_parser("completion", help=text, description=f"{text}; {COMPLETION}")
    completion.add_argument("shell", metavar="SHELL", choices=SHELLS, help=", ".join(SHELLS))
    completion.set_defaults(function=_complete)
    return parser


@contextmanager
def _terminable() -> Iterator[list[int]]:
    """SIGTERM, by which `ray job stop` and schedulers end a process, interrupts like Ctrl-C; yields those that came."""
    received: list[int] = []

    def interrupt(number: int, frame: object) -> None:
        received.append(number)
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield received
    finally:
        signal.signal(signal.SIGTERM, before)


def _run(parser: argparse.ArgumentParser, argv: Sequence[str] | None) -> int:
    arguments = parser.parse_args(argv)
    with _terminable() as received, libraries_escaped():
        try:
            arguments.function(arguments)
        except UnforeseenError as error:
            return _fail_unforeseen(parser, arguments, error, error)
        except (UsageError, RunError) as error:
            say(f"{parser.prog}: error: {error}", sys.stderr)
            return error.exit_status
        except KeyboardInterrupt:
            say(f"{parser.prog}: interrupted; {GOES_ON}", sys.stderr)
            return 128 + (received or [signal.SIGINT])[0]
        except BrokenPipeError:
            # The reader of our output (head, say) left; what is unwritten has nowhere to go.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        except OSError as error:
            # A full disk, a file that may not be read: the system says which.
            say(f"{parser.prog}: error: {error}", sys.stderr)
            return RunError.exit_status
        except Exception as error:
            return _fail_unforeseen(parser, arguments, UnforeseenError.of(error), error)
        return 0


def _fail_unforeseen(
    parser: argparse.ArgumentParser, arguments: argparse.Namespace, said: UnforeseenError, error: Exception
) -> int:
    """Say in one line what no check foresaw, and where its traceback is kept."""
    stage = getattr(arguments, "command", "the job")
    line = f"{stage} failed by an error that was not foreseen, {said}; {_keep_traceback(error)}"
    say(f"{parser.prog}: error: {line}", sys.stderr)
    return said.exit_status


def _keep_traceback(error: Exception) -> str:
    """Write an error's traceback to a file that only its user can read, and say where."""
    try:
        with tempfile.NamedTemporaryFile(
            "w", prefix="ldm-scale-", suffix=".txt", delete=False, errors="replace"
        ) as file:
            file.writelines(traceback.format_exception(error))
    except OSError as trouble:
        return f"its traceback could not be kept: {trouble}"
    return f"the traceback is in {file.name}"


def main(argv: Sequence[str] | None = None) -> int:
    """Run `ldm-scale`; returns the exit status: 0 done, 1 the run failed, 2 the user can fix it."""
    words = sys.argv[1:] if argv is None else argv
    command = next((word for word in words if not word.startswith("-")), None)
    return _run(make_parser(attacks=command == "audit" and names_attack_options(words)), argv)


def _as_published(description: str, procedure: Procedure) -> str:
    """What a job does by the authors' recipe: its first line, as the others tell of its own, and what departs."""
    departures = (fill(line, 120, initial_indent="- ", subsequent_indent="  ") for line in procedure.departures)
    return "\n".join([description.partition("\n")[0], "", PUBLISHED_AS, *departures, ""])


def run_job(
    description: str, recipe: dict[str, Any], argv: Sequence[str] | None = None, dataset: str | None = None
) -> int:
    """Run an audit job: a recipe of configuration values, with the flags of `ldm-scale audit` over it.

    The job of a data set has no default of what is audited, but a place for it below LDM_SCALE_ROOT; and a second
    recipe, the one of the paper's authors.
    """
    presets = Parser(add_help=False)
    procedure = None
    if dataset is not None:
        presets.add_argument("--preset", choices=("default", "published"), default="default", help=PRESET)
        # Known before all other flags, whose defaults it decides, and which are left over here.
        if argparse.ArgumentParser.parse_known_args(presets, argv)[0].preset == "published":
            procedure = PUBLISHED[dataset]
            description, recipe = _as_published(description, procedure), procedure.recipe
        description, recipe = f"{description}\n{WHERE.format(dataset=dataset)}", at_root(recipe, dataset)
    parser = Parser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter, parents=[presets])
    words = sys.argv[1:] if argv is None else argv
    _add_audit_flags(parser, recipe, names_attack_options(words), procedure)
    return _run(parser, argv)


def run_benchmarks(description: str, recipe: dict[str, Any], argv: Sequence[str] | None = None) -> int:
    """Run all parts of the benchmark, or those named: a recipe of configuration values, with flags over it."""
    parser = Parser(description=description)
    _add_config_flags(parser, BenchmarkConfig, _benchmark_suite, recipe=recipe)
    return _run(parser, argv)


def run_reproduction(description: str, argv: Sequence[str] | None = None) -> int:
    """Pack, train and audit on several seeds, and print the paper's row beside what was found."""
    parser = Parser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    _add_config_flags(parser, ReproduceConfig, _reproduce)
    return _run(parser, argv)

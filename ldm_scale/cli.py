"""The command `ldm-scale`, and the entry point of every job file."""

import argparse
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from ldm_scale.benchmarks.options import PARTS, BenchmarkConfig
from ldm_scale.config.audit import AnalysisConfig, AuditConfig, DryRunConfig, ReduceConfig, dropped_bins
from ldm_scale.config.base import Config, build
from ldm_scale.config.convert import ConvertConfig
from ldm_scale.config.data import PackConfig, ValidateConfig
from ldm_scale.config.presets import PRESETS
from ldm_scale.config.published import PUBLISHED, Procedure
from ldm_scale.config.reproduce import ReproduceConfig
from ldm_scale.config.train import TrainConfig
from ldm_scale.errors import GOES_ON, RunError, UnforeseenError, UsageError
from ldm_scale.flags import FILES, ROOT, add_attack_flags, add_flags, at_root, collect, given_flags
from ldm_scale.terminal import Parser, libraries_escaped, say

# What a command does is imported when it is run, so that --help needs no S3, torch or Ray.
if TYPE_CHECKING:
    from ldm_scale.files.rundir import RunDirectory

SHELLS = ("bash", "zsh", "tcsh")
COMPLETION = (
    "bash reads it from ~/.local/share/bash-completion/completions/ldm-scale, zsh from _ldm-scale in a folder of its "
    "fpath, tcsh by a line `source FILE` in ~/.tcshrc"
)
WHERE = f"""
What is audited must be given: by --shards, --target and --out; or by LDM_SCALE_SHARDS, LDM_SCALE_TARGET and
LDM_SCALE_OUT; or by {ROOT}, a folder or s3:// address that has shards/{{dataset}} and targets/{{dataset}}; the run
is then runs/{{dataset}} below it."""

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


def _audit(config: AuditConfig, trial: DryRunConfig, procedure: Procedure | None) -> None:
    if trial.dry_run:
        from ldm_scale.costs.dry_run import estimate_audit

        for line in estimate_audit(config, trial.hardware, procedure):
            say(line)
        return
    from ldm_scale.engine.audit import run_audit

    run_audit(config, procedure)
    _print_outcome(_open_run(config.out))


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


def _validate(config: ValidateConfig) -> None:
    from ldm_scale.engine.validate import run_validation

    found = run_validation(config)
    for line in (*found.facts, *(f"problem: {problem}" for problem in found.problems)):
        say(line)
    if found.problems:
        raise RunError(f"{len(found.problems)} problems were found")
    say("no problem was found")


def _train(config: TrainConfig, trial: DryRunConfig) -> None:
    if trial.dry_run:
        from ldm_scale.costs.training import estimate_training

        for line in estimate_training(config, trial.hardware):
            say(line)
        return
    from ldm_scale.engine.train import run_training

    run_training(config)
    say(f"target: {config.out}")


def _convert(config: ConvertConfig) -> None:
    from ldm_scale.training.convert import convert

    say(f"target: {config.out}: {convert(config)}")


def _benchmark_part(part: str) -> Callable[[Any], None]:
    """Prints one part's lines as they come."""

    def run(config: Config) -> None:
        from ldm_scale.benchmarks.suite import RUNNERS

        for line in RUNNERS[part](config):
            say(str(line))

    return run


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


def _report(arguments: argparse.Namespace) -> None:
    from ldm_scale.files.ownership import own
    from ldm_scale.report.page import write_report

    run = _open_run(arguments.run)
    run.reduction()
    run.root.check_place()
    with own(run.root, say) as owner:
        write_report(run, owner)
    _print_outcome(run)


def _status(arguments: argparse.Namespace) -> None:
    from ldm_scale.files.ownership import latest_owner

    run = _open_run(arguments.run)
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
    for name in ("results.json", "report.html"):
        say(f"  {name}: {'written' if (run.root / name).is_file() else 'not yet'}")
    if owner is not None:
        say(f"  last job: {owner}; {'ended' if owner.ended else 'running, or dead without a word'}")
    for fault in progress.foreign:
        say(f"  not of this run: {fault}")
    if progress.foreign:
        raise RunError(f"{run.root}: {len(progress.foreign)} files or shards are not as this run left them")


def _complete(arguments: argparse.Namespace) -> None:
    import shtab

    for line in shtab.complete(make_parser(), arguments.shell).split("\n"):
        say(line)


def _add_completion(commands: Any) -> None:
    text = "print a script that completes commands, options and their values"
    parser = commands.add_parser("completion", help=text, description=f"{text}; {COMPLETION}")
    parser.add_argument("shell", metavar="SHELL", choices=SHELLS, help=", ".join(SHELLS))
    parser.set_defaults(function=_complete)


def _add_run_command(commands: Any, name: str, function: Callable[[argparse.Namespace], None], text: str) -> Any:
    parser = commands.add_parser(name, help=text, description=text)
    parser.add_argument("run", metavar="RUN", help="run directory, local or s3://").complete = FILES
    parser.set_defaults(function=function)
    return parser


def _add_config_command(
    commands: Any,
    name: str,
    kind: type[Config],
    function: Callable[[Any], None],
    text: str,
    positional: tuple[str, ...] = (),
) -> None:
    _add_config_flags(commands.add_parser(name, help=text, description=text), kind, function, {}, positional)


def _add_config_flags(
    parser: argparse.ArgumentParser,
    kind: type[Config],
    function: Callable[[Any], None],
    recipe: dict[str, Any],
    positional: tuple[str, ...] = (),
) -> None:
    if not positional:
        _add_config(parser)
    add_flags(parser, kind, positional, recipe=recipe)
    parser.set_defaults(function=lambda arguments: function(build(kind, collect(arguments, kind, recipe))))


def _add_config(parser: Any) -> None:
    parser.add_argument("--config", metavar="FILE", help="YAML with the same names; flags win over it").complete = FILES


def _add_audit_flags(
    parser: argparse.ArgumentParser, recipe: dict[str, Any], attacks: bool = True, procedure: Procedure | None = None
) -> None:
    def run(arguments: argparse.Namespace) -> None:
        trial = build(DryRunConfig, given_flags(arguments, DryRunConfig))
        _audit(build(AuditConfig, collect(arguments, AuditConfig, recipe)), trial, procedure)

    _add_config(parser)
    add_flags(parser, AuditConfig, recipe=recipe)
    if attacks:
        add_attack_flags(parser, recipe.get("attacks", {}))
    add_flags(parser, DryRunConfig)
    parser.set_defaults(function=run)


def _add_train_flags(parser: argparse.ArgumentParser) -> None:
    def run(arguments: argparse.Namespace) -> None:
        trial = build(DryRunConfig, given_flags(arguments, DryRunConfig))
        # What is only estimated needs no shards, and leaves nothing.
        absent = {"shards": "", "out": ""} if trial.dry_run else {}
        _train(build(TrainConfig, absent | collect(arguments, TrainConfig, {})), trial)

    _add_config(parser)
    add_flags(parser, TrainConfig, recipe=PRESETS[TrainConfig.model_fields["preset"].default])
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
    text = "audit a target on shards, all the way to the report"
    _add_audit_flags(commands.add_parser("audit", help=text, description=text), {}, attacks)
    text = "make a target of checkpoints (.pt) of the paper's authors"
    _add_config_command(commands, "convert", ConvertConfig, _convert, text)
    positional = ("dataset", "source", "out")
    _add_config_command(
        commands, "pack", PackConfig, _pack, "make shards, manifest and split from a source", positional
    )
    _add_config_command(commands, "validate", ValidateConfig, _validate, "check shards and a target before an audit")
    text = "train a target on the members of a shard folder"
    _add_train_flags(commands.add_parser("train", help=text, description=text))
    text = "time the models' part, the influence, the stream of images, the reducer, or the graph on pretended GPUs"
    kinds = commands.add_parser("benchmark", help=text, description=text).add_subparsers(required=True, metavar="WHAT")
    for part, (kind, text) in PARTS.items():
        _add_config_command(kinds, part, kind, _benchmark_part(part), text)
    reduce = _add_run_command(
        commands, "reduce", _reduce, "make results and report again from a run's rows, without a GPU"
    )
    add_flags(reduce, AnalysisConfig)
    add_flags(reduce, ReduceConfig)
    _add_run_command(commands, "report", _report, "make the report again from a run's results")
    _add_run_command(commands, "status", _status, "say how far a run is, from its directory alone")
    _add_completion(commands)
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
    import tempfile
    import traceback

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
    return _run(make_parser(attacks=command == "audit"), argv)


def run_job(
    description: str, recipe: dict[str, Any], argv: Sequence[str] | None = None, dataset: str | None = None
) -> int:
    """Run an audit job: a recipe of configuration values, with the flags of `ldm-scale audit` over it.

    The job of a data set has no default of what is audited, but a place for it below LDM_SCALE_ROOT; and a second
    recipe, the one of the paper's authors.
    """
    presets = Parser(add_help=False, allow_abbrev=False)
    procedure = None
    if dataset is not None:
        presets.add_argument("--preset", choices=("default", "published"), default="default", help=PRESET)
        # Known before all other flags, whose defaults it decides.
        if presets.parse_known_args(argv)[0].preset == "published":
            procedure = PUBLISHED[dataset]
            recipe = procedure.recipe
        description, recipe = f"{description}\n{WHERE.format(dataset=dataset)}", at_root(recipe, dataset)
    parser = Parser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter, parents=[presets])
    _add_audit_flags(parser, recipe, procedure=procedure)
    return _run(parser, argv)


def run_benchmarks(description: str, recipe: dict[str, Any], argv: Sequence[str] | None = None) -> int:
    """Run all parts of the benchmark, or those named: a recipe of configuration values, with flags over it."""
    parser = Parser(description=description)
    _add_config_flags(parser, BenchmarkConfig, _benchmark_suite, recipe)
    return _run(parser, argv)


def run_reproduction(description: str, argv: Sequence[str] | None = None) -> int:
    """Pack, train and audit on several seeds, and print the paper's row beside what was found."""
    parser = Parser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    _add_config_flags(parser, ReproduceConfig, _reproduce, {})
    return _run(parser, argv)

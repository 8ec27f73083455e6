"""The paper's CIFAR-10 row on photographs: pack, train and audit on several seeds, one stage after the other."""

import json

from ldm_scale.analysis.replication import Replication, replicate
from ldm_scale.analysis.results import Results
from ldm_scale.config.audit import AuditConfig
from ldm_scale.config.reproduce import ReproduceConfig
from ldm_scale.config.train import TrainConfig
from ldm_scale.data.manifest import Manifest
from ldm_scale.engine.audit import run_audit
from ldm_scale.engine.pack import run_pack
from ldm_scale.engine.session import session
from ldm_scale.engine.train import run_training
from ldm_scale.errors import UsageError
from ldm_scale.files.digests import differences
from ldm_scale.files.reductions import RESULTS
from ldm_scale.files.rundir import RunDirectory
from ldm_scale.files.storage import Location
from ldm_scale.inputs import check_inputs
from ldm_scale.report.headline import read_results
from ldm_scale.terminal import say
from ldm_scale.training.saving import RECORD

NUMBERS = "reproduction.json"


def run_reproduction(config: ReproduceConfig) -> Replication:
    """Everything that `config` asks for and that is not there yet; then `reproduction.json` in its folder.

    Raises:
        UsageError: The data cannot be used, or a stage was done with other options; nothing is overwritten.
        RunError: A stage could not be finished; the same call again goes on there.
    """
    found: dict[str, list[Results]] = {latent: [] for latent in config.attacked}
    with session():
        for seed in config.seeds:
            say(f"seed {seed}: {config.folder(seed)}")
            _train(config.train(seed), run_pack(config.pack(seed)))
            for latent in config.attacked:
                found[latent].append(_audit(config.audit(seed, latent)))
    replication = replicate(config.model_dump(mode="json"), found)
    (Location.of(config.out) / NUMBERS).replace(replication.model_dump_json(indent=1).encode())
    return replication


def _train(config: TrainConfig, manifest: Manifest) -> None:
    """Train, unless the target of this very training is there."""
    record = Location.of(config.out) / RECORD
    # While the checkpoints are there, it is an unfinished copy.
    if not record.is_file() or (Location.of(f"{config.out}.partial") / RECORD).is_file():
        run_training(config)
        return
    asked = {"recipe": json.loads(json.dumps(config.recipe())), "split_sha256": manifest.split_sha256}
    trained = json.loads(record.read_bytes())
    if changes := differences({name: trained.get(name) for name in asked}, asked):
        raise UsageError(f"{config.out} holds another target ({'; '.join(changes)}); give a new out folder")


def _audit(config: AuditConfig) -> Results:
    """The results of an audit, which is run or resumed unless they are there."""
    run = RunDirectory(Location.of(config.out))
    inputs = check_inputs(config)
    run.check_free(inputs.fingerprint, inputs.science)
    if not (run.root / RESULTS).is_file():
        return run_audit(config)
    results, drop = read_results(run.reduction()), config.analysis.drop
    if any(line.drop not in (0, drop) for line in results.paper):
        raise UsageError(
            f"{config.out} was reduced by another share; run `ldm-scale reduce {config.out} --drop {drop}`"
        )
    return results

"""The batch of an audit, settled before its rows: as asked for, as the run began, or what an auditor's memory holds."""

from dataclasses import replace

import ray
import torch

from ldm_scale.auditor import measured_decoder
from ldm_scale.config.audit import ComputeConfig
from ldm_scale.costs.batch import BatchChoice, choose_batch
from ldm_scale.costs.counts import denoiser_evaluations
from ldm_scale.costs.flops import measure_passes
from ldm_scale.costs.memory import MemoryEstimate
from ldm_scale.engine.pool import Pool, plan_pool
from ldm_scale.files.rundir import RunDirectory
from ldm_scale.inputs import Inputs, count_sides


def settle_batch(inputs: Inputs, run: RunDirectory) -> tuple[Inputs, BatchChoice]:
    """The inputs with a batch, and why it is this one; a resumed run goes on with the batch that it began with."""
    batch = _find_batch(inputs, run)
    compute = inputs.config.compute.model_copy(update={"batch_size": batch.size})
    return replace(inputs, config=inputs.config.model_copy(update={"compute": compute})), batch


def _find_batch(inputs: Inputs, run: RunDirectory) -> BatchChoice:
    compute, samples = inputs.config.compute, sum(count_sides(inputs))
    if compute.batch_size is not None:
        return BatchChoice(compute.batch_size, "as asked for")
    if earlier := run.earlier():
        return BatchChoice(earlier.config.compute.batch, "as the run began")
    pool = plan_pool(compute, samples)
    held = _memory(compute, pool)
    if held is None:
        return BatchChoice(compute.batch, "the usual, as an auditor's memory is not known yet")
    return choose_batch(_estimate(inputs, pool.device), held, samples, pool.most)


@ray.remote
def _gpu_memory() -> int:
    return torch.cuda.get_device_properties(0).total_memory


def _memory(compute: ComputeConfig, pool: Pool) -> int | None:
    """Bytes that an auditor has, in the cluster as it is now; None if not known, as of GPUs that are to come."""
    if pool.device == "cpu":
        memory = ray.cluster_resources().get("memory")
        return int(memory / max(1, min(pool.held, pool.most))) if memory else None
    if not pool.held:
        return None
    share = min(1, compute.gpus_per_actor)
    return int(share * ray.get(_gpu_memory.options(num_gpus=share).remote()))


def _estimate(inputs: Inputs, device: str) -> MemoryEstimate:
    config = inputs.config
    outline = inputs.weights.load("meta", config.images.size)
    passes = measure_passes(outline, lambda: outline.condition([""], [0]), measured_decoder(outline, config.geometry))
    evaluations = denoiser_evaluations(inputs.attacks.values(), inputs.target.alphas_cumprod, outline.latent_shape)
    return MemoryEstimate(config, outline, passes, evaluations, device)

"""Partial evaluation: the two stages together are the function, and the second has nothing left of the first."""

import pytest
import torch
from torch import Tensor

from ldm_scale.geometry.staging import stage
from tests.geometry.decoders import normal


def function(z: Tensor, vectors: Tensor) -> Tensor:
    """Linear in the vectors, with factors that only z decides."""
    return (vectors * z.sin() * torch.exp(z) * 3.0) @ (z.T @ z) + vectors.cumsum(1)


def test_the_stages_are_the_function_at_any_arguments_of_its_shapes() -> None:
    staged = stage(function, normal(4, 4, seed=1), normal(4, 4, seed=2))
    for seed in range(3):
        z, vectors = normal(4, 4, seed=seed), normal(4, 4, seed=10 + seed)
        torch.testing.assert_close(staged.product(vectors, *staged.residuals(z)), function(z, vectors))


def test_what_z_decides_is_computed_in_the_first_stage_alone() -> None:
    staged = stage(function, normal(4, 4, seed=1), normal(4, 4, seed=2))
    later = [str(node.target) for node in staged.product.graph.nodes if node.op == "call_function"]
    # The sine's and the exponential's factors are one; a number stays where it is.
    assert later == ["aten.mul.Tensor", "aten.mul.Tensor", "aten.mm.default", "aten.cumsum.default", "aten.add.Tensor"]


def test_many_vectors_at_once_may_have_other_strides() -> None:
    """A view of the traced vector is one of a batch of them, too, wherever its batch dimension is."""
    staged = stage(lambda z, vector: vector.reshape(12) * z, normal(12, seed=1), normal(3, 4))
    z, vectors = normal(12, seed=2), normal(3, 4, 5)
    found = torch.func.vmap(lambda vector: staged.product(vector, *staged.residuals(z)), in_dims=2)(vectors)
    torch.testing.assert_close(found, vectors.movedim(2, 0).reshape(5, 12) * z)


def test_a_result_that_does_not_vary_is_handed_on() -> None:
    staged = stage(lambda z, vectors: z.sin(), normal(3), normal(2))
    z = normal(3, seed=3)
    torch.testing.assert_close(staged.product(normal(2), *staged.residuals(z)), z.sin())


def test_constants_are_there_in_both_stages() -> None:
    matrix = normal(3, 3, seed=4)
    staged = stage(lambda z, vectors: vectors @ matrix * (matrix @ z), normal(3), normal(3))
    z, vectors = normal(3, seed=5), normal(3, seed=6)
    torch.testing.assert_close(staged.product(vectors, *staged.residuals(z)), vectors @ matrix * (matrix @ z))


def test_a_function_that_branches_on_values_is_refused() -> None:
    with pytest.raises(RuntimeError):
        stage(lambda z, vectors: vectors if z.sum() > 0 else -vectors, normal(3), normal(3))

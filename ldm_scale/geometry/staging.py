"""A function that is linear in its second argument, in two stages: what the first alone decides is computed once."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.fx import Graph, GraphModule, Node
from torch.fx.experimental.proxy_tensor import make_fx

MULTIPLY, VIEW, RESHAPE = torch.ops.aten.mul.Tensor, torch.ops.aten.view.default, torch.ops.aten.reshape.default


@dataclass(frozen=True)
class Staged:
    """f(z, vector) = product(vector, *residuals(z)), for arguments of the shapes that it was traced with.

    The product may be mapped over many vectors by torch.func.vmap.
    """

    residuals: GraphModule
    product: GraphModule


def stage(function: Callable[[Tensor, Tensor], Tensor], z: Tensor, vector: Tensor) -> Staged:
    """Trace a function that is linear in `vector` and split it: partial evaluation, as jax.linearize does it.

    Args:
        function: of latents and a vector. One that branches on values cannot be traced.
        z: latents; any of this shape may be given to the result.
        vector: likewise.

    Example:
        sin z is computed once, and only the product with it for each vector:

        >>> z, v = torch.full((1,), torch.pi / 2), torch.tensor([3.0])
        >>> staged = stage(lambda z, v: v * z.sin(), z, v)
        >>> staged.residuals(z), staged.product(v, *staged.residuals(z))
        ((tensor([1.]),), tensor([3.]))
    """
    # On tensors without data: no kernel runs. Weights have theirs, and are constants of the trace.
    traced = make_fx(function, tracing_mode="fake", _allow_non_fake_inputs=True)(z, vector)
    _, argument = (node for node in traced.graph.nodes if node.op == "placeholder")
    varying = {argument}
    for node in traced.graph.nodes:
        if not varying.isdisjoint(node.all_input_nodes):
            varying.add(node)
    _gather_factors(traced.graph, varying)
    # Many vectors at once have other strides than the one that was traced.
    for node in varying:
        if node.target is VIEW:
            node.target = RESHAPE
    return _split(traced, argument, varying)


def _gather_factors(graph: Graph, varying: set[Node]) -> None:
    """(x a) b becomes x (a b) wherever only x varies: a b is a residual then."""
    for node in graph.nodes:
        if node.op != "call_function" or node.target is not MULTIPLY or node not in varying:
            continue
        inner, outer = node.args if node.args[0] in varying else reversed(node.args)
        if inner not in varying or inner.target is not MULTIPLY or len(inner.users) > 1 or not isinstance(outer, Node):
            continue
        vector, factor = inner.args if inner.args[0] in varying else reversed(inner.args)
        if isinstance(factor, Node) and factor not in varying:
            with graph.inserting_before(node):
                node.args = (vector, graph.call_function(MULTIPLY, (factor, outer)))


def _split(traced: GraphModule, argument: Node, varying: set[Node]) -> Staged:
    """The nodes that vary with the argument, as a function of it and of the others' values; and these others."""
    before, after = Graph(), Graph()
    early: dict[Node, Node] = {}
    late: dict[Node, Node] = {argument: after.placeholder("vector")}
    handed: list[Node] = []

    def here(node: Node) -> Node:
        """The node in the second stage, which has constants of its own and is handed what else it needs."""
        if node not in late:
            if node.op != "get_attr":
                handed.append(early[node])
            late[node] = after.node_copy(node) if node.op == "get_attr" else after.placeholder(node.name)
        return late[node]

    for node in traced.graph.nodes:
        if node.op == "output":
            after.output(here(node.args[0]))
        elif node not in varying:
            early[node] = before.node_copy(node, early.__getitem__)
        elif node is not argument:
            late[node] = after.node_copy(node, here)
    before.output(tuple(handed))
    for graph in (before, after):
        graph.eliminate_dead_code()
    return Staged(GraphModule(traced, before), GraphModule(traced, after))

"""What a norm becomes in an exported program."""

import torch
from torch.export import ExportedProgram
from torch.fx import Node

from tests.norms.conform.ecosystem import exported, some_track, tracking
from tests.norms.conform.registry import check
from tests.norms.conform.subjects import Subject


def operations_on_input(program: ExportedProgram) -> list[str]:
    """The operations of a program that depend on its input. The others can be computed before any input is there."""
    reached: set[Node] = set()
    names = []
    for node in program.graph.nodes:
        if node.name in program.graph_signature.user_inputs:
            reached.add(node)
        elif node.op == "call_function" and not reached.isdisjoint(node.all_input_nodes):
            reached.add(node)
            names.append(node.target.__name__.removesuffix(".default"))
    return names


@check(some_track)
def folds_on_export(subject: Subject) -> None:
    """Exported in eval, a layer with running statistics is one scale and one shift, which fold into other layers."""
    for case in tracking(subject):
        layer = case.build(subject.ours, torch.float32, training=False)
        found = operations_on_input(exported(layer, case.input.float()))
        shapes = [name for name in found if not name.startswith(("sym_size", "eq", "_assert"))]
        assert shapes in (["mul.Tensor", "add.Tensor"], ["mul.Tensor"]), f"{case.name}: {found}"

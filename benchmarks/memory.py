"""Memory of norms, ours over torch's own: what is kept for the backward pass, and the peak of a training step.

python -m benchmarks.memory
"""

import argparse
from collections.abc import Callable

from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.profiler import ProfilerActivity, profile

from benchmarks.machine import conditions
from benchmarks.norms import MAPS, TOKENS, Case
from benchmarks.timing import table

CASES = (
    Case("BatchNorm2d", (MAPS[0][1],), MAPS[0], "float32"),
    Case("BatchNorm2d", (MAPS[0][1],), MAPS[0], "bfloat16", "channels_last"),
    Case("LayerNorm", (TOKENS[1][-1],), TOKENS[1], "float32"),
    Case("LayerNorm", (TOKENS[1][-1],), TOKENS[1], "bfloat16"),
    Case("RMSNorm", (TOKENS[1][-1],), TOKENS[1], "float32"),
    Case("GroupNorm", (8, MAPS[0][1]), MAPS[0], "float32"),
    Case("InstanceNorm2d", (MAPS[0][1],), MAPS[0], "float32"),
)


def saved_bytes(layer: nn.Module, x: Tensor) -> int:
    """What a forward pass keeps, parameters left out, each storage once."""
    storages: dict[int, int] = {}
    parameters = {parameter.data_ptr() for parameter in layer.parameters()}

    def keep(tensor: Tensor) -> Tensor:
        if tensor.data_ptr() not in parameters:
            storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with saved_tensors_hooks(keep, lambda tensor: tensor):
        y = layer(x)
    del y
    return sum(storages.values())


def peak_bytes(step: Callable[[], object]) -> int:
    """The most that a step allocates beyond what was there before it."""
    step()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True) as found:
        step()
    held = most = 0
    for event in sorted(found.profiler.kineto_results.events(), key=lambda event: event.start_ns()):
        if event.name() == "[memory]":
            held += event.nbytes()
            most = max(most, held)
    return most


def report() -> str:
    rows = []
    for case in CASES:
        ours, theirs = case.layers()
        x = case.tensor().requires_grad_()
        kept = saved_bytes(ours, x) / saved_bytes(theirs, x)
        peak = peak_bytes(case.step(ours)) / peak_bytes(case.step(theirs))
        rows.append([case.name, "x".join(map(str, case.shape)), case.dtype, case.layout, kept, peak])
    return table(["norm", "shape", "dtype", "layout", "kept, ours / torch", "peak, ours / torch"], rows)


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    print(f"{report()}\n\n{conditions()}")


if __name__ == "__main__":
    main()

"""Time of whole training steps of a ResNet and a Transformer, with our norms and with torch's own.

python -m benchmarks.steps [--threads N]
"""

from collections.abc import Callable

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from benchmarks.timing import conditions, keep_freed_memory, medians, options_parser
from src.markdown import markdown_table
from src.models import ImageClassifier, TextClassifier
from src.norms import NORMS

BATCH, CLASSES, TOKENS = 64, 10, 128


def image_step(norm: str, channels_last: bool = False) -> Callable[[], object]:
    """A step of ResNet-18 with the small stem on 64 images of 32x32."""
    torch.manual_seed(0)
    model = ImageClassifier("resnet18", NORMS[norm], stem="small", num_classes=CLASSES)
    images = torch.randn(BATCH, 3, 32, 32)
    if channels_last:
        model = model.to(memory_format=torch.channels_last)
        images = images.contiguous(memory_format=torch.channels_last)
    return training_step(model, images)


def text_step(norm: str, num_layers: int = 2) -> Callable[[], object]:
    """A step of the default Transformer on 64 texts of 128 tokens."""
    torch.manual_seed(0)
    model = TextClassifier(norm=NORMS[norm], num_layers=num_layers, num_classes=CLASSES, max_length=TOKENS)
    ids = torch.randint(1, 8192, (BATCH, TOKENS))
    return training_step(model, {"input_ids": ids, "attention_mask": torch.ones_like(ids)})


def training_step(model: nn.Module, inputs: object) -> Callable[[], object]:
    labels = torch.randint(CLASSES, (BATCH,))
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)

    def step() -> None:
        optimizer.zero_grad()
        cross_entropy(model(inputs), labels).backward()
        optimizer.step()

    return step


STEPS = {
    "resnet18, BatchNorm": (image_step, "BatchNorm", {}),
    "resnet18, BatchNorm, channels last": (image_step, "BatchNorm", {"channels_last": True}),
    "resnet18, GroupNorm": (image_step, "GroupNorm", {}),
    "bert (128 wide, 2 layers), LayerNorm": (text_step, "LayerNorm", {}),
}


def report(rounds: int = 5) -> str:
    rows = []
    for name, (step, norm, options) in STEPS.items():
        seconds = medians({"ours": step(norm, **options), "torch": step(f"Torch{norm}", **options)}, rounds)
        rows.append([name, f"{seconds['torch'] * 1e3:.1f}", seconds["ours"] / seconds["torch"]])
    return markdown_table(["model", "torch's norm, ms a step", "ours / torch"], rows)


def depth(rounds: int = 3) -> str:
    """Time of a step against the number of layers."""
    rows = []
    for num_layers in (1, 2, 4, 8):
        seconds = medians({name: text_step(name, num_layers) for name in ("LayerNorm", "TorchLayerNorm")}, rounds)
        ours, theirs = seconds["LayerNorm"], seconds["TorchLayerNorm"]
        rows.append([num_layers, f"{ours * 1e3:.1f}", f"{theirs * 1e3:.1f}", ours / theirs])
    return markdown_table(["layers", "LayerNorm, ms a step", "TorchLayerNorm, ms a step", "ours / torch"], rows)


def main() -> None:
    parser = options_parser(__doc__)
    parser.add_argument("--threads", type=int, default=1)
    torch.set_num_threads(parser.parse_args().threads)
    malloc = keep_freed_memory()
    print(f"{report()}\n\n{depth()}\n\nWith {malloc}. {conditions()}")


if __name__ == "__main__":
    main()

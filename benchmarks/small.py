"""A model so small that what surrounds it shows."""

from torch import Tensor, nn

from src.models import Classifier, Recipe
from src.norms import NormFamily


class SmallNet(Classifier):
    """Classifies images `(B, in_channels, H, W)` with three convolutions, a norm after each.

    Args:
        width: channels of the first convolution; the others have two and four times as many.
        norm: what takes the place of torch's BatchNorm; null leaves it.
        recipe: loss, optimizer and schedule.
        compile: run the backbone through torch.compile.
        num_classes: classes; the CLI takes it from the data.
        in_channels: channels of an image; the CLI takes it from the data.
    """

    def __init__(
        self,
        width: int = 16,
        norm: NormFamily | None = None,
        recipe: Recipe = Recipe(),  # noqa: B008 (frozen)
        compile: bool = False,
        num_classes: int = 10,
        in_channels: int = 1,
    ) -> None:
        layers: list[nn.Module] = []
        for channels in (width, 2 * width, 4 * width):
            layers += [nn.Conv2d(in_channels if not layers else channels // 2, channels, 3, 2, 1, bias=False)]
            layers += [nn.BatchNorm2d(channels), nn.ReLU()]
        head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4 * width, num_classes)]
        super().__init__(nn.Sequential(*layers, *head), num_classes, norm, recipe, compile)

    def forward(self, images: Tensor) -> Tensor:
        return self.backbone(images)

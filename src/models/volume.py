"""Classification of clips and volumes with a small 3-D ResNet."""

from torch import Tensor, nn
from torchvision.models.video import VideoResNet, r3d_18
from torchvision.models.video.resnet import BasicBlock, Conv3DSimple

from src.models.classifier import Classifier
from src.models.recipe import Recipe
from src.norms import NormFamily


class VolumeClassifier(Classifier):
    """Classifies volumes `(B, in_channels, T, H, W)` with torchvision's r3d_18 (arXiv 1711.11248), made small.

    It is for frames of up to about 32 pixels: the first convolution is 3x3x3 with stride 1, and the four stages have
    one block each, with 1, 2, 4 and 8 times `width` features.

    Args:
        norm: the norm that replaces each norm; null keeps torch's BatchNorm3d.
        width: features of the first stage; torchvision's own is 64.
        recipe: loss, optimizer and schedule.
        num_classes: number of classes; the CLI takes it from the data.
        in_channels: channels of a volume; the CLI takes it from the data.

    Raises:
        ValueError: the width is below 1, or the norm does not fit.
    """

    modalities = ("volumes",)

    def __init__(
        self,
        norm: NormFamily | None = None,
        width: int = 16,
        recipe: Recipe = Recipe(),  # noqa: B008 (frozen)
        num_classes: int = 10,
        in_channels: int = 1,
    ) -> None:
        if width < 1:
            raise ValueError(f"width={width}: expected 1 or more")
        backbone = build_video_resnet(width, num_classes, in_channels)
        super().__init__(backbone, num_classes, norm, recipe)

    def forward(self, volumes: Tensor) -> Tensor:
        logits: Tensor = self.backbone(volumes)
        return logits


def build_video_resnet(width: int, num_classes: int, in_channels: int) -> VideoResNet:
    """torchvision's r3d_18, rebuilt with one block in each stage and a stem for small frames."""
    model = r3d_18(num_classes=num_classes)
    model.stem[0] = nn.Conv3d(in_channels, width, 3, padding=1, bias=False)
    model.stem[1] = nn.BatchNorm3d(width)
    model.inplanes = width
    for i in range(4):
        stage = model._make_layer(BasicBlock, Conv3DSimple, width * 2**i, 1, stride=1 if i == 0 else 2)
        setattr(model, f"layer{i + 1}", stage)
    model.fc = nn.Linear(model.inplanes, num_classes)
    for module in model.modules():
        if isinstance(module, nn.Conv3d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return model

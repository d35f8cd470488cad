"""Image classification with any of torchvision's classifiers."""

import math
from typing import Literal

import torch
import torchvision
from lightning.pytorch.utilities.rank_zero import rank_zero_info
from torch import Tensor, nn
from torchvision.models import ResNet

from src.models.classifier import Classifier
from src.models.recipe import Recipe
from src.names import unknown_name
from src.norms import NormFamily


class ImageClassifier(Classifier):
    """Classifies images `(B, in_channels, H, W)` with a torchvision model whose norms are a flag.

    Args:
        backbone: a torchvision classifier: resnet18, resnet50, convnext_tiny, vit_b_16, ...
        norm: the norm that replaces each norm of the backbone; null keeps the backbone's own.
        stem: standard (the backbone's own) or small, for images of up to about 64 pixels: a ResNet's first convolution
            is 3x3 with stride 1, and there is no max-pool (arXiv 1512.03385, section 4.2).
        width: features of a ResNet's first stage; each later stage has twice as many. null is 64, the ResNet's own.
        weights: torchvision's pretrained weights, such as DEFAULT or IMAGENET1K_V1. The classifier, and each weight
            whose shape differs, is initialized at random. A norm that replaces another keeps its weight and bias, and
            the log says what starts afresh.
        channels_last: keep images and maps in the memory order N, H, W, C. The numbers are the same up to rounding,
            and a checkpoint fits both orders. On a CPU, narrow ResNets (width 16 or 24) get faster and wide ones (64)
            slower.
        recipe: loss, optimizer and schedule.
        compile: run the backbone through torch.compile.
        num_classes: number of classes; the CLI takes it from the data.
        in_channels: channels of an image; the CLI takes it from the data.

    Raises:
        ValueError: the backbone or the weights do not exist, or the norm, the stem or the width does not fit.
    """

    modalities = ("images",)

    def __init__(
        self,
        backbone: str = "resnet18",
        norm: NormFamily | None = None,
        stem: Literal["standard", "small"] = "standard",
        width: int | None = None,
        weights: str | None = None,
        channels_last: bool = False,
        recipe: Recipe = Recipe(),  # noqa: B008 (frozen)
        compile: bool = False,
        num_classes: int = 10,
        in_channels: int = 3,
    ) -> None:
        if width is not None and weights is not None:
            raise ValueError(
                f"width={width} and weights={weights}: pretrained weights are of width=null; give one alone"
            )
        model = build_torchvision_model(backbone, num_classes, weights)
        if width is not None:
            set_width(model, backbone, width)
        if stem == "small":
            use_small_stem(model, backbone)
        take_channels(model, in_channels)
        super().__init__(model, num_classes, norm, recipe, compile, pretrained=weights is not None)
        self.channels_last = channels_last
        if channels_last:
            self.backbone.to(memory_format=torch.channels_last)

    def forward(self, images: Tensor) -> Tensor:
        if self.channels_last:
            # Convolutions choose the order by the strides. `contiguous` would not change the strides of gray images,
            # which are dense in both orders.
            images = images.clone(memory_format=torch.channels_last)
        logits = self.backbone(images)
        # In training, Inception and GoogLeNet also return the logits of their auxiliary classifiers.
        return logits if isinstance(logits, Tensor) else logits.logits


def build_torchvision_model(name: str, num_classes: int, weights: str | None) -> nn.Module:
    """A torchvision classifier by name, with those pretrained weights whose shapes fit."""
    known = torchvision.models.list_models(module=torchvision.models)
    if name not in known:
        raise ValueError(unknown_name("backbone", name, known))
    model = torchvision.models.get_model(name, num_classes=num_classes)
    if weights is not None:
        choices = torchvision.models.get_model_weights(name)
        if weights not in choices.__members__:
            raise ValueError(unknown_name(f"weights of {name}", weights, choices.__members__))
        own = model.state_dict()
        pretrained = choices[weights].get_state_dict(progress=True, check_hash=True)
        fitting = {key: value for key, value in pretrained.items() if key in own and value.shape == own[key].shape}
        model.load_state_dict(fitting, strict=False)
        afresh = ", ".join(sorted(own.keys() - fitting.keys())) or "nothing"
        rank_zero_info(f"{name}: pretrained weights {weights}; starting afresh: {afresh}")
    return model


def set_width(model: nn.Module, name: str, width: int) -> None:
    """Rebuild the layers of a ResNet in place, with `width` features in the first stage."""
    if not isinstance(model, ResNet):
        raise ValueError(f"width={width} is for ResNets (resnet18, resnext50_32x4d, ...), not {name}: take width=null")
    step = 64 // math.gcd(64, model.base_width)  # a group of a bottleneck has base_width / 64 of the stage's width
    if width <= 0 or width % step:
        raise ValueError(
            f"width={width}: expected {f'a multiple of {step}' if step > 1 else 'a number'} above 0 for {name}"
        )
    stages = [model.layer1, model.layer2, model.layer3, model.layer4]
    block = type(model.layer1[0])
    model.inplanes = width
    model.conv1 = nn.Conv2d(model.conv1.in_channels, width, 7, stride=2, padding=3, bias=False)
    model.bn1 = nn.BatchNorm2d(width)
    for i, stage in enumerate(stages):
        built = model._make_layer(block, width * 2**i, len(stage), stride=1 if i == 0 else 2)
        setattr(model, f"layer{i + 1}", built)
    model.fc = nn.Linear(model.inplanes, model.fc.out_features)
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


def use_small_stem(model: nn.Module, name: str) -> None:
    """Replace the stem of a ResNet in place by the one for small images."""
    if not isinstance(model, ResNet):
        raise ValueError(f"stem=small is for ResNets (resnet18, resnext50_32x4d, ...), not {name}: take stem=standard")
    model.conv1 = nn.Conv2d(model.conv1.in_channels, model.conv1.out_channels, 3, padding=1, bias=False)
    nn.init.kaiming_normal_(model.conv1.weight, mode="fan_out", nonlinearity="relu")
    model.maxpool = nn.Identity()


def take_channels(model: nn.Module, in_channels: int) -> None:
    """Replace the first convolution in place by one that takes `in_channels` channels."""
    name, conv = next((name, m) for name, m in model.named_modules() if isinstance(m, nn.Conv2d))
    if conv.in_channels == in_channels:
        return
    fresh = nn.Conv2d(
        in_channels,
        conv.out_channels,
        conv.kernel_size,  # type: ignore[arg-type]
        conv.stride,  # type: ignore[arg-type]
        conv.padding,  # type: ignore[arg-type]
        bias=conv.bias is not None,
    )
    with torch.no_grad():
        # A gray image gives the same maps as it would with three equal channels in the original layer.
        fresh.weight.copy_(conv.weight.sum(1, keepdim=True).expand_as(fresh.weight) / in_channels)
        if conv.bias is not None and fresh.bias is not None:
            fresh.bias.copy_(conv.bias)
    model.set_submodule(name, fresh)

"""Layer normalization: the features of one position (Ba, Kiros and Hinton, 2016, arXiv 1607.06450)."""

from torch import Tensor, nn

from src.norms.family import Layer, NormFamily, NormSite, given_options, positive
from src.norms.formula.axes import axes_across, last_axes
from src.norms.inputs import autocast_to_float32, check_dtypes, dense
from src.norms.leaf import leaf
from src.norms.normalize import normalize


class LayerNorm(nn.LayerNorm):
    """`torch.nn.LayerNorm` from scratch: normalizes over the last dimensions, whose shape is `normalized_shape`.

        y = (x - mean) / sqrt(var + eps) * weight + bias

    Training and eval are the same. The output at a position does not depend on other positions. torch's base class
    holds the parameters, so that weight initialization, weight decay and others recognize a layer norm. The computation
    is in this class.

    Raises:
        RuntimeError: the input's last dimensions are not `normalized_shape`, or its type is not the parameters' type.
    """

    channel_dim = -1

    @leaf
    def forward(self, input: Tensor) -> Tensor:
        input = autocast_to_float32(input).contiguous()
        check_normalized_shape(input, self.normalized_shape)
        weight, bias = self.weight, self.bias
        check_parameter_shapes(self.normalized_shape, weight=weight, bias=bias)
        check_dtypes(input, weight, bias)
        y, _ = normalize(input, last_axes(len(self.normalized_shape)), self.eps, weight, bias)
        return y


class ChannelLayerNorm(LayerNorm):
    """Layer normalization of `(N, C, *)`: the channels at one position, as in ConvNeXt (arXiv 2201.03545)."""

    channel_dim = 1

    @leaf
    def forward(self, input: Tensor) -> Tensor:
        input = dense(autocast_to_float32(input))
        check_normalized_shape(input.movedim(1, -1), self.normalized_shape)
        check_dtypes(input, self.weight, self.bias)
        y, _ = normalize(input, axes_across(1, input.ndim), self.eps, self.weight, self.bias)
        return y


class LayerNormFamily(NormFamily):
    """The features of one position (arXiv 1607.06450); on maps, the channels of one pixel (arXiv 2201.03545).

    Args:
        eps: added to the variance.
    """

    kind = "LayerNorm"
    base = nn.LayerNorm
    on_maps: Layer = ChannelLayerNorm
    on_tokens: Layer = LayerNorm

    def __init__(self, eps: float | None = None) -> None:
        self.eps = positive("eps", eps)
        self.overrides = given_options(eps=eps)

    def layer_at(self, site: NormSite) -> nn.Module:
        return self.layer_class(site)(site.num_features, elementwise_affine=site.affine, **self.options_at(site))


def check_normalized_shape(x: Tensor, normalized_shape: tuple[int, ...], any_dims: str = "*, ") -> None:
    """Raise torch's error if `normalized_shape` is empty, or if it is not the end of the shape of `x`.

    Args:
        any_dims: how torch's message writes the dimensions before `normalized_shape`.
    """
    if not normalized_shape:
        raise RuntimeError(
            "Expected normalized_shape to be at least 1-dimensional, i.e., containing at least one element, but got "
            "normalized_shape = []"
        )
    if tuple(x.shape[-len(normalized_shape) :]) != normalized_shape:
        expected = any_dims + ", ".join(map(str, normalized_shape))
        raise RuntimeError(
            f"Given normalized_shape={list(normalized_shape)}, expected input with shape [{expected}], "
            f"but got input of size{list(x.shape)}"
        )


def check_parameter_shapes(normalized_shape: tuple[int, ...], **parameters: Tensor | None) -> None:
    """Raise torch's error if a parameter was replaced by one of another shape."""
    for name, parameter in parameters.items():
        if parameter is not None and parameter.shape != normalized_shape:
            raise RuntimeError(
                f"Expected {name} to be of same shape as normalized_shape, but got {name} of shape "
                f"{list(parameter.shape)} and normalized_shape = {list(normalized_shape)}"
            )

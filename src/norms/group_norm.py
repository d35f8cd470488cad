"""Group normalization (Wu and He, 2018, arXiv 1803.08494)."""

import math

from torch import Tensor, nn

from src.norms.functional import normalize, statistics


class GroupNorm(nn.GroupNorm):
    """`torch.nn.GroupNorm` from scratch: `(N, C, *)`, each group of C / num_groups channels of a sample with its *.

        y = (x - mean) / sqrt(var + eps) * weight + bias

    The same in training and eval; no sample sees another.

    Raises:
        ValueError: `num_groups` does not divide `num_channels`.
        RuntimeError: the input's channels are not `num_channels`.
    """

    channel_dim = 1

    def forward(self, input: Tensor) -> Tensor:
        num_channels = input.shape[self.channel_dim]
        if num_channels != self.num_channels:
            raise RuntimeError(
                f"Expected weight to be a vector of size equal to the number of channels in input, but got weight of "
                f"shape [{self.num_channels}] and input of shape {list(input.shape)}"
            )
        groups = self._split(input)
        mean, var, _ = statistics(groups, (2, 3))
        weight, bias = self._split_channels(self.weight), self._split_channels(self.bias)
        return normalize(groups, mean, var, self.eps, weight, bias).reshape(input.shape)

    def _split(self, x: Tensor) -> Tensor:
        size = self.num_channels // self.num_groups
        return x.reshape(x.shape[0], self.num_groups, size, math.prod(x.shape[2:]))  # (N, G, C/G, *)

    def _split_channels(self, vector: Tensor | None) -> Tensor | None:
        return None if vector is None else vector.reshape(self.num_groups, -1, 1)  # (G, C/G, 1)


class TokenGroupNorm(GroupNorm):
    """Group normalization of `(..., D)`: each group of one position's features, as RetNet has it (arXiv 2307.08621).

    No position sees another, so padding cannot reach the statistics.
    """

    channel_dim = -1

    def _split(self, x: Tensor) -> Tensor:
        size = self.num_channels // self.num_groups
        return x.reshape(math.prod(x.shape[:-1]), self.num_groups, size, 1)  # (positions, G, D/G, 1)

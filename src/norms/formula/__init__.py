"""The mathematics of the norms: statistics over some axes, the normalization by them, and its derivative.

    y = (x - mean) / sqrt(var + eps) * weight + bias

A norm chooses the axes over which the mean and the variance are taken:

| norm         | of (N, C, *)            | of (B, T, D)                    |
|--------------|-------------------------|---------------------------------|
| BatchNorm    | N and *                 | B and T                         |
| InstanceNorm | *                       | T                               |
| GroupNorm    | a group of C, and *     | a group of D                    |
| LayerNorm    | C                       | D                               |
| RMSNorm      | C, about zero           | D, about zero                   |

Layers take their `Axes` from here. They normalize by `src.norms.normalize`, which runs a kernel if one fits.
"""

"""Random changes of a whole batch of images, a different one for each sample.

Random numbers come from torch's global generator of the images' device.
"""

import torch
from torch import Tensor
from torch.nn.functional import pad


def random_crop(images: Tensor, padding: int) -> Tensor:
    """Shift each image by up to `padding` pixels along both axes; zeros move in: (N, C, H, W) -> (N, C, H, W)."""
    num_samples, num_channels, height, width = images.shape
    device = images.device
    padded = pad(images, (padding, padding, padding, padding))  # (N, C, H + 2p, W + 2p)
    top, left = torch.randint(0, 2 * padding + 1, (2, num_samples, 1), device=device)  # (N, 1) each
    rows = top + torch.arange(height, device=device)  # (N, H)
    columns = left + torch.arange(width, device=device)  # (N, W)
    sample = torch.arange(num_samples, device=device)[:, None, None, None]
    channel = torch.arange(num_channels, device=device)[None, :, None, None]
    return padded[sample, channel, rows[:, None, :, None], columns[:, None, None, :]]


def random_flip(images: Tensor) -> Tensor:
    """Mirror each image left to right with probability 1/2: (N, C, H, W) -> (N, C, H, W)."""
    mirrored = torch.rand(len(images), device=images.device) < 0.5
    return torch.where(mirrored[:, None, None, None], images.flip(-1), images)


def augment(images: Tensor, crop_padding: int, flip: bool) -> Tensor:
    """Random crop with `crop_padding` pixels (0 = none), then a random flip if `flip`."""
    if crop_padding:
        images = random_crop(images, crop_padding)
    if flip:
        images = random_flip(images)
    return images

"""Augmentation shifts and flips each sample independently, and adds no pixel values except 0."""

import torch

from src.data.augment import augment


def images_of(num_samples: int = 64) -> torch.Tensor:
    """The same image for all samples. Its pixels all differ, and none is 0."""
    return torch.arange(1, 2 * 7 * 9 + 1, dtype=torch.uint8).reshape(1, 2, 7, 9).repeat(num_samples, 1, 1, 1)


def test_crop_is_a_shift_that_differs_per_sample_and_reaches_every_offset() -> None:
    torch.manual_seed(0)
    images = images_of(500)
    cropped = augment(images, crop_padding=2, flip=False)
    assert cropped.shape == images.shape
    assert cropped.dtype == torch.uint8
    padded = torch.nn.functional.pad(images[0], (2, 2, 2, 2))
    windows = {(top, left): padded[:, top : top + 7, left : left + 9] for top in range(5) for left in range(5)}
    offsets = [{at for at, window in windows.items() if torch.equal(image, window)} for image in cropped]
    assert all(len(found) == 1 for found in offsets)
    assert set().union(*offsets) == set(windows)


def test_flip_mirrors_about_half_of_the_samples() -> None:
    torch.manual_seed(0)
    images = images_of(400)
    flipped = augment(images, crop_padding=0, flip=True)
    mirrored = torch.tensor([torch.equal(image, images[0].flip(-1)) for image in flipped])
    untouched = torch.tensor([torch.equal(image, images[0]) for image in flipped])
    assert (mirrored ^ untouched).all()
    assert 150 < mirrored.sum() < 250


def test_crop_and_flip_are_a_crop_and_then_a_flip() -> None:
    torch.manual_seed(0)
    images = images_of(400)
    both = augment(images, crop_padding=2, flip=True)
    torch.manual_seed(0)
    cropped = augment(images, crop_padding=2, flip=False)
    mirrored = torch.rand(len(images)) < 0.5
    assert torch.equal(both, torch.where(mirrored[:, None, None, None], cropped.flip(-1), cropped))


def test_nothing_asked_nothing_done() -> None:
    images = images_of()
    assert augment(images, crop_padding=0, flip=False) is images


def test_global_generator_decides() -> None:
    torch.manual_seed(3)
    first = augment(images_of(), 2, True)
    torch.manual_seed(3)
    assert torch.equal(first, augment(images_of(), 2, True))
    assert not torch.equal(first, augment(images_of(), 2, True))

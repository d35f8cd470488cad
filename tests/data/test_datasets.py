"""Properties of every dataset in the table."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from src.data import DATASETS, ArrayData, DataError, Digits, ImageData, TextData
from src.data.images import ImageDataset

IMAGES = sorted(name for name, dataset in DATASETS.items() if issubclass(dataset, ImageData))
TEXTS = sorted(name for name, dataset in DATASETS.items() if issubclass(dataset, TextData))
ARRAYS = sorted(name for name, dataset in DATASETS.items() if issubclass(dataset, ArrayData))


def test_table_names_each_class() -> None:
    for name, dataset in DATASETS.items():
        assert dataset.__name__ == name
        assert dataset.__doc__


@pytest.mark.parametrize("name", DATASETS)
def test_splits_are_stratified_fixed_by_their_seed_and_complete(make_data: Callable[..., Any], name: str) -> None:
    data = make_data(name)
    assert len(data.class_names) == len(set(data.class_names)) == data.num_classes
    counts = {
        split: np.bincount(data.datasets[split].labels, minlength=data.num_classes)
        for split in ("train", "val", "test")
    }
    whole = sum(counts.values())
    for split in counts:
        # The split holds its share of each class, rounded to a whole number of samples.
        assert np.abs(counts[split] - whole * counts[split].sum() / whole.sum()).max() <= 1

    def held_out(**changes: Any) -> tuple[Any, Any]:
        inputs, labels = next(iter(make_data(name, batch_size=200, **changes).val_dataloader()))
        inputs = inputs if torch.is_tensor(inputs) else inputs["input_ids"]
        return inputs.tolist(), labels.tolist()

    assert held_out() == held_out()
    assert held_out() != held_out(split_seed=1)


@pytest.mark.parametrize("name", DATASETS)
def test_evaluation_sees_each_sample_once(make_data: Callable[..., Any], name: str) -> None:
    data = make_data(name)
    for split in ("val", "test", "predict"):
        labels = torch.cat([labels for _, labels in getattr(data, f"{split}_dataloader")()])
        assert sorted(labels) == sorted(data.datasets[split].labels)
        assert labels.dtype == torch.int64


@pytest.mark.parametrize("name", IMAGES)
def test_image_batches(make_data: Callable[..., Any], name: str) -> None:
    data = make_data(name)
    images, labels = next(iter(data.train_dataloader()))
    assert images.dtype == torch.uint8
    images, labels = data.on_after_batch_transfer((images, labels), 0)
    assert images.shape == (16, data.in_channels, data.image_size, data.image_size)
    assert images.dtype == torch.float32
    assert labels.shape == (16,)


@pytest.mark.parametrize("name", IMAGES)
def test_statistics_are_of_the_training_split(make_data: Callable[..., Any], name: str) -> None:
    data = make_data(name)
    train, test = (
        torch.cat(
            [data.on_after_batch_transfer(data.datasets[split][[i]], 0)[0] for i in range(len(data.datasets[split]))]
        )
        for split in ("train", "test")
    )
    torch.testing.assert_close(train.mean((0, 2, 3)), torch.zeros(data.in_channels), atol=1e-4, rtol=0)
    torch.testing.assert_close(train.std((0, 2, 3), correction=0), torch.ones(data.in_channels))
    assert (test.mean((0, 2, 3)).abs() > 1e-4).any()


@pytest.mark.parametrize("name", IMAGES)
def test_splits_share_no_image(make_data: Callable[..., Any], name: str) -> None:
    datasets = make_data(name).datasets
    for one, other in (("train", "val"), ("train", "test"), ("val", "test")):
        if datasets[one].pixels is datasets[other].pixels:
            assert not set(datasets[one].rows) & set(datasets[other].rows)


@pytest.mark.parametrize("name", TEXTS)
def test_text_batches(make_data: Callable[..., Any], name: str) -> None:
    data = make_data(name)
    for split in ("train", "val", "test"):
        for inputs, labels in getattr(data, f"{split}_dataloader")():
            ids, mask = inputs["input_ids"], inputs["attention_mask"]
            assert ids.shape == mask.shape
            assert ids.shape[1] <= data.max_length == 32
            assert ids.dtype == mask.dtype == labels.dtype == torch.int64
            assert ids.max() < data.vocab_size == 512
            # Tokens first, padding after them, and no batch longer than its longest text.
            assert torch.equal(mask, mask.sort(dim=1, descending=True).values)
            assert torch.equal(ids == data.pad_token_id, mask == 0)
            assert mask.sum(1).max() == ids.shape[1]


@pytest.mark.parametrize("name", ARRAYS)
def test_array_batches(make_data: Callable[..., Any], name: str) -> None:
    data = make_data(name)
    inputs, labels = next(iter(data.train_dataloader()))
    assert inputs.shape == (16, *data.shape)
    assert inputs[0].numel() == data.in_features
    assert (inputs.dtype, labels.dtype) == (torch.float32, torch.int64)


@pytest.mark.parametrize("name", ["Digits", "TextFiles", "Wine"])
def test_workers_load_the_same_batches(make_data: Callable[..., Any], name: str) -> None:
    def first_batch(num_workers: int) -> tuple[Any, Any]:
        inputs, labels = next(iter(make_data(name, num_workers=num_workers).train_dataloader()))
        return inputs if torch.is_tensor(inputs) else inputs["input_ids"], labels

    for here, there in zip(first_batch(0), first_batch(2), strict=True):
        assert torch.equal(here, there)


def test_seed_of_the_run_decides_the_order(make_data: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    def first_labels() -> list[int]:
        return next(iter(make_data("Digits").train_dataloader()))[1].tolist()

    monkeypatch.setenv("PL_GLOBAL_SEED", "1")
    one = first_labels()
    assert one == first_labels()
    monkeypatch.setenv("PL_GLOBAL_SEED", "2")
    assert one != first_labels()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 0}, "batch_size=0: expected 1 or more. Set --data.batch_size."),
        ({"num_workers": -1}, "num_workers=-1: expected 0 or more. Set --data.num_workers."),
        ({"crop_padding": -2}, "crop_padding=-2: expected 0 or more. Set --data.crop_padding."),
        (
            {"val_fraction": 1.5},
            "val_fraction=1.5: expected a number between 0 and 1, the share of the training samples that is held out "
            "for validation. Set --data.val_fraction.",
        ),
        (
            {"val_fraction": 0.5, "test_fraction": 0.5},
            "val_fraction=0.5 and test_fraction=0.5: expected two shares that leave some samples for training. Lower "
            "--data.val_fraction or --data.test_fraction.",
        ),
    ],
)
def test_impossible_numbers(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError) as error:
        Digits(**changes)
    assert str(error.value) == message


def test_single_indices_are_refused() -> None:
    dataset = ImageDataset(np.zeros((2, 1, 4, 4), dtype=np.uint8), np.array([0, 1]))
    with pytest.raises(TypeError) as error:
        dataset[0]  # type: ignore[index]
    assert str(error.value) == (
        "Got the index 0, expected a list of indices from src.data.sampler.BatchSampler. It shares the samples among "
        "processes by itself: set Trainer(use_distributed_sampler=False)."
    )


def test_checkpoint_of_other_classes(make_data: Callable[..., Any]) -> None:
    state = make_data("CIFAR10").state_dict()
    make_data("CIFAR10").load_state_dict(state)
    with pytest.raises(DataError) as error:
        make_data("Digits").load_state_dict(state)
    assert str(error.value) == (
        "The checkpoint was trained on the classes airplane, automobile, bird, cat, deer, dog, frog, horse, ship, "
        "truck, and the data has 0, 1, 2, 3, 4, 5, 6, 7, 8, 9. Give the data of the training run, or train on this "
        "data."
    )

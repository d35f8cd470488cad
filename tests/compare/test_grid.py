"""The grid: its axes, its arms, and their flags."""

from typing import Any

import pytest

from src.compare.grid import flags_of, label_of, make_arms, make_axes, parse_norm, split
from src.compare.options import Options
from tests.helpers.errors import error_is


@pytest.mark.parametrize(
    ("given", "values"),
    [
        ("BatchNorm,LayerNorm", ["BatchNorm", "LayerNorm"]),
        ("GroupNorm(num_groups=8, eps=1e-3), null", ["GroupNorm(num_groups=8, eps=1e-3)", "null"]),
        ([16, 64], [16, 64]),
        (16, [16]),
    ],
)
def test_values_are_split_at_commas(given: Any, values: list[Any]) -> None:
    assert split(given) == values


def test_a_norm_with_options_is_the_same_on_the_command_line_and_in_a_file() -> None:
    typed = parse_norm("GroupNorm(num_groups=8, eps=1e-3)")
    written = {"class_path": "GroupNorm", "init_args": {"num_groups": 8, "eps": 0.001}}
    assert flags_of("model.norm", typed) == [
        *["--model.norm=GroupNorm", "--model.norm.num_groups=8", "--model.norm.eps=1e-3"],
    ]
    assert flags_of("model.norm", written)[:2] == flags_of("model.norm", typed)[:2]
    assert label_of(typed) == "GroupNorm(num_groups=8, eps=1e-3)"
    assert flags_of("model.norm", parse_norm("null")) == ["--model.norm=null"]


def test_every_combination_is_an_arm() -> None:
    options = Options(
        config="digits.yaml",
        norms="BatchNorm,GroupNorm(num_groups=8)",
        batch_sizes="16,64",
        vary={"data.scaling": ["raw", "minmax"]},
        set={"trainer.max_epochs": 3, "model": "ImageClassifier"},
    )
    axes = options.axes()
    assert [axis.name for axis in axes] == ["norm", "batch_size", "scaling"]
    arms = options.arms(axes)
    assert len({arm.folder for arm in arms}) == len(arms) == 8
    assert arms[-1].name == "GroupNorm(num_groups=8), batch_size=64, scaling=minmax"
    assert arms[-1].folder == "GroupNorm_num_groups=8_batch_size=64_scaling=minmax"
    assert arms[-1].flags == (
        "--model=ImageClassifier",
        "--trainer.max_epochs=3",
        "--model.norm=GroupNorm",
        "--model.norm.num_groups=8",
        "--data.batch_size=64",
        "--data.scaling=minmax",
    )


def test_axes_of_the_same_last_name_keep_their_whole_names() -> None:
    axes = make_axes({"model.eps": [1], "data.eps": [1]})
    assert [axis.name for axis in axes] == ["model.eps", "data.eps"]


def test_without_axes_there_is_one_arm() -> None:
    (arm,) = make_arms([], {"trainer.max_epochs": 3})
    assert (arm.name, arm.flags) == ("as configured", ("--trainer.max_epochs=3",))


def test_a_value_that_is_given_twice_is_refused() -> None:
    with error_is(ValueError, "model.norm has the value A twice, and its runs would be the same: give it once"):
        make_axes({"model.norm": "A,B,A"})


def test_arms_that_would_share_a_folder_are_refused() -> None:
    axes = make_axes({"data.root": ["a/b", "a:b"]})
    with error_is(ValueError, "'root=a:b' and 'root=a/b' would both lie in the folder root=a_b"):
        make_arms(axes, {})

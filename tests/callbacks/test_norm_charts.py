"""Charts and heat maps of the norms' statistics show each layer and each step."""

from pathlib import Path

from lightning import seed_everything
from tensorboard.plugins.custom_scalar import layout_pb2

from src.callbacks import NormStatistics
from src.callbacks.norm_charts import QUANTITIES, History, custom_scalars_layout
from tests.helpers.small_net import Net, batches, events, fit, scalars


def test_the_layout_has_each_scalar_once_in_charts_of_ten(tmp_path: Path) -> None:
    seed_everything(0)
    fit(Net(), batches(), NormStatistics(every_n_steps=3), folder=tmp_path)
    found = events(tmp_path)
    (event,) = found.Tensors("custom_scalars__config__")
    page = layout_pb2.Layout.FromString(event.tensor_proto.string_val[0])
    assert [category.title for category in page.category] == [f"Norms. {q.title}" for q in QUANTITIES.values()]
    tags = [tag for category in page.category for chart in category.chart for tag in chart.multiline.tag]
    assert sorted(tags) == sorted(f"^norms/{name}$" for name in scalars(tmp_path))
    assert set(found.Tags()["images"]) == {f"norms/{name}" for name in QUANTITIES}

    many = custom_scalars_layout({"input_mean": [f"layer{i}.bn" for i in range(61)]})["Norms. Input, mean"]
    assert [len(tags) for _, tags in many.values()] == [9, 9, 9, 9, 9, 8, 8]
    assert next(iter(many)) == "layer0.bn to layer8.bn"
    assert many["layer0.bn to layer8.bn"][1][0] == "^norms/input_mean/layer0[.]bn$"


def test_a_heat_map_has_a_row_for_each_layer_and_a_column_for_each_step() -> None:
    history = History()
    for step in (0, 50, 100):
        history.append(
            step, {("input_std", "a"): step + 1.0, ("input_std", "b"): 0.0, ("input_std", "c"): float("nan")}
        )
    (axes, _) = history.heat_maps({"input_std": ["a", "b", "c"]})["input_std"].axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["a", "b", "c"]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["0", "50", "100"]
    shown = axes.images[0].get_array()
    assert shown[0].tolist() == [1, 51, 101]
    assert shown[2].mask.all()


def test_a_long_history_is_thinned_out() -> None:
    history = History()
    for step in range(2000):
        history.append(step, {("input_std", "a"): 1.0})
    assert 200 <= len(history) <= 400

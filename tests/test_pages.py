"""The pages of a run in TensorBoard, in a real browser on a real server."""

from collections.abc import Iterator

import pytest

from tests.helpers.train_command import QUIET, run_process

pytest.importorskip("playwright", reason="needs playwright, of the group test in pyproject.toml")

from playwright.sync_api import Browser, expect

from tests.helpers.tensorboard_pages import chromium, find_chromium, open_page, show_images, tensorboard

PROGRAM = find_chromium()
pytestmark = [
    pytest.mark.skipif(PROGRAM is None, reason="there is no Chromium: install Debian's package chromium"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]
RUN = ["--config=configs/digits.yaml", "--model.width=8", "--trainer.max_epochs=1", "--data.batch_size=16", *QUIET]
RUN += ["--trainer.accelerator=cpu", "--trainer.limit_train_batches=12", "--norm_statistics.every_n_steps=4"]


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("pages")
    done = run_process(folder, "fit", *RUN)
    assert done.returncode == 0, done.stderr
    with tensorboard(folder / "runs") as address:
        yield address


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    assert PROGRAM is not None
    with chromium(PROGRAM) as browser:
        yield browser


def test_curves_of_norms_are_laid_out_by_quantity(address: str, browser: Browser) -> None:
    page = open_page(browser, address, "custom_scalars")
    for title in ("Input, mean", "Output, standard deviation", "Gradient at the output, norm", "Bias, norm"):
        expect(page.get_by_text(f"Norms. {title}", exact=True)).to_be_visible()
    charts = page.locator("tf-custom-scalar-multi-line-chart-card")
    expect(charts).to_have_count(11 * 2)  # for each quantity two charts, with ten of ResNet-18's 20 norms each
    for number, title in enumerate(("bn1 to layer2.1.bn2", "layer3.0.bn1 to layer4.1.bn2")):
        expect(charts.nth(number)).to_contain_text(title)
        expect(charts.nth(number)).to_contain_text("Matches (10)")
    page.close()


def test_heat_maps_and_what_is_got_wrong_are_images(address: str, browser: Browser) -> None:
    page = open_page(browser, address, "images")
    show_images(page, "norms/input_std", "confusion/val", "mistakes/test")
    page.close()


def test_curves_of_the_run(address: str, browser: Browser) -> None:
    page = open_page(browser, address, "timeseries")
    for tag in ("train/loss", "val/accuracy"):
        page.locator("metrics-tag-filter-component input").fill(f"^{tag}$")
        expect(page.locator("scalar-card").filter(has_text=tag).first).to_be_visible()
    page.close()


def test_samples_are_points_in_the_projector(address: str, browser: Browser) -> None:
    page = open_page(browser, address, "projector")
    projector = page.frame_locator("iframe").frame_locator("iframe")
    expect(projector.locator(".numDataPoints").first).to_have_text("269")  # the size of the whole validation split
    page.close()

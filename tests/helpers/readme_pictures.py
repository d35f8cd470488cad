"""Draw the pictures of TensorBoard in the documents, from a run on digits, a real server and a real browser.

python -m tests.helpers.readme_pictures
"""

import subprocess
import sys
import tempfile
from pathlib import Path

from playwright.sync_api import Page, expect

from tests.helpers.tensorboard_pages import chromium, find_chromium, open_page, show_images, tensorboard
from tests.helpers.train_command import REPOSITORY

FOLDER = REPOSITORY / "docs" / "pictures"
RUN = ["--config=configs/digits.yaml", "--model.width=16", "--trainer.max_epochs=10", "--trainer.accelerator=cpu"]
RUN += ["--norm_statistics.every_n_steps=5", "--trainer.enable_progress_bar=false"]


def show_curves(page: Page) -> None:
    """Wait until the charts of the page CUSTOM SCALARS show all their curves."""
    charts = page.locator("tf-custom-scalar-multi-line-chart-card")
    for number in range(4):
        expect(charts.nth(number)).to_contain_text("Matches (10)")
    page.wait_for_load_state("networkidle")


def main() -> None:
    program = find_chromium()
    if program is None:
        sys.exit("the pictures need Chromium: install Debian's package chromium")
    FOLDER.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "train.py", "fit", *RUN, f"--trainer.default_root_dir={folder}/runs"]
        subprocess.run(command, cwd=REPOSITORY, check=True)
        with tensorboard(Path(folder, "runs")) as address, chromium(program) as browser:
            page = open_page(browser, address, "custom_scalars")
            show_curves(page)
            page.screenshot(path=FOLDER / "custom_scalars.png")
            page = open_page(browser, address, "images", height=1000)
            show_images(page, "confusion/val", "norms/eval_gap", "norms/gradient_norm", "norms/input_std")
            page.screenshot(path=FOLDER / "images.png")


if __name__ == "__main__":
    main()

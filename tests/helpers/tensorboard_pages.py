"""A real TensorBoard server and a real browser, for tests and pictures of the pages."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.request import urlopen

from playwright.sync_api import Browser, Page, expect, sync_playwright

PATIENCE = 120  # seconds to wait for anything, enough on a busy machine

expect.set_options(timeout=1e3 * PATIENCE)


def find_chromium() -> str | None:
    """The path of Chromium or Google Chrome; None without one."""
    return next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@contextmanager
def tensorboard(logdir: Path) -> Iterator[str]:
    """Start a server, and yield its address once it has read all runs below `logdir`."""
    command = [sys.executable, "-m", "tensorboard.main", f"--logdir={logdir.name}", "--host=127.0.0.1", "--port=0"]
    log = logdir.parent / "tensorboard.log"
    with log.open("w") as file, subprocess.Popen(command, cwd=logdir.parent, stdout=file, stderr=file) as server:
        try:
            address = ""
            for _ in attempts(server, log):
                if found := re.search(r"at (http://[\d.]+:\d+/)", log.read_text()):
                    address = found[1]
                    break
            expected = {str(path.parent.relative_to(logdir)) for path in logdir.rglob("events.out.tfevents.*")}
            for _ in attempts(server, log):
                with urlopen(f"{address}data/plugin/scalars/tags", timeout=PATIENCE) as answer:
                    if expected <= json.load(answer).keys():
                        break
            yield address
        finally:
            server.terminate()


def attempts(server: subprocess.Popen[bytes], log: Path) -> Iterator[int]:
    """Yield a number every tenth of a second. Raises when the server has ended, or after `PATIENCE` seconds."""
    for attempt in range(10 * PATIENCE):
        yield attempt
        assert server.poll() is None, log.read_text()
        time.sleep(0.1)
    raise TimeoutError(log.read_text())


@contextmanager
def chromium(program: str) -> Iterator[Browser]:
    """A headless browser."""
    # Chromium's sandbox does not run as root, and tests in a container run as root.
    options = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=options)
        yield browser
        browser.close()


def open_page(browser: Browser, address: str, name: str, width: int = 1280, height: int = 900) -> Page:
    """Open the TensorBoard page with this name in its address: timeseries, images, custom_scalars, ..."""
    page = browser.new_page(viewport={"width": width, "height": height})
    page.set_default_timeout(1e3 * PATIENCE)
    page.goto(f"{address}#{name}")
    return page


def show_images(page: Page, *tags: str) -> None:
    """Show only the images of these tags on the page IMAGES, and wait until all are loaded."""
    page.locator("tf-tag-filterer input").fill(f"^({'|'.join(tags)})$")
    found = page.locator("tf-category-paginated-view").first.locator("tf-image-loader")
    expect(found).to_have_count(len(tags))
    for tag in tags:
        picture = found.filter(has_text=tag).locator("img").element_handle()
        page.wait_for_function("image => image.complete && image.naturalWidth > 0", arg=picture)
    page.wait_for_load_state("networkidle")

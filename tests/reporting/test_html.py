"""The report in a real browser: a phone and a desk, light and dark. Skipped where there is no Chromium."""

import json
import shutil
import subprocess

import numpy as np
import pytest
from conftest import STEPS, run_script
from PIL import Image

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
QUIET = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
)  # fmt: skip

pytestmark = pytest.mark.skipif(BROWSER is None, reason="no Chromium on this machine")


@pytest.fixture(scope="module")
def page(tmp_path_factory, stages):
    """A report whose dataset holds hostile texts."""
    from conftest import SMALL_DATA, sample

    folder = tmp_path_factory.mktemp("page")
    hostile = [
        sample("<script>document.title='pwned'</script>", "😀"),
        sample("<img src=x onerror=\"document.title='pwned'\">", "😭"),
        sample("</td></table><h1>さいごの行</h1>&amp;", "😤"),
        sample("\"' onmouseover='alert(1)", "😀"),
    ]
    data = folder / "data.json"
    data.write_text(json.dumps([*SMALL_DATA, *hostile], ensure_ascii=False), encoding="utf-8")
    output = folder / "out"
    for script in STEPS:
        flags = [flag for flag in stages[script][1] if flag != "--quick"]
        if script == "01_prepare_data.py":
            flags = ["--data", data]
        if script == "02_split_data.py":
            flags = ["--validation-fraction", "0.5"]
        assert run_script(script, *flags, "--output-dir", output) == 0
    return output / "05_evaluation/report.html"


def browse(page, folder, *flags):
    command = [BROWSER, *QUIET, f"--user-data-dir={folder / 'profile'}", *flags, page.as_uri()]
    return subprocess.run(command, capture_output=True, encoding="utf-8", errors="replace", timeout=60, check=True)


def test_the_page_is_whole_and_runs_no_script(page, tmp_path):
    dom = browse(page, tmp_path, "--dump-dom").stdout
    assert "<title>pwned" not in dom and "<script" not in dom and 'onerror="' not in dom
    assert "<h1>さいごの行" not in dom and dom.rstrip().endswith("</html>")
    for heading in (
        "The loss curve",
        "Base against fine-tuned",
        "In a running conversation",
        "The most confident mistakes",
    ):
        assert heading.lower() in dom.lower(), heading


@pytest.mark.parametrize("width", [390, 1200], ids=["phone", "desk"])
def test_it_fills_a_phone_and_a_desk_in_light_and_dark(page, width, tmp_path):
    brightness = {}
    for name, flags in (("light", ()), ("dark", ("--blink-settings=preferredColorScheme=0",))):
        picture = tmp_path / f"{name}.png"
        browse(page, tmp_path, f"--window-size={width},1600", f"--screenshot={picture}", *flags)
        pixels = np.asarray(Image.open(picture).convert("L"), dtype=float)
        assert pixels.shape[1] == width and pixels.std() > 5  # something is drawn
        brightness[name] = pixels[2, 2]  # the page's own background
    assert brightness["light"] > 200 > 100 > brightness["dark"]

"""The report as text, and in a real browser where there is one."""

import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from fakes import RUN, history, predictions, results
from PIL import Image

from emojitune.artifacts import OutputDirectory
from emojitune.data.emojis import LABELS
from emojitune.reporting.diagnosis import diagnose, load_curve
from emojitune.reporting.html import render_report

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
HOSTILE = (
    "<script>document.title='pwned'</script>",
    "<img src=x onerror=\"document.title='pwned'\">",
    "</td></table><h1>おわり</h1>&amp;\x1b[31m\ud800",
    "😭 朝から虹が見えた",
)


def render(labels=LABELS, words=False, base=True):
    output, curve = OutputDirectory(Path("my outputs")), load_curve(history([2.9, 2.1, 1.5, 0.9], [2.6, 1.9, 2.1, 2.3]))
    found = {"finetuned": predictions(labels, texts=HOSTILE)}
    evaluations = results(labels=labels, words=words)
    if base:
        found["base"] = predictions(labels, right=1, texts=HOSTILE, reply="あ" * 60)[:100]
    else:
        del evaluations["base"]
    diagnosis = diagnose(curve, 622, len(labels), output)
    return render_report(evaluations, found, list(labels), RUN, curve, diagnosis, output)


@pytest.fixture(scope="module")
def page():
    return render()


class Tags(HTMLParser):
    def __init__(self, page):
        super().__init__()
        self.tags, self.text = [], ""
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.text += data


def test_the_page_runs_nothing_loads_nothing_and_shows_hostile_text_as_text(page):
    found = Tags(page)
    assert not {"script", "link", "iframe"} & {tag for tag, _ in found.tags} and "@import" not in page
    assert sum(tag == "h1" for tag, _ in found.tags) == 1
    assert all(attributes["src"].startswith("data:image/png") for tag, attributes in found.tags if tag == "img")
    assert HOSTILE[0] in found.text and "\x1b" not in page
    page.encode("utf-8")


def test_it_opens_with_how_good_at_what_where_it_fails_and_what_to_do(page):
    start = Tags(page).text.split("Base against fine-tuned")[0]
    assert start.index("72.0 %") < start.index("n-gram model") < start.index("chance") < start.index("At what")
    assert "Worst forms: lower <b>case</b> 40.0% (28–54), 質問" in " ".join(start.split())
    assert "😀 taken for 😁\n(3 of 10)" in start
    assert "uv run 03_train_model.py --epochs 2 --output-dir 'my outputs'" in start


def test_each_emoji_is_defined_once_and_has_a_text(page):
    assert page.count(".emoji {") == 1 and page.count("{background-image:") == len(LABELS) + 1  # 😢, unseen
    assert '<span class="emoji e0" role="img" aria-label="😀">😀</span>' in page


def test_base_replies_are_cut_and_missing_ones_are_a_dash(page):
    text = Tags(page).text
    assert "あ" * 40 + "…" in text and "あ" * 41 not in text and "–" in text
    assert "base model 250 of\n240" in text


def test_word_labels_leave_out_what_is_about_emojis():
    text = Tags(render(["positive", "怒り", "spam"], words=True)).text
    for part in ("emotion group", "format rate", "never in the training data", "OpenMoji"):
        assert part not in text
    assert "Which labels are taken for which" in text


def test_the_base_model_may_be_missing():
    assert "base model" not in Tags(render(base=False)).text.split("Sample replies")[0].replace("Base against", "")


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="no Chromium on this machine")
@pytest.mark.parametrize("width", [390, 1200], ids=["phone", "desk"])
def test_it_fits_a_phone_and_a_desk_in_light_and_dark(page, width, tmp_path):
    path = tmp_path / "report.html"
    path.write_text(page, encoding="utf-8")
    brightness = []
    for flags in ((), ("--blink-settings=preferredColorScheme=0",)):
        picture = tmp_path / "picture.png"
        command = [
            BROWSER,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--no-first-run",
            "--hide-scrollbars",
            *flags,
        ]
        command += [f"--user-data-dir={tmp_path / 'profile'}", f"--window-size={width},1600", f"--screenshot={picture}"]
        subprocess.run([*command, path.as_uri()], capture_output=True, timeout=60, check=True)
        pixels = np.asarray(Image.open(picture).convert("L"), dtype=float)
        assert pixels.shape[1] == width and pixels.std() > 5
        assert np.ptp(pixels[:, -4:]) == 0  # nothing reaches over the right edge
        brightness.append(pixels[2, 2])  # the page's own background
    assert brightness[0] > 200 > 100 > brightness[1]

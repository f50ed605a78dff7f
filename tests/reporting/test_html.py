"""The report as text, and in a real browser where there is one."""

import html
import re
import shutil
import subprocess
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
)


def render(labels=LABELS, words=False, run=RUN, chosen=(True, False), reply=None):
    """A page whose base model answered 100 of the prompts, at length."""
    output, curve = OutputDirectory(Path("my outputs")), load_curve(history([2.9, 2.1, 1.5, 0.9], [2.6, 1.9, 2.1, 2.3]))
    texts = (*HOSTILE, "😭 朝から虹が見えた")
    base = predictions(labels, texts, reply="あ" * 60)[:100]
    tuned = [p for p in predictions(labels, texts, reply) if (p.choice == p.label) in chosen]
    found = {"base": base, "finetuned": tuned}
    diagnosis = diagnose(curve, 622, len(labels), RUN["settings"], output)
    return render_report(results(labels, words), found, list(labels), run, curve, diagnosis, output)


@pytest.fixture(scope="module")
def page():
    return render()


def text_of(page):
    return " ".join(html.unescape(re.sub(r"<style>.*?</style>|<[^>]*>", "", page, flags=re.DOTALL)).split())


def test_it_runs_nothing_loads_nothing_and_shows_hostile_text_as_text(page):
    assert not re.search(r"<(script|link|iframe|h1>お)|@import|\x1b", page)
    urls = re.findall(r"<img[^>]* src=\"([^\"]*)", page) + re.findall(r"url\(([^)]*)", page)
    assert all(url.startswith("data:image/png") for url in urls)
    assert 'alt="Bars: exact accuracy by 気分😀"' in page
    assert all(text in text_of(page) for text in HOSTILE[:2]) and page.encode("utf-8")


def test_it_opens_with_how_good_at_what_where_it_fails_and_what_to_do(page):
    start = text_of(page).split("Base against fine-tuned")[0]
    assert start.index("72.0 %") < start.index("n-gram model") < start.index("chance") < start.index("At what")
    assert "Worst forms: lower <b>case</b> 40.0% (28–54), 質問" in start and "😀 taken for 😁 (3 of 10)" in start
    assert "uv run 03_train_model.py --epochs 2 --output-dir 'my outputs'" in start


def test_each_emoji_has_a_text_and_its_pixels_once(page):
    assert re.search('<span class="emoji e[0-9]+" role="img" aria-label="😀">😀</span>', page)
    shown = set(re.findall('aria-label="([^"]*)"', page))
    assert page.count("{background-image:") == len(shown) and {"😀", "😢", LABELS[9]} <= shown


def test_base_replies_are_cut_and_their_number_is_said(page):
    assert re.search("あ{40}…", page) and "あ" * 41 not in page
    assert page.count('<td class="base"') == 20 and "–</td>" not in page  # of those that both answered
    assert "the base model 250 of 240" in text_of(page)


def test_word_labels_leave_out_what_is_about_emojis():
    text = text_of(render(["positive", "怒り", "spam"], True))
    for about_emojis in ("emotion group", "format rate", "never a label in training"):
        assert about_emojis not in text and about_emojis in text_of(render())
    assert "OpenMoji" in text  # a tweet has an emoji
    assert "Which labels are taken for which" in text


def test_a_resumed_run_has_no_duration_and_a_wrong_reply_is_a_mistake_though_the_choice_is_right():
    text = text_of(render(run=RUN | {"seconds": None}, chosen=(True,), reply="はい"))
    assert "Best epoch 2 of 4, on cpu. 25 labels." in text and "15.0 minutes on cpu" in text_of(render())
    assert "The right label was always the most probable." in text and "No mistake" not in text


def test_labels_outside_the_groups_keep_their_table_of_unseen_emojis():
    text = text_of(render(["🚀", "🛸", "🧲"]))
    assert "never a label in training" in text and "Which emotion groups" not in text


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="no Chromium on this machine")
@pytest.mark.parametrize("width", [390, 1200], ids=["phone", "desk"])
def test_it_fits_a_phone_and_a_desk_in_light_and_dark(page, width, tmp_path):
    path, picture = tmp_path / "report.html", tmp_path / "picture.png"
    path.write_text(page, encoding="utf-8")
    command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--hide-scrollbars"]
    command += [f"--user-data-dir={tmp_path / 'profile'}", f"--window-size={width},1600", f"--screenshot={picture}"]
    brightness = []
    for flags in ([], ["--blink-settings=preferredColorScheme=0"]):
        subprocess.run([*command, *flags, path.as_uri()], capture_output=True, timeout=60, check=True)
        pixels = np.asarray(Image.open(picture).convert("L"), dtype=float)
        assert pixels.shape[1] == width and pixels.std() > 5
        assert np.ptp(pixels[:, -4:]) == 0  # nothing reaches over the right edge
        brightness.append(pixels[2, 2])  # the page's own background
    assert brightness[0] > 200 > 100 > brightness[1]

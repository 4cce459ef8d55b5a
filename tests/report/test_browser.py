"""The page in a real browser: it renders, and nothing sticks out at a phone's width."""

from __future__ import annotations

import html
import re
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from matplotlib import image

if TYPE_CHECKING:
    from tests.report.conftest import Tree

BROWSER = next((path for name in ("chromium", "chromium-browser") if (path := shutil.which(name))), None)
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync", "--hide-scrollbars"),
)
FRAME = """<!doctype html><title></title>
<iframe style="width: {width}px; height: 900px; border: 0" srcdoc="{page}"></iframe>
<script>
addEventListener("load", () => {{
  const inside = document.querySelector("iframe").contentWindow;
  const wide = [...inside.document.querySelectorAll("main *")].filter(
    element => !element.closest(".scroll, svg") && element.getBoundingClientRect().right > inside.innerWidth + 1);
  document.title = [inside.innerWidth, inside.document.documentElement.scrollWidth, wide.length].join();
}});
</script>
"""
"""A window of any width: a headless browser's own is never narrower than 500 pixels."""

pytestmark = [
    pytest.mark.skipif(BROWSER is None, reason="no chromium or chromium-browser on PATH: install one to run this"),
    pytest.mark.timeout(120),
]


@pytest.fixture
def page(tree: Tree) -> Path:
    tree.write().report(note="A note.")
    return tree.paths.report / "index.html"


def browse(page: Path, profile: Path, width: int, height: int, *flags: str) -> str:
    command = [str(BROWSER), *FLAGS, f"--user-data-dir={profile}", f"--window-size={width},{height}", *flags]
    done = subprocess.run([*command, page.as_uri()], capture_output=True, text=True, check=True, timeout=60)
    return done.stdout


def test_opens_from_disk(page: Path, tmp_path: Path) -> None:
    dom = browse(page, tmp_path / "profile", 1280, 900, "--dump-dom")
    assert "What the models can do" in dom
    assert dom.count('role="img"') == page.read_text().count('role="img"')


@pytest.mark.parametrize("width", [1280, 390])
def test_is_drawn(page: Path, tmp_path: Path, width: int) -> None:
    shot = tmp_path / "page.png"
    browse(page, tmp_path / "profile", width, 2400, f"--screenshot={shot}")
    pixels = np.asarray(image.imread(shot))[..., :3]
    assert pixels.shape[:2] == (2400, width)
    for start in range(0, 2400, 800):
        assert pixels[start : start + 800].std() > 0.03, f"blank from {start}"


@pytest.mark.parametrize("width", [1280, 390])
def test_nothing_sticks_out(page: Path, tmp_path: Path, width: int) -> None:
    """Only tables are wider than the window, and they scroll in containers of their own."""
    frame = tmp_path / "frame.html"
    frame.write_text(FRAME.format(width=width, page=html.escape(page.read_text())))
    dom = browse(frame, tmp_path / "profile", 1400, 1000, "--dump-dom")
    found = re.search(r"<title>(\d+),(\d+),(\d+)</title>", dom)
    assert found is not None
    assert [int(text) for text in found.groups()] == [width, width, 0]


def test_no_table_is_cut_at_a_desktops_width(tree: Tree, tmp_path: Path) -> None:
    """With the longest of the paper's task names, which also bring a column of its numbers."""
    tree.tasks = {"train_domain": ["math500"], "transfer": ["arc_challenge", "openbookqa"], "unseen": ["piqa"]}
    script = """<script>document.title = [...document.querySelectorAll(".scroll")].filter(
        box => box.scrollWidth > box.clientWidth).map(box => box.closest("section").id).join()</script>"""
    page = tmp_path / "page.html"
    page.write_text(tree.write().report() + script)
    dom = browse(page, tmp_path / "profile", 1280, 900, "--dump-dom")
    found = re.search(r"<title>(.*?)</title>", dom)
    assert found is not None
    assert found.group(1) == ""

"""The site of docs/: all pages, built strictly, without resources from other sites."""

import os
import re
import subprocess
import sys
from html.parser import HTMLParser

import pytest
import yaml

from tests.journeys.doc_blocks import PAGES, ROOT

FETCHED = {
    "link": ("href",),
    "script": ("src",),
    "img": ("src", "srcset"),
    "iframe": ("src",),
    "source": ("src", "srcset"),
    "video": ("src", "poster"),
}
"""Attributes with URLs that a browser fetches by itself."""


class Fetches(HTMLParser):
    """Collect these URLs, and all classes, for some of which Material's script loads resources."""

    def __init__(self):
        super().__init__()
        self.addresses, self.classes = [], set()

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        self.addresses += [given[name] for name in FETCHED.get(tag, ()) if given.get(name)]
        self.classes |= set((given.get("class") or "").split())


def pages_of(nav):
    """Return all paths in a navigation, at any depth."""
    if isinstance(nav, str):
        return [nav]
    parts = nav.values() if isinstance(nav, dict) else nav
    return [page for part in parts for page in pages_of(part)]


def test_every_page_is_in_the_navigation_once():
    nav = pages_of(yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"])
    there = [page.removeprefix("docs/") for page in PAGES if page.startswith("docs/")]
    assert sorted(nav) == sorted(there)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """Build the site and return its folder."""
    pytest.importorskip("mkdocs")
    pytest.importorskip("material")
    pytest.importorskip("mkdocstrings")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    done = subprocess.run(
        command, cwd=ROOT, env=os.environ | {"NO_MKDOCS_2_WARNING": "1"}, capture_output=True, text=True
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.slow
def test_a_browser_fetches_nothing_from_elsewhere(site):
    pages = list(site.rglob("*.html"))
    assert len(pages) > len(PAGES) - 2
    for page in pages:
        found = Fetches()
        found.feed(page.read_text(encoding="utf-8"))
        assert found.addresses
        assert [one for one in found.addresses if re.match(r"(https?:)?//", one)] == [], page
        # For these, the theme's script would fetch a renderer of diagrams and repository facts.
        assert not {"mermaid", "md-source__repository"} & found.classes, page
    for sheet in site.rglob("*.css"):
        text = re.sub(r"data:[^;,]*[;,][^)]*", "", sheet.read_text(encoding="utf-8"))
        assert re.search(r"(@import|url\()\s*[\"']?(https?:)?//", text) is None, sheet


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "diffusionpose.predict.PosePipeline.from_pretrained",
        "diffusionpose.predict.PosePipeline.__call__",
        "diffusionpose.poses.VideoPoses.track",
        "diffusionpose.structures.Boxes",
        "diffusionpose.config.ModelConfig.skeleton",
        "diffusionpose.results.convert",
        "diffusionpose.metrics.posetrack_ap.PoseTrackAP",
        "diffusionpose.nn.selective_scan.selective_scan",
        "diffusionpose.skeleton.Skeleton",
    ],
)
def test_the_reference_has_the_public_names(site, name):
    assert any(f'id="{name}"' in page.read_text() for page in (site / "reference").iterdir())

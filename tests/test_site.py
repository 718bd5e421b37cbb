"""The documentation site: every page is in its navigation, and it builds without a broken link."""

import re
import subprocess
import sys

import pytest

from support.pages import ROOT


def pages_of_the_navigation() -> list[str]:
    navigation = (ROOT / "mkdocs.yml").read_text(encoding="utf-8").split("\nnav:\n")[1]
    return re.findall(r"^ +- (?:.*: )?(\S+\.md)$", navigation, re.MULTILINE)


def test_every_page_is_once_in_the_navigation():
    outside = {"index.md", "changelog.md", "contributing.md", "security.md"}
    notebooks = {f"examples/{path.stem}.md" for path in ROOT.glob("examples/*.ipynb")}
    written = {path.relative_to(ROOT / "docs").as_posix() for path in ROOT.glob("docs/**/*.md")}
    assert sorted(pages_of_the_navigation()) == sorted(written | outside | notebooks)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    pytest.importorskip("mkdocs", reason="NOT CHECKED: the site is built by `make site`")
    directory = tmp_path_factory.mktemp("site")
    built = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", directory],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert built.returncode == 0, built.stderr
    return directory


def test_the_pages_request_nothing_from_other_hosts(site):
    pages = list(site.rglob("*.html"))
    assert len(pages) > 40
    for page in pages:
        requests = re.findall(
            r'<(?:script|img|link rel="stylesheet")[^>]* (?:src|href)="(https?://[^"]+)',
            page.read_text(encoding="utf-8"),
        )
        assert not requests, page


def test_the_site_has_signatures_notebooks_and_gin_files(site):
    api = (site / "api.html").read_text(encoding="utf-8")
    for name in ("load", "mixture", "train", "resume", "evaluate"):
        assert re.search(rf'<h3 id="flan_jax\.api\.\w+\.{name}"', api), name
    assert "10 are held out" in (site / "examples/held_out.html").read_text(encoding="utf-8")
    training = (site / "training.html").read_text(encoding="utf-8")
    assert 'href="gin/recipes/llama_adamw.gin"' in training
    assert (site / "gin/recipes/llama_adamw.gin").is_file()

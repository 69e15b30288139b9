"""The documentation site: references name what the code has, it builds, no link is broken."""

from __future__ import annotations

import ast
import json
import posixpath
import subprocess
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

import click
import lxml.html
import pytest
import yaml
from markdown_it import MarkdownIt
from pydantic import BaseModel, Field

import rlrf
from rlrf.cli import cli
from rlrf.config import Config

ROOT = Path(__file__).parents[1]
if TYPE_CHECKING:
    from harness.core.schema import Decision, Policy

sys.path.insert(0, str(ROOT / "docs" / "hooks"))

import pages  # noqa: E402
from configuration import Part, describe  # noqa: E402
from markup import escape, four_space_lists  # noqa: E402
from python_api import python_api  # noqa: E402

MKDOCS = ROOT / ".venv-docs" / "bin" / "mkdocs"
STRUCTURE = ("h2", "h3", "li", "table", "tr", "pre", "blockquote", "em", "strong")


def build(sources: Path) -> subprocess.CompletedProcess[str]:
    """Build the site from prepared sources, as `make docs` does."""
    return subprocess.run(
        [MKDOCS, "build", "--strict", "--config-file", sources / "mkdocs.yml"],
        env={"NO_MKDOCS_2_WARNING": "1", "PATH": "/usr/bin:/bin", "http_proxy": "http://[::1]:9"},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The prepared sources of the site."""
    folder = tmp_path_factory.mktemp("sources")
    pages.prepare(folder, folder / "site")
    return folder


@pytest.fixture(scope="module")
def site(sources: Path) -> Path:
    """The built site."""
    if not MKDOCS.exists():
        pytest.skip("there is no .venv-docs; `make site-tools` makes it")
    done = build(sources)
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr
    return sources / "site"


def html(path: Path) -> Any:
    return lxml.html.fromstring(path.read_text())


def commands(command: click.Command, path: str) -> Iterator[tuple[str, click.Command]]:
    yield path, command
    if isinstance(command, click.Group):
        for name, child in command.commands.items():
            yield from commands(child, f"{path} {name}")


@pytest.mark.slow
def test_the_reference_names_every_command_and_option(sources: Path) -> None:
    text = (sources / "docs/reference/command-line.md").read_text()
    headings = {line.lstrip("# ") for line in text.splitlines() if line.startswith("#")}
    for path, command in commands(cli, "rlrf"):
        assert path in headings
        section = text.partition(f"# {path}\n")[2].partition("\n#")[0]
        for parameter in command.params:
            if isinstance(parameter, click.Option) and not parameter.hidden:
                assert parameter.opts[-1] in section, f"{path} {parameter.opts}"


def test_the_reference_shows_defaults_ranges_and_examples(sources: Path) -> None:
    text = (sources / "docs/reference/command-line.md").read_text()
    section = text.partition("## rlrf gate\n")[2].partition("\n## ")[0]
    assert "Examples:\n\n```text\nrlrf gate evaluations/m0 evaluations/m1\n" in section
    described = "Responses per batch. Default: `256`. Range: `x>=1`."
    assert f"`--max-batch INTEGER RANGE`\n:   {described}" in section


def fields(model: type[BaseModel]) -> Iterator[str]:
    for name, field in model.model_fields.items():
        yield name
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            yield from (f"{name}.{below}" for below in fields(inner))


def test_the_reference_names_every_key_of_a_run(sources: Path) -> None:
    text = (sources / "docs/reference/configuration.md").read_text()
    keys = list(fields(Config))
    assert {"model", "train.learning_rate", "rlmec.train.epochs"} < set(keys)
    for key in keys:
        assert f"\n`{key}` {{ #run.{key}" in text, key


@pytest.mark.slow
def test_the_reference_covers_every_file_that_the_code_reads() -> None:
    read = set()
    for package in ("harness", "rlrf", "tasks"):
        for path in (ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Call) and len(node.args) == 2:
                    called = ast.unparse(node.func).rpartition(".")[2]
                    model = ast.unparse(node.args[1]).rpartition(".")[2]
                    model = "Judging" if model == "judging_model()" else model
                    if called == "load" and model[:1].isupper():
                        read.add(model)
    assert read == set(pages.FILES)


def test_types_bounds_and_defaults_are_written_as_in_yaml() -> None:
    class Inner(BaseModel):
        """A block."""

        rate: float = Field(default=1e-6, gt=0, description="step size")
        names: list[str] = ["a", "b"]

    class Outer(BaseModel):
        kind: str | None = None
        many: list[Inner]
        one: Inner = Inner(rate=2.0)
        level: int = Field(ge=1, le=9, description="how <much>, max_tokens")

    part = Part(Outer, "Outer", "About it.", "outer", "an [outer]")
    text = describe([part])
    assert "`kind` { #outer.kind }\n:   *text or null, optional*" in text
    assert "`level` { #outer.level }\n:   *integer at least 1 and at most 9, required*" in text
    assert "How \\<much\\>, max\\_tokens." in text
    assert "*list of [blocks](#outer.many), required*\n    <br>A block." in text
    assert "*a [block](#outer.one), default `{rate: 2.0}`*" in text
    assert "`many[].rate` { #outer.many.rate }\n:   *number above 0, default `1.0e-06`*" in text
    assert "default `[a, b]`" in text


def test_the_python_reference_grows_with_the_public_names(sources: Path) -> None:
    def decide(policy: Policy) -> Decision:
        raise NotImplementedError

    helpers = types.ModuleType(__name__)
    helpers.assert_fine = test_types_bounds_and_defaults_are_written_as_in_yaml
    package = types.ModuleType("package")
    package.decide, package.helpers = decide, helpers
    package.__all__ = ["decide", "helpers"]
    text = python_api(package)
    assert "heading: package.decide\n" in text
    assert "heading: package.helpers.assert_fine\n" in text
    assert "### Decision { #harness.core.schema.Decision }" in text
    assert "list of [Check](#harness.core.schema.Check)" in text, "a record inside a record"

    shown = (sources / "docs/reference/python.md").read_text()
    for name in getattr(rlrf, "__all__", ()):
        assert f"heading: rlrf.{name}" in shown


def test_patterns_in_the_navigation_stand_for_the_pages_that_no_line_names() -> None:
    entries = [
        {"Start": "index.md"},
        {"Recipes": ["recipes/*.md"]},
        {"None": ["none/*.md"]},
        "*.md",
    ]
    found = pages.navigation(
        entries, ["a.md", "index.md", "recipes/b.md", "recipes/a.md", "recipes/index.md"]
    )
    recipes = ["recipes/index.md", "recipes/a.md", "recipes/b.md"]
    assert found == [{"Start": "index.md"}, {"Recipes": recipes}, "a.md"]


def test_lists_are_prepared_for_the_site_generator() -> None:
    code = "\n```\n- code\n  - code\n```\n"
    text = f"text\n- one\n  more\n  1. deep\n     deeper\n\n  last\n- two\n{code}"
    assert four_space_lists(text) == (
        f"text\n\n- one\n    more\n    1. deep\n        deeper\n\n    last\n\n- two\n{code}"
    )


def test_text_from_the_code_is_not_read_as_markup() -> None:
    text = "a <b> *c* [d](e) `f_*g*` snake_case # h"
    rendered = MarkdownIt("gfm-like", {"linkify": False}).render(escape(text))
    shown = lxml.html.fromstring(rendered)
    assert shown.text_content().strip() == text.replace("`", "")
    assert [child.tag for child in shown] == ["code"]


@pytest.mark.slow
def test_no_link_is_broken(site: Path) -> None:
    documents = {path.relative_to(site).as_posix(): html(path) for path in site.rglob("*.html")}
    anchors = {name: set(page.xpath("//@id | //@name")) for name, page in documents.items()}
    checked = 0
    for name, page in documents.items():
        for link in page.xpath("//a/@href | //img/@src"):
            parts = urlsplit(link)
            if parts.scheme or name == "404.html":
                continue
            target = posixpath.normpath(
                posixpath.join(posixpath.dirname(name), unquote(parts.path))
            )
            target = target if parts.path else name
            assert (site / target).is_file(), f"{name} links to {link}"
            if parts.fragment and target in anchors:
                assert unquote(parts.fragment) in anchors[target], f"{name} links to {link}"
            checked += 1
    assert checked > 1000


def test_types_in_signatures_lead_to_their_description(site: Path) -> None:
    page = html(site / "reference" / "python.html")
    assert "#harness.core.schema.Decision" in page.xpath("//pre//a/@href")


def test_the_site_needs_nothing_from_the_network(site: Path) -> None:
    for path in site.rglob("*.html"):
        loaded = html(path).xpath("//script/@src | //link/@href | //img/@src | //iframe/@src")
        assert [url for url in loaded if urlsplit(url).netloc] == [], path.name
    for path in site.rglob("*.css"):
        assert "url(http" not in path.read_text(), path.name


@pytest.mark.slow
def test_pages_have_the_same_structure_as_on_github(site: Path) -> None:
    github = MarkdownIt("gfm-like", {"linkify": False})
    for place, source in pages.sources().items():
        if place.startswith("reference/"):
            continue
        expected = lxml.html.fromstring(f"<div>{github.render(source.read_text())}</div>")
        (shown,) = html((site / place).with_suffix(".html")).xpath("//article")
        for tag in STRUCTURE:
            counts = [len(page.findall(f".//{tag}")) for page in (expected, shown)]
            assert counts[0] == counts[1], f"{source.name}: <{tag}> {counts}"


@pytest.mark.slow
@pytest.mark.parametrize(
    "mistake",
    ["[page](absent.md)", "[section](gate.md#absent)", "[file](../absent.yaml)", "::: rlrf.absent"],
)
def test_the_build_stops_at_a_mistake(site: Path, tmp_path: Path, mistake: str) -> None:
    sources = site.parent
    (tmp_path / "docs").mkdir()
    for name in ("index.md", "gate.md", "img", "quickstart.svg"):
        (tmp_path / "docs" / name).symlink_to(sources / "docs" / name)
    (tmp_path / "docs" / "page.md").write_text(f"# Page\n\n{mistake}\n")
    config: dict[str, Any] = yaml.safe_load((sources / "mkdocs.yml").read_text())
    config["nav"], config["site_dir"] = ["page.md"], "site"
    config["not_in_nav"], config["exclude_docs"] = "", "index.md\n"
    (tmp_path / "mkdocs.yml").write_text(yaml.safe_dump(config))
    done = build(tmp_path)
    assert done.returncode != 0
    assert "absent" in done.stderr


@pytest.mark.slow
def test_the_search_works_from_a_folder_without_a_server(driver: Any, site: Path) -> None:
    from selenium.webdriver.support.ui import WebDriverWait

    for log in ("browser", "performance"):
        driver.get_log(log)
    driver.set_window_size(1280, 900)
    driver.get((site / "reference" / "command-line.html").as_uri())
    driver.execute_script("document.querySelector('#__search').click()")
    wait = WebDriverWait(driver, 30)
    wait.until(lambda page: page.find_element("css selector", ".md-search__input").is_displayed())
    driver.find_element("css selector", ".md-search__input").send_keys("margin")
    (first, *_) = wait.until(
        lambda page: page.find_elements("css selector", ".md-search-result__link")
    )
    assert urlsplit(first.get_attribute("href")).scheme == "file"
    assert driver.get_log("browser") == []
    requested = [json.loads(entry["message"])["message"] for entry in driver.get_log("performance")]
    urls = [
        message["params"]["request"]["url"]
        for message in requested
        if message["method"] == "Network.requestWillBeSent"
    ]
    assert urls and {urlsplit(url).scheme for url in urls} <= {"file", "data", "blob", "about"}


@pytest.mark.slow
def test_no_page_is_wider_than_a_phone(driver: Any, site: Path) -> None:
    driver.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": 390, "height": 844, "deviceScaleFactor": 1, "mobile": True},
    )
    try:
        for path in sorted(site.rglob("*.html")):
            driver.get(path.as_uri())
            width = driver.execute_script("return document.documentElement.scrollWidth")
            assert width <= 390, path.relative_to(site)
    finally:
        driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})

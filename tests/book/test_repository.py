"""The repository agrees with itself: one address, one list of pages, one lock."""

from __future__ import annotations

import ast
import importlib
import json
import re
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import notebook_checks
import notebooks
import pytest
import set_url
import yaml
from inputs import Repository
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[2]
URL = set_url.configured_url(ROOT)
BOOK = notebooks.all_notebooks(ROOT / "book")
SITE_URL = set_url.forms(URL)[2] + "/"
PYTHONS = ("3.11", "3.12", "3.13")
LINUX = {"sys_platform": "linux", "platform_machine": "x86_64"}
MACOS = {"sys_platform": "darwin", "platform_machine": "arm64"}


def text(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def requirements(name: str) -> list[Requirement]:
    lines = (line.split(" #")[0].strip() for line in text(name).splitlines())
    return [Requirement(line) for line in lines if line and line[0] not in "#-"]


def pins(name: str, python: str, machine: dict[str, str]) -> dict[str, Version]:
    """The versions that a file of pins gives to a machine."""
    environment = {
        "python_version": python,
        "python_full_version": python + ".9",
        "platform_python_implementation": "CPython",
        "implementation_name": "cpython",
        "os_name": "posix",
        **machine,
    }
    return {
        each.name: Version(next(iter(each.specifier)).version)
        for each in requirements(name)
        if each.marker is None or each.marker.evaluate(environment)
    }


def package() -> dict:
    return tomllib.loads(text("pyproject.toml"))["project"]


def tracked() -> list[str]:
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    return [name for name in listed.split("\0") if name and (ROOT / name).exists()]


# --- the address ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["README.md", "CITATION.cff", "book/index.md", "pyproject.toml"]
)
def test_file_names_the_configured_address(name: str) -> None:
    assert re.search(re.escape(URL) + r"(?![\w.-])", text(name))


def test_package_metadata_name_the_configured_address() -> None:
    assert package()["urls"] == {"Homepage": SITE_URL, "Repository": URL}


def test_citation_names_the_configured_address_and_the_packages_version() -> None:
    citation = yaml.safe_load(text("CITATION.cff"))
    assert citation["repository-code"] == URL
    assert citation["url"] == SITE_URL
    assert str(citation["version"]) == package()["version"]


def test_readme_links_to_colab_and_to_the_site() -> None:
    colab = yaml.safe_load(text("_config.yml"))["launch_buttons"]["colab_url"]
    name = set_url.forms(URL)[1]
    found = re.search(
        re.escape(f"{colab}/{name}/blob/main/") + r"([^)\s]+)", text("README.md")
    )
    assert found, "README.md has no Colab link"
    assert (ROOT / found[1]).exists()
    assert SITE_URL in text("README.md")


@pytest.mark.parametrize("path", BOOK, ids=lambda path: path.name)
def test_notebook_installs_from_the_configured_address(path: Path) -> None:
    notebook = json.loads(path.read_text(encoding="utf-8"))
    code = [c for c in notebook["cells"] if c["cell_type"] == "code"]
    wanted = notebook_checks.SETUP_CELL.format(url=URL)
    assert ("".join(code[0]["source"]) + "\n").startswith(wanted)


def test_no_tracked_file_names_another_repository_of_the_book() -> None:
    name = URL.rsplit("/", 1)[1]
    pattern = re.compile(rf"https://github\.com/[\w.-]+/{re.escape(name)}(?![\w-])")
    for file in tracked():
        if (ROOT / file).suffix in set_url.TEXT:
            assert set(pattern.findall(text(file))) <= {URL}, file


def test_set_url_rewrites_every_form(tmp_path: Path) -> None:
    old, new = "https://github.com/ann/book", "https://github.com/Bob/other"
    path = tmp_path / "README.md"
    path.write_text(
        f"{old}.git colab/github/ann/book/blob https://ann.github.io/book/ other",
        encoding="utf-8",
    )
    assert set_url.rewrite([path], old, new) == [path]
    assert path.read_text(encoding="utf-8") == (
        f"{new}.git colab/github/Bob/other/blob https://bob.github.io/other/ other"
    )
    assert set_url.rewrite([path], old, new) == []


# --- the pages ------------------------------------------------------------------------


def test_contents_list_exactly_the_pages_of_the_book() -> None:
    listed = re.findall(r"(?:root|file): (\S+)", text("_toc.yml"))
    assert len(listed) == len(set(listed))
    written = [p for p in (ROOT / "book").rglob("*.md") if "_vendor" not in p.parts]
    pages = {p.relative_to(ROOT).with_suffix("").as_posix() for p in [*BOOK, *written]}
    assert set(listed) == pages


def test_each_wing_of_the_package_has_its_page() -> None:
    folders = (ROOT / "urlm_helpers").glob("*/__init__.py")
    documented = {p.stem for p in (ROOT / "book/appendix/reference").glob("*.md")}
    assert documented == {path.parent.name for path in folders}
    for name in documented:
        assert f".. wing:: {name}\n" in text(f"book/appendix/reference/{name}.md")


def test_landing_page_links_to_every_notebook() -> None:
    linked = set(re.findall(r"\(([\w/.-]+\.ipynb)\)", text("book/index.md")))
    there = {path.relative_to(ROOT / "book").as_posix() for path in BOOK}
    assert linked == there


def test_no_static_folder() -> None:
    """Jupyter-book adds every script below a `_static` folder to every page."""
    assert not [name for name in tracked() if "_static" in Path(name).parts]


def test_vendored_libraries_keep_their_licenses() -> None:
    places = [ROOT / name / "_vendor" for name in ("book", "tools", "tests")]
    for folder in (each for place in places for each in place.iterdir()):
        if folder.is_dir():
            assert (folder / "LICENSE").is_file(), folder


def test_vendor_script_names_the_versions_that_are_there() -> None:
    script = text("tools/vendor.sh")
    wanted = dict(re.findall(r"\b(mermaid|mathjax|axe)=([\d.]+)", script))
    assert f"MathJax {wanted['mathjax']}" in text("book/_vendor/README.md")
    mermaid = text("tools/_vendor/mermaid/mermaid.min.js")
    assert f'version:"{wanted["mermaid"]}"' in mermaid
    assert wanted["mathjax"] in text("book/_vendor/mathjax/core.js")
    assert f"axe v{wanted['axe']}" in text("tests/_vendor/axe-core/axe.min.js")[:200]


def test_the_gpus_benchmark_and_the_page_about_it_agree(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    gpu: Any = importlib.import_module("gpu")
    names = [path.stem for path in BOOK]
    assert all(names.count(name) == 1 for name in gpu.PAGES)
    for name in ("5-5-training", "5-5b-tables"):
        page = json.loads(text(f"book/5-project/{name}.ipynb"))
        top = "".join(page["cells"][0]["source"])
        measured = (gpu.RESULTS / "gpu.csv").exists()
        assert ("No GPU has been measured yet" in top) != measured


# --- the versions ---------------------------------------------------------------------


@pytest.mark.parametrize("python", PYTHONS)
@pytest.mark.parametrize("machine", [LINUX, MACOS], ids=["linux", "macos"])
@pytest.mark.parametrize("pinned", ["requirements.lock", "constraints-colab.txt"])
def test_ranges_admit_the_pinned_versions(
    pinned: str, machine: dict[str, str], python: str
) -> None:
    versions = pins(pinned, python, machine)
    environment = {"python_version": python, **machine}
    checked = 0
    for each in requirements("requirements.txt"):
        if each.marker is not None and not each.marker.evaluate(environment):
            continue
        if each.name in versions:
            assert each.specifier.contains(versions[each.name]), each
            checked += 1
        else:
            assert pinned != "requirements.lock", f"{each.name} is not in the lock"
    assert checked >= 5


def test_colab_constraints_cover_what_matters() -> None:
    names = {each.name for each in requirements("constraints-colab.txt")}
    assert names >= {"tensorflow", "keras", "numpy", "pandas", "matplotlib"}


@pytest.mark.parametrize("python", PYTHONS)
def test_lock_gives_each_machine_one_tensorflow(python: str) -> None:
    linux = pins("requirements.lock", python, LINUX)
    macos = pins("requirements.lock", python, MACOS)
    assert "tensorflow-cpu" in linux and "tensorflow" not in linux
    assert "tensorflow" in macos and "tensorflow-cpu" not in macos


def test_lock_pins_every_package() -> None:
    for each in requirements("requirements.lock"):
        operators = {specifier.operator for specifier in each.specifier}
        assert operators == {"=="}, each


def test_lock_answers_every_tool_the_book_is_built_with() -> None:
    versions = pins("requirements.lock", "3.11", LINUX)
    asked = requirements("requirements-dev.in") + requirements("requirements-site.in")
    for each in asked:
        assert each.specifier.contains(versions[each.name.lower()]), each


@pytest.mark.parametrize("python", PYTHONS)
@pytest.mark.parametrize("machine", [LINUX, MACOS], ids=["linux", "macos"])
def test_the_sites_pins_are_the_locks(machine: dict[str, str], python: str) -> None:
    lock = pins("requirements.lock", python, machine)
    site = pins("requirements-site.lock", python, machine)
    assert site.items() <= lock.items()
    assert len(site) < len(lock) / 2  # else it is no light environment


def test_the_sites_pins_answer_what_builds_the_site() -> None:
    site = pins("requirements-site.lock", "3.11", LINUX)
    wanted = requirements("requirements-site.in")
    assert wanted
    for each in wanted:
        assert each.specifier.contains(site[each.name]), each
    assert "-r requirements-site.in" in text("requirements-dev.in").splitlines()


def test_package_asks_for_the_readers_ranges_and_no_more() -> None:
    def ranges(lines: list[str]) -> dict[str, SpecifierSet]:
        return {each.name: each.specifier for each in map(Requirement, lines)}

    reader = {each.name: each.specifier for each in requirements("requirements.txt")}
    project = package()
    light = ranges(project["dependencies"])
    extras = project["optional-dependencies"]
    kinds = ("tensorflow", "gbm", "retrieval", "serving")
    heavy = ranges([line for kind in kinds for line in extras[kind]])
    assert light.keys() | heavy.keys() == reader.keys() - {
        "jupyterlab",
        "tensorflow-cpu",
    }
    for name, specifier in (light | heavy).items():
        assert specifier == reader[name], name
    assert not light.keys() & {"tensorflow", "tensorflow-cpu", "keras", "lightgbm"}


def test_pythons_agree() -> None:
    admitted = SpecifierSet(package()["requires-python"])
    assert [minor for minor in range(9, 16) if f"3.{minor}" in admitted] == [11, 12, 13]
    workflow = yaml.safe_load(text(".github/workflows/ci.yml"))
    assert workflow["jobs"]["test"]["strategy"]["matrix"]["python"] == list(PYTHONS)


def test_package_version_is_the_modules() -> None:
    tree = ast.parse(text("urlm_helpers/__init__.py"))
    versions = [
        ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign)
        and ast.unparse(node.targets[0]) == "__version__"
    ]
    assert versions == [package()["version"]]


# --- no file tells where it was written ----------------------------------------------

PRIVATE = re.compile(
    r"(?<![\w./~-])/(?:root|work|home/\w+|Users/\w+)/[\w.]|index-url|find-links|trusted-host"
)
ALLOWED = {
    "Makefile": {
        "index-url",
        "find-links",
    },  # `--no-emit-…`: keeps them out of the lock
    "tests/book/test_repository.py": None,
}


def private_marks(file: str, content: str) -> set[str]:
    """What in a file's text belongs to one machine only."""
    allowed = ALLOWED.get(file, set())
    return set() if allowed is None else set(PRIVATE.findall(content)) - allowed


def test_no_tracked_file_has_a_path_or_an_index_of_one_machine() -> None:
    for file in tracked():
        if "_vendor" in Path(file).parts or (ROOT / file).suffix in {".png", ".svg"}:
            continue
        assert not private_marks(file, text(file)), file


@pytest.mark.parametrize(
    "line",
    [
        "open('/root/data.csv')",
        'File "/work/book/a.py"',
        "/home/ann/book",
        "--extra-index-url=https://pypi.example/simple",
        "--find-links wheels",
    ],
)
def test_private_marks_are_seen(line: str) -> None:
    assert private_marks("a.md", line)


@pytest.mark.parametrize(
    "line", ["the work/life balance", "/usr/bin", "~/work/x", "root"]
)
def test_ordinary_text_is_not_private(line: str) -> None:
    assert not private_marks("a.md", line)


# --- what a change reruns -------------------------------------------------------------


def test_the_pages_that_reach_serving_are_those_that_import_it() -> None:
    repository = Repository(ROOT)
    pages = [file for file in repository.files if file.endswith(".ipynb")]
    latency = "urlm_helpers/serving/latency.py"
    reached = {file for file in pages if latency in repository.reach(file)}
    named = {file for file in pages if "urlm_helpers.serving" in repository.text(file)}
    assert reached and reached <= named

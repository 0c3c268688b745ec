"""The container file holds together with the project, without building it."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path

import pytest

from urlm_helpers import __main__ as program


@pytest.fixture(scope="module")
def lines(root: Path) -> dict[str, list[str]]:
    """What stands behind each instruction, with continued lines joined."""
    text = (root / "Containerfile").read_text("utf-8")
    text = re.sub(r"^#.*\n", "", text, flags=re.M).replace("\\\n", " ")
    found: dict[str, list[str]] = {}
    for line in text.splitlines():
        if line.strip():
            word, rest = line.split(maxsplit=1)
            found.setdefault(word, []).append(rest.strip())
    return found


def test_its_python_is_one_that_the_tests_run(
    root: Path, lines: dict[str, list[str]]
) -> None:
    (version,) = re.findall(r"^python:([\d.]+)-slim$", lines["FROM"][0])
    assert version in re.findall(
        r'"(3\.\d+)"', (root / ".github/workflows/ci.yml").read_text().split("steps")[0]
    )


def test_what_it_copies_and_installs_is_there(
    root: Path, lines: dict[str, list[str]]
) -> None:
    copied = {name for line in lines["COPY"] for name in line.split()[:-1]}
    assert all((root / name).exists() for name in copied)
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    needed = {"pyproject.toml", "urlm_helpers", project["readme"]}
    assert copied >= needed | {*project["license-files"]}
    install = lines["RUN"][0]
    (extras,) = re.findall(r'"\.\[([\w,]+)\]"', install)
    assert {*extras.split(",")} <= {*project["optional-dependencies"]}
    assert re.findall(r"-c (\S+)", install)[0] in copied


def test_its_command_is_one_of_the_package(
    lines: dict[str, list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    command = json.loads(lines["ENTRYPOINT"][0])
    assert command[:3] == ["python", "-m", "urlm_helpers"]
    served = command[4]
    assert not Path(served).exists()
    assert program.main(command[3:]) == 1  # its options are read: 2 if they are not
    assert served in capsys.readouterr().err


def test_port_health_store_and_user(lines: dict[str, list[str]]) -> None:
    command = json.loads(lines["ENTRYPOINT"][0])
    given = dict(zip(command[5::2], command[6::2], strict=True))
    (port,), (volume,) = lines["EXPOSE"], lines["VOLUME"]
    assert given["--port"] == port and given["--host"] == "0.0.0.0"
    health = lines["HEALTHCHECK"][0]
    assert f"http://127.0.0.1:{port}/health" in health
    compile(json.loads(health[health.index("[") :])[2], "health", "exec")
    store = Path(given["--store"])
    assert store.parent == Path(volume)  # else the events go with the container
    assert lines["USER"] != ["root"]
    assert f"install -d -o {lines['USER'][0]} {volume}" in lines["RUN"][0]

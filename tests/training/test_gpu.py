"""The GPU's benchmark as a program: what it writes, skips, leaves out and spares."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.append(str(Path(__file__).resolve().parents[2] / "benchmarks"))
gpu: Any = importlib.import_module("gpu")
results: Any = importlib.import_module("results")

PLAN = {"one": ["a", "b"], "two": ["c"]}


def test_tensorflow_waits_until_a_group_runs(root: Path) -> None:
    code = "import gpu, sys; print({'tensorflow', 'keras', 'numpy'} & {*sys.modules})"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=root / "benchmarks", capture_output=True
    )
    assert done.stdout == b"set()\n", done.stderr


@pytest.fixture
def result(tmp_path: Path) -> Any:
    return results.Result(tmp_path / "gpu.csv", gpu.COLUMNS, digits=6)


def starts(asked: list[Any], only: str = "abc") -> Any:
    """Return a start that notes what it is asked for, and finds its length."""

    def start(group: str, cases: list[str]) -> Iterator[dict[str, Any]]:
        asked.append((group, cases))
        for case in cases:
            if case in only:
                yield {"case": case, "found": {"ms": 1 / 3, "rows": 12.0}}

    return start


def test_lines_have_the_card_and_a_second_run_measures_nothing(
    result: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[Any] = []
    assert gpu.run(result, "card, 80 GB", PLAN, starts(asked)) == ([], [])
    assert asked == [("one", ["a", "b"]), ("two", ["c"])]
    text = result.path.read_text()
    assert text.startswith('card,case,measure,value\n"card, 80 GB",a,ms,0.333333\n')
    assert len(text.splitlines()) == 7
    assert "c: ms 0.3333, rows 12 (0 to go)" in capsys.readouterr().out
    assert gpu.run(result, "card, 80 GB", PLAN, starts(asked)) == ([], [])
    assert len(asked) == 2 and result.path.read_text() == text
    gpu.run(result, "another", PLAN, starts(asked))  # a card of its own, beside it
    assert len(asked) == 4 and result.path.read_text().startswith(text)


def test_a_run_that_is_cut_off_goes_on_where_it_was(result: Any) -> None:
    def cut(group: str, cases: list[str]) -> Iterator[dict[str, Any]]:
        yield {"case": "a", "found": {"ms": 1.0}}
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        gpu.run(result, "card", PLAN, cut)
    asked: list[Any] = []
    assert gpu.run(result, "card", PLAN, starts(asked)) == ([], [])
    assert asked == [("one", ["b"]), ("two", ["c"])]
    assert [line["case"] for line in result.lines()] == ["a", "b", "b", "c", "c"]


def test_what_failed_or_did_not_fit_is_named_and_tried_again(result: Any) -> None:
    def start(group: str, cases: list[str]) -> Iterator[dict[str, Any]]:
        if group == "one":
            yield {"case": "b", "error": "ValueError: no"}

    assert gpu.run(result, "card", PLAN, start) == (["a", "c"], ["b"])
    assert result.lines() == []
    asked: list[Any] = []
    assert gpu.run(result, "card", PLAN, starts(asked, only="b")) == (["a", "c"], [])
    assert asked[0] == ("one", ["a", "b"])


def test_nothing_is_started_that_would_not_fit() -> None:
    clock = [100.0]

    def measure(case: str) -> dict[str, float]:
        clock[0] -= {"a": 10.0, "b": 40.0, "c": 1.0, "d": 1.0}[case]
        if case == "a":
            raise ValueError("no such layer")
        return {"ms": 1.0}

    got = list(gpu.in_time("abcd", measure, lambda: clock[0], 5.0))
    # after b, which took 40 s, 50 are left for c; after c 49 for d
    assert [line["case"] for line in got] == ["a", "b", "c", "d"]
    assert got[0] == {"case": "a", "error": "ValueError: no such layer"}
    clock[0] = 60.0  # 10 s after b: c might take as long as b did
    assert len(list(gpu.in_time("bcd", measure, lambda: clock[0], 5.0))) == 1
    assert list(gpu.in_time("a", measure, lambda: 4.9, 5.0)) == []


def test_every_layer_of_the_package_is_in_the_plan() -> None:
    keras = pytest.importorskip("keras")
    from urlm_helpers import features, sharing

    def layers(wing: Any, but: set[str]) -> list[str]:
        found = {n for n, k in vars(wing).items() if isinstance(k, type)}
        return sorted(n for n in found - but if issubclass(vars(wing)[n], keras.Layer))

    parts = {"Sharing", "FeatureGate", "PartitionedNorm"}
    assert sorted(gpu.SCHEMES) == layers(sharing, parts)
    tables = {"FieldEmbedding", "CompactEmbedding", "Match"}
    assert sorted(gpu.ENCODERS) == layers(features, tables)


def test_the_plan_covers_the_sizes_and_precisions() -> None:
    cases = gpu.plan(dry=False)
    assert set(cases) == set(gpu.plan(dry=True)) == set(gpu.EXPECTED)
    assert "float32, batches of 4096" in cases["speed"]
    assert "mixed, batches of 65536" in cases["speed"] and len(cases["speed"]) == 9
    every = [case for group in cases.values() for case in group]
    assert len(every) == len(set(every))
    assert gpu.DRY_SECONDS < 240 and gpu.SECONDS < 480


def test_a_dry_run_spares_the_results(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(gpu, "RESULTS", tmp_path)
    monkeypatch.setattr(gpu, "plan", lambda dry: PLAN)
    monkeypatch.setattr(gpu, "starter", lambda left, dry: starts([], only="ab"))
    monkeypatch.setattr(sys, "argv", ["gpu.py", "--dry"])
    assert gpu.main() == 0 and list(tmp_path.iterdir()) == []
    said = capsys.readouterr().out
    assert "2 cases measured, thrown away" in said and "run again: c" in said
    monkeypatch.setattr(gpu, "card_here", lambda: "card")
    monkeypatch.setattr(sys, "argv", ["gpu.py"])
    assert gpu.main() == 0
    assert gpu.known(gpu.Result(tmp_path / "gpu.csv", gpu.COLUMNS), "card") == {
        "a",
        "b",
    }
    monkeypatch.setattr(gpu, "card_here", lambda: None)
    with pytest.raises(SystemExit, match="no NVIDIA GPU here"):
        gpu.main()


def test_a_child_gets_its_cases_and_a_failure_of_it_is_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "child.py"
    program.write_text(
        "import json, os, sys\nprint('noise')\n"
        "line = {'case': sys.argv[4], 'found': {'n': len(sys.argv)}}\n"
        "print(json.dumps(line), flush=True)\n"
        "os.kill(os.getpid(), 9 * ('crash' in sys.argv))\n"
        "sys.exit('dies' in sys.argv)"
    )
    monkeypatch.setattr(gpu, "__file__", str(program))
    start = gpu.starter(lambda: 50.0, True)
    (line,) = start("speed", ["a"])
    assert line == json.loads('{"case": "a", "found": {"n": 8}}')
    with pytest.raises(SystemExit, match="the process of 'speed' failed"):
        list(start("speed", ["dies"]))
    lines = [*start("speed", ["a", "crash", "b"])]  # a, killed at crash; then b
    assert [line["case"] for line in lines] == ["a", "crash", "b"]
    assert lines[1] == {"case": "crash", "error": "killed, -9"}
    assert list(gpu.starter(lambda: 1.0, True)("speed", ["a"])) == []

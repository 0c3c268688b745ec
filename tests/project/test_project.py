"""The top floor: rivals, judge, tune, report, and a new project from end to end."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Mapping
from dataclasses import replace
from fnmatch import fnmatch
from html import escape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from urlm_helpers.__main__ import main
from urlm_helpers.data import Schema, from_frames
from urlm_helpers.evaluation.metrics import log_loss
from urlm_helpers.preprocessing import InputSpec, Prepared, prepare
from urlm_helpers.project import (
    BadInput,
    Blend,
    Judgement,
    Means,
    blend,
    blending,
    check_classes,
    fingerprint,
    judge,
    read_settings,
    read_tables,
    report,
    rival_probabilities,
    summary,
)
from urlm_helpers.project.blending import ids
from urlm_helpers.project.judging import ALL, EVERYWHERE, MODEL, _ahead
from urlm_helpers.project.scaffold import new

SCHEMA = Schema(("shop", "feed"), ("click", "buy"), funnel={"buy": "click"})


def log(rows: int = 3_000, users: int = 60, items: int = 20) -> pd.DataFrame:
    """Clicks that depend on the item alone, purchases in the shop alone."""
    rng = np.random.default_rng(5)
    table = pd.DataFrame(
        {
            "user": rng.integers(users, size=rows),
            "item": rng.integers(items, size=rows),
            "scenario": np.where(rng.random(rows) < 0.7, "shop", "feed"),
            "time": pd.Timestamp("2026-01-01") + pd.to_timedelta(np.arange(rows), "h"),
        }
    )
    rate = 0.05 + 0.9 * table["item"] / items
    table["click"] = (rng.random(rows) < rate).astype(int)
    bought = (rng.random(rows) < 0.5) & (table["scenario"] == "shop")
    table["buy"] = table["click"] * bought
    return table


def prepared_of(table: pd.DataFrame, schema: Schema = SCHEMA) -> Prepared:
    times = table["time"]
    cuts = times.iloc[len(table) * 6 // 10], times.iloc[len(table) * 8 // 10]
    data = from_frames(table, schema=schema)
    return prepare(data, *cuts, min_count=2, counted_on="rows")


@pytest.fixture(scope="module")
def prepared() -> Prepared:
    return prepared_of(log())


class Same:
    """A model that says the same of every row."""

    def __init__(self, spec: InputSpec, p: float = 0.5) -> None:
        self.spec, self.p = spec, p

    def probabilities(self, x: Mapping[str, Any]) -> np.ndarray:
        return np.full((len(x["scenario"]), len(self.spec.tasks)), self.p)


class Given:
    """A model that gives back what it was made with."""

    def __init__(self, p: np.ndarray) -> None:
        self.p = p

    def probabilities(self, x: Mapping[str, Any]) -> np.ndarray:
        return self.p


# --- means and rivals -----------------------------------------------------------------


def test_means_by_hand() -> None:
    x = {"scenario": np.zeros(4, int), "item": np.array([0, 0, 1, -1])}
    y, weight = np.array([[1.0], [0.0], [1.0], [0.0]]), np.array([3.0, 1.0, 1.0, 1.0])
    means = Means(("item",)).fit(x, y, weight, np.arange(4), np.arange(4))
    rate, strength = 4 / 6, means.strengths[0]
    left = [3 * (1 - rate) - rate, 1 - rate]
    expected = rate + np.array([left[0] / (4 + strength), left[1] / (1 + strength), 0])
    late = {"scenario": np.zeros(3, int), "item": np.array([0, 1, 7])}
    np.testing.assert_allclose(means.probabilities(late)[:, 0], expected)
    late["item"][2] = -1  # an unseen id has no mean, though training had such rows
    assert means.probabilities(late)[2, 0] == pytest.approx(rate)


def test_the_second_group_takes_what_the_first_left() -> None:
    x = {"scenario": np.zeros(4, int), "item": np.array([0, 0, 1, 1])}
    x["user"] = np.array([0, 1, 0, 1])
    y = np.array([[1.0], [1.0], [0.0], [0.0]])  # told by the item alone
    rows = np.arange(4)
    means = Means(("item",), ("user",)).fit(x, y, np.ones(4), rows, rows)
    of_item, of_user = means.deviations[0]
    left = 1 / (2 + means.strengths[0])
    np.testing.assert_allclose(of_item[:2], [left, -left])
    np.testing.assert_allclose(of_user, 0, atol=1e-12)
    twice = Means(("item",), ("item",)).fit(x, y, np.ones(4), rows, rows)
    once, again = (d[0] for d in twice.deviations[0])
    assert again == pytest.approx((1 - 2 * once) / (2 + twice.strengths[0]))


def test_a_sum_of_means_is_still_a_probability() -> None:
    user = np.repeat([0, 0, 1], [100, 100, 20])
    item = np.repeat([1, 0, 0], [100, 100, 20])  # user 1 likes what nobody does
    x = {"scenario": np.zeros(220, int), "user": user, "item": item}
    y, rows = np.array((item == 1) | (user == 1), float)[:, None], np.arange(220)
    means = Means(("item",), ("user",)).fit(x, y, np.ones(220), rows, rows)
    asked = {"scenario": np.zeros(2, int), "user": [1, 0], "item": [1, 0]}
    p = means.probabilities({name: np.array(v) for name, v in asked.items()})[:, 0]
    rate = y.mean()
    assert p[0] == pytest.approx(1 - (1 - rate) / 20)  # else far above 1
    assert rate / 20 <= p[1] < 0.1


def test_an_unseen_scenario_has_the_rate_of_all() -> None:
    x = {"scenario": np.array([0, 0, 0])}
    means = Means().fit(
        x, np.array([[1], [0], [0]]), np.ones(3), np.arange(3), np.arange(1)
    )
    p = means.probabilities({"scenario": np.array([0, 3])})
    np.testing.assert_allclose(p[:, 0], 1 / 3)


def test_rivals_read_no_label_of_the_test_period(prepared: Prepared) -> None:
    test = prepared.parts["test"]
    other = prepared.y.copy()
    other[test] = 1 - other[test]
    flipped = Prepared(
        prepared.x, other, prepared.rows, prepared.parts, prepared.encoder
    )
    before, after = (rival_probabilities(p, test) for p in (prepared, flipped))
    assert len(before) == 6
    for name, p in before.items():
        np.testing.assert_array_equal(p, after[name], err_msg=name)


def test_rivals_learn_from_the_training_period(prepared: Prepared) -> None:
    for part in ("train", "valid"):
        changed = prepared.y.copy()
        changed[prepared.parts[part]] = 1 - changed[prepared.parts[part]]
        other = Prepared(
            prepared.x, changed, prepared.rows, prepared.parts, prepared.encoder
        )
        test = prepared.parts["test"]
        first, second = (rival_probabilities(p, test) for p in (prepared, other))
        same = [n for n, p in first.items() if np.array_equal(p, second[n])]
        # validation rows choose among fits; a constant has nothing to choose
        assert "constant" in same if part == "valid" else not same


def test_rivals_put_back_what_a_thinned_log_left_out() -> None:
    # the rows are what is left of a thousand times as many without a click
    thinned = prepared_of(log(12_000), replace(SCHEMA, negative_rate=1e-3))
    test = thinned.parts["test"]
    y, weight = thinned.y[test], thinned.weight[test]
    found = rival_probabilities(thinned, test)
    for name in ("logistic regression", "boosted trees"):
        for t in range(2):
            p = found[name][:, t]
            assert 0.8 < (weight * p).sum() / (weight * y[:, t]).sum() < 1.25, name
            constant = log_loss(y[:, t], found["constant"][:, t], weight)
            assert log_loss(y[:, t], p, weight) < 0.95 * constant, name


# --- judge ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def blind(prepared: Prepared) -> Judgement:
    return judge(Same(prepared.encoder.spec), prepared, resamples=100)


def test_a_model_that_knows_nothing_lost(blind: Judgement) -> None:
    judgement = blind
    assert judgement.lost
    assert any("BEHIND" in v and "AUC of click" in v for v in judgement.verdict)
    known = judgement.table.query("method == 'popularity' and metric == 'auc'")
    pooled = known[(known["slice"] == ALL) & (known["scenario"] == EVERYWHERE)]
    assert (pooled["high"] < 0).all() and (pooled["difference"] < 0).all()


def test_a_model_that_knows_the_answers_did_not(prepared: Prepared) -> None:
    test = prepared.parts["test"]
    perfect = Given(np.where(prepared.y[test] == 1, 0.99, 0.01))
    judgement = judge(perfect, prepared, resamples=100)
    assert not judgement.lost
    ahead = [v for v in judgement.verdict if v.startswith("ahead of all")]
    assert any("AUC of click, all scenarios" in v for v in ahead)
    assert any("log-loss of click, all scenarios" in v for v in ahead)


def test_a_rival_is_no_better_than_itself(prepared: Prepared) -> None:
    p = rival_probabilities(prepared, prepared.parts["test"])["popularity"]
    table = judge(Given(p), prepared, resamples=100).table
    own = table[(table["method"] == "popularity") & (table["note"] == "")]
    assert (own[["difference", "low", "high"]] == 0).all(axis=None)
    assert not _ahead(own, of_rivals=True).any()
    assert not _ahead(own, of_rivals=False).any()


def test_a_cell_without_a_positive_says_so(blind: Judgement) -> None:
    judgement = blind
    feed = judgement.table.query("scenario == 'feed' and task == 'buy'")
    auc = feed[feed["metric"] == "auc"]
    assert auc["value"].isna().all()
    assert auc["note"].str.fullmatch(r"no positive among [\d,]+ rows").all()
    assert any(v.startswith("no AUC of buy, feed: no pos") for v in judgement.verdict)
    numbers = judgement.table[["value", "low", "high"]].isna().any(axis=1)
    assert (numbers == (judgement.table["note"] != "")).all()


def test_too_few_positives_say_nothing() -> None:
    table = log()
    rare = table.index[table["click"] == 1][::300]
    table["click"] = table.index.isin(rare).astype(int)
    table["buy"] = 0
    few = prepared_of(table)
    judgement = judge(Same(few.encoder.spec, 0.01), few, resamples=100)
    assert not judgement.lost
    clicks = [v for v in judgement.verdict if "AUC of click, all scenarios" in v]
    assert clicks and clicks[0].startswith("nothing to say"), clicks


def test_slices_are_of_the_training_period() -> None:
    table = log()
    table.loc[2_900:, "user"] = 999
    judgement = judge(Same(prepared_of(table).encoder.spec), prepared_of(table))
    cold = judgement.table.query("slice == 'cold user' and metric == 'auc'")
    assert (cold["rows"] == 100).all() and len(cold)


def test_who_loses_in_a_slice_alone_has_not_lost() -> None:
    table = log()
    table.loc[2_700:, "user"] = 900 + np.arange(300) % 30
    new = prepared_of(table)
    test = new.parts["test"]
    cold, happened = test >= 2_700, new.y[test] == 1
    p = np.where(happened, 0.9, 0.01)
    p[cold] = np.where(happened[cold], 0.45, 0.46)
    judgement = judge(Given(p), new, resamples=100)
    assert not judgement.lost
    behind = [v for v in judgement.verdict if v.startswith("BEHIND")]
    assert behind and all("cold user" in v for v in behind), behind


# --- blend ----------------------------------------------------------------------------


def test_a_blend_beats_a_network_that_knows_nothing(
    prepared: Prepared, tmp_path: Path
) -> None:
    spec = prepared.encoder.spec
    found = blend(Same(spec, 0.3), prepared)
    assert found is not None
    test = prepared.parts["test"]
    p = found.probabilities(prepared.take(test))
    assert (p[:, 1] <= p[:, 0]).all()
    unseen = {**prepared.take(test[:1]), "fields": np.zeros((1, len(spec.fields)), int)}
    codes = ids(unseen, spec)
    assert codes["user"] == codes["item"] == -1
    rate = found.means.rates[:, unseen["scenario"][0]]
    np.testing.assert_allclose(found.means.probabilities(codes)[0], rate)
    assert not judge(found, prepared, resamples=100).verdict[0].startswith("BEHIND pop")
    found.save(tmp_path / "blend.json")
    again = Blend.load(tmp_path / "blend.json", Same(spec, 0.3))
    np.testing.assert_array_equal(again.probabilities(prepared.take(test)), p)


def test_no_user_is_fitted_and_held_out_at_once(
    prepared: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    held: list[int] = []

    class Fit:
        """Notes the users of its rows, which the network's probability tells."""

        intercept_, coef_ = np.zeros(1), np.zeros((1, 2))

        def __init__(self, **_: Any) -> None:
            self.users: set[float] = set()

        def fit(self, x: np.ndarray, *_: Any, **__: Any) -> Fit:
            self.users = set(x[:, 0].round(6))
            return self

        def predict_proba(self, x: np.ndarray) -> np.ndarray:
            users = set(x[:, 0].round(6))
            assert users and not users & self.users
            held.append(len(x))
            return np.full((len(x), 2), 0.5)

    valid, tasks = prepared.parts["valid"], prepared.y.shape[1]
    users = prepared.rows["user"].to_numpy()[valid]
    network: Any = Given(np.repeat((users[:, None] + 1) / 100, tasks, axis=1))
    network.spec = prepared.encoder.spec
    monkeypatch.setattr(blending, "LogisticRegression", Fit)
    blend(network, prepared)
    assert sum(held) == tasks * len(valid) and len(held) == tasks * 5


def test_no_blend_where_the_network_knows_more(prepared: Prepared) -> None:
    rows = prepared.rows.iloc[prepared.parts["valid"]]
    click = 0.05 + 0.9 * rows["item"].to_numpy() / 20
    buy = click * np.where(rows["scenario"] == "shop", 0.5, 1e-6)
    truth = Given(np.stack([click, buy], axis=1))
    truth.spec = prepared.encoder.spec  # type: ignore[attr-defined]
    assert blend(truth, prepared) is None  # type: ignore[arg-type]


# --- tune -----------------------------------------------------------------------------


def test_tune_keeps_the_best_within_its_budget(
    prepared: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    from urlm_helpers.project import tuning

    losses = iter([0.5, 0.4, 0.6, 0.7, 0.3, 0.8])
    asked: list[dict[str, Any]] = []

    def fit(model: Any, *_: Any, **how: Any) -> pd.DataFrame:
        loss = next(losses)
        model.set_weights([np.full_like(w, loss) for w in model.get_weights()])
        asked.append(how | {"products": model.branch is not None})
        lines = {"epoch": [1, 2], "valid_loss": [loss, 1.0], "best": [True, False]}
        return pd.DataFrame(lines)

    monkeypatch.setattr(tuning, "fit", fit)
    monkeypatch.setattr(tuning, "blend", lambda *_: None)
    parts = {part: prepared.parts[part] for part in ("train", "valid")}  # no test
    blind = Prepared(prepared.x, prepared.y, prepared.rows, parts, prepared.encoder)
    tuned = tuning.tune(blind, trainings=6, seed=3)
    assert tuned.log["kept"].tolist() == [True, True, False, False, True, False]
    assert tuned.model is tuned.network and not tuned.settings["blended"]
    chosen = [tuned.settings[name] for name in ("learning_rate", "weight_decay")]
    assert chosen == [tuning.ORDER[0]["learning_rate"], tuning.ORDER[3]["weight_decay"]]
    assert [how["epochs"] for how in asked] == [tuning.START["epochs"]] * 5 + [1]
    assert {how["seed"] for how in asked} == {3}
    assert [how["products"] for how in asked] == [False, False, True, *[False] * 3]
    for weights in tuned.network.get_weights():
        np.testing.assert_array_equal(weights, np.full_like(weights, 0.3))
    with pytest.raises(ValueError, match="at least 1, got 0"):
        tuning.tune(blind, trainings=0)


# --- report ---------------------------------------------------------------------------


class Page(HTMLParser):
    """Collects the images, and what would be asked of another host."""

    def __init__(self) -> None:
        super().__init__()
        self.images: list[dict[str, str | None]] = []
        self.outside: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag == "img":
            self.images.append(given)
        for name in ("src", "href"):
            if name in given and not str(given[name]).startswith("data:"):
                self.outside.append(str(given[name]))


def test_the_report_stands_alone_and_escapes(
    prepared: Prepared, blind: Judgement, tmp_path: Path
) -> None:
    judgement = replace(blind, verdict=[*blind.verdict, "shop & <i>"])
    tuning = pd.DataFrame({"note": ["<script>"]})
    settings = {"seed": 3, "odd": "<b>"}
    path = report(tmp_path / "r.html", judgement, prepared, settings, tuning)
    text, page = path.read_text("utf-8"), Page()
    page.feed(text)
    assert not page.outside and "$" not in re.sub(r"base64,[^\"]*", "", text)
    assert "<script>" not in text and "&lt;b&gt;" in text
    assert len(page.images) == 2 and all(image["alt"] for image in page.images)
    for verdict in judgement.verdict:
        assert f"<li>{escape(verdict)}</li>" in text
    assert "A simple rival is ahead" in text


def test_the_summary_counts(prepared: Prepared) -> None:
    table = summary(prepared)
    assert table["rows"].tolist() == [len(r) for r in prepared.parts.values()]
    test = prepared.rows.iloc[prepared.parts["test"]]
    assert table.loc["test", "click"] == test["click"].sum()
    assert table.loc["test", "users"] == test["user"].nunique()


# --- a project's folder ---------------------------------------------------------------


def test_new_refuses_a_folder_that_is_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine.txt").write_text("keep")
    assert main(["new", str(tmp_path)]) == 1
    assert "exists" in capsys.readouterr().err
    assert [p.name for p in tmp_path.iterdir()] == ["mine.txt"]


def test_help_and_new_need_no_tensorflow(tmp_path: Path) -> None:
    program = (
        "import sys; from urlm_helpers.__main__ import main;"
        f"main(['new', {str(tmp_path / 'p')!r}, '--example']);"
        "sys.exit(any(m in sys.modules for m in ('tensorflow', 'keras', 'lightgbm')))"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    new(tmp_path / "p", example=True)
    return tmp_path / "p"


def test_ids_keep_their_zeros_and_gaps_stay_gaps(folder: Path) -> None:
    users = folder / "data" / "users.csv"
    lines = users.read_text("utf-8").splitlines()
    users.write_text("\n".join([lines[0], "007,NA,1.5", *lines[1:]]), "utf-8")
    tables = read_tables(read_settings(folder))
    assert tables["users"]["user"].iloc[0] == "007"
    assert np.isnan(tables["users"]["age"].iloc[0])
    assert tables["items"]["item"].str.fullmatch(r"\d{5}").all()


def test_a_european_export_is_read_as_the_plain_one(folder: Path) -> None:
    plain = read_tables(read_settings(folder))
    for name, table in plain.items():
        path = folder / "data" / f"{name}.csv"
        table.to_csv(path, sep=";", decimal=",", encoding="cp1252", index=False)
    path = folder / "schema.toml"
    how = 'sep = ";"\ndecimal = ","\nencoding = "cp1252"'
    path.write_text(path.read_text("utf-8").replace('sep = ","', how, 1), "utf-8")
    for name, table in read_tables(read_settings(folder)).items():
        pd.testing.assert_frame_equal(table, plain[name])


@pytest.mark.parametrize(
    ("old", "new_text", "message"),
    [
        ('sep = ","', 'seb = ","', "can't be read as CSV with .*seb"),
        ("[cuts]", "[cut]", "must have the sections"),
        ("valid_from", "valid", "cuts must be valid_from and test_from"),
        ("item_name =", "item_nam =", "item_nam"),
        ('"data/users.csv"', '"data/people.csv"', "users: there is no .*people.csv"),
        ("[schema]", "[schema", "schema.toml"),
        ("users = ", "peoples = ", "files must name"),
        ('{ buy = "click" }', '{ buy = "look" }', "'look' is not a task"),
    ],
)
def test_a_bad_schema_file_is_named(
    folder: Path, old: str, new_text: str, message: str
) -> None:
    path = folder / "schema.toml"
    text = path.read_text("utf-8")
    assert old in text
    path.write_text(text.replace(old, new_text, 1), "utf-8")
    with pytest.raises(BadInput, match=message):
        read_tables(read_settings(folder))


def test_the_wheel_has_the_template(root: Path) -> None:
    package = root / "urlm_helpers"
    settings = tomllib.loads((root / "pyproject.toml").read_text("utf-8"))["tool"]
    patterns = settings["setuptools"]["package-data"]["urlm_helpers"]
    files = [p.relative_to(package) for p in (package / "project").rglob("*.*")]
    assert {"run.py", "README.md", "report.html"} < {p.name for p in files}
    for path in files:
        module = path.suffix in (".py", ".pyc") and "template" not in path.parts
        named = any(fnmatch(path.as_posix(), pattern) for pattern in patterns)
        assert module or named or "__pycache__" in path.parts, path


def test_the_notebook_calls_what_the_script_has(root: Path) -> None:
    template = root / "urlm_helpers" / "project" / "template"
    notebook = json.loads((template / "project.ipynb").read_text("utf-8"))
    cells = [c for c in notebook["cells"] if c["cell_type"] == "code"]
    code = "\n".join("".join(cell["source"]) for cell in cells)
    called = set(re.findall(r"\brun\.(\w+)", code))
    script = (template / "run.py").read_text("utf-8")
    steps = re.findall(r'^    "\w+": (\w+),$', script, re.M)
    assert called == set(steps) and len(steps) == 5
    assert not any(cell["outputs"] for cell in cells)


@pytest.mark.parametrize(("label", "message"), [(1, "draw_negatives"), (0, "move the")])
def test_a_task_of_one_class_is_refused(
    prepared: Prepared, label: int, message: str
) -> None:
    check_classes(prepared)
    y = prepared.y.copy()
    y[prepared.parts["train"], 0] = label
    with pytest.raises(BadInput, match=f"'click' is {label} in all .*{message}"):
        check_classes(replace(prepared, y=y))


def test_a_fingerprint_is_of_what_training_saw() -> None:
    table = log()
    first = fingerprint(prepared_of(table))
    late = table.copy()
    late.loc[2_900:, "user"] = 999
    assert fingerprint(prepared_of(late)) == first
    early = table.copy()
    early.loc[:100, "user"] = 999
    assert fingerprint(prepared_of(early)) != first


def run(folder: Path, *step: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "run.py", *step]
    return subprocess.run(
        command, cwd=folder, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize(
    ("file", "old", "new_text", "message"),
    [
        ("schema.toml", "2026-01-12", "12.01.2026", "test_from"),
        ("schema.toml", "2026-01-12", "2027-01-12", "no row falls into"),
        ("schema.toml", "min_count", "min_cout", "min_cout"),
        ("schema.toml", '["click", "buy"]', '["click", "buy", "always"]', "draw_neg"),
        ("data/interactions.csv", ",shop,", ",Shop ,", "unknown scenario 'Shop '"),
    ],
)
def test_bad_input_is_exit_code_2(
    folder: Path, file: str, old: str, new_text: str, message: str
) -> None:
    if "always" in new_text:
        log_file = folder / "data" / "interactions.csv"
        pd.read_csv(log_file, dtype=str).assign(always=1).to_csv(log_file, index=False)
    path = folder / file
    path.write_text(path.read_text("utf-8").replace(old, new_text, 1), "utf-8")
    ran = run(folder, "prepare")
    assert ran.returncode == 2, ran.stderr
    assert ran.stderr.startswith("bad input: ") and message in ran.stderr


def test_a_wrong_step_is_exit_code_1(folder: Path) -> None:
    assert run(folder, "trian").returncode == 1
    assert run(folder, "evaluate").returncode == 2  # there is no model yet


def test_the_whole_project(folder: Path) -> None:
    path = folder / "schema.toml"
    short = path.read_text("utf-8").replace("trainings = 7", "trainings = 1")
    path.write_text(short, "utf-8")
    ran = run(folder, "all")
    assert ran.returncode in (0, 3), ran.stderr
    output = folder / "output"
    table = pd.read_csv(output / "judgement.csv")
    pooled = table[(table["slice"] == ALL) & (table["scenario"] == EVERYWHERE)]
    rivals = pooled[pooled["method"] != MODEL]
    better = rivals["metric"].eq("auc") & (rivals["high"] < 0)
    better |= rivals["metric"].eq("log_loss") & (rivals["low"] > 0)
    assert (ran.returncode == 3) == better.any()
    assert (output / "report.html").stat().st_size > 10_000
    lists = pd.read_csv(output / "recommendations.csv", dtype={"item": str})
    assert lists["user"].nunique() == 10 and lists["rank"].max() == 10
    seen = pd.read_csv(folder / "data/interactions.csv", dtype={"item": str})
    pairs = seen[["scenario", "item"]].drop_duplicates()
    assert len(lists.merge(pairs)) == len(lists)  # each scenario's own items
    assert (output / "export" / "float32.tflite").exists()
    path.write_text(short.replace('"2026-01-10"', '"2026-01-09"'), "utf-8")
    late = run(folder, "recommend")
    assert late.returncode == 2 and "has changed since the training" in late.stderr

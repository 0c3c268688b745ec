"""The simulated app: labels follow the truth, and every knob does what it says."""

from __future__ import annotations

import hashlib
import tracemalloc
from dataclasses import replace
from itertools import permutations, product

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from urlm_helpers.data import Dataset
from urlm_helpers.evaluation import policy_value
from urlm_helpers.world import (
    SCENARIOS,
    TASKS,
    Log,
    TasteWalk,
    World,
    expected_auc,
    logits,
)
from urlm_helpers.world.draws import EVERYWHERE, seen_through
from urlm_helpers.world.knobs import CANDIDATES
from urlm_helpers.world.log import SLOTS, choose, stale_score
from urlm_helpers.world.truth import (
    APPEAL,
    BASE,
    EXAMINED,
    GAIN,
    rounded,
    segment_logits,
    sigmoid,
)

PARENT = {"like": "click", "buy": "like"}
SMALL = World(seed=3, users=200, items=150, confounder=0.5, drift=0.2, days=7)
PINNED = "e5643debc3af5d19e6d61fbd6b23bff16b0c7b70c812cb9599d238c77c1313c9"


@pytest.fixture(scope="module")
def world() -> World:
    return World(seed=1)


@pytest.fixture(scope="module")
def data(world: World) -> Dataset:
    return world.dataset(200_000)


def tables(data: Dataset) -> dict[str, pd.DataFrame]:
    own = {"log": data.interactions, "users": data.users, "items": data.items}
    return own | dict(data.extra)


def digest(data: Dataset) -> str:
    """Every column's bytes, little-endian, strings as UTF-8."""
    total = hashlib.sha256()
    for table in tables(data).values():
        for name in table:
            column = table[name]
            if column.dtype.kind in "OTU" or str(column.dtype) in ("str", "string"):
                raw = "\n".join(column).encode()
            else:
                values = column.to_numpy()
                raw = values.astype(values.dtype.newbyteorder("<")).tobytes()
            total.update(str(name).encode() + raw)
    return total.hexdigest()


def same(one: Dataset, two: Dataset) -> None:
    for a, b in zip(tables(one).values(), tables(two).values(), strict=True):
        pd.testing.assert_frame_equal(a, b)


# ---- labels and their probabilities


def far(label: pd.Series, p: pd.Series) -> float:
    """Distance of the mean label from its expectation, in standard errors."""
    error = np.sqrt((p * (1 - p)).sum())
    return abs((label - p).sum()) / max(error, 1e-9)  # 0 where p is 1


@pytest.mark.parametrize("confounder", [0.0, 1.0])
def test_labels_follow_their_probabilities(confounder: float) -> None:
    data = World(seed=5, confounder=confounder).dataset(200_000)
    log, truth = data.interactions, data.extra["truth"]
    for scenario, task in product(SCENARIOS, TASKS):
        at = log["scenario"] == scenario
        assert log.loc[at, task].sum() > 300
        assert far(log.loc[at, task], truth.loc[at, task]) < 4
        before = at & (truth["examined"] == 1)  # the clicks that were possible
        assert far(log.loc[before, task], truth.loc[before, f"{task}_before"]) < 4
        parent = truth["examined"] if task == "click" else log[PARENT[task]]
        at &= parent == 1
        assert far(log.loc[at, task], truth.loc[at, f"{task}_given"]) < 4
        for k in range(1, SLOTS + 1):
            slot = (log["scenario"] == scenario) & (log["position"] == k)
            assert far(truth["examined"][slot], truth["examination"][slot]) < 4


def test_labels_follow_their_probabilities_where_these_differ(data: Dataset) -> None:
    log, truth = data.interactions, data.extra["truth"]
    for task in TASKS:
        tenth = pd.qcut(truth[task], 10, labels=False)
        for _, rows in truth.groupby(tenth):
            assert far(log.loc[rows.index, task], rows[task]) < 4


def test_the_funnel_holds(data: Dataset) -> None:
    log, truth = data.interactions, data.extra["truth"]
    assert data.schema.funnel == PARENT
    for child, parent in PARENT.items():
        assert (log[child] <= log[parent]).all()
        assert (truth[child] <= truth[parent]).all()
        product_ = truth[f"{parent}_before"] * truth[f"{child}_given"]
        np.testing.assert_allclose(truth[f"{child}_before"], product_, rtol=1e-12)
    assert (log["click"] <= truth["examined"]).all()
    for task in TASKS:
        after = truth[f"{task}_before"] * truth["examination"]
        np.testing.assert_allclose(truth[task], after, rtol=1e-12)


def test_base_rates_are_those_of_an_app(data: Dataset) -> None:
    rate = data.extra["truth"].groupby(data.interactions["scenario"])["click_before"]
    found = rate.mean()
    assert 0.15 < found["shop"] < 0.30 and 0.18 < found["social"] < 0.32
    assert 0.28 < found["search"] < 0.42
    shares = data.interactions["scenario"].value_counts(normalize=True)
    for scenario, share in zip(SCENARIOS, (0.70, 0.25, 0.05), strict=True):
        assert abs(shares[scenario] - share) < 4 * np.sqrt(share * (1 - share) / 40_000)


def test_a_probability_is_a_multiple_of_the_grid_and_never_0_or_1() -> None:
    p = rounded(np.array([0.0, 1e-12, 0.3, 1.0]))
    assert (p * 2**20 == np.rint(p * 2**20)).all()
    assert p[0] == p[1] == 2**-20 and p[3] == 1 - 2**-20
    assert abs(p[2] - 0.3) < 2**-20


def test_the_truth_is_that_of_the_formula(data: Dataset, world: World) -> None:
    """One row at a time, in plain Python: every scenario and task."""
    log, truth, walk = data.interactions, data.extra["truth"], TasteWalk(world)
    day = (log["time"] - log["time"].iloc[0].normalize()).dt.days
    for scenario in SCENARIOS:
        for n in log.index[log["scenario"] == scenario][::500]:
            s, u, v = SCENARIOS.index(scenario), log["user"][n], log["item"][n]
            who = walk.at(int(day[n]))[u].astype(float)
            if scenario == "social":
                mates = world.friends.friend[world.friends.user == u]
                who = who + world.friend_effect * world.people.taste[mates].mean(axis=0)
            for t, task in enumerate(TASKS):
                item = world.goods.taste[v].astype(float)
                logit = BASE[s, t] + GAIN / np.sqrt(5) * (who @ world.maps[s, t] @ item)
                logit += APPEAL[t] * world.goods.appeal[v]
                asked = log["query"][n] == data.items["category"][v]
                if scenario == "search" and asked:
                    logit += world.query_effect * (1.0 if task == "click" else 0.5)
                assert abs(truth[f"{task}_given"][n] - 1 / (1 + np.exp(-logit))) < 2e-6


# ---- no score beats the oracle


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32), st.sampled_from(TASKS), st.floats(0, 2))
def test_no_score_beats_the_oracle(seed: int, task: str, noise: float) -> None:
    log, truth = SMALL.sample(400, 1, random=True)
    rng = np.random.default_rng(seed)
    p = truth[task].to_numpy()
    score = np.log(p) + noise * rng.standard_normal(len(p))
    assert expected_auc(score, p) <= expected_auc(p, p) + 1e-12
    for other in ("propensity", "user_age", "item", task):
        assert expected_auc(log[other], p) <= expected_auc(p, p) + 1e-12


# ---- the knobs of taste


def test_without_shift_scenarios_and_tasks_share_one_taste() -> None:
    equal = World(scenario_shift=0, task_shift=0).maps
    np.testing.assert_array_equal(equal, np.broadcast_to(np.eye(5), equal.shape))
    shifted = World(scenario_shift=0, task_shift=0.5).maps
    np.testing.assert_array_equal(shifted[0], shifted[1])
    np.testing.assert_array_equal(shifted[0], shifted[2])
    for a, b in ((0, 1), (0, 2), (1, 2)):
        assert abs(shifted[0, a] - shifted[0, b]).max() > 0.1


def test_every_scenario_turns_by_theta() -> None:
    theta = 0.6
    maps = World(scenario_shift=theta, task_shift=0).maps
    for s in range(3):
        q = (maps[s, 0] - np.cos(theta) * np.eye(5)) / np.sin(theta)
        np.testing.assert_allclose(q @ q.T, np.eye(5), atol=1e-6)
        np.testing.assert_array_equal(maps[s, 0], maps[s, 2])
    for a, b in ((0, 1), (0, 2), (1, 2)):
        assert abs(maps[a, 0] - maps[b, 0]).max() > 0.1


def test_segments_like_categories_in_a_way_that_no_feature_alone_tells() -> None:
    world = World(seed=3, users=2_000, threshold_share=0.6, scenario_shift=0.4)
    tables = world.segment_tables
    assert tables.shape == (3, 3, 8, 5)
    np.testing.assert_allclose(tables.mean(axis=2), 0, atol=1e-6)
    np.testing.assert_allclose(tables.mean(axis=3), 0, atol=1e-6)
    positive = world.people.features[:, :3] > 0
    assert len(np.unique(world.segments)) == 8
    for segment in range(8):
        own = positive[world.segments == segment]
        assert (own == own[0]).all()
    user, item = np.array([5, 6, 7]), np.array([0, 1, 2])
    scenario = np.array([2, 0, 1])
    found = segment_logits(world, user, item, scenario)
    for n in range(3):
        category = world.goods.category[item[n]]
        likes = tables[scenario[n], :, world.segments[user[n]], category]
        np.testing.assert_allclose(found[n], GAIN * np.sqrt(0.3) * likes)


def test_segments_agree_between_scenarios_and_tasks_as_tastes_do() -> None:
    theta, phi, cosines = 0.7, 0.5, []
    for seed in range(60):
        world = World(seed=seed, scenario_shift=theta, task_shift=phi)
        t = world.segment_tables.reshape(3, 3, -1)
        cosines.append(
            [
                np.mean(t[0, 0] ** 2),
                np.mean(t[0, 0] * t[1, 0]),
                np.mean(t[2, 0] * t[2, 1]),
                np.mean(t[0, 2] ** 2),
            ]
        )
    expected = [1, np.cos(theta) ** 2, np.cos(phi), 1]
    np.testing.assert_allclose(np.mean(cosines, axis=0), expected, atol=0.06)
    equal = World(scenario_shift=0, task_shift=0).segment_tables
    np.testing.assert_array_equal(equal, np.broadcast_to(equal[0, 0], equal.shape))


def test_thresholds_move_the_labels_and_none_is_the_world_without_them() -> None:
    plain, bent = World(seed=4), World(seed=4, threshold_share=1.0)
    zero = replace(bent, threshold_share=0)
    one, two, none = (w.dataset(2_000) for w in (plain, bent, zero))
    pd.testing.assert_frame_equal(one.interactions, none.interactions)
    truth = two.extra["truth"]["click"]
    assert np.corrcoef(one.extra["truth"]["click"], truth)[0, 1] < 0.95


def test_without_shift_only_base_rate_friends_and_query_tell_scenarios_apart() -> None:
    rng = np.random.default_rng(0)
    u, f, v = rng.standard_normal((3, 50, 5))
    appeal, match = rng.standard_normal(50), np.ones(50)

    def score(world: World, s: int) -> np.ndarray:
        where = np.full(50, s)
        return logits(world, u, f, v, appeal, where, match) - BASE[s]

    plain = World(scenario_shift=0, friend_effect=0, query_effect=0)
    for s in (1, 2):
        np.testing.assert_allclose(score(plain, 0), score(plain, s), atol=1e-12)
    full = replace(plain, friend_effect=0.5, query_effect=1.5)
    np.testing.assert_array_equal(score(plain, 0), score(full, 0))
    assert abs(score(full, 1) - score(plain, 1)).max() > 0.1
    np.testing.assert_allclose(
        score(full, 2) - score(plain, 2), np.tile([1.5, 0.75, 0.75], (50, 1))
    )


def test_relatedness_is_seen_in_the_tasks_logits() -> None:
    def related(phi: float) -> float:
        _, truth = World(task_shift=phi).sample(20_000, 1, random=True)
        p = truth[["click_given", "like_given"]].to_numpy()
        return float(np.corrcoef(np.log(p / (1 - p)).T)[0, 1])

    found = [related(phi) for phi in (0.0, 0.6, 1.2)]
    assert found[0] > 0.9 > found[1] > found[2]


# ---- what the app sees


@pytest.mark.parametrize("columns", [10, 5, 3])
@pytest.mark.parametrize("noise", [0.0, 0.3, 1.0])
def test_features_are_noisy_views(columns: int, noise: float) -> None:
    world = World(users=20_000, user_features=columns, feature_noise=noise)
    people = world.people
    wrong = people.features - people.taste @ world.user_view.T
    assert abs(wrong.std() - noise) < 0.01 + (noise == 0) * 1e-6
    assert abs((people.features.var(axis=0)).mean() - 1 - noise**2) < 0.05
    # the guess is the posterior mean: what it misses is unrelated to what it says
    miss = people.taste - people.guess
    spread = seen_through(world.user_view, noise)[1]
    np.testing.assert_allclose(np.cov(miss.T), spread, atol=0.04)
    np.testing.assert_allclose(miss.T @ people.features / 20_000, 0, atol=0.05)


def test_noise_blurs_ratings_and_item_features() -> None:
    world = World(items=20_000, feature_noise=0.5)
    goods = world.goods
    assert abs((goods.rating - goods.appeal).std() - 0.5) < 0.02
    assert abs((goods.features - goods.taste @ world.item_view.T).std() - 0.5) < 0.01
    exact = replace(world, feature_noise=0.0).goods
    np.testing.assert_array_equal(exact.rating, exact.appeal)


def test_all_that_is_logged_but_labels_comes_from_features_alone(world: World) -> None:
    """Otherwise what is shown would leak the hidden taste."""
    changed, goods = World(seed=1), world.goods
    hidden = changed.people._replace(taste=-2 * changed.people.taste)
    object.__setattr__(changed, "people", hidden)
    hidden_goods = goods._replace(taste=3 * goods.taste, appeal=-goods.appeal)
    object.__setattr__(changed, "goods", hidden_goods)
    assert abs(world.friends.taste - changed.friends.taste).max() > 0.1
    one, two = world.dataset(2_000), changed.dataset(2_000)
    pd.testing.assert_frame_equal(
        one.interactions.drop(columns=[*TASKS]), two.interactions.drop(columns=[*TASKS])
    )
    pd.testing.assert_frame_equal(one.users, two.users)
    pd.testing.assert_frame_equal(one.items, two.items)
    p, q = (data.extra["truth"]["click_given"] for data in (one, two))
    assert abs(p - q).max() > 0.1


# ---- the log


def test_without_position_bias_position_is_irrelevant() -> None:
    log, truth = World(position_bias=0).sample(20_000, 1)
    assert (truth["examination"] == 1).all() and (truth["examined"] == 1).all()
    for task in TASKS:
        pd.testing.assert_series_equal(
            truth[task], truth[f"{task}_before"], check_names=False
        )
    assert log["position"].nunique() == SLOTS


def test_examination_falls_with_the_position() -> None:
    log, truth = World(position_bias=0.8).sample(20_000, 1)
    for s, scenario in enumerate(SCENARIOS):
        at = log["scenario"] == scenario
        expected = log["position"][at].astype(float) ** (-0.8 * (1, 0.5, 1.5)[s])
        assert EXAMINED[s] == (1, 0.5, 1.5)[s]
        assert abs(truth["examination"][at] - expected).max() < 2**-20


def test_propensities_are_those_of_the_draw() -> None:
    """Against the frequencies of every list of three candidates."""
    rng, n, share = np.random.default_rng(0), 200_000, 0.3
    score = np.tile([0.0, 1.0, 2.5], (n, 1))
    order, propensity = choose(rng, score, rng.random(n) < share, share)
    weight = np.exp([0.0, 1.0, 2.5])
    for a, b, c in permutations(range(3)):
        here = (order == (a, b, c)).all(axis=1)
        ranked = weight[a] / weight.sum() * weight[b] / (weight[b] + weight[c])
        p = (1 - share) * ranked + share / 6
        assert abs(here.mean() - p) < 4 * np.sqrt(p * (1 - p) / n)
        np.testing.assert_allclose(propensity[here].prod(axis=1), p)
        first = (1 - share) * weight[a] / weight.sum() + share / 3
        np.testing.assert_allclose(propensity[here, 0], first)


def test_inverse_propensities_count_the_candidates(data: Dataset) -> None:
    log = data.interactions
    for k in range(1, SLOTS + 1):
        inverse = 1 / log.loc[log["position"] == k, "propensity"]
        error = inverse.std() / np.sqrt(len(inverse))
        assert abs(inverse.mean() - (CANDIDATES - k + 1)) < 4 * error


@pytest.mark.parametrize("only_random", [False, True])
def test_a_policy_over_the_catalog_can_be_judged(
    data: Dataset, world: World, only_random: bool
) -> None:
    """By the propensities that `World.dataset` explains, against fresh truth."""
    pool, rated = world.pools[0][1], np.exp(0.5 * world.goods.rating)
    reach = np.cumsum(rated[pool.ids])

    def shop(log: pd.DataFrame) -> tuple[pd.DataFrame, np.ndarray, np.ndarray]:
        at = (log["scenario"] == "shop") & (log["position"] == 1)
        rows = log[at & ((log["random"] == 1) | (not only_random))]
        alive = pool.alive[(rows["time"] - pd.Timestamp("2026-01-01")).dt.days]
        return rows, rated[rows["item"]] / reach[alive - 1], alive

    fresh = world.sample(100_000, 1, random=True)
    rows, target, alive = shop(fresh.interactions)
    true = (target * alive * fresh.truth.loc[rows.index, "click"]).mean()
    rows, target, alive = shop(data.interactions)
    seen = 1.0 if only_random else CANDIDATES * rows["propensity"].to_numpy(float)
    table = policy_value(rows["click"], seen / alive, target, rows["user"])
    ips = table.set_index("estimator").loc["ips"]
    error = (ips["high"] - ips["low"]) / (2 * 1.96)
    assert abs(ips["value"] - true) < 4 * error < 0.1
    assert abs(ips["mean_weight"] - 1) < 0.05


def test_a_random_slice_ignores_the_policy(data: Dataset, world: World) -> None:
    log = data.interactions
    lists = log.groupby("request")["random"].agg(["min", "max"])
    assert (lists["min"] == lists["max"]).all()
    assert abs(lists["max"].mean() - 0.05) < 4 * np.sqrt(0.05 * 0.95 / len(lists))
    scenario = pd.Index(SCENARIOS).get_indexer(pd.Index(log["scenario"]))
    names = pd.Index([*world.categories])
    score = stale_score(
        world,
        log["user"].to_numpy(),
        log["item"].to_numpy()[:, None],
        scenario,
        names.get_indexer(pd.Index(log["query"])),
    )[:, 0]
    random = log["random"] == 1
    trend = np.corrcoef(score[random], log["position"][random])[0, 1]
    assert abs(trend) < 4 / np.sqrt(random.sum())
    assert np.corrcoef(score[~random], log["position"][~random])[0, 1] < -0.2
    assert score[~random].mean() > score[random].mean() + 0.5


def test_a_list_is_one_request_without_repeats(data: Dataset) -> None:
    log = data.interactions
    for column in ("user", "scenario", "time", "query"):
        assert (log.groupby("request")[column].nunique() == 1).all()
    assert not log.duplicated(["request", "item"]).any()
    assert log["time"].is_monotonic_increasing
    days = (log["time"] - pd.Timestamp("2026-01-01")).dt.days
    assert sorted(days.unique()) == list(range(14))


def test_search_has_queries_and_social_has_friends(data: Dataset) -> None:
    log = data.interactions.merge(data.items[["item", "category"]], on="item")
    search = log["scenario"] == "search"
    assert ((log["query"] == "none") == ~search).all()
    match = log["query"] == log["category"]
    assert (match == (log["query_match"] == 1)).all()
    assert match[search].mean() > 0.3  # 1 in 5 by chance
    assert ((log["friend_match"] != 0) == (log["scenario"] == "social")).all()


# ---- who lives in the app


def test_overlap_is_the_share_that_lives_everywhere(data: Dataset) -> None:
    world = World(seed=1, users=5_000, items=5_000, user_overlap=0.3, item_overlap=0.8)
    assert abs((world.people.home == EVERYWHERE).mean() - 0.3) < 0.03
    assert abs((world.goods.home == EVERYWHERE).mean() - 0.8) < 0.03
    log = world.sample(20_000, 1).interactions
    for ids, home in (("user", world.people.home), ("item", world.goods.home)):
        own = home[log[ids]]
        scenario = pd.Index(SCENARIOS).get_indexer(pd.Index(log["scenario"]))
        assert ((own == EVERYWHERE) | (own == scenario)).all()
        assert (own == scenario).any()
    assert (World(user_overlap=1).people.home == EVERYWHERE).all()
    assert (World(item_overlap=0).goods.home != EVERYWHERE).all()


def test_nobody_acts_before_birth(data: Dataset) -> None:
    log = data.interactions
    day = (log["time"] - pd.Timestamp("2026-01-01")).dt.days
    for ids, table in (("user", data.users), ("item", data.items)):
        born = table["born"].to_numpy()
        assert (log[f"{ids}_age"] == day - born[log[ids]]).all()
        assert log[f"{ids}_age"].min() == 0
        assert abs((born > 0).mean() - 0.1) < 4 * np.sqrt(0.09 / len(born))
        assert set(born) == set(range(14))
        assert (log[ids].nunique() / len(table)) > 0.95
    nobody = World(new_users=0, new_items=0)
    assert nobody.people.born.max() == nobody.goods.born.max() == 0


@pytest.mark.parametrize("random", [False, True])
def test_items_are_equally_likely_where_chance_chooses(random: bool) -> None:
    """Also among candidates that are no whole part of the items: 110 for 20."""
    world = World(items=110, item_overlap=1, new_items=0, random_share=1)
    count = world.sample(55_000, 1, random=random).interactions["item"].value_counts()
    assert len(count) == 110
    assert abs(count - 500).max() < 5 * np.sqrt(500)


def test_users_come_by_their_activity() -> None:
    world = World(users=50, user_overlap=1, new_users=0)
    log = world.sample(50_000, 1, random=True).interactions
    expected = 50_000 * world.people.activity / world.people.activity.sum()
    count = np.bincount(log["user"], minlength=50)
    assert (abs(count - expected) < 5 * np.sqrt(expected)).all()
    assert np.ptp(np.log(expected)) > 1


def test_friendships_are_mutual_and_like_minded(world: World) -> None:
    def alike(world: World) -> float:
        taste = world.people.taste / np.linalg.norm(world.people.taste, axis=1)[:, None]
        own, other = world.friends.user, world.friends.friend
        return float((taste[own] * taste[other]).sum(axis=1).mean())

    pairs = set(zip(world.friends.user, world.friends.friend, strict=True))
    assert len(pairs) == len(world.friends.user)
    assert all((b, a) in pairs and a != b for a, b in pairs)
    np.testing.assert_array_equal(
        world.friends.degree, np.bincount(world.friends.user, minlength=world.users)
    )
    assert abs(alike(replace(world, homophily=0))) < 0.02
    middle, full = (alike(replace(world, homophily=h)) for h in (0.5, 1.0))
    assert 0.2 < middle < full - 0.1


def test_drift_keeps_the_variance_and_forgets() -> None:
    world = World(users=20_000, drift=0.3, new_users=0.5, days=6)
    walk = TasteWalk(world)
    start, end = walk.at(0), walk.at(5)
    old, late = world.people.born == 0, world.people.born == 5
    assert abs(end[old].std() - 1) < 0.02
    kept = np.corrcoef(start[old].ravel(), end[old].ravel())[0, 1]
    assert abs(kept - (1 - 0.3**2) ** 2.5) < 0.02
    np.testing.assert_array_equal(start[late], end[late])
    np.testing.assert_array_equal(walk.at(0), world.people.taste)
    np.testing.assert_array_equal(TasteWalk(world).at(5), end)
    still = replace(world, drift=0.0)
    np.testing.assert_array_equal(TasteWalk(still).at(5), still.people.taste)


def test_a_confounder_moves_all_tasks_and_nothing_else() -> None:
    off, on = (World(confounder=c).sample(20_000, 1) for c in (0.0, 1.0))
    assert (off.truth["hidden"] == 0).all()
    hidden = on.truth["hidden"]
    assert abs(hidden.std() - 1) < 0.03
    shown = [c for c in off.interactions if c not in TASKS]
    pd.testing.assert_frame_equal(off.interactions[shown], on.interactions[shown])
    for task in TASKS:
        p, q = (log.truth[f"{task}_given"] for log in (off, on))
        moved = np.log(q / (1 - q)) - np.log(p / (1 - p))
        inside = (p - 0.5).abs() < 0.49
        assert abs(moved - hidden)[inside].max() < 0.01
    for name in on.interactions.select_dtypes("number").columns.difference([*TASKS]):
        related = np.corrcoef(on.interactions[name], hidden)[0, 1]
        assert abs(related) < 4 / np.sqrt(20_000)


# ---- seeds, streams and samples


def test_one_seed_gives_the_same_bytes() -> None:
    assert digest(SMALL.dataset(3_000)) == PINNED
    same(SMALL.dataset(3_000), replace(SMALL).dataset(3_000))


def test_a_knob_from_numpy_gives_the_same_bytes() -> None:
    noise, drift = np.float64(SMALL.feature_noise), np.float64(SMALL.drift)
    other = replace(SMALL, feature_noise=noise, drift=drift)
    assert other == SMALL
    same(SMALL.dataset(3_000), other.dataset(3_000))


def test_another_seed_gives_another_world() -> None:
    one, two = SMALL, replace(SMALL, seed=4)
    assert (one.maps != two.maps).any() and (one.item_view != two.item_view).any()
    assert (one.people.taste != two.people.taste).mean() > 0.99
    assert (one.goods.taste != two.goods.taste).mean() > 0.99
    # the same people, so that only the draw of the friends can differ
    object.__setattr__(two, "people", one.people)
    a, b = (w.friends.user * w.users + w.friends.friend for w in (one, two))
    assert np.isin(a, b).mean() < 0.6
    assert (TasteWalk(one).at(1) != TasteWalk(two).at(1)).any()
    logs = [w.dataset(1_000).interactions for w in (one, two)]
    assert (logs[0]["user"] != logs[1]["user"]).mean() > 0.9


def test_a_stream_is_the_dataset_in_pieces() -> None:
    whole = SMALL.dataset(43_003)
    for chunk in (10_000, 20_000):
        logs = list(SMALL.stream(43_003, chunk))
        assert [len(log.truth) for log in logs[:-1]] == [chunk] * (len(logs) - 1)
        columns = whole.interactions.columns
        parts = pd.concat(log.interactions for log in logs)
        pd.testing.assert_frame_equal(parts[columns], whole.interactions)
        truth = pd.concat(log.truth for log in logs)
        pd.testing.assert_frame_equal(truth, whole.extra["truth"])
    alone = next(SMALL.stream(43_003, 10_000, skip=2))
    pd.testing.assert_frame_equal(
        alone.truth, whole.extra["truth"][20_000:30_000], check_index_type=False
    )


def test_the_memory_of_a_stream_does_not_grow_with_its_rows() -> None:
    def peak(rows: int) -> int:
        tracemalloc.start()
        for _ in SMALL.stream(rows, 10_000):
            pass
        high = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return high

    assert peak(100_000) < 1.2 * peak(20_000)


def test_a_large_world_streams() -> None:
    world = World(users=100_000, items=100_000)
    log = next(world.stream(10_000_000, 10_000, skip=900))
    assert log.truth.index[0] == 9_000_000
    assert log.interactions["user"].nunique() > 1_500


@pytest.mark.parametrize("random", [False, True])
def test_a_sample_is_fresh_and_can_be_balanced(random: bool) -> None:
    one, again, two = (
        SMALL.sample(3_000, seed, balanced=True, random=random) for seed in (1, 1, 2)
    )
    assert isinstance(one, Log) and len(one.truth) == 3_000
    pd.testing.assert_frame_equal(one.interactions, again.interactions)
    assert (one.interactions["item"] != two.interactions["item"]).mean() > 0.9
    assert (one.interactions["scenario"].value_counts() == 1_000).all()
    if random:
        assert (one.interactions["random"] == 1).all()
        assert (one.interactions["position"] == 1).all()
    shares = SMALL.sample(9_000, 1).interactions["scenario"].value_counts()
    assert shares["shop"] > shares["social"] > shares["search"]


def test_the_dataset_has_the_shape_of_every_dataset(data: Dataset) -> None:
    schema, truth = data.schema, data.extra["truth"]
    assert schema.scenarios == SCENARIOS and schema.tasks == TASKS
    assert len(schema.user_numeric) == 10
    assert len(schema.item_numeric) == 5 + 1  # the views, and the rating
    assert truth.index.equals(data.interactions.index)
    assert len(data.events) == data.interactions["click"].sum()
    assert set(data.extra) == {"truth", "friends"}
    assert data.card.counts == {"interactions": 200_000, "users": 2_000, "items": 1_000}
    for hidden in ("hidden", "examined", "examination", "appeal"):
        assert hidden not in {*data.interactions, *data.users, *data.items}


# ---- what is refused


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"user_overlap": 1.5}, r"user_overlap must lie in \[0, 1\], got 1.5"),
        ({"scenario_shift": -0.1}, r"scenario_shift must lie in \[0, 1.571\]"),
        ({"drift": float("nan")}, r"drift must lie in \[0, 1\], got nan"),
        ({"users": 2.5}, "users must be a whole number, got 2.5"),
        ({"confounder": True}, "confounder must be a number, got True"),
        ({"items": 19}, r"items must lie in \[20, 1e\+07\], got 19"),
        ({"traffic": (0.5, 0.5, 0.5)}, "traffic must be three positive shares"),
        ({"traffic": (0.5, 0.5)}, "traffic must be three positive shares"),
    ],
)
def test_a_knob_outside_its_range_is_refused(knobs: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        World(**knobs)


def test_a_scenario_without_items_is_refused() -> None:
    with pytest.raises(ValueError, match=r"search has \d+ items on the first day and"):
        World(items=100, item_overlap=0).dataset(10)


def test_wrong_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="rows must be at least 1, got 0"):
        SMALL.dataset(0)
    with pytest.raises(ValueError, match="seed must be at least 0, got -1"):
        SMALL.sample(10, -1)
    with pytest.raises(ValueError, match="a positive multiple of 10,000"):
        SMALL.stream(100_000, 5_000)


def test_the_logistic_function() -> None:
    np.testing.assert_allclose(sigmoid(np.array([0.0, np.log(3)])), [0.5, 0.75])

"""Off-policy estimators: against loops, and on a world whose truth is known."""

from __future__ import annotations

import warnings
from typing import NamedTuple

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from urlm_helpers.evaluation import effective_sample_size, policy_value

# Three contexts, four actions: how often each context comes, the reward's mean, the
# policy that wrote the log, the one to be judged, and a model that is wrong.
CONTEXT = np.array([0.5, 0.3, 0.2])
MEAN = np.array([[0.1, 0.5, 0.2, 0.4], [0.7, 0.1, 0.3, 0.2], [0.3, 0.3, 0.9, 0.6]])
LOGGING = np.array([[0.4, 0.1, 0.3, 0.2], [0.1, 0.4, 0.3, 0.2], [0.25] * 4])
TARGET = np.array([[0.1, 0.6, 0.1, 0.2], [0.8, 0.0, 0.1, 0.1], [0.0, 0.0, 0.5, 0.5]])
WRONG = MEAN[:, ::-1] * 0.5
TRUTH = float((CONTEXT[:, None] * TARGET * MEAN).sum())


class Log(NamedTuple):
    reward: np.ndarray
    propensity: np.ndarray
    target: np.ndarray
    user: np.ndarray


def draw(seed: int, users: int, model: np.ndarray) -> tuple[Log, np.ndarray]:
    """Users of 1 to 4 impressions, all in one context; and the model's two columns."""
    rng = np.random.default_rng(seed)
    user = np.repeat(np.arange(users), rng.integers(1, 5, size=users))
    x = rng.choice(3, size=users, p=CONTEXT)[user]
    a = (rng.random(len(x))[:, None] > LOGGING[x].cumsum(axis=1)[:, :3]).sum(axis=1)
    reward = (rng.random(len(x)) < MEAN[x, a]).astype(float)
    q = np.stack([model[x, a], (TARGET * model).sum(axis=1)[x]])
    return Log(reward, LOGGING[x, a], TARGET[x, a], user), q


def estimates(log: Log, q: np.ndarray, resamples: int = 1) -> pd.DataFrame:
    table = policy_value(*log, q_logged=q[0], q_target=q[1], resamples=resamples)
    return table.set_index("estimator")


def test_over_many_logs_ips_and_dr_hit_the_truth_and_a_wrong_dm_does_not() -> None:
    tables = [estimates(*draw(seed, 150, WRONG))["value"] for seed in range(300)]
    found = pd.concat(tables, axis=1)
    error = found.std(axis=1) / np.sqrt(found.shape[1])
    off = (found.mean(axis=1) - TRUTH).abs() / error
    assert off["ips"] < 4 and off["dr"] < 4
    assert off["dm"] > 20
    assert float((found.mean(axis=1) - TRUTH).abs()["snips"]) < 0.01
    assert error["snips"] < error["ips"]


def test_dr_is_right_with_a_right_model_and_wrong_propensities() -> None:
    values = []
    for seed in range(200):
        log, q = draw(seed, 150, MEAN)
        wrong = log._replace(propensity=np.full(len(log.reward), 0.25))
        values.append(estimates(wrong, q)["value"])
    found = pd.concat(values, axis=1)
    off = (found.mean(axis=1) - TRUTH).abs() / (found.std(axis=1) / np.sqrt(200))
    assert off["dr"] < 4 and off["ips"] > 10


def test_a_good_model_makes_dr_sharper_than_ips() -> None:
    table = estimates(*draw(0, 2000, MEAN), resamples=300)
    width = table["high"] - table["low"]
    assert width["dr"] < 0.8 * width["ips"]


def test_intervals_cover_the_truth() -> None:
    held = pd.Series(0, index=["ips", "snips", "dr"])
    for seed in range(200):
        table = estimates(*draw(seed, 120, WRONG), resamples=200).loc[held.index]
        held += (table["low"] <= TRUTH) & (TRUTH <= table["high"])
    assert held.between(180, 198).all(), held


@pytest.mark.filterwarnings("ignore:no interval")
@settings(max_examples=100, deadline=None)
@given(
    st.integers(0, 2**32 - 1), st.integers(1, 30), st.sampled_from([np.inf, 2.0, 0.7])
)
def test_estimators_are_their_definitions(seed: int, n: int, clip: float) -> None:
    rng = np.random.default_rng(seed)
    reward, propensity = rng.normal(size=n), rng.uniform(0.05, 1, size=n)
    target = rng.choice([0.0, 0.3, 1.0], size=n)
    q, q_pi, user = rng.normal(size=n), rng.normal(size=n), rng.integers(4, size=n)
    table = policy_value(
        reward, propensity, target, user,
        q_logged=q, q_target=q_pi, clip=clip, resamples=5,
    )  # fmt: skip
    total = dict.fromkeys(["dm", "ips", "dr", "w", "w2", "cut"], 0.0)
    largest = 0.0
    for i in range(n):
        ratio = target[i] / propensity[i]
        w = clip if ratio > clip else ratio
        total["dm"] += q_pi[i]
        total["ips"] += w * reward[i]
        total["dr"] += q_pi[i] + w * (reward[i] - q[i])
        total["w"] += w
        total["w2"] += w * w
        total["cut"] += ratio > clip
        largest = max(largest, w)
    weighs = total["w"] > 0
    expected = {
        "dm": total["dm"] / n,
        "ips": total["ips"] / n,
        "snips": total["ips"] / total["w"] if weighs else np.nan,
        "dr": total["dr"] / n,
    }
    assert table["estimator"].tolist() == list(expected)
    np.testing.assert_allclose(table["value"], list(expected.values()), rtol=1e-9)
    ess = total["w"] ** 2 / total["w2"] if weighs else np.nan
    about = [total["w"] / n, largest, total["cut"] / n, ess]
    found = table[["mean_weight", "largest_weight", "clipped", "ess"]]
    np.testing.assert_allclose(found[1:].to_numpy(), [about] * 3, rtol=1e-9)
    assert found.iloc[0].isna().all()
    assert (table["rows"] == n).all() and (table["users"] == len(set(user))).all()


def test_without_a_model_there_is_no_dm_and_no_dr() -> None:
    log, q = draw(1, 40, MEAN)
    table = policy_value(*log, resamples=50, seed=2)
    full = policy_value(*log, q_logged=q[0], q_target=q[1], resamples=50, seed=2)
    assert table["estimator"].tolist() == ["ips", "snips"]
    pd.testing.assert_frame_equal(table, full[1:3].reset_index(drop=True))


def test_snips_of_a_constant_reward_is_that_constant() -> None:
    log, _ = draw(2, 60, MEAN)
    table = policy_value(*log._replace(reward=np.full(len(log.reward), 0.5)))
    snips = table.set_index("estimator").loc["snips"]
    assert snips["value"] == snips["low"] == snips["high"] == 0.5
    ips = table.set_index("estimator").loc["ips"]
    assert ips["low"] < ips["high"]


def test_the_logging_policy_itself_earns_the_plain_mean() -> None:
    log, _ = draw(3, 60, MEAN)
    table = policy_value(*log._replace(target=log.propensity))
    assert table["value"].tolist() == pytest.approx([log.reward.mean()] * 2)
    assert (table["ess"] == len(log.reward)).all()
    assert (table[["mean_weight", "largest_weight"]] == 1).all(axis=None)


@settings(deadline=None)
@given(st.lists(st.floats(0, 1e300), min_size=1, max_size=20))
def test_the_effective_sample_size_lies_between_one_and_all(
    weight: list[float],
) -> None:
    ess = effective_sample_size(weight)
    if not any(weight):
        assert np.isnan(ess)
        return
    assert 1 - 1e-9 <= ess <= len(weight) * (1 + 1e-9)
    assert effective_sample_size([7.0] * len(weight)) == pytest.approx(len(weight))
    assert effective_sample_size([0.0] * len(weight) + [0.2]) == 1
    with pytest.raises(ValueError, match="must be finite and >= 0, got -1.0 in row 1"):
        effective_sample_size([1, -1])


def test_intervals_are_the_slow_bootstrap_of_users() -> None:
    log, q = draw(4, 60, WRONG)
    table = estimates(log, q, resamples=200)
    w = log.target / log.propensity
    rng, found = np.random.default_rng(0), []
    for _ in range(200):
        drawn = rng.integers(60, size=60)
        rows = np.concatenate([np.flatnonzero(log.user == u) for u in drawn])
        ips = (w * log.reward)[rows]
        dr = (q[1] + w * (log.reward - q[0]))[rows]
        found.append(
            [q[1][rows].mean(), ips.mean(), ips.sum() / w[rows].sum(), dr.mean()]
        )
    bounds = np.quantile(found, [0.025, 0.975], axis=0)
    np.testing.assert_allclose(table[["low", "high"]].to_numpy(), bounds.T)
    one_user = log._replace(user=np.zeros(len(log.reward)))
    with pytest.warns(UserWarning, match=r"2 of 2 values.*'ips': 1.0, 'snips': 1.0"):
        assert policy_value(*one_user)[["low", "high"]].isna().all(axis=None)


def test_a_weight_at_the_clip_is_not_cut() -> None:
    user = np.arange(40)
    table = policy_value(user % 2, np.full(40, 0.5), np.ones(40), user, clip=2.0)
    assert (table["clipped"] == 0).all() and (table["largest_weight"] == 2).all()
    table = policy_value(user % 2, np.full(40, 0.5), np.ones(40), user, clip=1.9)
    assert (table["clipped"] == 1).all() and (table["largest_weight"] == 1.9).all()


def test_a_dense_model_does_not_hide_that_few_rewards_were_had() -> None:
    n, same = 200, np.full(200, 0.1)
    for hits in (9, 10):
        reward = (np.arange(n) < hits).astype(float)
        with warnings.catch_warnings(record=True, action="always") as said:
            table = policy_value(
                reward, same, same / 2, np.arange(n),
                q_logged=same, q_target=same, resamples=50,
            ).set_index("estimator")  # fmt: skip
        missing = table.index[table["low"].isna()].tolist()
        assert missing == (["ips", "snips", "dr"] if hits == 9 else [])
        assert bool(said) == (hits == 9)


GOOD = {"reward": [1.0, 0.0], "propensity": [0.5, 1.0], "target": [0.0, 1.0]}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"propensity": [1, 0]}, r"propensity must lie in \(0, 1\], got 0.0 in row 1"),
        ({"propensity": [1.5, 1]}, "propensity must lie .* got 1.5 in row 0"),
        ({"propensity": [1, np.nan]}, "propensity must lie .* got nan in row 1"),
        ({"target": [0.5, -0.1]}, r"target must lie in \[0, 1\], got -0.1 in row 1"),
        ({"reward": [np.inf, 0]}, "reward must be finite, got inf in row 0"),
        ({"reward": [1]}, r"all must be 1-D and of one length, got .*'reward': \(1,\)"),
        ({"user": ["a"]}, "user has 1 rows, expected 2"),
        ({"user": ["a", None]}, "user is missing in row 1"),
        ({"q_logged": [0.1, 0.2]}, "q_logged and q_target must be given together"),
        ({"q_logged": [0.1, np.nan], "q_target": [0, 0]}, "q_logged must be finite"),
        ({"clip": 0}, "clip must be positive, got 0"),
        ({"level": 95}, "level must lie between 0 and 1, got 95"),
        (dict.fromkeys([*GOOD, "user"], []), "the log has no rows"),
    ],
)  # fmt: skip
def test_bad_input_is_named(change: dict[str, list], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        policy_value(**{**GOOD, "user": ["a", "b"], **change})  # type: ignore[arg-type]

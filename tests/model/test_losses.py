"""Losses of a funnel and AITM against NumPy, and what each loss is unbiased for."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

keras = pytest.importorskip("keras")

from keras import ops  # noqa: E402

from urlm_helpers.evaluation import effective_sample_size  # noqa: E402
from urlm_helpers.model import (  # noqa: E402
    DoublyRobustLoss,
    EntireSpaceLoss,
    FunnelLoss,
    InversePropensityLoss,
    UnifiedRecommender,
    logged_share,
)
from urlm_helpers.preprocessing import InputSpec  # noqa: E402
from urlm_helpers.sharing import AITM  # noqa: E402
from urlm_helpers.training import fit  # noqa: E402

Array = np.ndarray
FUNNELS = [[-1, 0, 1], [-1, 0, 0]]
LOSSES = [FunnelLoss, EntireSpaceLoss, InversePropensityLoss, DoublyRobustLoss]
COUNTERFACTUAL: dict[str, Any] = {"clip": 0.05, "entire_space": 0.3, "child": 0.7}


def options(loss: type[FunnelLoss]) -> dict[str, Any]:
    """Return what makes every part of the loss count."""
    return COUNTERFACTUAL if issubclass(loss, InversePropensityLoss) else {}


def outcomes(parents: list[int]) -> Array:
    """Return every row of labels that the funnel allows."""
    grid = np.array(np.meshgrid(*[[0, 1]] * len(parents))).T.reshape(-1, len(parents))
    allowed = [
        all(p < 0 or row[t] <= row[p] for t, p in enumerate(parents)) for row in grid
    ]
    return grid[allowed]


def path(parents: list[int], task: int) -> list[int]:
    """Return the columns from the root to the task."""
    up = [task]
    while parents[up[0]] >= 0:
        up.insert(0, parents[up[0]])
    return up


def by_hand(
    kind: type[FunnelLoss], y: Array, z: Array, parents: list[int], rate: float = 1.0
) -> Array:
    """Work a loss out row by row, from probabilities, in NumPy."""
    sigmoid = lambda v: 1 / (1 + np.exp(-v))  # noqa: E731
    n, clip, share, counts = len(parents), *COUNTERFACTUAL.values()
    children = [t for t in range(n) if parents[t] >= 0]
    out = np.zeros((len(y), n))
    for row, task in np.ndindex(*out.shape):
        logit = z[row, :n].copy()
        logit[0] -= np.log(rate)
        hit = y[row, task] == 1
        error = -np.log(sigmoid(logit[task] if hit else -logit[task]))
        up = path(parents, task)
        stops = [
            np.prod([sigmoid(logit[a]) for a in up[:i]]) * sigmoid(-logit[up[i]])
            for i in range(len(up))
        ]
        joint = -np.log(np.prod(sigmoid(logit[up])) if hit else sum(stops))
        happened = 1 if parents[task] < 0 else y[row, parents[task]]
        if kind is EntireSpaceLoss:
            out[row, task] = joint
        elif kind is FunnelLoss or parents[task] < 0:
            out[row, task] = happened * error
        else:
            p = np.prod(sigmoid(z[row, up[:-1]]))  # before down-sampling
            inverse = happened / max(p, clip)
            if kind is InversePropensityLoss:
                out[row, task] = inverse * error
            else:
                guess = np.log1p(np.exp(z[row, n + children.index(task)]))
                stands_for = 1 if y[row, 0] else 1 / rate
                off = error - guess
                out[row, task] = stands_for * guess + inverse * (off + off**2)
            out[row, task] *= counts
            out[row, task] += share * joint
    return out


def draw(parents: list[int], scale: float, rows: int = 40) -> tuple[Array, Array]:
    """Return labels and logits, those of guesses behind those of tasks."""
    rng = np.random.default_rng(0)
    possible = outcomes(parents)
    y = possible[rng.integers(0, len(possible), rows)]
    extra = len(parents) + sum(p >= 0 for p in parents)
    return y, rng.choice([-1, 1], (rows, extra)) * rng.uniform(0, scale, (rows, extra))


def columns(kind: type[FunnelLoss], z: Array, parents: list[int]) -> Array:
    """Return the logits that the loss takes."""
    return z if kind is DoublyRobustLoss else z[:, : len(parents)]


@pytest.mark.parametrize("parents", FUNNELS)
@pytest.mark.parametrize("rate", [1.0, 0.2])
@pytest.mark.parametrize("kind", LOSSES)
def test_each_loss_is_the_one_worked_out_by_hand(
    kind: type[FunnelLoss], rate: float, parents: list[int]
) -> None:
    weights = [1.0, 3.0, 2.0]
    loss = kind(parents, rate, weights, **options(kind))
    for scale in (4.0, 60.0):
        y, z = draw(parents, scale)
        got = loss.tasks(y, ops.convert_to_tensor(columns(kind, z, parents), "float64"))
        expected = by_hand(kind, y, z, parents, rate) * weights
        np.testing.assert_allclose(got, expected, rtol=1e-6, atol=1e-6)
        single = loss(y, columns(kind, z, parents).astype("float32"))
        assert float(single) == pytest.approx(expected.sum(1).mean(), rel=1e-6)


@pytest.mark.parametrize("parents", FUNNELS)
@pytest.mark.parametrize("kind", LOSSES)
def test_no_logit_is_too_large(kind: type[FunnelLoss], parents: list[int]) -> None:
    tf = pytest.importorskip("tensorflow")
    possible = outcomes(parents)
    extra = len(parents) + sum(p >= 0 for p in parents)
    corners = np.array(np.meshgrid(*[[-60.0, 60.0]] * extra)).T.reshape(-1, extra)
    y = np.repeat(possible, len(corners), axis=0)
    z = np.tile(corners, (len(possible), 1))
    logits = tf.constant(columns(kind, z, parents), "float32")
    loss = kind(parents, **options(kind))
    with tf.GradientTape() as tape:
        tape.watch(logits)
        each = loss.tasks(y, logits)
    gradient = tape.gradient(each, logits)
    assert np.isfinite(each).all() and np.isfinite(gradient).all()
    expected = by_hand(kind, y, z, parents)
    np.testing.assert_allclose(each, expected, rtol=1e-6, atol=1e-6)
    # where a row's labels are all but impossible, something pulls back
    wrong = -np.log(0.5) < by_hand(FunnelLoss, y, z, parents).sum(1)
    assert (np.abs(gradient)[wrong].sum(axis=1) > 0.9).all()


@pytest.mark.parametrize("kind", [EntireSpaceLoss, FunnelLoss])
def test_gradients_are_those_of_the_value(kind: type[FunnelLoss]) -> None:
    tf = pytest.importorskip("tensorflow")
    parents = [-1, 0, 1]
    y = outcomes(parents)
    for z in (np.full((len(y), 3), 0.0), draw(parents, 4, len(y))[1][:, :3]):
        # P(stops before) = P(stops here) in the second row: 0.5 = 0.5 * 1
        z[1] = [0.0, -60.0, 0.0]
        logits = tf.constant(z, "float64")
        loss = kind(parents)
        with tf.GradientTape() as tape:
            tape.watch(logits)
            value = tf.reduce_sum(loss.tasks(y, logits))
        gradient = tape.gradient(value, logits).numpy()
        for at in np.ndindex(*z.shape):
            step = np.zeros_like(z)
            step[at] = 1e-5
            up, down = (by_hand(kind, y, z + s, parents).sum() for s in (step, -step))
            assert gradient[at] == pytest.approx((up - down) / 2e-5, abs=1e-6)


@pytest.mark.parametrize("parents", FUNNELS)
@pytest.mark.parametrize("rate", [1.0, 0.1])
@pytest.mark.parametrize("kind", LOSSES)
def test_the_truth_is_where_every_loss_is_least(
    kind: type[FunnelLoss], rate: float, parents: list[int]
) -> None:
    """Sums over all outcomes at their probability: no draw, no error."""
    tf = pytest.importorskip("tensorflow")
    z = np.array([-0.7, -1.2, 0.4])
    q = 1 / (1 + np.exp(-z))
    y = outcomes(parents)
    chance = np.prod(
        [
            np.where(
                y[:, p] if p >= 0 else True, np.where(y[:, t], q[t], 1 - q[t]), 1.0
            )
            for t, p in enumerate(parents)
        ],
        axis=0,
    )
    assert chance.sum() == pytest.approx(1)
    chance = np.where(y[:, 0], 1, rate) * chance  # which rows were logged
    entropy = -(q * np.log(q) + (1 - q) * np.log(1 - q))[1:]
    guess = np.log(np.expm1(entropy))  # softplus of it is the mean error
    for move, least in ((0.0, True), (0.3, False)):
        row = columns(kind, np.r_[z + move, guess][None], parents)
        logits = tf.constant(np.repeat(row, len(y), 0), "float64")
        with tf.GradientTape() as tape:
            tape.watch(logits)
            each = kind(parents, rate, **options(kind)).tasks(y, logits)
            value = tf.reduce_sum(chance[:, None] * each)
        total = tf.reduce_sum(tape.gradient(value, logits), axis=0).numpy()
        assert np.allclose(total, 0, atol=1e-9) == least
        assert (total[:3] > 0).all() or least


def test_only_propensities_undo_the_selection_of_clicked_rows() -> None:
    """A conditional model that is wrong, judged by what was clicked.

    Clicks prefer the rows in which the model errs most. The mean of the funnel's loss
    over clicked rows then is not the mean error over all rows; divided by the exact
    propensity it is, and so it is with the guess of the error added.
    """
    rng = np.random.default_rng(0)
    rows, draws = 1500, 400
    x = rng.normal(size=rows)
    z_click, z_buy = 1.5 * x - 1.0, np.sin(3 * x) - 0.5
    z_model = -0.8 * x
    sigmoid = lambda v: 1 / (1 + np.exp(-v))  # noqa: E731
    click = rng.random((draws, rows)) < sigmoid(z_click)
    buy = click & (rng.random((draws, rows)) < sigmoid(z_buy))
    likely = sigmoid(z_buy)
    errors = likely * np.log1p(np.exp(-z_model)) + (1 - likely) * np.log1p(
        np.exp(z_model)
    )
    truth = errors.mean()
    inverse = np.log(np.expm1(errors))  # a guess that is right on average
    settings: dict[str, Any] = {"clip": 1e-6, "entire_space": 0.0}
    ips, dr = (
        kind([-1, 0], **settings) for kind in (InversePropensityLoss, DoublyRobustLoss)
    )

    def child(loss: FunnelLoss, extra: Array | None, offset: float = 0.0) -> Array:
        z = [z_click + offset, z_model] + ([] if extra is None else [extra])
        logits = ops.convert_to_tensor(np.tile(np.stack(z, axis=1), (draws, 1)))
        y = np.stack([click.ravel(), buy.ravel()], axis=1).astype(float)
        values = np.asarray(loss.tasks(y, logits))[:, 1].reshape(draws, rows)
        if extra is not None:  # less what the guess itself learns from
            error = np.logaddexp(0, -(2 * buy - 1) * z_model)
            missed = (error - np.logaddexp(0, extra)) ** 2
            values = values - click * missed / sigmoid(z_click + offset)
        return values.mean(axis=1)

    def far(values: Array) -> float:
        return abs(values.mean() - truth) / (values.std(ddof=1) / np.sqrt(draws))

    weighted = child(ips, None)
    crude, good = child(dr, np.full(rows, -1.0)), child(dr, inverse)
    for unbiased in (weighted, crude, good):
        assert far(unbiased) < 4
    assert good.std() < 0.8 * weighted.std()
    # propensities 2.7 times too large on the odds: the guess alone saves it
    assert far(child(dr, inverse, offset=1.0)) < 4
    assert far(child(ips, None, offset=1.0)) > 20
    funnel = FunnelLoss([-1, 0])
    clicked = child(funnel, None) * rows / click.sum(axis=1)
    assert far(clicked) > 20


@pytest.mark.parametrize("rate", [1.0, 0.02])
def test_a_child_counts_as_its_root_however_few_negatives_were_logged(
    rate: float,
) -> None:
    """A mean of row weights of 1 is what a root has, and no more."""
    rng = np.random.default_rng(0)
    p = rng.uniform(0.002, 0.02, 200_000)
    click = rng.random(p.size) < p
    kept = click | (rng.random(p.size) < rate)
    y = np.stack([click, click & (rng.random(p.size) < 0.3)], axis=1)[kept]
    z = np.stack([np.log(p / (1 - p)), 0 * p], axis=1)[kept].astype("float32")
    share = logged_share(y[:, 0], rate)
    loss = InversePropensityLoss([-1, 0], rate, clip=1e-4, child=share)
    weights = np.asarray(loss.row_weights(y, z))
    assert (weights[:, 0] == 1).all() and not weights[y[:, 0] == 0, 1].any()
    assert weights[:, 1].mean() == pytest.approx(1, abs=0.06)
    own = 1 / p[kept][y[:, 0] == 1]  # the scale says nothing of how many rows count
    size = effective_sample_size(weights[:, 1])
    assert size == pytest.approx(own.sum() ** 2 / (own**2).sum(), rel=1e-4)
    assert 0.5 * click.sum() < size < 0.9 * click.sum()


def test_doubly_robust_moves_the_child_as_propensities_do() -> None:
    tf = pytest.importorskip("tensorflow")
    parents = [-1, 0, 1]
    y, z = draw(parents, 3)
    got = []
    for kind in (InversePropensityLoss, DoublyRobustLoss):
        logits = tf.constant(columns(kind, z, parents), "float64")
        with tf.GradientTape() as tape:
            tape.watch(logits)
            each = kind(parents, clip=0.05, entire_space=0.0).tasks(y, logits)
        got.append(tape.gradient(each, logits).numpy())
    np.testing.assert_allclose(got[0], got[1][:, :3], atol=1e-12)
    root = 1 / (1 + np.exp(-z[:, 0])) - y[:, 0]  # none of it through a propensity
    np.testing.assert_allclose(got[0][:, 0], root, atol=1e-12)


def test_without_guesses_doubly_robust_is_the_funnel() -> None:
    parents = [-1, 0, 1]
    y, z = draw(parents, 4)
    robust, plain = DoublyRobustLoss(parents, 0.2), FunnelLoss(parents, 0.2)
    assert float(robust(y, z[:, :3])) == float(plain(y, z[:, :3]))
    assert abs(float(robust(y, z)) - float(plain(y, z[:, :3]))) > 0.1
    for loss, width in ((robust, 4), (plain, 5), (EntireSpaceLoss(parents), 4)):
        with pytest.raises(ValueError, match=f"got {width}.*imputed"):
            loss(y, z[:, :width])


@pytest.mark.parametrize("kind", LOSSES)
def test_a_loss_keeps_its_settings(kind: type[FunnelLoss]) -> None:
    loss = kind([-1, 0], 0.2, [1.0, 3.0], **options(kind))
    again = kind.from_config(loss.get_config())
    names = ["parents", "negative_rate", "weights", "name", *options(kind)]
    for name in names:
        assert getattr(again, name) == getattr(loss, name)
    y, z = draw([-1, 0], 4.0)
    assert float(again(y, columns(kind, z, [-1, 0]))) == float(
        loss(y, columns(kind, z, [-1, 0]))
    )


def test_what_a_loss_refuses() -> None:
    for kind in LOSSES:
        with pytest.raises(ValueError, match="an earlier task"):
            kind([-1, 1])
        with pytest.raises(ValueError, match="one root task"):
            kind([-1, -1], 0.5)
        with pytest.raises(ValueError, match="positive weights"):
            kind([-1, 0], weights=[1.0])
    bad: list[dict[str, Any]] = [{"clip": 0.0}, {"clip": 1.5}, {"entire_space": -1.0}]
    bad += [{"child": 0.0}]
    for wrong in bad:
        with pytest.raises(ValueError, match="clip lies in"):
            InversePropensityLoss([-1, 0], **wrong)


def funnel_log(rows: int = 600) -> tuple[InputSpec, dict[str, Array], Array]:
    """Return a spec, inputs and labels of three steps that depend on the item."""
    spec = InputSpec(
        fields={"user": 9, "item": 7},
        numeric=("age",),
        history_fields=("item",),
        history_length=3,
        scenarios=("shop", "feed"),
        tasks=("click", "cart", "buy"),
        funnel={"cart": "click", "buy": "cart"},
    )
    rng = np.random.default_rng(0)
    fields = rng.integers(1, 7, (rows, 2))
    x = {
        "fields": fields,
        "numeric": rng.normal(size=(rows, 1)).astype("float32"),
        "history": rng.integers(0, 7, (rows, 3, 1)),
        "history_age": rng.uniform(0, 9, (rows, 3)).astype("float32"),
        "scenario": rng.integers(0, 2, rows),
    }
    steps = rng.random((rows, 3)) < 1 / (1 + np.exp(2.0 - fields[:, 1:] / 1.5))
    return spec, x, np.cumprod(steps, axis=1)


@pytest.mark.xla
@pytest.mark.parametrize("kind", LOSSES[1:])
def test_each_loss_trains_a_model_that_can_be_saved(
    kind: type[FunnelLoss], tmp_path: Any
) -> None:
    spec, x, y = funnel_log()
    robust = kind is DoublyRobustLoss
    model = UnifiedRecommender(
        spec, sharing=AITM(3, 2, (8,)), dim=4, bottom=8, imputed=robust
    )
    parts = {"train": np.arange(500), "valid": np.arange(500, 600)}
    model.reset(0)
    loss = kind(spec.parents, **options(kind))
    run: dict[str, Any] = {"epochs": 6, "patience": 6, "batch_size": 50, "loss": loss}
    plain, held = FunnelLoss(spec.parents), parts["valid"]
    inputs = {name: array[held] for name, array in x.items()}
    before = float(plain(y[held], model.logits(inputs)))
    table = fit(model, x, y, parts, **run)
    assert np.isfinite(table["train_loss"]).all()
    # the losses themselves need not fall: their propensities are the model's own
    assert float(plain(y[held], model.logits(inputs))) < before - 0.1
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    assert type(again.loss) is kind
    assert again.loss.get_config() == loss.get_config()
    np.testing.assert_allclose(again.logits(x), model.logits(x), atol=1e-6)


def test_aitm_is_attention_over_the_parent_and_oneself() -> None:
    rng = np.random.default_rng(0)
    x, scenario = rng.normal(size=(11, 5)).astype("float32"), np.zeros(11, int)
    layer = AITM(4, 1, units=(6, 3), parents=[-1, 0, 1, 0])
    layer.build((None, 5))
    layer.set_weights([rng.normal(0, 0.7, w.shape) for w in layer.get_weights()])
    by_path = {w.path.split("/", 1)[-1]: np.asarray(w) for w in layer.weights}
    relu = lambda v: np.maximum(v, 0)  # noqa: E731

    def weight(*parts: str) -> Array:
        (found,) = [v for k, v in by_path.items() if k.endswith("/".join(parts))]
        return found

    z: list[Array] = []
    for task, parent in enumerate(layer.parents):
        q = x.astype(float)
        for dense in ("dense_0", "dense_1"):
            name = f"tower_{task}/{dense}"
            q = relu(q @ weight(name, "kernel") + weight(name, "bias"))
        if parent >= 0:
            link = f"link_{task}"
            p = relu(
                z[parent] @ weight(link, "transfer/kernel")
                + weight(link, "transfer/bias")
            )
            h1, h2, h3 = (
                weight(link, f"{name}/kernel") for name in ("value", "key", "query")
            )
            match = [((u @ h2) * (u @ h3)).sum(1) / np.sqrt(3) for u in (p, q)]
            a = np.exp(match) / np.exp(match).sum(0)
            np.testing.assert_allclose(
                layer.shares(x, scenario)[task], a[0], rtol=1e-5, atol=1e-6
            )
            q = a[0][:, None] * (p @ h1) + a[1][:, None] * (q @ h1)
        z.append(q)
    for got, expected in zip(layer(x, scenario), z, strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)


def test_aitms_loss_is_that_of_each_step_over_all_rows() -> None:
    """The paper's: cross-entropies of marginal probabilities, and a calibrator of 0."""
    spec, x, y = funnel_log(200)
    model = UnifiedRecommender(spec, sharing=AITM(3, 2, (8,)), dim=4, bottom=8)
    rng = np.random.default_rng(0)
    for v in model.trainable_variables:
        v.assign(rng.normal(0, 0.7, v.shape))
    each, p = EntireSpaceLoss(spec.parents).tasks(y, model(x)), model.probabilities(x)
    assert np.ptp(p[:, 2]) > 0.02 and (np.diff(p, axis=1) <= 0).all()
    expected = -np.log(np.where(y == 1, p, 1 - p))
    np.testing.assert_allclose(each, expected, rtol=1e-4, atol=1e-5)


def test_aitm_learns_everywhere_and_hands_on_only_along_the_funnel() -> None:
    tf = pytest.importorskip("tensorflow")
    keras.utils.set_random_seed(0)
    layer = AITM(3, 1, units=(16,), parents=[-1, 0, 0])
    x = np.random.default_rng(0).normal(size=(64, 8)).astype("float32")
    layer.build((None, 8))
    with tf.GradientTape(persistent=True) as tape:
        each = [tf.reduce_sum(v**2) for v in layer(x, np.zeros(64, int))]
        total = tf.add_n(each)
    variables = layer.trainable_variables
    values = [v.value for v in variables]
    for v, g in zip(variables, tape.gradient(total, values), strict=True):
        assert np.abs(g).max() > 0, v.path
    reached = [
        {
            next(p for p in v.path.split("/") if p[:5] in ("tower", "link_"))
            for v, g in zip(variables, tape.gradient(one, values), strict=True)
            if g is not None
        }
        for one in each
    ]
    assert reached == [
        {"tower_0"},
        {"tower_0", "tower_1", "link_1"},
        {"tower_0", "tower_2", "link_2"},
    ]


def test_aitm_keeps_its_parents_and_checks_them() -> None:
    layer = AITM(3, 2, (8,), parents=[-1, 0, 0])
    again = AITM.from_config(layer.get_config())
    assert again.parents == [-1, 0, 0] and again.units == (8,)
    assert AITM(3, 2).parents == [-1, 0, 1]
    for wrong in ([-1, 0], [-1, 1, 0], [0, 0, 0], [-1, -2, 0]):
        with pytest.raises(ValueError, match="an earlier task"):
            AITM(3, 2, parents=wrong)

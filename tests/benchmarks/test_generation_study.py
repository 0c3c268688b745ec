"""The study of generation: who is asked what, ids, the trie, and the search in it."""

import importlib
import itertools
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

sys.path.append(str(Path(__file__).resolve().parents[2] / "benchmarks"))
study: Any = importlib.import_module("generation_study")

USER = np.array([1, 1, 1, 1, 2, 2, 2, 2, 2])
ITEM = np.array([5, 3, 1, 2, 4, 1, 3, 2, 5])


@pytest.fixture
def log() -> Any:
    """Two users with four and five items."""
    return study.Log(USER, ITEM)


def test_the_last_item_tests_the_one_before_it_stops_and_the_rest_trains(
    log: Any,
) -> None:
    both = np.arange(2)
    assert log.truth(both, 1).tolist() == [2, 5]
    assert log.truth(both, 2).tolist() == [1, 2]
    assert [part.tolist() for part in log.train()] == [[0, 0, 1, 1, 1], [5, 3, 4, 1, 3]]
    assert log.histories(both, 1, 3).tolist() == [[5, 3, 1], [1, 3, 2]]
    assert log.histories(both, 2, 3).tolist() == [[0, 5, 3], [4, 1, 3]]
    row, item = log.had(both, 1)
    assert row.tolist() == [0, 0, 0, 1, 1, 1, 1]
    assert item.tolist() == [5, 3, 1, 4, 1, 3, 2]


def test_an_epoch_has_each_training_step_once_and_nothing_later(log: Any) -> None:
    pairs = set()
    for past, then in study.batches(log, np.random.default_rng(0)):
        at = np.nonzero(then)
        pairs |= set(zip(past[at].tolist(), then[at].tolist(), strict=True))
    assert pairs == {(5, 3), (4, 1), (1, 3)}


def test_hit_and_gain_by_hand() -> None:
    place = study.places(
        np.array([[7, 8, 9], [9, 8, 7], [1, 2, 3]]), np.array([7, 7, 7])
    )
    assert place.tolist() == [0, 2, -1]
    hit, ndcg = study.gains(place, k=2)
    assert hit.tolist() == [1, 0, 0] and ndcg.tolist() == [1, 0, 0]
    np.testing.assert_allclose(study.gains(place, k=3)[1], [1, 1 / 2, 0])


def test_what_stands_beside_counts_one_over_the_steps_and_stays_within_a_user() -> None:
    near = study.beside(USER, ITEM, 5, reach=2).toarray()
    assert near[5, 3] == near[3, 5] == 1 + 1 / 2
    assert near[3, 2] == 1 / 2 + 1 and near[4, 3] == 1 / 2
    assert near[2, 4] == 0  # the last of user 1 and the first of user 2


def test_item_to_item_ranks_what_stands_beside_and_leaves_out_what_was_had(
    log: Any,
) -> None:
    near = study.beside(*log.train(), log.items)
    best = study.item_to_item(log, near, np.arange(2), 2, 0.5, 0.0)
    assert best[0, 0] == 1 and not {5, 3} & set(best[0, :3].tolist())
    assert best[1, 0] == 5


def test_each_level_leaves_less_and_the_digits_rebuild_the_vector() -> None:
    vectors = np.random.default_rng(0).standard_normal((200, 4))
    digits, centers, left = study.residual_codes(vectors, 3, 8, 10, 0)
    built = sum(center[digits[:, n]] for n, center in enumerate(centers))
    rest = ((vectors - built) ** 2).sum(axis=1).mean()
    assert rest == pytest.approx(left[-1])
    assert left[0] == pytest.approx((vectors**2).sum(axis=1).mean())
    assert all(after < before for before, after in itertools.pairwise(left))
    for n, center in enumerate(centers):  # each digit is that of the nearest center
        near = ((vectors[:, None] - center) ** 2).sum(axis=2).argmin(axis=1)
        assert (near == digits[:, n]).all()
        vectors = vectors - center[near]


def test_a_last_digit_tells_apart_those_that_share_all_others() -> None:
    codes = study.tell_apart(np.array([[1, 2], [0, 2], [1, 2], [1, 2]]))
    assert codes.tolist() == [[1, 2, 0], [0, 2, 0], [1, 2, 1], [1, 2, 2]]
    with pytest.raises(ValueError, match="one id"):
        study.trie(np.array([[1, 2], [1, 2]]), [3, 3])


def test_the_trie_leads_to_each_row_and_nowhere_else() -> None:
    codes = np.array([[1, 2, 0], [0, 2, 0], [1, 2, 1], [1, 0, 0]])
    tables = study.trie(codes, [3, 3, 2])
    for word in itertools.product(range(3), range(3), range(2)):
        prefix = 0
        for table, digit in zip(tables, word, strict=True):
            prefix = table[prefix, digit] if prefix >= 0 else -1
        is_row = np.flatnonzero((codes == word).all(axis=1))
        assert prefix == (is_row[0] if len(is_row) else -1)


def test_a_wide_beam_is_the_search_through_all_ids() -> None:
    rng = np.random.default_rng(0)
    words = np.array(list(itertools.product(range(3), range(3), range(2))))
    codes = words[rng.permutation(len(words))[:9]]
    tables, sizes = study.trie(codes, [3, 3, 2]), [3, 3, 2]
    drawn = [rng.standard_normal((2, 3**n, size)) for n, size in enumerate(sizes)]

    def chances(digits: np.ndarray) -> np.ndarray:
        level = digits.shape[2]
        at = digits @ 3 ** np.arange(level) if level else digits.sum(axis=2)
        logit = np.take_along_axis(drawn[level], at.astype(int)[..., None], 1)
        return logit - np.log(np.exp(logit).sum(axis=2, keepdims=True))

    all_of = np.zeros((2, 9))
    for n in range(3):
        given = np.repeat(codes[None, :, :n], 2, axis=0)
        own = np.repeat(codes[None, :, n, None], 2, axis=0)
        all_of += np.take_along_axis(chances(given), own, 2)[..., 0]
    found, logp = study.beam_search(chances, tables, 2, 9)
    order = np.argsort(-all_of, axis=1)
    assert (found == order).all()
    np.testing.assert_allclose(logp, np.take_along_axis(all_of, order, 1), rtol=1e-6)
    free, _ = study.beam_search(chances, tables, 2, 18, constrained=False)
    assert ((free >= 0).sum(axis=1) == 9).all()  # the other nine are no ids
    short, _ = study.beam_search(chances, tables, 2, 18)
    assert (short[:, 9:] == -1).all() and (short[:, :9] == order).all()


def test_what_was_had_is_taken_out_and_the_order_stays(log: Any) -> None:
    best = np.array([[3, 2, -1, 5, 4], [4, 5, 2, 1, -1]])
    fresh = study.without_had(best, log, np.arange(2), 1)
    assert fresh.tolist() == [[2, 4, -1, -1, -1], [5, -1, -1, -1, -1]]


def test_a_level_of_the_ids_is_described_by_what_it_tells_apart() -> None:
    codes = np.array([[1, 2, 0], [0, 2, 0], [1, 2, 1], [1, 0, 0]])
    lines = study.describe(codes, np.array([1.0, 0.5, 0.2]))
    assert [line["distinct"] for line in lines] == [1, 2, 3, 4]
    assert [line["largest"] for line in lines] == [4, 3, 2, 1]
    assert [line["alone"] for line in lines] == [0, 0.25, 0.5, 1]
    assert [line.get("left") for line in lines] == [1.0, 0.5, 0.2, None]


@pytest.mark.parametrize("sampled", [False, True])
def test_the_loss_in_parts_is_the_cross_entropy_and_so_are_its_gradients(
    sampled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    tf: Any = pytest.importorskip("tensorflow")
    rng = np.random.default_rng(0)
    monkeypatch.setattr(study, "DIM", 4)
    h, table = (
        tf.Variable(rng.standard_normal((n, 4)).astype("float32")) for n in (7, 9)
    )
    target = tf.constant([1, 2, 3, 1, 5, 6, 8])
    drawn: Any = tf.constant([1, 4, 4, 7]) if sampled else None
    offset: Any = tf.constant([0.1, 0.5, 0.5, -0.3]) if sampled else None
    with tf.GradientTape() as tape:
        if sampled:
            own = tf.reduce_sum(h * tf.gather(table, target), 1, keepdims=True)
            others = tf.matmul(h, tf.gather(table, drawn), transpose_b=True) - offset
            same = tf.cast(drawn[None] == target[:, None], "float32")
            logits, label = tf.concat([own, others - 1e9 * same], 1), 0 * target
        else:
            logits, label = tf.matmul(h, table, transpose_b=True), target
        plain = tf.reduce_mean(
            tf.nn.sparse_softmax_cross_entropy_with_logits(label, logits)
        )
    by_h, by_row = map(
        np.asarray, map(tf.convert_to_tensor, tape.gradient(plain, [h, table]))
    )
    given = h.value(), table.value(), target, drawn, offset
    loss, states, targets, others = tf.function(study.against)(*given, part=3)
    rows = np.zeros((9, 4))
    np.add.at(rows, target.numpy(), targets.numpy())
    np.add.at(rows, drawn.numpy() if sampled else np.arange(9), others.numpy())
    assert float(loss) == pytest.approx(float(plain), rel=1e-6)
    np.testing.assert_allclose(states, by_h, atol=1e-6)
    np.testing.assert_allclose(rows, by_row, atol=1e-6)


def test_the_run_with_the_best_epoch_is_taken_whatever_its_last(tmp_path: Path) -> None:
    for dropout, valid in ((0.1, (0.02, 0.05, 0.01)), (0.4, (0.03, 0.04, 0.045))):
        name = study.run_name("sasrec", "ids", dropout, 1e-3, 0)
        lines = [f"{e},drawn,5.0,{v},20.0" for e, v in enumerate(valid)]
        (tmp_path / f"{name}.csv").write_text("\n".join(lines) + "\n")
    name, epochs = study.best_run(tmp_path, "sasrec")
    assert name == "sasrec start=ids dropout=0.1 step=0.001 seed=0"
    assert [epoch["valid_ndcg"] for epoch in epochs] == ["0.02", "0.05", "0.01"]
    assert {(e["start"], e["dropout"], e["step"]) for e in epochs} == {
        ("ids", "0.1", "0.001")
    }

"""MMoE, PLE, AITM and ESMM against public code with the same weights: torch-rechub.

Its batch normalization is switched off, and it knows no scenarios. It is on PyPI and
needs PyTorch; neither is a dependency of the package, and without them nothing runs.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

reason = "compares with torch-rechub where it is installed; it is no dependency"
torch = pytest.importorskip("torch", reason=reason)
public = pytest.importorskip("torch_rechub.models.multi_task", reason=reason)

from schemes import fill  # noqa: E402
from torch_rechub.basic.features import SparseFeature  # type: ignore[import-not-found,unused-ignore] # noqa: E402

from urlm_helpers.model import Heads, along_funnel  # noqa: E402
from urlm_helpers.sharing import AITM, PLE, MMoE, Sharing, TaskTowers  # noqa: E402

ROWS, DIM, UNITS, TOWER = 12, 6, (7, 5), (4,)
BINARY = ["classification", "classification"]


def copy(linear: Any, kernel: Any, bias: Any = None) -> None:
    """Put weights of ours into a linear layer of theirs."""
    with torch.no_grad():
        linear.weight.copy_(torch.tensor(np.asarray(kernel).T))
        if bias is not None:
            linear.bias.copy_(torch.tensor(np.asarray(bias)))


def fill_in(network: Any, *layers: tuple[Any, Any]) -> None:
    """Put the kernels and biases of ours into the linear layers of a network."""
    linear = [m for m in network.modules() if isinstance(m, torch.nn.Linear)]
    for theirs, ours in zip(linear, layers, strict=True):
        copy(theirs, *ours)


def weights(tower: Any) -> list[tuple[Any, Any]]:
    """Return kernel and bias of each layer of a tower."""
    return [(layer.kernel, layer.bias) for layer in tower.layers]


def both(layer: Sharing, theirs: Any, *, fill_towers: Any) -> tuple[Any, Any]:
    """Return the probabilities of both on the same rows, with the same outputs."""
    rng = np.random.default_rng(1)
    x = rng.normal(size=(ROWS, DIM)).astype("float32")
    heads, none = Heads(1), np.zeros(ROWS, int)
    heads.build([(None, layer.width)] * 2)
    fill(heads, seed=2)
    kernel, bias = (np.asarray(w)[0] for w in (heads.kernel, heads.bias))  # (tasks, …)
    fill_towers([(kernel[t][:, None], bias[t][None]) for t in range(2)])
    tables = theirs.embedding.embed_dict
    with torch.no_grad():
        for name, part in (("user", x[:, :3]), ("item", x[:, 3:])):
            tables[name].weight.copy_(torch.tensor(part))
        for module in theirs.eval().modules():
            if isinstance(module, torch.nn.BatchNorm1d):
                module.eps = 0.0
        rows = torch.arange(ROWS)
        found = theirs({"user": rows, "item": rows}).numpy()
    return np.asarray(heads(layer(x, none), none)), found


def features() -> list[Any]:
    """Return two fields of theirs whose vectors are the two halves of a row."""
    return [
        SparseFeature(n, vocab_size=ROWS, embed_dim=DIM // 2) for n in ("user", "item")
    ]


def made(layer: Sharing) -> Any:
    """Return a layer with visible weights."""
    layer.build((None, DIM))
    fill(layer)
    return layer


def gates_of(gate: Any, count: int) -> list[tuple[Any, Any]]:
    """Split one layer of gate logits into those of each task."""
    kernels = np.split(np.asarray(gate.kernel), count, axis=1)
    return list(zip(kernels, np.split(np.asarray(gate.bias), count), strict=True))


def sigmoid(z: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-z))


def same_with_towers(layer: Any, theirs: Any) -> None:
    """Fill in the towers and the outputs, and compare."""

    def fill_towers(outputs: Any) -> None:
        for tower, own, out in zip(theirs.towers, layer.towers, outputs, strict=True):
            fill_in(tower, *weights(own), out)

    ours, found = both(layer, theirs, fill_towers=fill_towers)
    assert np.ptp(found) > 0.05
    np.testing.assert_allclose(sigmoid(ours), found, atol=1e-5)


def test_mmoe() -> None:
    layer = made(MMoE(2, 1, UNITS, experts=3, towers=TOWER))
    towers = [{"dims": list(TOWER)}] * 2
    theirs = public.MMOE(features(), BINARY, 3, {"dims": list(UNITS)}, towers)
    for expert, own in zip(theirs.experts, layer.experts, strict=True):
        fill_in(expert, *weights(own))
    for gate, own in zip(theirs.gates, gates_of(layer.gate, 2), strict=True):
        fill_in(gate, own)

    same_with_towers(layer, theirs)


@pytest.mark.parametrize("levels", [1, 2])  # one level is CGC
def test_ple(levels: int) -> None:
    options: dict[str, Any] = {"experts": 2, "shared_experts": 3, "levels": levels}
    layer = made(PLE(2, 1, UNITS, **options, towers=TOWER))
    towers = [{"dims": list(TOWER)}] * 2
    theirs = public.PLE(features(), BINARY, levels, 2, 3, {"dims": list(UNITS)}, towers)
    for level, own in zip(theirs.cgc_layers, layer.levels, strict=True):
        for expert, one in zip(level.experts_specific, own.own, strict=True):
            fill_in(expert, *weights(one))
        for expert, one in zip(level.experts_shared, own.shared, strict=True):
            fill_in(expert, *weights(one))
        for gate, one in zip(level.gates_specific, own.task_gates, strict=True):
            fill_in(gate, (one.kernel, one.bias))
        if not own.last:
            shared = own.shared_gate
            fill_in(level.gate_shared, (shared.kernel, shared.bias))

    same_with_towers(layer, theirs)


def test_aitm() -> None:
    """Up to the output: theirs is a step's probability, ours that given its parent."""
    layer = made(AITM(2, 1, UNITS))
    theirs = public.AITM(features(), 2, {"dims": list(UNITS)}, [{"dims": []}] * 2)
    for bottom, own in zip(theirs.bottoms, layer.towers, strict=True):
        fill_in(bottom, *weights(own))
    link, (attention,) = layer.links[1], theirs.aits
    fill_in(theirs.info_gates[0], (link.transfer.kernel, link.transfer.bias))
    copy(attention.q_layer, link.query.kernel)
    copy(attention.k_layer, link.key.kernel)
    copy(attention.v_layer, link.value.kernel)

    def fill_towers(outputs: Any) -> None:
        for tower, out in zip(theirs.towers, outputs, strict=True):
            fill_in(tower, out)

    ours, found = both(layer, theirs, fill_towers=fill_towers)
    assert np.ptp(found) > 0.05
    np.testing.assert_allclose(sigmoid(ours), found, atol=1e-5)


def test_esmm() -> None:
    layer = made(TaskTowers(2, 1, UNITS))
    user, item = features()
    dims = {"dims": list(UNITS)}
    theirs = public.ESMM([user], [item], dims, dims)

    def fill_towers(outputs: Any) -> None:
        networks = theirs.tower_ctr, theirs.tower_cvr
        for network, own, out in zip(networks, layer.towers, outputs, strict=True):
            fill_in(network, *weights(own), out)

    ours, found = both(layer, theirs, fill_towers=fill_towers)
    p = along_funnel(ours, [-1, 0])
    expected = np.stack([p[:, 1] / p[:, 0], p[:, 0], p[:, 1]], axis=1)
    assert np.ptp(found) > 0.05
    np.testing.assert_allclose(expected, found, atol=1e-5)

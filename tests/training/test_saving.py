"""A trained model is loaded where nothing but ``urlm_helpers`` was imported."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

keras = pytest.importorskip("keras")

from urlm_helpers.features import HSTU, CompactEmbedding  # noqa: E402
from urlm_helpers.model import EntireSpaceLoss, UnifiedRecommender  # noqa: E402
from urlm_helpers.preprocessing import InputSpec  # noqa: E402
from urlm_helpers.sharing import URLM  # noqa: E402
from urlm_helpers.training import RowAdam  # noqa: E402

SPEC = InputSpec(
    {"user": 9, "item": 7}, ("age",), ("item",), 3, ("a", "b"), ("click", "buy"), {}
)
X = SPEC.example() | {"fields": np.array([[3, 2]], "int32")}

FRESH = """
import importlib, json, pkgutil, sys, time
{first}
begin = time.perf_counter()
import urlm_helpers
took = time.perf_counter() - begin
early = [name for name in ("keras", "tensorflow", "pandas") if name in sys.modules]
{then}
import keras
import numpy as np
def names():
    return sorted(n for n in keras.saving.get_custom_objects() if "urlm_helpers>" in n)
known = names()
model = keras.models.load_model(sys.argv[1])
x = {{n: np.array(v, kind) for n, (v, kind) in json.loads(sys.argv[2]).items()}}
scores, kinds = model.logits(x).tolist(), [model.optimizer, model.loss]
for module in pkgutil.walk_packages(urlm_helpers.__path__, "urlm_helpers."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
kinds = [type(part).__name__ for part in kinds]
print(json.dumps([took, early, known, names(), scores, kinds]))
"""


@pytest.mark.parametrize(
    ("first", "then"),
    [
        ("", ""),
        ("import keras", ""),
        ("", "from urlm_helpers.features import MeanPool"),  # it imports Keras
    ],
)
def test_one_import_is_enough_to_load(tmp_path: Path, first: str, then: str) -> None:
    sharing = URLM(2, 2, units=(8,), towers=(4,))
    model = UnifiedRecommender(SPEC, HSTU(heads=2), sharing, dim=4, bottom=8)
    model.compile(RowAdam(0.01), EntireSpaceLoss(SPEC.parents))
    model.optimizer.build(model.trainable_variables)
    model.save(tmp_path / "model.keras")
    x = {name: (array.tolist(), array.dtype.name) for name, array in X.items()}
    program = FRESH.format(first=first, then=then)
    command = [sys.executable, "-c", program, str(tmp_path / "model.keras")]
    command += [json.dumps(x)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-3000:]
    took, early, known, every, scores, kinds = json.loads(done.stdout.splitlines()[-1])
    assert known == every and "urlm_helpers>URLM" in known
    np.testing.assert_allclose(scores, model.logits(X), atol=1e-6)
    assert kinds == ["RowAdam", "EntireSpaceLoss"]
    if not first:
        assert early == [] and took < 0.1


CLAIMS = {
    "a row per value": (None, '"user": 9'),
    "fewer rows": (CompactEmbedding([9, 7], 4, rows=5, above=8), '"rows": 5'),
}


@pytest.mark.parametrize("case", CLAIMS)
def test_a_file_that_claims_too_many_rows_is_refused(tmp_path: Path, case: str) -> None:
    table, place = CLAIMS[case]
    good, bad = tmp_path / "good.keras", tmp_path / "bad.keras"
    UnifiedRecommender(SPEC, dim=4, bottom=8, embedding=table).save(good)
    keras.models.load_model(good)
    with zipfile.ZipFile(good) as packed, zipfile.ZipFile(bad, "w") as changed:
        for name in packed.namelist():
            content = packed.read(name)
            if name == "config.json":
                assert place in content.decode()
                claim = re.sub("[95]", f"{10**12}", place)
                content = content.decode().replace(place, claim).encode()
            changed.writestr(name, content)
    with pytest.raises(MemoryError, match=r"rows x 4 needs [\d,.]+ GiB.*the file is"):
        keras.models.load_model(bad)

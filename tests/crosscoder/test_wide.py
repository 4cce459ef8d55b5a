"""Several processes fit as one does: the tokens shared by some, the features by others."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import psutil
import pytest
from safetensors.torch import load_file

from rlgen.study.sections import Crosscoder as Section
from rlgen.study.stages import FitSettings
from tests.crosscoder.world import make_world

WEIGHTS = ("W_enc", "b_enc", "W_dec", "b_dec")


@pytest.fixture(scope="module")
def stores(tmp_path_factory: Any) -> list[Path]:
    return make_world(20_000).stores(tmp_path_factory.mktemp("activations"))


def settings_of(**change: Any) -> FitSettings:
    usual = {"models": ["base", "rl"], "features": 48, "k": 2, "batch_size": 512, "lr": 1e-3, "epochs": 1.0}
    return FitSettings(crosscoder=Section(**usual | change), layer=1, outlier_norm=10)


def command(ranks: int, settings: FitSettings, stores: list[Path], out: Path, program: str = "rlgen") -> list[str]:
    rlgen = ["-m", program, "fit", "--settings", settings.canonical(), "--out", str(out)]
    for store in stores:
        rlgen += ["--store", str(store)]
    if program != "rlgen" and ranks > 1:
        return [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks), *rlgen]
    return [sys.executable, *rlgen, *(["--processes", str(ranks)] if ranks > 1 else [])]


def start(given: list[str]) -> subprocess.Popen[str]:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(given, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def finish(given: list[str]) -> None:
    process = start(given)
    output, _ = process.communicate(timeout=240)
    assert process.returncode == 0, output


@pytest.mark.slow
@pytest.mark.parametrize(
    ("ranks", "shards", "change"),
    [
        (2, 1, {"sparsity": "batch_topk", "aux_weight": 0.1, "delta_weight": 0.5}),
        (2, 2, {"sparsity": "batch_topk", "aux_weight": 0.1, "delta_weight": 0.5, "dedicated": {"rl": 6}}),
        (4, 2, {"sparsity": "batch_topk"}),
        (2, 2, {"sparsity": "topk"}),
        (2, 2, {"sparsity": "relu_l1", "l1": 0.3}),
        (2, 2, {"sparsity": "jumprelu"}),
    ],
)
def test_they_equal_one(stores: list[Path], tmp_path: Path, ranks: int, shards: int, change: dict[str, Any]) -> None:
    finish(command(1, settings_of(**change), stores, tmp_path / "one"))
    finish(command(ranks, settings_of(feature_shards=shards, **change), stores, tmp_path / "many"))
    one, many = (load_file(tmp_path / name / "model.safetensors") for name in ("one", "many"))
    assert one.keys() == many.keys()
    for name in WEIGHTS:
        np.testing.assert_allclose(many[name], one[name], atol=1e-5, err_msg=name)
    logs = [pd.read_parquet(tmp_path / name / "training.parquet") for name in ("one", "many")]
    assert list(logs[0].columns) == list(logs[1].columns)
    logs = [log.drop(columns="dense") for log in logs]  # of a share of the features
    np.testing.assert_allclose(logs[1], logs[0], rtol=1e-3, atol=1e-5)


def kill_all(process: subprocess.Popen[str]) -> None:
    """With the workers that torchrun has put into sessions of their own."""
    family = [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]
    for member in family:
        member.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)


def state_of(out: Path) -> str | None:
    """The last state that an unfinished fit has saved."""
    found = list(out.parent.glob(f"{out.name}.partial/.scratch/latest.json"))
    return found[0].read_text() if found else None


@pytest.mark.slow
@pytest.mark.parametrize(("ranks", "shards"), [(1, 1), (2, 2)])
def test_killed_at_ten_moments_it_ends_with_the_same_bits(
    stores: list[Path], tmp_path: Path, ranks: int, shards: int
) -> None:
    settings, out = settings_of(feature_shards=shards, epochs=8.0, aux_weight=0.1), tmp_path / "disturbed"
    finish(command(ranks, settings, stores, tmp_path / "undisturbed"))
    given, random = command(ranks, settings, stores, out, program="tests.crosscoder.hasty"), np.random.default_rng(0)
    for kill in range(10):
        before, process = state_of(out), start(given)
        until = time.monotonic() + 120
        while state_of(out) == before and time.monotonic() < until:
            assert process.poll() is None, f"it ended before kill {kill}: {process.communicate()[0]}"
            time.sleep(0.02)
        time.sleep(random.uniform(0, 0.3))
        kill_all(process)
        assert not out.exists(), f"it ended before kill {kill}"
    finish(given)
    for name in ("model.safetensors", "training.parquet", "config.json"):
        assert (out / name).read_bytes() == (tmp_path / "undisturbed" / name).read_bytes(), name

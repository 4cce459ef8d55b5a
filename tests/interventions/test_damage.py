"""What an edit costs on plain text."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel

from rlgen.crosscoder.model import Crosscoder
from rlgen.crosscoder.splice import Rows
from rlgen.interventions.damage import damage
from rlgen.interventions.lab import Lab
from rlgen.interventions.localised import Localised
from rlgen.stage import stage
from rlgen.study.sections import Edit
from tests.data.corpora import write_corpus
from tests.features.planted import write_rates
from tests.interventions.test_evaluate import SETTINGS, write_localisation

MakeLab = Callable[..., Lab]
Ids = NDArray[np.int32]
ROWS, LENGTH = 6, 32


@pytest.fixture
def make_lab(
    arms: dict[str, Path], tasks: list[Path], coder: Crosscoder, coder_folder: Path, tmp_path: Path
) -> MakeLab:
    def make(edit: str = "amplify", features: tuple[int, ...] = (3, 11, 17), alpha: float = 2.0) -> Lab:
        localisation = write_localisation(
            tmp_path / f"localisation-{len(list(tmp_path.iterdir()))}", [*features], coder
        )
        rates = tmp_path / "diagnostics"
        if not rates.exists():
            write_rates(rates, [0.1 + 0.01 * k for k in range(40)])
        settings = SETTINGS.model_copy(update={"edit": Edit(alpha=alpha, tokens="last_prompt")})
        return Lab(edit, settings, [Localised.read(localisation, coder_folder, rates)], arms, tasks)

    return make


@pytest.fixture
def ids() -> Ids:
    found = np.random.default_rng(0).integers(4, 40, (ROWS, LENGTH)).astype(np.int32)
    found[:, 0] = 1  # a beginning token, which no edit touches
    return found


@pytest.fixture
def corpus(ids: Ids, tmp_path: Path) -> Path:
    return write_corpus(tmp_path / "corpus", ids, np.zeros_like(ids), ids != 1)


def measured(lab: Lab, corpus: Path, out: Path) -> dict[str, float | list[float]]:
    with stage("intervene", lab.settings, {}, out) as work:
        return damage(work, lab, corpus)


def plain(model: PreTrainedModel, ids: Ids) -> float:
    ids_BT = torch.from_numpy(ids.astype(np.int64))
    with torch.no_grad():
        logits_BTV = model(input_ids=ids_BT).logits[:, :-1]
    return float(cross_entropy(logits_BTV.flatten(0, 1), ids_BT[:, 1:].flatten()))


def test_unedited_it_is_plain_cross_entropy(
    make_lab: MakeLab, corpus: Path, ids: Ids, base: PreTrainedModel, arm: PreTrainedModel, tmp_path: Path
) -> None:
    for edit, model in (("amplify", base), ("ablate", arm)):
        found = measured(make_lab(edit), corpus, tmp_path / edit)
        assert found["unedited"] == pytest.approx(plain(model, ids), rel=1e-5)
        assert found["tokens"] == ROWS * (LENGTH - 1)


@pytest.mark.parametrize(("features", "alpha"), [((3, 11), 0.0), ((), 2.0)])
def test_an_edit_of_nothing_costs_nothing(
    make_lab: MakeLab, corpus: Path, tmp_path: Path, features: tuple[int, ...], alpha: float
) -> None:
    found = measured(make_lab(features=features, alpha=alpha), corpus, tmp_path / "out")
    assert found["edited"] == found["unedited"]
    assert found["matched_random"] == [found["unedited"]] * 3


@pytest.mark.parametrize("edit", ["amplify", "transplant", "revert", "mean_ablate"])
def test_a_big_push_costs_much_on_the_models_own_text(
    make_lab: MakeLab, base: PreTrainedModel, arm: PreTrainedModel, ids: Ids, tmp_path: Path, edit: str
) -> None:
    """What a model itself would write is what an edit harms; of a transplant, a donor reads whole texts."""
    model = base if edit in ("amplify", "transplant") else arm
    ids_BT = torch.from_numpy(ids[:, :2].astype(np.int64))
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(0)
        while ids_BT.shape[1] < LENGTH:
            share_BV = torch.softmax(2 * model(input_ids=ids_BT).logits[:, -1], dim=-1)
            ids_BT = torch.cat([ids_BT, torch.multinomial(share_BV, 1)], dim=1)
    own = ids_BT.numpy().astype(np.int32)
    place = np.broadcast_to(np.arange(LENGTH) > 0, own.shape)
    corpus = write_corpus(tmp_path / "own", own, np.zeros_like(own), place)
    small, big = (measured(make_lab(edit, alpha=a), corpus, tmp_path / f"{a}") for a in (1e-4, 300.0))
    assert small["edited"] == pytest.approx(small["unedited"], abs=0.01)
    assert isinstance(big["edited"], float)
    assert isinstance(big["unedited"], float)
    assert big["edited"] > big["unedited"] + 0.5
    assert small["unedited"] == big["unedited"] == pytest.approx(plain(model, own), rel=1e-5)


def test_patching_the_last_layer_predicts_as_the_donor_where_text_counts(
    make_lab: MakeLab, corpus: Path, base: PreTrainedModel, arm: PreTrainedModel
) -> None:
    """After the last block comes the head alone; beginning tokens are not edited."""
    lab = make_lab("transplant")
    (rows,) = Rows.of(corpus, 10**4).batches(10**4)
    lab.harness.positions.texts(rows.inputs, rows.counts_BT)
    with torch.no_grad():
        with lab.edited(lab.changes(("ceiling", 0)), everywhere=True):
            patched_BTV = lab.model(**rows.inputs, use_cache=False).logits
        wanted_BTV = arm(**rows.inputs, use_cache=False).logits
        unedited_BTV = base(**rows.inputs, use_cache=False).logits
    torch.testing.assert_close(patched_BTV[:, 1:], wanted_BTV[:, 1:], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(patched_BTV[:, 0], unedited_BTV[:, 0], rtol=1e-4, atol=1e-4)


def test_what_was_measured_is_not_measured_again(
    make_lab: MakeLab, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab = make_lab()
    with stage("intervene", lab.settings, {}, tmp_path / "out") as work:
        found = damage(work, lab, corpus)
        monkeypatch.setattr("rlgen.interventions.damage._cross_entropy", None)
        assert damage(work, lab, corpus) == found

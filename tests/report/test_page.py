"""The page: what stands where, that nothing on it is foreign, that nothing the models wrote is markup."""

from __future__ import annotations

import functools
import json
import operator
import re
from html.parser import HTMLParser
from typing import TYPE_CHECKING

import pytest
from jinja2 import UndefinedError

from rlgen.errors import StudyError
from rlgen.report.page import make_report
from rlgen.study.stages import ReportSettings

if TYPE_CHECKING:
    from tests.report.conftest import Tree

PANELS = {
    *(f"accuracy-{group}" for group in ("train_domain", "transfer", "unseen")),
    *("nrn-base-sft", "nrn-base-rl", "mas-base-sft-rl", "overlap-base-sft", "overlap-base-rl", "swap-overlap-base-rl"),
    *("score-max", "score-par", "score-cnt", "threshold-curve", "amplify", "ablate", "wall-time"),
}
VOID = {"meta", "br", "img", "link", "input", "hr"}


class Reader(HTMLParser):
    """What a browser would find: tags with their attributes, text, and whether all that is opened is closed."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self._open: list[str] = []
        self.feed(page)
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.texts))


@pytest.fixture
def page(tree: Tree) -> str:
    return tree.write().report(note="Shows <b>nothing</b>.")


def test_what_models_wrote_is_text(page: str) -> None:
    assert "<script" not in page
    reader = Reader(page)
    assert not {"script", "img", "b", "iframe", "object"} & {tag for tag, _ in reader.tags}
    assert '<script>alert("x")</script>' in reader.text
    assert "Shows <b>nothing</b>." in reader.text


def test_problems_are_told_with_what_was_left_out(page: str) -> None:
    text = Reader(page).text
    assert "660 problems, the same in the same order" in text
    assert "Left out because an evaluation task asks for them: max 3." in text
    assert "owner/set (train) c0ffeec0ffee 25 20 contaminated 3, duplicate 2" in text


def test_paired_tests_are_listed(page: str) -> None:
    text = Reader(page).text
    assert re.search(r"rl sft transfer 360 \+\d+\.\d \d+ \d+ <0\.001", text)
    assert text.count("chance") == 0, "nothing here is a multiple choice"


def test_the_chance_level_is_drawn_and_listed(tree: Tree) -> None:
    tree.write()
    for model in ("base", "sft", "rl"):
        path = tree.paths.evaluation(model) / "accuracy.json"
        found = json.loads(path.read_text())
        found["par"] |= {"chance": 0.25, "acc_norm": {"value": 0.5, "n": 120, "low": 0.4, "high": 0.6}}
        path.write_text(json.dumps(found))
    text = Reader(tree.report()).text
    assert re.search(r"transfer par 120 25\.0 ", text)
    assert "(acc_norm)" in text
    assert re.search(r"par 50\.0 \[40\.0, 60\.0\]", text)
    assert (tree.paths.report / "figures" / "accuracy-transfer.svg").read_text().count("stroke-dasharray") == 1


def test_a_teacher_s_acceptance_is_told(tree: Tree) -> None:
    tree.taught = True
    text = Reader(tree.write().report()).text
    assert "495 problems, the same in the same order" in text
    assert "owner/teacher : 495 of 660 problems solved (75.0%), by try 50.0% of 660, 25.0% of 270; " in text
    assert "of all solutions, 495 right, 5 too long, 30 unfinished, 400 wrong" in text


def test_names_are_text_in_figures_too(tree: Tree) -> None:
    task = "a<b&c"
    tree.tasks = {"train_domain": [], "transfer": [task, "par"], "unseen": []}
    reader = Reader(tree.write().report())
    assert task in reader.texts
    assert not [tag for tag, _ in reader.tags if tag.startswith("b&")]


def test_nothing_is_loaded_from_elsewhere(page: str) -> None:
    for tag, attributes in Reader(page).tags:
        for name in ("src", "href", "xlink:href", "action", "data"):
            assert (attributes.get(name) or "#").startswith("#"), (tag, attributes)
        assert tag not in {"link", "base", "iframe"}
    style = re.findall(r"<style>(.*?)</style>", page, flags=re.S)
    assert style
    assert not re.search(r"url\(|@import", "".join(style))


def test_links_within_the_page_lead_somewhere(page: str) -> None:
    tags = Reader(page).tags
    ids = {attributes.get("id") for _, attributes in tags}
    targets = {str(attributes["href"])[1:] for tag, attributes in tags if tag == "a"}
    assert targets
    assert targets <= ids


def test_has_every_figure_and_a_caption_for_it(tree: Tree, page: str) -> None:
    files = {path.stem for path in (tree.paths.report / "figures").glob("*.svg")}
    assert files >= PANELS
    tags = [tag for tag, _ in Reader(page).tags]
    assert tags.count("figure") == tags.count("figcaption") >= 7
    assert sum(1 for tag, attributes in Reader(page).tags if tag == "svg" and attributes.get("role") == "img") >= len(
        PANELS
    )


def test_figure_files_stand_alone(tree: Tree, page: str) -> None:
    del page
    for path in (tree.paths.report / "figures").glob("*.svg"):
        text = path.read_text()
        assert text.startswith('<svg xmlns="http://www.w3.org/2000/svg"')
        assert "var(--" not in text


def test_a_failed_null_stands_before_anything_found(tree: Tree) -> None:
    tree.base_base_outside = 4
    page = tree.write().report()
    assert page.index('role="alert"') < page.index('id="found"')
    assert "A null did not come out null." in page
    assert "yet 4 of 246 live features" in page


def test_an_edit_that_works_with_noise_stands_before_anything_found(tree: Tree) -> None:
    tree.noised = 0.3
    page = tree.write().report()
    assert page.index('role="alert"') < page.index('id="found"')
    assert "base's noised copy" in Reader(page).text[: Reader(page).text.index("Trained tasks")]


def test_a_null_that_passes_raises_no_alarm(page: str) -> None:
    assert 'role="alert"' not in page


def test_a_claim_that_fails_says_so(tree: Tree) -> None:
    tree.amplified = 0.01
    text = Reader(tree.write().report()).text
    assert "does not hold" in text
    assert "the effect is not told apart from what matched features do" in text


def test_few_draws_tell_nothing_apart(tree: Tree) -> None:
    tree.draws = 5
    text = Reader(tree.write().report()).text
    assert "beyond what matched features do" not in text
    assert "5 draws are too few to tell" in text


def test_says_which_score_chose_the_features(tree: Tree) -> None:
    text = Reader(tree.write().report()).text
    assert "how much more it is active in rl" in text
    assert "This is the paper's own score." in text
    assert "above 0.2 of the highest score in every transfer task" in text
    assert "strength 2 times the mean difference (norm 11)" in text
    assert "The strength follows from the norm" not in text


def test_without_a_threshold_none_is_drawn_or_named(tree: Tree) -> None:
    tree.score = "attribution"
    text = Reader(tree.write().report()).text
    assert "how much likelier rl's own answers become in base" in text
    assert "by mean score over the transfer tasks: 10 features" in text
    assert "of which 2 are among the above: 3, 7, 200," in text
    assert "features of positive mean score" in text
    assert "0.7 times the mean norm of base's centred activations" in text
    assert "None" not in text
    for name in ("score-max", "threshold-curve"):
        figure = (tree.paths.report / "figures" / f"{name}.svg").read_text()
        assert "stroke-dasharray" not in figure
        assert "kept</text>" not in figure


def test_the_ceiling_is_not_called_a_bound(page: str) -> None:
    text = Reader(page).text
    assert "ceiling, which is a comparison and no upper bound" in text
    assert text.count("an edit may exceed it") == 3  # one sentence an edit


@pytest.mark.parametrize("missing", ["tracking", "localisation", "nulls"])
def test_a_study_without_a_part_still_has_its_page(tree: Tree, missing: str) -> None:
    setattr(tree, missing, False)
    page = tree.write().report()
    Reader(page)
    sections = {"tracking": ["tracking"], "localisation": ["localisation", "interventions"], "nulls": []}[missing]
    for section in sections:
        assert f'id="{section}"' not in page
        assert f'href="#{section}"' not in page
    if missing == "nulls":
        assert "without a control" in page


def test_births_and_deaths_stand_beside_the_drift_by_checkpoint(page: str) -> None:
    text = Reader(page).text
    assert re.search(r"rl rl@1 0 2 0\.\d+ … 0\.\d+ 0\.04 0\.006 0\.14 0\.12 rl@2 1 2", text)
    assert "Neither happens to 220 features of sft, 220 features of rl." in text


def test_tasks_of_the_papers_names_stand_beside_its_numbers(tree: Tree) -> None:
    tree.tasks = {"train_domain": ["math500"], "transfer": ["sciq", "arc_challenge"], "unseen": ["piqa"]}
    text = Reader(tree.write().report()).text
    assert "Beside the paper" in text
    assert "77.0" in text  # Qwen3-4B + RL on MATH500
    assert "39.3" in text  # Qwen3-4B + RL on ARC-C
    assert "+38.0" in text  # amplified in Qwen3-4B-Base on SciQ, the paper's subset
    assert "+28.2" in text  # on PIQA, the only unseen task
    assert "\N{MINUS SIGN}17.6" in text


@pytest.mark.parametrize(
    ("file", "keys"),
    [
        ("features/base-rl/attribution/attribution.json", ("nrn", "below")),
        ("features/base-rl/attribution/attribution.json", ("nrn_l2", "share_outside")),
        ("features/base-rl/tracking/tracking.json", ("null",)),
        ("features/base-rl/tracking/tracking.json", ("swap_readout", "overlap_low")),
        ("features/base-rl/tracking/tracking.json", ("born", "rl@1")),
        ("features/base-rl/tracking/tracking.json", ("nrn", "rank_correlation_across_halves")),
        ("features/base-rl/localisation/localisation.json", ("threshold_curve",)),
        ("interventions/base-rl/amplify/effects.json", ("groups", "transfer", "ceiling")),
        ("interventions/base-rl/ablate/effects.json", ("tasks", "max", "baseline")),
        ("interventions/base-rl/ablate/effects.json", ("likeness",)),
        ("diagnostics/base-rl/diagnostics.json", ("cross_entropy", "rl")),
    ],
    ids=lambda value: ".".join(value) if isinstance(value, tuple) else "",
)
def test_a_number_that_a_stage_no_longer_writes_is_missed(tree: Tree, file: str, keys: tuple[str, ...]) -> None:
    """Better no page than one with a dash where a number was renamed."""
    path = tree.write().root / file
    found = json.loads(path.read_text())
    holder = functools.reduce(operator.getitem, keys[:-1], found)
    del holder[keys[-1]]
    path.write_text(json.dumps(found))
    with pytest.raises((KeyError, UndefinedError)):
        tree.report()


def test_a_missing_summary_is_named(tree: Tree) -> None:
    tree.write()
    with pytest.raises(StudyError, match=r"summary\.json"):
        make_report(
            ReportSettings.model_validate({"report": {}}),
            summary=tree.paths.summary,
            root=tree.root,
            out=tree.paths.report,
        )


def test_the_same_study_gives_the_same_page(tree: Tree) -> None:
    assert tree.write().report() == tree.report()


def test_variants_stand_side_by_side(tree: Tree) -> None:
    tree.other_fits = {"base-rl.k=8": {"k": 8}, "base-rl.seed=1": {"seed": 1}}
    text = Reader(tree.write().report()).text
    assert "Variants side by side" in text
    assert "k 8" in text
    assert "seed 1" in text
    assert "75.0" in text  # 150 of 200 features are found again
    files = {path.stem for path in (tree.paths.report / "figures").glob("*.svg")}
    assert files >= {"fve-base-rl", "delta-fve-base-rl"}


def test_seeds_alone_are_a_table_and_no_figure(tree: Tree) -> None:
    tree.other_fits = {"base-rl.seed=1": {"seed": 1}}
    assert "Variants side by side" in Reader(tree.write().report()).text
    assert "fve-base-rl" not in {path.stem for path in (tree.paths.report / "figures").glob("*.svg")}


def test_without_variants_there_is_no_comparison(page: str) -> None:
    assert "Variants side by side" not in page

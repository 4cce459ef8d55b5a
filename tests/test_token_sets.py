"""Every stage reads the same tokens: those of lm-evaluation-harness, for tokenizers of every kind."""

import json
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from transformers import PreTrainedTokenizerBase
from transformers.models.llama.modeling_llama import LlamaModel

from rlgen.data.corpus import make_corpus, read_corpus
from rlgen.data.problems import make_problems, read_problems
from rlgen.data.tasks import make_task
from rlgen.errors import StudyError
from rlgen.evaluation.engine import VllmEngine
from rlgen.evaluation.evaluate import evaluate
from rlgen.evaluation.harness import Harness, Runner
from rlgen.evaluation.lm import LiveLM, quiet
from rlgen.features.answers import Answer, Batch, answers_of
from rlgen.features.codes import Item, item_codes, mark
from rlgen.features.gradients import answer_gradients
from rlgen.features.localisation import localise
from rlgen.features.patching import patching_effects
from rlgen.features.reading import item_of
from rlgen.interventions.edits import Site
from rlgen.interventions.lab import Lab
from rlgen.interventions.localised import Localised
from rlgen.models import edited, load_model, load_tokenizer
from rlgen.posttrain.grpo import grpo
from rlgen.posttrain.kl import Remembering
from rlgen.posttrain.sft import sft
from rlgen.posttrain.teacher import teach
from rlgen.study.sections import (
    Corpus,
    Edit,
    Evaluation,
    ExistingBase,
    GrpoArm,
    JsonlProblems,
    JsonlTask,
    JsonlText,
    Localisation,
    Problems,
    ProblemText,
    SftArm,
    Teacher,
    TokenSet,
)
from rlgen.study.stages import (
    CorpusSettings,
    EvaluateSettings,
    GrpoSettings,
    LocaliseSettings,
    ProblemsSettings,
    SftSettings,
    TaskSettings,
    TeacherSettings,
)
from rlgen.token_sets import encode, encode_answer, encode_example, encode_pair
from tests.data.test_problems import jsonl
from tests.features.arms import make_crosscoder
from tests.features.planted import write_rates
from tests.interventions.test_evaluate import SETTINGS as INTERVENE
from tests.tokenizer_kinds import KINDS, PROMPTS, make_model, recorded

EVALUATION = Evaluation(samples=2, max_new_tokens=6, batch_size=16)
EVERY_KIND = pytest.mark.parametrize("kind", KINDS)
TRAINED = {"batch_size": 8, "micro_batch_size": 8, "checkpoints": 1, "epochs": 1, "lr": 1e-4}
CHOICES = ["ab", "C d", "4"]


@pytest.fixture(scope="module")
def model_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a tiny model with a tokenizer of a kind."""
    return cache(lambda kind: make_model(kind, tmp_path_factory.mktemp("model") / "base"))


@pytest.fixture(scope="module")
def stock_of(model_of: Callable[[str], Path]) -> Callable[[str], HFLM]:
    """The harness's own model."""

    def stock(kind: str) -> HFLM:
        with quiet():
            return HFLM(pretrained=load_model(model_of(kind)), tokenizer=load_tokenizer(model_of(kind)), batch_size=4)

    return cache(stock)


def request(context: str, continuation: str) -> Instance:
    return Instance("loglikelihood", {}, (context, continuation), 0, metadata=("t", "i", 1))


def scored(lm: HFLM, context: str, continuation: str) -> tuple[list[int], list[int]]:
    """The ids that a model of the harness is about to score."""
    seen: list[Any] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lm, "_loglikelihood_tokens", lambda pairs, **_: seen.extend(pairs))
        lm.loglikelihood([request(context, continuation)], disable_tqdm=True)
    return list(seen[0][1]), list(seen[0][2])


def bos_count(tokenizer: PreTrainedTokenizerBase, ids: Any) -> int:
    return list(ids).count(tokenizer.bos_token_id)


# ------------------------------------------------------------------------------- the rule, on many texts

TEXT = st.text(alphabet="abcCQ4?: \n\\é", max_size=8)
PROMPT = st.builds("{}{}".format, st.sampled_from(["", "", "<s>", "<s> "]), TEXT)


@EVERY_KIND
@settings(max_examples=150, deadline=None)
@given(prompt=PROMPT, answer=TEXT)
def test_prompts_and_choices_have_the_harnesss_own_ids(
    stock_of: Callable[[str], HFLM], kind: str, prompt: str, answer: str
) -> None:
    stock = stock_of(kind)
    tokenizer, live = stock.tokenizer, _live(stock)
    assert encode(tokenizer, prompt) == stock.tok_encode(prompt) == live.tok_encode(prompt)
    if prompt.strip():
        theirs, _ = stock.tok_batch_encode([prompt])
        assert live.tok_batch_encode([prompt])[0].tolist() == theirs.tolist()
    if not answer or not (prompt.strip() or stock.tok_encode("")):
        return
    expected = scored(stock, prompt, answer)
    assert tuple(encode_pair(tokenizer, prompt, answer)) == expected
    if expected[1]:
        assert scored(live, prompt, answer) == expected
        item = Item(prompt, [answer], chosen=True)
        ((marked,), (read,)) = mark(tokenizer, [item], "all"), answers_of(tokenizer, [item])
        assert marked.ids == read.ids == [*expected[0], *expected[1]]
        assert tuple(read.tokens) == expected
    else:
        with pytest.raises(StudyError, match="no token of its own"):
            scored(live, prompt, answer)


@cache
def _live(stock: HFLM) -> LiveLM:
    return LiveLM(stock.model, stock.tokenizer, 4)


@EVERY_KIND
@settings(max_examples=150, deadline=None)
@given(prompt=PROMPT.filter(lambda text: text.removeprefix("<s>").strip()), solution=TEXT.filter(bool))
def test_what_is_learnt_follows_the_prompt_as_it_is_asked(
    stock_of: Callable[[str], HFLM], kind: str, prompt: str, solution: str
) -> None:
    stock = stock_of(kind)
    tokenizer = stock.tokenizer
    learnt, read = encode_example(tokenizer, prompt, solution), encode_answer(tokenizer, prompt, solution)
    assert learnt.prompt == read.prompt == stock.tok_encode(prompt)
    assert learnt.answer == [*read.answer, tokenizer.eos_token_id]
    if kind != "letters":  # it has no token for some of the letters
        assert tokenizer.decode(read.ids) == tokenizer.decode(read.prompt) + solution


@EVERY_KIND
@settings(max_examples=60, deadline=None)
@given(prompts=st.lists(PROMPT.filter(str.strip), min_size=2, max_size=4))
def test_a_prompt_is_fed_the_same_whatever_shares_the_batch(
    stock_of: Callable[[str], HFLM], kind: str, prompts: list[str]
) -> None:
    """The harness's own class looks at a batch's first text alone to see whether there is a beginning token."""
    stock = stock_of(kind)
    ids, mask = _live(stock).tok_batch_encode(prompts)
    rows = [row[there.bool()].tolist() for row, there in zip(ids, mask, strict=True)]
    assert rows == [stock.tok_encode(prompt) for prompt in prompts]


@pytest.mark.parametrize("kind", ["merges", "prefix space"])
def test_a_response_is_never_a_token_that_a_model_cannot_have_written(
    stock_of: Callable[[str], HFLM], kind: str
) -> None:
    tokenizer = stock_of(kind).tokenizer
    prompt, response = {"merges": ("Q?", "\nab"), "prefix space": ("Q: ", "ab")}[kind]
    whole, found = encode(tokenizer, prompt + response), encode_answer(tokenizer, prompt, response)
    assert whole[: len(found.prompt)] != found.prompt, "one token would span the boundary"
    assert "".join(tokenizer.convert_ids_to_tokens(found.answer)) == {"merges": "Ċab", "prefix space": "ab"}[kind]


# ------------------------------------------------------------------------------------------- every stage


@pytest.fixture
def problems(tmp_path: Path) -> Path:
    rows = [{"id": f"p{n}", "problem": text, "answer": "4", "solution": "C ab =4"} for n, text in enumerate(PROMPTS)]
    return write_problems(tmp_path, *rows)


def write_problems(folder: Path, *rows: dict[str, Any], base: Path | None = None, **limits: Any) -> Path:
    source = JsonlProblems(source="jsonl", path=jsonl(folder / "rows.jsonl", *rows))
    wanted = Problems(sources=[source], prompt="{problem}", unverifiable="keep", **limits)
    make_problems(ProblemsSettings(problems=wanted), out=folder / "problems", base=base)
    return folder / "problems"


def write_task(folder: Path, name: str, **row: Any) -> Path:
    kind = "multiple_choice" if "choices" in row else "generate"
    rows = [{"id": f"{name}{n}", "question": prompt, **row} for n, prompt in enumerate(PROMPTS)]
    path = jsonl(folder / f"{name}.jsonl", *rows)
    task = JsonlTask(name=name, source="jsonl", path=path, format=kind, prompt="{question}")
    make_task(TaskSettings(task=task, evaluation=EVALUATION), out=folder / name)
    return folder / name


def free_task(folder: Path) -> Path:
    return write_task(folder, "free", answer="4")


def choice_task(folder: Path) -> Path:
    return write_task(folder, "choice", choices=CHOICES, answer=1)


def prompts_of(stock: HFLM) -> set[tuple[int, ...]]:
    return {tuple(stock.tok_encode(prompt)) for prompt in PROMPTS}


def pairs_of(stock: HFLM) -> set[tuple[tuple[int, ...], tuple[int, ...]]]:
    pairs = [stock._encode_pair(prompt, f" {choice}") for prompt in PROMPTS for choice in CHOICES]
    return {(tuple(context), tuple(continuation)) for context, continuation in pairs}


@EVERY_KIND
def test_sft_learns_from_the_prompts_that_evaluation_asks(
    model_of: Callable[[str], Path], stock_of: Callable[[str], HFLM], kind: str, problems: Path, tmp_path: Path
) -> None:
    batches = batches_of(lambda: sft(_sft(), base=model_of(kind), problems=problems, out=tmp_path / "arm"))
    tokenizer = stock_of(kind).tokenizer
    seen = set()
    for ids, mask, labels in ((b["input_ids"], b["attention_mask"], b["labels"]) for b in batches):
        for ids_T, mask_T, labels_T in zip(ids, mask, labels, strict=True):
            asked_T = mask_T.bool() & (labels_T == -100)
            seen.add(tuple(ids_T[asked_T].tolist()))
            assert labels_T[labels_T != -100].tolist() == ids_T[labels_T != -100].tolist()
            assert labels_T[labels_T != -100][-1] == tokenizer.eos_token_id
            written = tokenizer.decode(ids_T[mask_T.bool()])
            assert written == tokenizer.decode(ids_T[asked_T]) + "C ab =4</s>"
    assert seen == prompts_of(stock_of(kind))


def _sft() -> SftSettings:
    return SftSettings(arm=SftArm(name="sft", method="sft", kl_every=1, **TRAINED))


@EVERY_KIND
def test_grpo_asks_the_prompts_that_evaluation_asks(
    model_of: Callable[[str], Path], stock_of: Callable[[str], HFLM], kind: str, problems: Path, tmp_path: Path
) -> None:
    arm = GrpoArm(name="rl", method="grpo", generations=2, max_completion_length=4, **{**TRAINED, "batch_size": 16})
    with recorded() as fed:
        batches = batches_of(
            lambda: grpo(GrpoSettings(arm=arm), base=model_of(kind), problems=problems, out=tmp_path / "arm")
        )
    expected = prompts_of(stock_of(kind))
    assert expected <= set(fed), "generation"
    rows = [row for b in batches for row in zip(b["prompt_ids"], b["prompt_mask"], strict=True)]
    assert {tuple(ids_T[mask_T.bool()].tolist()) for ids_T, mask_T in rows} == expected, "training"


def batches_of(train: Callable[[], None]) -> list[dict[str, Any]]:
    """The batches that a trainer learns from."""
    seen: list[dict[str, Any]] = []
    compute_loss = Remembering.compute_loss

    def watch(self: Any, model: Any, inputs: dict[str, Any], *given: Any, **more: Any) -> Any:
        seen.append(inputs)
        return compute_loss(self, model, inputs, *given, **more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Remembering, "compute_loss", watch)
        train()
    return seen


@EVERY_KIND
def test_the_teacher_continues_the_prompts_that_evaluation_asks(
    model_of: Callable[[str], Path], stock_of: Callable[[str], HFLM], kind: str, problems: Path, tmp_path: Path
) -> None:
    teacher = Teacher(path="x", chat=False, tries=1, max_new_tokens=2, batch_size=8)
    with recorded() as fed, pytest.raises(StudyError, match="the teacher solved none"):
        teach(TeacherSettings(teacher=teacher), model=model_of(kind), problems=problems, out=tmp_path / "out")
    assert set(fed) == prompts_of(stock_of(kind))


@pytest.mark.parametrize("kind", ["prefix space", "merges, BOS"])
def test_a_chat_has_one_beginning_token_whatever_the_message_begins_with(
    model_of: Callable[[str], Path], kind: str, problems: Path, tmp_path: Path
) -> None:
    tokenizer = load_tokenizer(model_of(kind))
    tokenizer.chat_template = "{{ bos_token }}{% for m in messages %}Q: {{ m.content }}\n{% endfor %}"
    folder = make_model(kind, tmp_path / "chatty")
    tokenizer.save_pretrained(folder)
    teacher = Teacher(path="x", tries=1, max_new_tokens=2, batch_size=8)
    with recorded() as fed, pytest.raises(StudyError, match="the teacher solved none"):
        teach(TeacherSettings(teacher=teacher), model=folder, problems=problems, out=tmp_path / "out")
    assert len(fed) == len(PROMPTS)
    assert {(ids[0], bos_count(tokenizer, ids)) for ids in fed} == {(tokenizer.bos_token_id, 1)}


@EVERY_KIND
def test_token_limits_count_what_is_trained_on(
    model_of: Callable[[str], Path], stock_of: Callable[[str], HFLM], kind: str, tmp_path: Path
) -> None:
    stock = stock_of(kind)
    for number, prompt in enumerate(PROMPTS):
        folder = tmp_path / str(number)
        folder.mkdir()
        row = {"problem": prompt, "answer": "4", "solution": "C ab =4"}
        length = len(stock.tok_encode(prompt))
        learnt = len(encode_example(stock.tokenizer, prompt, "C ab =4").answer)
        limits = {"max_prompt_tokens": length, "max_solution_tokens": learnt}
        assert read_problems(write_problems(folder, row, base=model_of(kind), **limits))
        for name, count in limits.items():
            with pytest.raises(StudyError, match="too long"):
                write_problems(folder, row, base=model_of(kind), **{name: count - 1})


@EVERY_KIND
def test_the_corpus_has_the_ids_that_sft_learns_and_evaluation_asks(
    model_of: Callable[[str], Path], stock_of: Callable[[str], HFLM], kind: str, problems: Path, tmp_path: Path
) -> None:
    stock = stock_of(kind)
    tokenizer = stock.tokenizer
    text = jsonl(tmp_path / "text.jsonl", *({"text": prompt} for prompt in PROMPTS))
    sources = [ProblemText(source="problems"), JsonlText(source="jsonl", path=text)]
    base = ExistingBase(method="existing", path="x")
    wanted = CorpusSettings(corpus=Corpus(tokens=640, row_length=160, sources=sources), base=base)
    make_corpus(wanted, base=model_of(kind), problems=problems, out=tmp_path / "corpus")
    _, tokens, documents, mask = read_corpus(tmp_path / "corpus")
    found = {tuple(tokens[documents == number].tolist()) for number in range(documents.max())}
    learnt = {tuple(encode_example(tokenizer, prompt, "C ab =4").ids) for prompt in PROMPTS}
    assert found == learnt | {(*stock.tok_encode(prompt), tokenizer.eos_token_id) for prompt in PROMPTS}
    assert (mask == ((documents >= 0) & (tokens != tokenizer.bos_token_id))).all()


@EVERY_KIND
def test_evaluation_feeds_what_the_harness_feeds(
    model_of: Callable[[str], Path], stock_of: Callable[[str], HFLM], kind: str, tmp_path: Path
) -> None:
    tasks = [free_task(tmp_path), choice_task(tmp_path)]
    with recorded() as fed:
        evaluate(EvaluateSettings(evaluation=EVALUATION), model=model_of(kind), tasks=tasks, out=tmp_path / "out")
    pairs = {(*context, *continuation[:-1]) for context, continuation in pairs_of(stock_of(kind))}
    assert set(fed) == prompts_of(stock_of(kind)) | pairs


@EVERY_KIND
def test_localisation_reads_what_evaluation_fed_and_wrote(
    model_of: Callable[[str], Path], stock_of: Callable[[str], HFLM], kind: str, tmp_path: Path
) -> None:
    """Codes, gradients and patching, by the stage, from the evaluations' files."""
    tasks = [free_task(tmp_path), choice_task(tmp_path)]
    written = _evaluated(model_of(kind), tasks, tmp_path)
    coder = make_crosscoder(tmp_path / "crosscoder")
    rule = Localisation(
        **{"crosscoder": "base-rl", "arm": "rl", "permutations": 20, "top": 5, "tokens": "answer", "bootstrap": 10},
        selection=0.99,
    )
    with recorded() as fed:
        localise(
            LocaliseSettings(localisation=rule, transfer=["free", "choice"]),
            crosscoder=tmp_path / "crosscoder",
            models={"base": model_of(kind), "arm": model_of(kind)},
            evaluations={"base": tmp_path / "base-eval", "arm": tmp_path / "arm-eval"},
            tasks=tasks,
            diagnostics=write_rates(tmp_path / "diagnostics", [0.1] * coder.config.features),
            out=tmp_path / "out",
        )
    stock = stock_of(kind)
    pairs = {(*context, *continuation) for context, continuation in pairs_of(stock)}
    assert set(fed) <= written | pairs | prompts_of(stock)
    assert len(set(fed) & written) > len(PROMPTS)
    assert len(set(fed) & pairs) >= len(PROMPTS) - 1


def _evaluated(model: Path, tasks: list[Path], folder: Path) -> set[tuple[int, ...]]:
    """Evaluate as base and as arm, which is then said to be right; returns prompts and answers as they were sampled."""
    written: set[tuple[int, ...]] = set()
    sample = LiveLM._model_generate

    def watch(self: LiveLM, context: torch.Tensor, *args: Any, **given: Any) -> torch.Tensor:
        out = sample(self, context, *args, **given)
        starts = [ids[there.bool()].tolist() for ids, there in zip(context, given["attention_mask"], strict=True)]
        for start, ids in zip(starts, self._sampled, strict=True):
            written.update((*start, *ids[:length]) for length in range(len(ids) + 1))
        return out

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LiveLM, "_model_generate", watch)
        for name, right in (("base", False), ("arm", True)):
            out = folder / f"{name}-eval"
            evaluate(EvaluateSettings(evaluation=EVALUATION), model=model, tasks=tasks, out=out)
            frame = pd.read_parquet(out / "items.parquet").assign(right=right)
            frame.to_parquet(out / "items.parquet")
    return written


@EVERY_KIND
def test_the_ids_of_an_answer_write_its_text(model_of: Callable[[str], Path], kind: str, tmp_path: Path) -> None:
    model, tokenizer = load_model(model_of(kind)), load_tokenizer(model_of(kind))
    task = free_task(tmp_path)
    about = json.loads((task / "task.json").read_text())
    assert about["stop"], "answers may be cut"
    frame = Harness(model, tokenizer, [task], EVALUATION).run(samples=8, seed=1)
    assert (frame["response_ids"].map(len) > 0).mean() > 0.7
    for row in frame.itertuples():
        assert tokenizer.decode(row.response_ids, skip_special_tokens=True).startswith(row.response)
        assert bool(row.response_ids) == bool(row.response)


def test_ids_beyond_a_stop_string_are_not_the_answers(model_of: Callable[[str], Path]) -> None:
    tokenizer = load_tokenizer(model_of("letters"))
    live = LiveLM(load_model(model_of("letters")), tokenizer, 4)
    settings_ = {"until": ["b"], "do_sample": True, "temperature": 1.0, "max_gen_toks": 40}
    asked = [Instance("generate_until", {}, (f"Q: {n}", dict(settings_)), 0) for n in range(30)]
    texts = live.generate_until(asked)
    assert any(texts)
    assert [tokenizer.decode(ids, skip_special_tokens=True) for ids in live.written] == texts


# ---------------------------------------------------------------------- the token that decides is one token


@EVERY_KIND
@pytest.mark.parametrize("name", ["free", "choice"])
def test_codes_gradients_patches_and_edits_are_at_the_same_token(
    model_of: Callable[[str], Path], kind: str, name: str, tmp_path: Path
) -> None:
    model, tokenizer = load_model(model_of(kind)), load_tokenizer(model_of(kind))
    task = {"free": free_task, "choice": choice_task}[name](tmp_path)
    harness = Harness(model, tokenizer, [task], EVALUATION)
    for tokens in get_args(TokenSet):
        edited_at = _edited(model, harness, tokens)
        frame = harness.run()
        items = [item_of(rows) for _, rows in frame.groupby("item")]
        for marked in mark(tokenizer, items, tokens):
            # the last token of a free answer that was cut at its limit is not fed
            unfed = {tuple(marked.ids)} if name == "free" else set()
            assert _ends(marked.ids, marked.counts) <= edited_at | unfed
        for answer in answers_of(tokenizer, items):  # gradients and patching
            shifted_T = Batch.of([answer], tokenizer.bos_token_id, tokens, torch.device("cpu")).shifted_BT[0]
            (marked, *_) = mark(tokenizer, [_alone(items[answer.item], answer)], tokens)
            assert _ends(answer.ids, shifted_T.tolist()) == _ends(marked.ids, marked.counts)
        if tokens == "last_prompt":
            assert edited_at == {tuple(ids) for ids in harness.prompt_ids(name).values()}


def _ends(ids: list[int], counts: list[bool]) -> set[tuple[int, ...]]:
    """The beginnings of a sequence that end with a token that counts."""
    return {tuple(ids[: place + 1]) for place, counted in enumerate(counts) if counted}


def _alone(item: Item, answer: Answer) -> Item:
    """An item with one of its answers alone."""
    return item if item.chosen else replace(item, responses=["x"], sampled=[answer.tokens.answer])


def _edited(model: Any, harness: Harness, tokens: Any) -> set[tuple[int, ...]]:
    """The beginnings of sequences at whose last token an edit would act, over a run."""

    class Everything:
        def ordinary(self, acts_ND: torch.Tensor, slot: int) -> torch.Tensor:
            return torch.ones(len(acts_ND), dtype=torch.bool)

    found: set[tuple[int, ...]] = set()
    site = Site(harness.positions, tokens, Everything(), 0, harness.bos)  # type: ignore[arg-type]

    def change(acts_ND: torch.Tensor, here_BT: torch.Tensor) -> torch.Tensor:
        inputs = harness.positions.inputs()
        shift = inputs["input_ids"].shape[1] - here_BT.shape[1]
        for row, place in here_BT.nonzero().tolist():
            there = inputs["attention_mask"][row, : place + shift + 1].bool()
            found.add(tuple(inputs["input_ids"][row, : place + shift + 1][there].tolist()))
        return acts_ND

    with edited(model, 1, site.edit(change)):
        harness.run()
    return found


@EVERY_KIND
def test_interventions_know_prompts_by_the_ids_that_are_fed(
    model_of: Callable[[str], Path], stock_of: Callable[[str], HFLM], kind: str, tmp_path: Path
) -> None:
    tasks = [free_task(tmp_path), choice_task(tmp_path)]
    coder = make_crosscoder(tmp_path / "base-rl")
    rows = [{"feature": k, "task": "free", "mean_code_base": 1.0, "mean_code_arm": 2.0} for k in range(40)]
    (tmp_path / "localisation").mkdir()
    pd.DataFrame(rows).to_parquet(tmp_path / "localisation" / "scores.parquet")
    about: dict[str, Any] = {"arm": "rl", "features": [3], "per_task": {"free": {"n_items": 1}}}
    about |= {"measurement_items": {}, "selection_items": {}}
    (tmp_path / "localisation" / "localisation.json").write_text(json.dumps(about))
    rates = write_rates(tmp_path / "diagnostics", [0.1] * coder.config.features)
    localised = Localised.read(tmp_path / "localisation", tmp_path / "base-rl", rates)
    wanted = INTERVENE.model_copy(update={"edit": Edit(tokens="last_prompt"), "evaluation": EVALUATION})
    models = {"base": model_of(kind), "arm": model_of(kind)}
    lab = Lab("amplify", wanted, [localised], models, tasks)
    (portion,) = lab.portions
    with recorded() as fed:
        frames = lab.references(portion)
        lab.run(("effect", 0), portion)
    for frame in frames.values():
        assert frame[["kl_base", "kl_arm"]].notna().all(axis=None), "every prompt is found again by its ids"
    stock = stock_of(kind)
    contexts = {tuple(stock._encode_pair(prompt, " ab")[0]) for prompt in PROMPTS}
    assert {tuple(ids) for task in lab.harness.tasks for ids in lab.harness.prompt_ids(task).values()} == (
        contexts | prompts_of(stock)
    )
    assert set(fed) == {ids[:-1] for ids in contexts | prompts_of(stock) if len(ids) > 1}, "their shared beginnings"


# --------------------------------------------------------------------------------- choices without a token


@pytest.fixture
def joined(tmp_path: Path) -> Path:
    """A task whose second item has a choice that the tokenizer joins to the colon before it."""
    rows = [{"question": question, "choices": ["ab", "C"], "answer": 0} for question in ("ab", "Q:")]
    path = jsonl(tmp_path / "joined.jsonl", *({"id": f"j{n}", **row} for n, row in enumerate(rows)))
    task = JsonlTask(name="joined", source="jsonl", path=path, format="multiple_choice", prompt="{question}")
    make_task(TaskSettings(task=task, evaluation=EVALUATION), out=tmp_path / "joined")
    return tmp_path / "joined"


REFUSED = r"task `joined`, item `j1`, choice 2: the choice ' C' has no token of its own"


def test_a_choice_without_a_token_is_refused_before_anything_is_scored(
    model_of: Callable[[str], Path], joined: Path, tmp_path: Path
) -> None:
    with recorded() as fed, pytest.raises(StudyError, match=REFUSED):
        evaluate(
            EvaluateSettings(evaluation=EVALUATION), model=model_of("merges"), tasks=[joined], out=tmp_path / "out"
        )
    assert not fed
    live = LiveLM(load_model(model_of("merges")), load_tokenizer(model_of("merges")), 4)
    with recorded() as fed, pytest.raises(StudyError, match=r"task `t`, item `i`, choice 1: the choice ' C' has no"):
        live.loglikelihood([request("ab", " C"), request("Q:", " C")])
    assert not fed


def test_a_prompt_without_a_token_is_refused(model_of: Callable[[str], Path], tmp_path: Path) -> None:
    """Only a tokenizer without a beginning token leaves nothing to ask."""
    free_task(tmp_path)
    rows = (tmp_path / "free" / "items.jsonl").read_text().splitlines()
    (tmp_path / "free" / "items.jsonl").write_text(json.dumps({**json.loads(rows[0]), "prompt": ""}) + "\n")
    with pytest.raises(StudyError, match="task `free`, item `free0`: its prompt is empty"):
        Harness(load_model(model_of("merges")), load_tokenizer(model_of("merges")), [tmp_path / "free"], EVALUATION)
    with pytest.raises(StudyError, match="t`, item `i`, choice 1: the prompt ' ' has no token"):
        LiveLM(load_model(model_of("merges")), load_tokenizer(model_of("merges")), 4).loglikelihood([request(" ", "a")])


def test_vllm_refuses_it_too(model_of: Callable[[str], Path], joined: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Stand:
        max_length = 128

        def __init__(self, **_: Any) -> None: ...

    monkeypatch.setattr("rlgen.evaluation.engine.import_serving", lambda *_: type("Module", (), {"VLLM": Stand}))
    with pytest.raises(StudyError, match=REFUSED):
        Runner(VllmEngine(model_of("merges"), 64), [joined])


@pytest.mark.parametrize("reads", ["codes", "gradients", "patching"])
def test_localisation_refuses_it_too(model_of: Callable[[str], Path], reads: str, tmp_path: Path) -> None:
    model, tokenizer = load_model(model_of("merges")), load_tokenizer(model_of("merges"))
    items = [Item("Q:", [" C"], chosen=True, name="task `joined`, item `j1`")]
    coder = make_crosscoder(tmp_path / "coder")
    read: dict[str, Callable[[], Any]] = {
        "codes": lambda: item_codes(model, tokenizer, coder, 0, items, "last_prompt"),
        "gradients": lambda: answer_gradients(model, tokenizer, 1, items, "last_prompt"),
        "patching": lambda: patching_effects(
            model, tokenizer, 1, items, torch.ones(2, 1, 1), torch.ones(2, 1, 32), "last_prompt"
        ),
    }
    with pytest.raises(StudyError, match=r"task `joined`, item `j1`, choice ' C': .*no token of its own"):
        read[reads]()


def test_what_is_cut_for_its_length_is_cut_in_every_stage(model_of: Callable[[str], Path], tmp_path: Path) -> None:
    """A multiple-choice item that is longer than the model loses its beginning, also where codes are read."""
    rows = [{"id": "long", "question": "ab " * 120, "choices": ["ab", "d"], "answer": 0}]
    path = jsonl(tmp_path / "long.jsonl", *rows)
    task = JsonlTask(name="long", source="jsonl", path=path, format="multiple_choice", prompt="{question}:")
    make_task(TaskSettings(task=task, evaluation=EVALUATION), out=tmp_path / "long")
    model, tokenizer = load_model(model_of("letters")), load_tokenizer(model_of("letters"))
    harness = Harness(model, tokenizer, [tmp_path / "long"], EVALUATION)
    with recorded() as fed:
        frame = harness.run()
    assert {len(ids) for ids in fed} == {128}
    with recorded() as read:
        item_codes(model, tokenizer, make_crosscoder(tmp_path / "coder"), 0, [item_of(frame)], "all")
    assert {ids[:-1] for ids in read} <= set(fed)


# ------------------------------------------------------------------------------------------- a real model


@pytest.mark.parametrize(("prompt", "count"), [("Question: {question}\nAnswer:", 200), ("{question}\n", 50)])
def test_a_real_model_reads_the_same_in_evaluation_and_localisation(
    real_model: Path, real_data: Path, tmp_path: Path, prompt: str, count: int
) -> None:
    path = real_data / "sciq_test.jsonl"
    task = JsonlTask(
        **{"name": "sciq", "source": "jsonl", "path": path, "format": "multiple_choice", "items": count},
        prompt=prompt,
    )
    evaluation = Evaluation(batch_size=64)
    make_task(TaskSettings(task=task, evaluation=evaluation), out=tmp_path / "sciq")
    with recorded(LlamaModel) as fed:
        evaluate(
            EvaluateSettings(evaluation=evaluation), model=real_model, tasks=[tmp_path / "sciq"], out=tmp_path / "out"
        )
    frame = pd.read_parquet(tmp_path / "out" / "items.parquet")
    items = [item_of(rows) for _, rows in frame.groupby("item", sort=False)]
    tokenizer = load_tokenizer(real_model)
    with recorded(LlamaModel) as read:
        gradient_ID = answer_gradients(load_model(real_model), tokenizer, 1, items, "last_prompt")
    assert np.isfinite(gradient_ID.numpy()).all()
    assert len(items) == len(read) == count
    assert sum(ids[:-1] in set(fed) for ids in read) == count
    with quiet():
        stock = HFLM(pretrained=load_model(real_model), tokenizer=tokenizer)
    pairs = [stock._encode_pair(item.prompt, item.responses[0]) for item in items]
    marked, answers = mark(tokenizer, items, "last_prompt"), answers_of(tokenizer, items)
    assert sum(m.ids == context for m, (context, _) in zip(marked, pairs, strict=True)) == count
    assert sum(tuple(a.tokens) == pair for a, pair in zip(answers, pairs, strict=True)) == count


def test_a_real_models_answers_are_read_as_they_were_sampled(real_model: Path, real_data: Path, tmp_path: Path) -> None:
    """At temperature 1 a model often writes a word in other tokens than those into which it would be encoded."""
    rows = map(json.loads, (real_data / "sciq_test.jsonl").read_text().splitlines()[:20])
    path = jsonl(tmp_path / "free.jsonl", *({"question": row["question"], "answer": "4"} for row in rows))
    task = JsonlTask(name="free", source="jsonl", path=path, format="generate", prompt="{question}")
    make_task(TaskSettings(task=task, evaluation=EVALUATION), out=tmp_path / "free")
    written = _evaluated(real_model, [tmp_path / "free"], tmp_path)
    frame = pd.read_parquet(tmp_path / "base-eval" / "items.parquet")
    items = [item_of(rows) for _, rows in frame.groupby("item", sort=False)]
    tokenizer = load_tokenizer(real_model)
    answers = answers_of(tokenizer, items)
    assert sum(tuple(answer.ids) in written for answer in answers) == len(answers) > 30
    texts = [encode_answer(tokenizer, i.prompt, r).ids for i in items for r in i.responses if r]
    assert any(text != answer.ids for text, answer in zip(texts, answers, strict=True))

"""A small, plausible results tree: what the stages before the report write, with numbers drawn at random."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from rlgen.features import attribution
from rlgen.interventions import effects
from rlgen.interventions.likeness import likeness, turned
from rlgen.paths import Layout
from rlgen.report.page import make_report
from rlgen.report.summary import summarise
from rlgen.stage import write_json
from rlgen.study.sections import Attribution, Report
from rlgen.study.stages import AttributeSettings, ReportSettings, SummarySettings
from rlgen.study.study import NOISE_NULL

GROUPS = {"train_domain": ["mod"], "transfer": ["max", "par", "cnt"], "unseen": ["min", "dif"]}
ACCURACY = {"base": (0.40, 0.47), "sft": (0.12, 0.15), "rl": (0.95, 0.83)}
"""On the trained task and on the others."""
ITEMS = 120
FEATURES = 256
ATTACK = '<script>alert("x")</script><img src="http://evil.example/x.png">'


@dataclass
class Tree:
    """What the synthetic study has, and how it came out."""

    root: Path
    tasks: dict[str, list[str]] = field(default_factory=lambda: GROUPS)
    tracking: bool = True
    localisation: bool = True
    nulls: bool = True
    base_base_outside: int = 0
    amplified: float = 0.29
    ablated: float = -0.09
    noised: float = 0.0
    draws: int = 20
    other_fits: dict[str, dict[str, int]] = field(default_factory=dict)
    """Further fits of base-rl, and in what they differ."""
    problems: bool = True
    """The study has training problems."""
    taught: bool = False
    """A teacher solved the problems."""
    methods: dict[str, str] = field(default_factory=lambda: {"sft": "sft", "rl": "grpo"})
    """How the two arms were made."""
    edits: list[str] = field(default_factory=lambda: ["amplify", "transplant", "ablate"])
    """Edits that are made."""
    gradients: dict[str, list[float]] = field(default_factory=dict)
    """By arm, the gradient's norm at its first steps."""
    precision: dict[str, Any] = field(default_factory=dict)
    """What every evaluation's manifest says of the model's precision."""
    score: str = "code_difference"
    """What features are ranked by: without a threshold and amplified to a norm, if it is another one."""

    def __post_init__(self) -> None:
        self.paths = Layout(self.root)
        self.rng = np.random.default_rng(0)

    @property
    def crosscoders(self) -> dict[str, list[str]]:
        found = {"base-sft": ["base", "sft"], "base-rl": ["base", "rl"], "base-sft-rl": ["base", "sft", "rl"]}
        nulls = {"null-base-base": ["base", "base"], "null-base-noise": ["base", "base+noise"]}
        return found | (nulls if self.nulls else {})

    @property
    def settings(self) -> SummarySettings:
        edited_null = {NOISE_NULL: ["amplify"] if "amplify" in self.edits else []} if self.nulls else {}
        return SummarySettings(
            seed=3,
            study="synthetic",
            groups=self.tasks,
            models=["base", "sft", "rl"],
            arms=self.methods,
            crosscoders=self.crosscoders,
            variants={"base-rl": ["base-rl", *self.other_fits]} if self.other_fits else {},
            problems=self.problems,
            taught=self.taught,
            stores={"base": 1, "sft": 1, "rl": 1, "rl@1": 1},
            localised=["base-rl", *edited_null] if self.localisation else [],
            edits={"base-rl": self.edits, **edited_null} if self.localisation else {},
            oracle=self.localisation and bool(self.edits),
            tracked=["base-sft", "base-rl"] if self.tracking else [],
        )

    def write(self) -> Tree:
        if self.problems:
            self._problems()
        for model in self.settings.models:
            self._evaluation(model)
        for name, models in self.crosscoders.items():
            self._crosscoder(name, models)
        for name in self.other_fits:
            self._crosscoder(name, ["base", "rl"])
        for name in self.settings.tracked:
            self._tracking(name)
        if self.localisation:
            self._localisation()
            for edit in self.edits:
                self._intervention(edit, self.ablated if effects.EDITED[edit] == "arm" else self.amplified)
            if self.nulls and "amplify" in self.edits:
                self._intervention("amplify", self.noised, NOISE_NULL)
            if self.edits:
                self._comparison()
        seconds = {"grpo": 20.0, "sft": 16.0, "existing": 1.0}
        for arm, method in self.methods.items():
            self._manifest(self.paths.model(arm), "adopt" if method == "existing" else method, {}, seconds[method])
        if self.methods["sft"] == "sft":
            self._curves("sft", {"loss": 40, "entropy": 40, "kl_to_base": 8})
        if self.methods["rl"] == "grpo":
            self._curves("rl", {"loss": 450, "reward": 450, "completions/mean_length": 450, "kl_to_base": 90})
        for model in ("base", "rl@1"):
            self._manifest(self.paths.activations(model, 0), "dump", {"part": 0}, 4.0)
        return self

    def summarise(self) -> dict[str, Any]:
        summarise(self.settings, self.root, self.paths.summary)
        return dict(json.loads(self.paths.summary.read_text()))

    def report(self, note: str | None = None) -> str:
        self.summarise()
        settings = ReportSettings(report=Report(title="A synthetic study", note=note))
        make_report(settings, summary=self.paths.summary, root=self.root, out=self.paths.report)
        return (self.paths.report / "index.html").read_text()

    def _manifest(
        self,
        folder: Path,
        stage: str,
        settings: dict[str, Any],
        seconds: float = 1.5,
        facts: Mapping[str, Any] | None = None,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        versions = {"python": "3.11.9", "numpy": "2.4.6"}
        manifest = {
            "stage": stage,
            "settings": settings,
            "seed": 3,
            "inputs": {},
            "versions": versions,
            **(facts or {}),
        }
        manifest |= {"git_commit": "c0ffee" * 6, "wall_seconds": seconds, "device": "cpu (x86_64, 1 threads)"}
        write_json(folder / "manifest.json", {**manifest, "peak_memory_bytes": 700 << 20, "digest": folder.name})

    def _problems(self) -> None:
        self._manifest(self.paths.problems, "problems", {})
        world = {"where": "the miniature's mod", "revision": None, "read": 640, "kept": 640, "dropped": {}}
        left_out = {"contaminated": 3, "duplicate": 2}
        hub = {"where": "owner/set (train)", "revision": "c0ffee" * 6, "read": 25, "kept": 20, "dropped": left_out}
        card = {"sources": [world, hub], "kept": 660, "contaminated": {"max": 3}, "settings": {}}
        write_json(self.paths.problems / "card.json", card)
        if self.taught:
            outcomes = {"right": 495, "wrong": 400, "unfinished": 30, "too long": 5}
            tries = [{"sampled": 660, "acceptance": 0.5, "outcomes": {}}, {"sampled": 270, "acceptance": 0.25}]
            model = {"path": "owner/teacher", "revision": "c0ffee" * 6}
            card = {"model": model, "problems": 660, "kept": 495, "acceptance": 0.75, "tries": tries}
            self._manifest(self.paths.solutions, "teacher", {})
            write_json(self.paths.solutions / "card.json", {**card, "outcomes": outcomes, "settings": {}})

    def _curves(self, arm: str, points: dict[str, int]) -> None:
        """Curves of so many points, at evenly spaced steps."""
        steps = max(points.values())
        table = pd.DataFrame({"step": range(1, steps + 1)})
        for column, count in points.items():
            every = steps // count
            table[column] = [float(step) / steps if step % every == 0 else np.nan for step in table["step"]]
        if arm in self.gradients:
            norms = self.gradients[arm]
            table["grad_norm"] = [*norms, *[1.0] * (steps - len(norms))][:steps]
        table.to_parquet(self.paths.model(arm) / "curves.parquet", index=False)
        write_json(self.paths.model(arm) / "problems.json", {"count": 640, "order": "c0ffee"})

    def _evaluation(self, model: str) -> None:
        folder = self.paths.evaluation(model)
        self._manifest(folder, "evaluate", {}, facts=self.precision)
        rows, accuracy = [], {}
        for group, tasks in self.tasks.items():
            for task in tasks:
                rate = ACCURACY[model][group != "train_domain"]
                right = self.rng.random((ITEMS, 2)) < rate
                value, half = float(right.mean()), 0.08
                accuracy[task] = {"value": value, "n": ITEMS, "low": max(value - half, 0), "high": min(value + half, 1)}
                for (item, sample), is_right in np.ndenumerate(right):
                    response = ATTACK if item < 3 else "314159=4"
                    row = {"task": task, "item": f"{task}-{item}", "sample": sample, "right": bool(is_right)}
                    rows.append(
                        {**row, "answer": "4", "gold": "4", "response": response, "prompt": f"Q {task} {item}\nA "}
                    )
        pd.DataFrame(rows).to_parquet(folder / "items.parquet")
        write_json(folder / "accuracy.json", accuracy)

    def _crosscoder(self, name: str, models: list[str]) -> None:
        slots = list(models) if len(set(models)) == len(models) else [models[0], f"{models[1]}#2"]
        counts = self.rng.integers(0, 60, 20).tolist()
        diagnostics = {
            "fve": dict.fromkeys(slots, 0.91),
            "delta_fve": dict.fromkeys(slots[1:], 0.62),
            "l0": 16.2,
            "dead_fraction": 0.04,
            "cross_entropy": {
                model: {"clean": 1.41, "spliced": 1.47, "mean_ablated": 3.2, "recovered": 0.966} for model in slots
            },
            "tokens": 65536,
            "firing_rate_histogram": {"edges": np.logspace(-6, 0, 21).tolist(), "counts": counts},
        }
        fit = {"models": models, "k": 16, **self.other_fits.get(name, {})}
        self._manifest(self.paths.crosscoder(name), "fit", {"crosscoder": fit, "layer": 3})
        self._manifest(self.paths.diagnostics(name), "diagnose", {})
        write_json(self.paths.diagnostics(name) / "diagnostics.json", diagnostics)
        folder = self.paths.attribution(name)
        rule = Attribution()
        self._manifest(folder, "attribute", json.loads(AttributeSettings(attribution=rule).canonical()))
        l1_FM, rate_F = self._decoders(name, slots)
        table = attribution.feature_table(slots, l1_FM, rate_F, rule.specific, rule.nrn_range)
        table = attribution.with_l2(table, slots, l1_FM / 8)
        nu = {f"{nu}_{slot}": self.rng.uniform(0, 0.6, FEATURES) for nu in ("nu_eps", "nu_r") for slot in slots}
        table = attribution.with_scaling(table, pd.DataFrame(nu), slots)
        table.to_parquet(folder / "features.parquet")
        numbers = attribution.summary(table, slots, rule.nrn_range)
        if name.endswith("seed=1"):
            found_again = {"features": 200, "median": 0.9, "found_again": 150}
            numbers["stability"] = {"replicates": 1, "all": found_again, "specific": {**found_again, "features": 0}}
        write_json(folder / "attribution.json", numbers)

    def _decoders(self, name: str, slots: Sequence[str]) -> tuple[attribution.Floats, attribution.Floats]:
        """L1 norms by feature and slot, and firing rates; the last ten features are dead."""
        spread = {"base-sft": 0.5, "base-rl": 0.1, "base-sft-rl": 0.2}.get(name, 0.015)
        logits = self.rng.normal(0, spread, (FEATURES, len(slots)))
        tail = {"base-sft": 20, "base-rl": 4, "base-sft-rl": 9}.get(name, self.base_base_outside)
        logits[:tail, 1] += 2.5
        if "null" in name:
            logits[tail:] = np.clip(logits[tail:], -0.1, 0.1)
        rate_F = self.rng.random(FEATURES) * 0.05
        rate_F[-10:] = 0
        return np.exp(logits), rate_F

    def _tracking(self, name: str) -> None:
        arm = name.removeprefix("base-")
        names = [*(f"{arm}@{index}" for index in range(1, 5)), arm]
        distance = np.abs(np.subtract.outer(range(5), range(5)))
        overlap = np.exp(-distance * (0.1 if arm == "sft" else 0.5))
        block: dict[str, Any] = {"top": 50, "chance": 0.2, "features": 240}
        for key, shares in (("overlap", overlap), ("overlap_across_halves", 0.86 * overlap)):
            low, high = np.clip(shares - 0.1, 0, 1), np.clip(shares + 0.1, 0, 1)
            block |= {key: shares.tolist(), f"{key}_low": low.tolist(), f"{key}_high": high.tolist()}
        block["null"] = {"mean": 0.86, "low": 0.8, "high": 0.9, "mean_low": 0.75, "mean_high": 0.93}
        nrn = {
            "quantiles": {n: attribution.quantiles(self.rng.uniform(0.3, 0.7, 50)) for n in names},
            "distance_to_final": dict(zip(names, [0.04, 0.03, 0.02, 0.01, 0.0], strict=True)),
            "distance_across_halves": dict.fromkeys(names, 0.006),
            "rank_correlation": overlap.tolist(),
            "rank_correlation_across_halves": (0.9 * overlap).tolist(),
        }
        found = {**block, "swap_readout": block, "arm": arm, "checkpoints": names, "tokens": 65536, "nrn": nrn}
        found |= {"born": dict(zip(names, range(5), strict=True)), "died": dict.fromkeys(names, 2), "stable": 220}
        self._manifest(self.paths.tracking(name), "track", {})
        write_json(self.paths.tracking(name) / "tracking.json", found)

    def _localisation(self) -> None:
        folder = self.paths.localisation("base-rl")
        chosen: dict[str, Any] = {"crosscoder": "base-rl", "arm": "rl", "top": 10}
        chosen |= {"score": self.score, "threshold": None} if self.score != "code_difference" else {}
        self._manifest(folder, "localise", {"localisation": chosen, "transfer": self.tasks["transfer"]})
        frames, per_task = [], {}
        for task in self.tasks["transfer"]:
            score = self.rng.exponential(0.08, FEATURES) - 0.05
            score[:10] += np.linspace(2.0, 0.6, 10)
            columns = {
                "code_difference": score,
                "attribution": score,
                "delta_patching": np.where(np.arange(FEATURES) < 40, score, np.nan),
                "mean_code_base": 0.1,
                "mean_code_arm": 0.1 + score,
            }
            columns["score"] = columns[self.score]
            frames.append(pd.DataFrame({"feature": range(FEATURES), "task": task, **columns}))
            kept = int((score > 0.2 * score.max()).sum())
            per_task[task] = {"n_items": 27, "n_selection": 60, "kept": kept, "maximum": float(score.max())}
        pd.concat(frames).to_parquet(folder / "scores.parquet")
        band = {"observed": 12.0, "mean": 3.1, "low": 1.0, "high": 6.0, "p": 0.005}
        curve = [{"threshold": step / 20, "kept": round(90 * np.exp(-step / 2)) + 4} for step in range(20)]
        found = {
            "features": list(range(10)),
            "by_score": {
                "attribution": [0, 1, 2, 3, *range(210, 216)],
                "code_difference": [3, 7, *range(200, 208)],
                "delta_patching": [2, 1, 0, *range(20, 26)],
                self.score: list(range(10)),
            },
            "by_score_null": {
                "attribution": {"p": 0.005, "null_overlap": 0.41, "bootstrap_overlap": 0.91},
                "code_difference": {"p": 0.37, "null_overlap": 0.97, "bootstrap_overlap": 0.95},
                "delta_patching": {"p": 0.015, "null_overlap": 0.35, "bootstrap_overlap": 0.86},
            },
            "patched": {"features": 40, "items": dict.fromkeys(self.tasks["transfer"], 54)},
            "bootstrap": {
                "draws": 200,
                "frequency": [*[0.98] * 9, 0.4],
                "stable": 9,
                "overlap": {"mean": 0.922, "low": 0.8, "high": 1.0},
            },
            "score": self.score,
            "threshold": chosen.get("threshold", 0.2),
            "per_task": per_task,
            "threshold_curve": curve,
            "reason": None,
            "null": {"draws": 200, "kept": band, "strength": band, "overlap": {"mean": 0.4, "low": 0.2, "high": 0.6}},
            "selection_items": {},
            "measurement_items": {},
        }
        write_json(folder / "localisation.json", found)

    def _intervention(self, edit: str, effect: float, fit: str = "base-rl") -> None:
        tasks = [task for names in self.tasks.values() for task in names]
        model, donor, alpha = ("base", "rl", 2.0) if effects.EDITED[edit] == "base" else ("rl", "base", 1.0)
        changes = [("baseline", 0, 0.0), ("effect", 0, effect), ("encode_decode", 0, 0.0)]
        changes += [("ceiling", 0, 0.36 if model == "base" else -0.34)]
        changes += [("donor", 0, ACCURACY[donor][1] - ACCURACY[model][1])]
        for name, spread, draws in (("matched_random", 0.06, self.draws), ("random_direction", 0.02, 5)):
            changes += [(name, draw, self.rng.normal(-0.02, spread)) for draw in range(draws)]
        items = pd.concat([self._edited(task, ACCURACY[model][1], changes) for task in tasks], ignore_index=True)
        measured = effects.measure(items, 200, 3)
        found = {
            **{"edit": edit, "model": model, "donor": donor, "layer": 3, "alpha": alpha, "tokens": "last_prompt"},
            **{"crosscoder": fit, "samples": 1, "features": list(range(10)), "shift_norm": 5.5},
            "matched_features": [list(range(10, 20))] * self.draws,
            "tasks": {task: effects.block([measured[task]], edit) for task in tasks},
            "groups": {g: effects.block([measured[task] for task in names], edit) for g, names in self.tasks.items()},
            "sweep": [],
            "likeness": likeness(items, edit, self.tasks),
            "turned": {g: turned(items, edit, names, 50, self.rng) for g, names in self.tasks.items()},
            "damage": {"unedited": 1.4, "edited": 1.5, "matched_random": [1.45] * self.draws, "tokens": 2048},
            "slopes": {"strength": 0.1, "edit": 4.0, "matched": [1.0, -0.5] * (self.draws // 2), "correlation": 0.9},
        }
        normed = self.score != "code_difference" and edit == "amplify"
        self._manifest(self.paths.intervention(fit, edit), "intervene", {"edit": {"norm": 0.7} if normed else {}})
        write_json(self.paths.intervention(fit, edit) / "effects.json", found)

    def _comparison(self) -> None:
        folder = self.paths.comparison("base-rl")
        self._manifest(folder, "compare", {})
        effect = {"effect": 0.2, "low": 0.15, "high": 0.25}
        row = {"features": list(range(10)), "of_oracle": 0.8, "rank_correlation": 0.97, "alone_mean": 0.02}
        row |= {"effects": {"transfer": effect, "unseen": effect}, "turned": {"statistic": 0.6}}
        methods = {"attribution": row, "oracle": {**row, "rank_correlation": None}, "random": {**row, "turned": None}}
        write_json(folder / "comparison.json", {"edit": "amplify", "tried": 219, "methods": methods})

    def _edited(self, task: str, rate: float, changes: list[tuple[str, int, float]]) -> pd.DataFrame:
        """Answers to the measuring items of a task under conditions that change the rate of right ones."""
        luck_I, items = self.rng.random(60), 60
        conditions, draws, shifts = (np.repeat(values, items) for values in zip(*changes, strict=True))
        right = np.tile(luck_I, len(changes)) < rate + shifts
        found = pd.DataFrame({"condition": conditions, "draw": draws, "task": task, "right": right})
        found["item"] = np.tile(range(items), len(changes))
        return found.assign(
            sample=0,
            answer=np.where(right, "4", "5"),
            response="314159=4",
            length=8,
            mode=pd.array([True] * len(found), dtype="boolean"),
            kl_base=0.1 * (conditions != "baseline"),
            kl_arm=0.2 * (conditions != "donor"),
        )


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    """A complete study; change its fields before `write`."""
    return Tree(tmp_path / "results" / "synthetic")

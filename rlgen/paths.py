"""Where every artifact of a study lives: the one place that rules and code both ask.

Names may be Snakemake wildcards (`"{arm}"`), so one method gives both a rule's pattern and a job's path.
"""

from __future__ import annotations

from pathlib import Path

from rlgen.study import Study


class Layout:
    """Artifacts under one study's root folder."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @property
    def problems(self) -> Path:
        """Training problems: problems.jsonl, and of what was left out card.json and dropped.jsonl."""
        return self.root / "data" / "problems"

    @property
    def solutions(self) -> Path:
        """The problems that the teacher solved, with its solutions: problems.jsonl, card.json, dropped.jsonl."""
        return self.root / "data" / "solutions"

    def task(self, task: str) -> Path:
        """An evaluation task: items.jsonl and its lm-evaluation-harness file task.yaml."""
        return self.root / "data" / "tasks" / task

    @property
    def corpus(self) -> Path:
        """Token ids on which activations are taken: tokens.npy, documents.npy."""
        return self.root / "data" / "corpus"

    def model(self, model: str) -> Path:
        """A model in Hugging Face format; an arm's folder holds its `checkpoints/1`, `/2`, ... too."""
        arm, _, checkpoint = model.partition("@")
        folder = self.root / "models" / arm
        return folder / "checkpoints" / checkpoint if checkpoint else folder

    def evaluation(self, model: str) -> Path:
        """A model's answers: items.parquet, accuracy.json."""
        return self.root / "evaluation" / model

    def activations(self, model: str, part: int | str) -> Path:
        """One part of a model's activation store."""
        part = f"{part:03d}" if isinstance(part, int) else part
        return self.root / "activations" / model / f"part-{part}.zarr"

    def crosscoder(self, crosscoder: str) -> Path:
        """A fitted crosscoder: model.safetensors, config.json, training.parquet."""
        return self.root / "crosscoders" / crosscoder

    def diagnostics(self, crosscoder: str) -> Path:
        """A crosscoder's diagnostics: diagnostics.json, features.parquet."""
        return self.root / "diagnostics" / crosscoder

    def attribution(self, crosscoder: str) -> Path:
        """NRN and MAS: features.parquet, attribution.json."""
        return self.root / "features" / crosscoder / "attribution"

    def tracking(self, crosscoder: str) -> Path:
        """A crosscoder's features over its arm's checkpoints: features.parquet, overlap.parquet, tracking.json."""
        return self.root / "features" / crosscoder / "tracking"

    def localisation(self, crosscoder: str) -> Path:
        """The features behind "base wrong, arm right": scores.parquet, localisation.json."""
        return self.root / "features" / crosscoder / "localisation"

    def intervention(self, crosscoder: str, edit: str) -> Path:
        """One kind of edit at a crosscoder's localised features: items.parquet, effects.json."""
        return self.root / "interventions" / crosscoder / edit

    def comparison(self, crosscoder: str) -> Path:
        """All scores of localisation beside an oracle: oracle.parquet, comparison.json."""
        return self.root / "interventions" / crosscoder / "comparison"

    @property
    def summary(self) -> Path:
        """Every number of the report, by name."""
        return self.root / "summary.json"

    @property
    def report(self) -> Path:
        """The page: index.html."""
        return self.root / "report"

    def log(self, *names: str) -> Path:
        """A job's log."""
        return self.root / "logs" / f"{'/'.join(names)}.log"

    def monitor(self, arm: str) -> Path:
        """Files of the services that are told an arm's curves while it is trained."""
        return self.root / "logs" / "monitors" / arm

    def benchmark(self, *names: str) -> Path:
        """A job's time and memory, as Snakemake measures them."""
        return self.root / "benchmarks" / f"{'/'.join(names)}.tsv"


class Paths(Layout):
    """Artifacts of one study, under `<results>/<study>/`."""

    def __init__(self, study: Study) -> None:
        super().__init__(study.results / study.study)
        self._taught = study.teacher is not None

    @property
    def training(self) -> Path:
        """The problems that arms and corpus read: with the teacher's solutions, if there is one."""
        return self.solutions if self._taught else self.problems


def model_name(folder: Path) -> str:
    """The study's name of the model in `folder`: the inverse of `Paths.model`."""
    if folder.parent.name == "checkpoints":
        return f"{folder.parent.parent.name}@{folder.name}"
    return folder.name

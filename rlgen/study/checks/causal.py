"""Attribution, tracking, localisation and the nulls."""

from __future__ import annotations

from collections.abc import Iterator

from rlgen.study.checks.finding import Finding
from rlgen.study.sections import Crosscoder
from rlgen.study.study import BASE, Study


def check_causal(study: Study) -> Iterator[Finding]:
    """What is wrong with attribution, tracking, localisation and the nulls."""
    yield from _references(study)
    yield from _shares(study)


def _references(study: Study) -> Iterator[Finding]:
    names = ", ".join(study.crosscoders)
    low, high = study.attribution.nrn_range
    if low >= high:
        yield Finding("attribution.nrn_range", f"{low:g} is not below {high:g}", "give the lower end first")
    if study.tracking is not None:
        for i, name in enumerate(study.tracking.crosscoders):
            key = f"tracking.crosscoders[{i}]"
            if name not in study.crosscoders:
                yield Finding(key, f"no crosscoder `{name}`", f"use one of: {names}")
            elif len(study.crosscoders[name].models) != 2 or BASE not in study.crosscoders[name].models:
                yield Finding(key, f"`{name}` does not join base and one arm", "name a pairwise crosscoder with base")
    if study.localisation is not None:
        found = study.localisation
        if found.crosscoder not in study.crosscoders:
            yield Finding("localisation.crosscoder", f"no crosscoder `{found.crosscoder}`", f"use one of: {names}")
        elif not {BASE, found.arm} <= set(study.crosscoders[found.crosscoder].models):
            problem = f"`{found.crosscoder}` does not join base and `{found.arm}`"
            yield Finding("localisation.crosscoder", problem, "name one that does")
        fits = _fits(study)
        for i, name in enumerate(found.compare):
            key = f"localisation.compare[{i}]"
            if name not in fits:
                yield Finding(key, f"no crosscoder `{name}`", f"use one of: {', '.join(fits)}")
            elif not {BASE, found.arm} <= set(fits[name].models):
                yield Finding(key, f"`{name}` does not join base and `{found.arm}`", "name one that does")
        yield from _layers(study)
        yield from _oracle(study)
        if found.arm not in study.arm_names:
            yield Finding("localisation.arm", f"no arm `{found.arm}`", f"use one of: {', '.join(study.arm_names)}")
    if "transfer" not in study.interventions.groups:
        problem = "`transfer` is not among them, on which features are selected"
        yield Finding("interventions.groups", problem, "add it")
    if study.nulls is not None:
        if study.nulls.like not in study.crosscoders:
            yield Finding("nulls.like", f"no crosscoder `{study.nulls.like}`", f"use one of: {names}")
        if study.nulls.noise_like not in study.arm_names:
            arms = ", ".join(study.arm_names)
            yield Finding("nulls.noise_like", f"no arm `{study.nulls.noise_like}`", f"use one of: {arms}")


def _oracle(study: Study) -> Iterator[Finding]:
    """Yield why the oracle cannot try single features in base."""
    if study.localisation is None or not study.localisation.oracle:
        return
    if study.main_edit is None:
        remedy = "give interventions.transplant, amplify or scale, or leave the oracle out"
        yield Finding("localisation.oracle", "it tries the edit that is made in base, and none is made there", remedy)
        return
    tokens = getattr(study.interventions, study.main_edit).tokens
    if tokens != "last_prompt":
        problem = f"single features are tried at last_prompt; `{study.main_edit}` is made at {tokens}"
        yield Finding("localisation.oracle", problem, "edit there, or leave the oracle out")


def _fits(study: Study) -> dict[str, Crosscoder]:
    """Every fit of the study's own crosscoders."""
    return {fit: settings for name in study.crosscoders for fit, settings in study.variants(name).items()}


def _layers(study: Study) -> Iterator[Finding]:
    assert study.localisation is not None
    layers = {name: fit.layer or study.activations.layers[0] for name, fit in _fits(study).items()}
    seen = {layers.get(study.localisation.crosscoder)}
    for i, name in enumerate(study.interventions.with_layers):
        key = f"interventions.with_layers[{i}]"
        if name not in study.localisation.compare:
            yield Finding(key, f"`{name}` is not localised", "name it in localisation.compare, too")
        elif name in layers and layers[name] in seen:
            problem = f"`{name}` reads layer {layers[name]}, which another crosscoder of the edit reads"
            yield Finding(key, problem, "name one crosscoder a layer")
        seen.add(layers.get(name))


def _shares(study: Study) -> Iterator[Finding]:
    if study.tracking is not None and study.tracking.tokens > study.corpus.tokens:
        problem = f"{study.tracking.tokens} exceeds corpus.tokens ({study.corpus.tokens})"
        yield Finding("tracking.tokens", problem, "track on at most the corpus")
    if study.localisation is not None:
        share = study.localisation.selection
        for task in study.tasks.transfer:
            if task.items is not None and not 0 < round(share * task.items) < task.items:
                problem = f"{share:g} of the {task.items} items of `{task.name}` is none, or all of them"
                remedy = "some must select and some measure: choose another share, or give the task more items"
                yield Finding("localisation.selection", problem, remedy)

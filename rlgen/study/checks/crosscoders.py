"""Crosscoders, every variant of them."""

from __future__ import annotations

from collections.abc import Iterator

from rlgen.study.checks.finding import Finding
from rlgen.study.sections import Crosscoder
from rlgen.study.study import BASE, Study


def check_crosscoders(study: Study) -> Iterator[Finding]:
    """What is wrong with the crosscoders and their variants."""
    for name in study.crosscoders:
        if name.startswith("null-"):
            yield Finding(f"crosscoders.{name}", "starts with `null-`", "rename it; the nulls are named so")
    for name in study.crosscoders:
        variants = study.variants(name)
        own = list(_crosscoder(study, f"crosscoders.{name}", variants.pop(name)))
        yield from own
        for variant, fit in variants.items():
            for found in _crosscoder(study, f"crosscoders.{name}", fit):
                if found not in own:
                    yield Finding(f"crosscoders.{name}.grid", f"of `{variant}`, {found.problem}", found.remedy)


def _crosscoder(study: Study, key: str, fit: Crosscoder) -> Iterator[Finding]:
    known = study.models
    for i, model in enumerate(fit.models):
        if model not in known:
            yield Finding(f"{key}.models[{i}]", f"no model `{model}`", f"use one of: {', '.join(known)}")
    if len(set(fit.models)) < len(fit.models):
        yield Finding(f"{key}.models", "a model is listed twice", "list each once; `nulls` pairs base with itself")
    if fit.layer is not None and fit.layer not in study.activations.layers:
        layers = ", ".join(map(str, study.activations.layers))
        problem = f"layer {fit.layer} is not dumped"
        yield Finding(f"{key}.layer", problem, f"add it to activations.layers, or use one of: {layers}")
    if fit.sparsity in ("batch_topk", "topk") and fit.k > fit.features:
        yield Finding(f"{key}.k", f"k {fit.k} exceeds features ({fit.features})", "choose a smaller k")
    for model in fit.dedicated:
        if model not in fit.models:
            yield Finding(f"{key}.dedicated.{model}", "not one of its models", "add it to models, or leave it out")
    if sum(fit.dedicated.values()) >= fit.features:
        yield Finding(f"{key}.dedicated", f"no feature of {fit.features} is left to share", "dedicate fewer")
    if fit.features % fit.feature_shards:
        problem = f"{fit.features} features cannot be shared by {fit.feature_shards} processes evenly"
        yield Finding(f"{key}.feature_shards", problem, "use a divisor of features")
    given = study.resources_of("fit")
    gpus, counts = given.gpus * given.nodes, (fit.feature_shards, given.nodes)
    if gpus % fit.feature_shards:
        problem = f"{gpus} GPUs (resources.fit.gpus) cannot share the features in {fit.feature_shards}"
        yield Finding(f"{key}.feature_shards", problem, "use a divisor of the GPUs, or give more of them")
    if not gpus and max(counts) % min(counts):
        problem = f"{given.nodes} nodes (resources.fit.nodes) cannot share the features in {fit.feature_shards}"
        yield Finding(f"{key}.feature_shards", problem, "let one of the two divide the other")
    if fit.delta_weight and BASE not in fit.models:
        problem = "the delta loss is taken against base, which this crosscoder lacks"
        yield Finding(f"{key}.delta_weight", problem, "add base to its models, or set 0")

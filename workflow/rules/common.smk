# What several rule files share.

import shlex
from functools import cache

from rlgen.study import stages


@cache
def parts_of(model):
    """Every part of a model's store; asked for by every fit over it, of which there may be hundreds."""
    return [str(paths.activations(model, part)) for part in rules_of.parts]


def stores(models):
    """Every part of every model's store."""
    return [part for model in models for part in parts_of(model)]


def store(path):
    """A store as a rule's output: temporary, if the study keeps none."""
    return directory(path) if rules_of.keeps_stores else temp(directory(path))


def tracked_stores(crosscoder):
    """The stores of a pairwise crosscoder's base and arm, and of the arm's earlier checkpoints."""
    models = study.crosscoders[crosscoder].models
    arm = next(model for model in models if model != BASE)
    return stores(models) + [paths.activations(model, 0) for model in study.earlier_checkpoints(arm)]


def base_of(model):
    """What a model that exists already must match, if it is an arm."""
    return [] if model in (BASE, TEACHER) else [paths.model(BASE)]


def each(option, values):
    """`--option value` for every value."""
    return " ".join(f"{option} {shlex.quote(str(value))}" for value in values)


def site(rule):
    """What profile and command line say of where a rule's jobs run, for those that submitit submits."""
    given = workflow.resource_settings
    said = dict(pair.split("=", 1) for pair in (given.default_resources.args if given.default_resources else []))
    said |= dict(pair.split("=", 1) for pair in getattr(given.overwrite_resources.get(rule), "args", []))
    names = ("slurm_partition", "slurm_account", "qos", "constraint", "gpu_model")
    return {name: said[name].strip("'\"") for name in names if name in said}


monitors = each("--monitor", study.monitors)  # in the arms' commands, but not in what reruns are decided by

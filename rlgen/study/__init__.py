"""The study's settings: what a study file may hold, and the checks before anything runs. No torch here."""

from rlgen.study.load import load_study, parse_study
from rlgen.study.study import BASE, NOISE, TEACHER, Study

__all__ = ["BASE", "NOISE", "TEACHER", "Study", "load_study", "parse_study"]

"""The study's settings: what a study file may hold, and the checks before anything runs. No torch here."""

from rlgen.study.document import read_document
from rlgen.study.load import load_study, notes_on, parse_config, parse_study
from rlgen.study.study import BASE, NOISE, TEACHER, Study

__all__ = [
    "BASE",
    "NOISE",
    "TEACHER",
    "Study",
    "load_study",
    "notes_on",
    "parse_config",
    "parse_study",
    "read_document",
]

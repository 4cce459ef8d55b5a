"""What the sections share: their base class and the types of names, paths and numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field
from pydantic_core import PydanticCustomError

LONGEST_NAME = 100
"""Characters of a name: file systems take 255, and fits, stages and logs append to it."""
OWN_ENDINGS = (".old", ".partial", ".job", ".tmp", ".lock", ".user", ".begun", ".log")
"""Endings of the files and folders that rlgen makes beside an artifact, and removes."""
_LONGEST_PART = 255
_LONGEST_PATH = 3000


def _file_name(name: str) -> str:
    """Return the name; refuse one that collides with files that rlgen makes."""
    ending = next((end for end in OWN_ENDINGS if name.lower().endswith(end)), None)
    if ending:
        raise PydanticCustomError("name", f"rename it: rlgen gives the ending `{ending}` to files of its own")
    if name.endswith("."):
        raise PydanticCustomError("name", "rename it: a name that ends in a dot is no file name everywhere")
    return name


def _path_text(path: Any) -> Any:
    """Return a path with `~` replaced; refuse one that a file system or Snakemake cannot take."""
    if not isinstance(path, (str, Path)):
        return path
    text = str(path)
    if not text.strip():
        raise PydanticCustomError("path", "write a path; `.` is the working directory")
    if text != text.strip():
        raise PydanticCustomError("path", "remove the white space at its ends")
    if set(text) & set("{}\n"):
        raise PydanticCustomError("path", "rename it: Snakemake reads braces as wildcards and cannot take line breaks")
    longest = max(len(part.encode(errors="replace")) for part in text.split("/"))
    if len(text) > _LONGEST_PATH or longest > _LONGEST_PART:
        raise PydanticCustomError("path", f"shorten it: file names have at most {_LONGEST_PART} bytes")
    try:
        return str(Path(text).expanduser()) if text.startswith("~") else text
    except RuntimeError:
        raise PydanticCustomError("path", "write the folder in full: there is no such user") from None


Name = Annotated[
    str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", max_length=LONGEST_NAME), AfterValidator(_file_name)
]
"""A name that becomes a file name; `@` and `+` are kept for checkpoints and nulls."""
HubPath = Annotated[str, AfterValidator(_path_text)]
"""A folder, or an id on the Hugging Face hub."""
LocalPath = Annotated[Path, BeforeValidator(_path_text)]
"""A file or folder of this machine."""
PositiveInt = Annotated[int, Field(gt=0, le=10**9)]
"""A count. Nothing that a study counts, except tokens, reaches the limit."""
NonNegativeInt = Annotated[int, Field(ge=0, le=10**9)]
TokenCount = Annotated[int, Field(gt=0, le=10**12)]
"""A number of tokens of a corpus."""
Seed = Annotated[int, Field(ge=0, lt=2**63)]
PositiveFloat = Annotated[float, Field(gt=0, le=1e12)]
NonNegative = Annotated[float, Field(ge=0, le=1e12)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Share = Annotated[float, Field(gt=0, le=1)]
WorldTask = Literal["mod", "max", "par", "cnt", "min", "run"]
"""The miniature world's tasks (`rlgen.data.miniature`)."""
TaskGroup = Literal["train_domain", "transfer", "unseen"]
"""Groups of evaluation tasks."""
TokenSet = Literal["prompt", "last_prompt", "answer", "all"]
"""Which tokens of an item count: its prompt, the prompt's last token, the answer, or all of them."""


class Section(BaseModel):
    """Base of all settings: unknown keys are refused, values cannot be changed once read.

    Every field of every section refuses infinities and NaN. What no text and no integer may hold is refused where the
    study is read (`rlgen.study.plain`).
    """

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False)


Verifier = Annotated[str, Field(pattern=r"^(math|text|choice|number|[A-Za-z_][\w.]*:[A-Za-z_]\w*)$")]
"""What judges answers: `math`, `text`, `choice`, `number`, or the user's own `package.module:function`."""


def files_of(function: str | None) -> list[str]:
    """The file of the user's own `package.module:function`, if it lies under the working directory.

    A change of it reruns what calls it. rlgen's own is none: a new release of it reruns nothing.
    """
    if function is None:
        return []
    package, *rest = function.partition(":")[0].split(".")
    path = Path(package, *rest).with_suffix(".py")
    return [str(path)] if package != "rlgen" and path.is_file() else []

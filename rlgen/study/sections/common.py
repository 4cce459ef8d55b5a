"""What the sections share: their base class and the types of names and shares."""

from __future__ import annotations

from os.path import expanduser
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]
"""A name that becomes a file name; `@` and `+` are kept for checkpoints and nulls."""
HubPath = Annotated[str, AfterValidator(expanduser)]
"""A folder, or an id on the Hugging Face hub."""
Fraction = Annotated[float, Field(ge=0, le=1)]
Share = Annotated[float, Field(gt=0, le=1)]
NonNegative = Annotated[float, Field(ge=0)]
WorldTask = Literal["mod", "max", "par", "cnt", "min", "run"]
"""The miniature world's tasks (`rlgen.data.miniature`)."""
TaskGroup = Literal["train_domain", "transfer", "unseen"]
"""Groups of evaluation tasks."""
TokenSet = Literal["prompt", "last_prompt", "answer", "all"]
"""Which tokens of an item count: its prompt, the prompt's last token, the answer, or all of them."""


class Section(BaseModel):
    """Base of all settings: unknown keys are refused, values cannot be changed once read."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


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

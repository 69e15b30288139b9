"""Check names that people give, before anything is computed or paid for under them."""

from __future__ import annotations

from pydantic import TypeAdapter, ValidationError

from harness.core.errors import UserError
from harness.core.schema import Name

_NAME: TypeAdapter[str] = TypeAdapter(Name)


def checked_name(text: str, what: str) -> str:
    """Return `text` if a record can hold it as a name.

    Raises:
        UserError: it has hidden characters or is too long; `what` says what it names.
    """
    try:
        return _NAME.validate_python(text)
    except ValidationError as error:
        said = error.errors()[0]["msg"].removeprefix("Value error, ")
        raise UserError(f"{what} cannot be recorded: {said}. Choose another name.") from error

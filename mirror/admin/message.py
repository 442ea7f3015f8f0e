"""Base class of the admin socket's messages: strict fields, JSON for any text, and the faults of a malformed one."""

from __future__ import annotations

import json
import re

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import PydanticSerializationError

_SURROGATE = re.compile("[\ud800-\udfff]")
_MAX_FAULTS = 10


class Message(BaseModel):
    """A request, a response, or a line of a response. Unknown fields and values of another type are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    def to_json(self) -> str:
        r"""Return the message as JSON, the only way to send one: `model_dump_json` fails for text that is not Unicode.

        Python represents bytes that are not UTF-8 (in an argument, a file name or an upstream's header) and JSON like
        "\ud800" as single surrogates, which UTF-8 can't encode. The reader gets them as escapes, such as `\udcff`.
        """
        try:
            return self.model_dump_json()
        except PydanticSerializationError:
            content = json.dumps(self.model_dump(mode="json"), ensure_ascii=False)
            return _SURROGATE.sub(lambda found: rf"\\u{ord(found[0]):x}", content)


def explain(error: ValidationError) -> str:
    """Return the faults of a message: each field's path with the reason."""
    faults = []
    for fault in error.errors(include_url=False, include_context=False, include_input=False):
        field = ".".join(map(str, fault["loc"])) or "body"
        faults.append(f"{field}: {fault['msg'].removeprefix('Value error, ')}")
    return "; ".join(faults[:_MAX_FAULTS]) + (f"; and {len(faults) - _MAX_FAULTS} more" * (len(faults) > _MAX_FAULTS))

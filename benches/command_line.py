"""The line that Adit sends over SSH (actors/src/exec/command.rs), so that every peer runs the identical one."""

from __future__ import annotations

import uuid


def command_line(words: list[str]) -> tuple[str, str]:
    """The line, and the beginning of the marked line that it prints to standard error."""
    exec_id = uuid.uuid4().hex
    mark = f"adit-{exec_id}"
    quoted = " ".join("'" + word.replace("'", "'\\''") + "'" for word in words)
    return f"export ADIT_EXEC_ID={exec_id}; printf '{mark} %s\\n' \"$$\" >&2; exec {quoted}", mark

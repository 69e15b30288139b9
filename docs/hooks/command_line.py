"""Write the reference of the command line from the commands themselves."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from typing import Any

import click
from markup import escape, fenced


def command_line(root: click.Group, name: str) -> str:
    """Describe every command of `root` in Markdown: help, usage, examples, options."""
    context = click.Context(root, info_name=name)
    return "\n".join(_command(root, context, level=2))


def _command(command: click.Command, context: click.Context, level: int) -> Iterator[str]:
    """Describe a command and the commands below it."""
    yield f"{'#' * level} {context.command_path}\n"
    prose, examples = _paragraphs(command.help)
    yield from prose
    yield fenced(f"{context.command_path} {' '.join(command.collect_usage_pieces(context))}")
    if examples:
        yield from ["Examples:\n", *map(fenced, examples)]
    for parameter in command.params:
        if isinstance(parameter, click.Option) and not parameter.hidden:
            yield from _option(parameter, context)
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            child = command.get_command(context, name)
            if child is not None and not child.hidden:
                inside = click.Context(child, info_name=name, parent=context)
                yield from _command(child, inside, level + (context.parent is not None))


def _paragraphs(text: str | None) -> tuple[list[str], list[str]]:
    """Split a help text into prose, as Markdown, and examples: paragraphs after a backspace."""
    prose, examples = [], []
    for paragraph in re.split(r"\n\s*\n", inspect.cleandoc(text or "")):
        lines = paragraph.strip("\n").splitlines()
        if lines and lines[0].strip() == "\b":
            examples.append("\n".join(lines[1:]))
        elif lines:
            prose.append(escape(" ".join(line.strip() for line in lines)) + "\n")
    return prose, examples


def _option(option: click.Option, context: click.Context) -> Iterator[str]:
    """Describe an option by the columns that `--help` prints, and by its default."""
    record = option.get_help_record(context)
    details: dict[str, Any] = dict(option.get_help_extra(context))
    if record is None:
        return
    names, _ = record
    yield f"`{names}`"
    notes = [f"Default: `{details['default']}`."] if "default" in details else []
    if "range" in details:
        notes.append(f"Range: `{details['range']}`.")
    if "required" in details:
        notes.append("Required.")
    if option.multiple:
        notes.append("Can be repeated.")
    described = escape((option.help or "").strip())
    yield ":   " + " ".join([described, *notes]).strip() + "\n"

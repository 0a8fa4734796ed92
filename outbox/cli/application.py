"""Imports the application that a command line names."""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from outbox.cli.errors import CommandLineError
from outbox.consumer import Consumer
from outbox.errors import EventDefinitionError
from outbox.event import catalogue
from outbox.upcasters import check_declarations

if TYPE_CHECKING:
    from types import ModuleType

    from outbox.event import EventType


def load_module(name: str) -> ModuleType:
    """Import a module from this folder, or from what is installed.

    Raises `CommandLineError` that says what is missing, or what its import raised.
    """
    folder = str(Path.cwd())
    if folder not in sys.path:
        sys.path.insert(0, folder)
    try:
        return import_module(name)
    except ModuleNotFoundError as exc:
        # Its own name, or that of a package that it would be in; else it is missing something.
        if exc.name is not None and f"{name}.".startswith(f"{exc.name}."):
            msg = f"there is no module {exc.name!r}, neither in {folder} nor installed"
            raise CommandLineError(msg) from exc
        msg = f"{name} needs the module {exc.name!r}, which is not installed"
        raise CommandLineError(msg) from exc
    except Exception as exc:
        msg = (
            f"{name} cannot be imported: {type(exc).__name__}: {exc} (`outbox --debug …`"
            " shows where)"
        )
        raise CommandLineError(msg) from exc


def consumers_in(modules: list[str]) -> list[Consumer]:
    """Return the consumers in imported modules and in what was imported of the packages they are.

    Raises `CommandLineError` where the classes and upcasters of one cannot work.
    """
    inside = tuple(f"{name}." for name in modules)
    found: dict[int, Consumer] = {}
    for name, module in sorted(sys.modules.items()):
        if name in modules or name.startswith(inside):
            found |= {
                id(each): each for each in vars(module).values() if isinstance(each, Consumer)
            }
    try:
        for each in found.values():
            each.handlers.check()
    except EventDefinitionError as exc:
        raise CommandLineError(str(exc)) from exc
    return sorted(found.values(), key=lambda each: each.name)


def load_catalogue(modules: list[str]) -> list[EventType]:
    """Import modules and return every event type that is declared then.

    Raises `CommandLineError` where a module cannot be imported, declares nothing, or a
    declaration cannot work.
    """
    for name in modules:
        if ":" in name or not name:
            msg = f"{name!r} is no module, for instance shop.events"
            raise CommandLineError(msg)
        load_module(name)
    found = list(catalogue)
    if not found:
        msg = (
            f"{', '.join(modules)} declares no event: name the modules whose import runs"
            " @outbox.event(…)"
        )
        raise CommandLineError(msg)
    try:
        check_declarations(found)
    except EventDefinitionError as exc:
        raise CommandLineError(str(exc)) from exc
    return found

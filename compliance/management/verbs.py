"""What rooms add to `stoa evidence`: a verb each, with its arguments."""

from argparse import ArgumentParser
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from django.core.management.base import BaseCommand

if TYPE_CHECKING:
    from argparse import _SubParsersAction


@dataclass(frozen=True)
class Verb:
    help: str
    arguments: Callable[[ArgumentParser], None]
    run: Callable[[BaseCommand, dict[str, Any]], None]


verbs: dict[str, Verb] = {}


def add(parsers: "_SubParsersAction[ArgumentParser]") -> None:
    for name, verb in sorted(verbs.items()):
        verb.arguments(parsers.add_parser(name, help=verb.help))

"""Find the first mistake in the options of a command, and describe it in one sentence.

jsonargparse's own messages are long and differ from version to version. So after jsonargparse has refused a command,
this module reads the command again: it looks up each option in the signature of the class that the option belongs to,
and reports the first option that is unknown or whose value has the wrong type.
"""

import dataclasses
import importlib
import inspect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import yaml
from jsonargparse import ArgumentError, ArgumentParser

from src.names import did_you_mean, unknown_name

PLAIN = (bool, int, float, str, NoneType, list, dict, Any)
"""Types without options of their own; the arguments of every other class are options."""


class OptionError(Exception):
    """A mistake in a command; its text is the message for the user."""


@dataclass(frozen=True)
class CommandLine:
    """The options of a program.

    Attributes:
        types: the type of each option; for `trainer` and the like, the class whose arguments are options in turn.
        catalogues: for each base class the noun for its subclasses ("norm") and the known ones by their names.
        config_option: the option that names a YAML file of options.
        derived: for a base class, the arguments that the program sets and the user must not set.
        help: the command that lists all options.
    """

    types: Mapping[str, Any]
    catalogues: Mapping[type, tuple[str, Mapping[str, Any]]]
    config_option: str
    derived: Mapping[type, Sequence[str]]
    help: str

    def is_group(self, hint: Any) -> bool:
        """Whether a type is a class whose arguments are options of their own, such as `trainer.max_epochs`."""
        return dataclasses.is_dataclass(hint) or (
            isinstance(hint, type) and hint not in PLAIN and hint in self.types.values()
        )

    def unknown(self, name: str, *known: str) -> OptionError:
        """`unknown option 'trainer.max_epoch'. Did you mean 'trainer.max_epochs'?`"""
        groups = {group: hint for group, hint in self.types.items() if self.is_group(hint)}
        inside = [f"{group}.{option}" for group, hint in groups.items() for option in arguments_of(hint)]
        hint = did_you_mean(name, [*self.types, *inside, *known])
        return OptionError(f"unknown option '{name}'.{hint} All options: {self.help}")


@dataclass
class Given:
    """What a command gives for an option: a value or the name of a class, and the options of that class."""

    value: Any = None
    parts: dict[str, "Given"] = field(default_factory=dict)

    def set(self, value: Any) -> None:
        """Take a value from a flag or a file; it replaces an earlier one."""
        if isinstance(value, str) and value.lstrip().startswith("{"):
            value = yaml.safe_load(value)
        if not isinstance(value, Mapping):
            self.value, self.parts = value, {}
            return
        if "class_path" in value:
            if value["class_path"] != self.value:
                self.set(value["class_path"])
            value = value.get("init_args") or {}
        elif "init_args" in value:
            value = value["init_args"] or {}
        for name, part in value.items():
            self.part(str(name)).set(part)

    def part(self, name: str) -> "Given":
        """The option `name` of this option, which is made if the command has not given it yet."""
        return self.parts.setdefault(name, Given())


def find_mistake(arguments: Sequence[str], line: CommandLine) -> str | None:
    """A message for the first mistake in a command's arguments; None if this module finds no mistake."""
    try:
        for name, given in _read(arguments, line.config_option).parts.items():
            if name not in line.types:
                inside = next(iter(given.parts), None)
                raise line.unknown(name if given.value is not None or inside is None else f"{name}.{inside}")
            _check(name, line.types[name], given, line)
    except (OptionError, yaml.YAMLError) as mistake:
        return " ".join(str(mistake).split())
    return None


def one_line(message: str, limit: int = 300) -> str:
    """A message of a library on one line, cut off after `limit` characters."""
    text = " ".join(message.split())
    return text if len(text) <= limit else f"{text[:limit]} ..."


def _read(arguments: Sequence[str], files: str) -> Given:
    """The arguments as a tree of options; a later argument replaces an earlier one."""
    command = Given()
    remaining = list(arguments)
    while remaining:
        name, equals, value = remaining.pop(0).partition("=")
        if not name.startswith("--") or name in ("--help", "--print_config") or name.endswith(".help"):
            continue
        if not equals:
            value = remaining.pop(0) if remaining and not remaining[0].startswith("--") else "true"
        if name == f"--{files}":
            command.set(_load(value))
            continue
        place = command
        for part in name.removeprefix("--").removesuffix("+").split("."):
            if part != "init_args":
                place = place.part(part)
        if name.endswith(".class_path"):
            continue
        place.set([] if name.endswith("+") else value)
    return command


def _load(path: str) -> Mapping[str, Any]:
    try:
        with open(path, encoding="utf-8") as file:
            found = yaml.safe_load(file)
    except OSError as error:
        raise OptionError(f"cannot read the configuration {path}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise OptionError(f"the configuration {path} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(found, Mapping):
        raise OptionError(f"the configuration {path} holds no options: expected lines such as 'seed_everything: 0'")
    return found


def _check(name: str, hint: Any, given: Given, line: CommandLine) -> None:
    base = _base(hint)
    if line.is_group(base) and base not in line.catalogues:
        known = arguments_of(base)
        for option, inside in given.parts.items():
            if option not in known:
                raise line.unknown(f"{name}.{option}", *(f"{name}.{each}" for each in known))
            _check(f"{name}.{option}", known[option], inside, line)
    elif given.value is None or (not given.parts and _fits(hint, given.value)):
        return  # without a value, the command does not name the class that the parts belong to
    elif bases := _classes(hint):
        _check_class(name, bases, given, line)
    else:
        raise OptionError(f"{name}: expected {_described(hint)}, got '{given.value}'")


def _check_class(name: str, bases: tuple[type, ...], given: Given, line: CommandLine) -> None:
    """Check a value that names a class, and the options of that class."""
    noun, known = line.catalogues.get(bases[0], (name, {c.__name__: c for base in bases for c in _subclasses(base)}))
    named = _find_class(str(given.value), bases, known)
    if named is None:
        raise OptionError(unknown_name(noun, str(given.value), known))
    own = _class_of(named)
    derived = line.derived.get(bases[0], ())
    kinds = {option: kind for option, kind in arguments_of(named).items() if option not in derived}
    for option, inside in given.parts.items():
        if option not in kinds:
            raise OptionError(unknown_name(f"option of {own.__name__}", option, kinds))
        _check(f"{name}.{option}", kinds[option], inside, line)
    for option, parameter in _parameters(own).items():
        if option in kinds and option not in given.parts and parameter.default is inspect.Parameter.empty:
            raise OptionError(f"{own.__name__} needs an option that is not given: --{name}.{option}")


def _find_class(name: str, bases: tuple[type, ...], known: Mapping[str, Any]) -> Any:
    """The class of a known name, of another subclass's name or of a dotted path; None if there is none."""
    module, _, attribute = name.rpartition(".")
    if not module:
        others = {each.__name__: each for base in bases for each in _subclasses(base)}
        return known.get(name) or others.get(name)
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError):
        return None
    return found if isinstance(found, type) and issubclass(found, bases) else None


def _subclasses(base: type) -> Iterator[type]:
    each: type
    for each in base.__subclasses__():
        yield each
        yield from _subclasses(each)


def _class_of(named: Any) -> type:
    return named if isinstance(named, type) else type(named)


def arguments_of(named: Any) -> dict[str, Any]:
    """The arguments of a class, or of an instance's class, with their types."""
    return {name: parameter.annotation for name, parameter in _parameters(_class_of(named)).items()}


def _parameters(constructor: type) -> dict[str, inspect.Parameter]:
    """The arguments of a class; in the place of `**options`, those of its bases that it does not fix."""
    found: dict[str, inspect.Parameter] = {}
    for each in constructor.__mro__:
        try:
            hints = get_type_hints(inspect.getattr_static(each, "__init__"))
        except NameError:  # a type that is imported for type checkers only, as Lightning's strategies have it
            hints = {}
        parameters = inspect.signature(each).parameters.values()
        for p in parameters:
            if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD):
                found.setdefault(p.name, p.replace(annotation=hints.get(p.name, Any)))
        if not any(p.kind == p.VAR_KEYWORD for p in parameters):
            break
    if each is constructor:
        return found
    open_to_users = ArgumentParser().add_class_arguments(constructor, fail_untyped=False)
    return {name: parameter for name, parameter in found.items() if name in open_to_users}


def _members(hint: Any) -> tuple[Any, ...]:
    """The types in a union; a tuple of one for any other type."""
    return get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)


def _base(hint: Any) -> Any:
    """The class in `Class | None`; any other type unchanged."""
    members = [member for member in _members(hint) if member is not NoneType]
    return members[0] if len(members) == 1 else hint


def _classes(hint: Any) -> tuple[type, ...]:
    """The classes that a value of this type may name, alone or in a list."""
    members = [part for member in _members(hint) for part in (get_args(member) or (member,))]
    return tuple(part for part in members if isinstance(part, type) and part not in PLAIN)


def _fits(hint: Any, value: Any) -> bool:
    """Whether jsonargparse takes the value for an option of this type."""
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--value", type=hint)
    try:
        if isinstance(value, str):
            parser.parse_args([f"--value={value}"])
        else:
            parser.parse_object({"value": value})
    except (ArgumentError, TypeError, ValueError):
        return False
    return True


def _described(hint: Any) -> str:
    """A type in words: `int or null`, `one of 'sgd', 'adamw'`."""
    members = _members(hint)
    literals = [repr(value) for member in members if get_origin(member) is Literal for value in get_args(member)]
    words = [f"one of {', '.join(literals)}"] if literals else []
    for member in members:
        if get_origin(member) is not Literal:
            words.append("null" if member is NoneType else getattr(member, "__name__", str(member)))
    return " or ".join(words)

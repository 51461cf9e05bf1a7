"""Schemas of files that people write or that come from elsewhere, with mistakes told in a line: what, and where in it.

pydantic takes a tenth of a second to import: import this where such a file is read, not for --help.
"""

import reprlib
from typing import Annotated, Any, ClassVar, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    model_validator,
)
from pydantic_core import PydanticCustomError

from benchmark.overrides import LONGEST
from dassl.errors import UserError, nearest

Model = TypeVar("Model", bound=BaseModel)
T = TypeVar("T")


def check(schema: type[Model], tree: Any, where: str = "") -> Model:
    """The tree as the schema has it.

    Args:
        where: the tree is in its file, such as "document 2"; "": it is all of it.

    Raises:
        UserError: it is not of that schema; says where its first mistake is.
    """
    try:
        return schema.model_validate(tree)
    except ValidationError as error:
        raise UserError(": ".join(filter(None, [where, mistake(error)]))) from error


def mistake(error: ValidationError) -> str:
    """The first of the mistakes that pydantic found: the keys that lead to it, and what it is."""
    first = error.errors(include_url=False)[0]
    place = "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in first["loc"]).removeprefix(".")
    if first["type"] == LINES:
        return f"{place}: {first['msg']}" if place else first["msg"]
    wanted = WORDS.get(first["type"]) or first["msg"].replace("Input should", "it should")
    return f"{place or 'it'} is {reprlib.repr(first['input'])}: {wanted}"


LINES = "lines"
"""The type of mistakes in lines as a whole, which are told in full."""

WORDS = {
    "int_type": "give a whole number",
    "int_from_float": "give a whole number",
    "float_type": "give a number",
    "finite_number": "give a finite number",
    "bool_type": "give True or False",
    "string_type": "give text, in quotes where it looks like a number",
    "dict_type": "give KEY: VALUE lines",
    "list_type": "give a list",
}
"""pydantic's type of mistake -> what to do; of other types pydantic's own words serve."""


class Lines(BaseModel):
    """KEY: VALUE lines of known keys. A subclass's `what` is what they are called."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, hide_input_in_errors=True)
    what: ClassVar[str]

    @model_validator(mode="before")
    @classmethod
    def _keys(cls, tree: Any) -> Any:
        if not isinstance(tree, dict):
            raise _wrong(f"{cls.what} must be KEY: VALUE lines, not {reprlib.repr(tree)}")
        for key in tree:
            if key not in cls.model_fields:
                raise _wrong(f"unknown key {key} in {cls.what}: {nearest(key, cls.model_fields)}")
        for key, field in cls.model_fields.items():
            if field.is_required() and key not in tree:
                raise _wrong(f"{cls.what} needs {key}")
        return tree


def _wrong(text):
    return PydanticCustomError(LINES, "{text}", {"text": text})


def _listed(value):
    return value if isinstance(value, list) else [value]


def _line(text):
    if not text.isprintable():
        raise PydanticCustomError("line", "give one line of printable text")
    return text


def _name(text):
    if not text or set(text) & set("/\\") or text in (".", "..") or len(text) > LONGEST:
        raise PydanticCustomError("name", "give the name of a folder: 1 to {n} characters, no slash", {"n": LONGEST})
    return text


def _override(value):
    """A config's value as a word of train.py."""
    kinds = str | int | float | None
    if isinstance(value, kinds) or (isinstance(value, list) and all(isinstance(each, kinds) for each in value)):
        return str(value)
    raise PydanticCustomError("override", "give text, a number, True, False, or a list of those")


def _method(value):
    """A method's lines, from them or from "TRAINER" or "TRAINER/CONFIG"."""
    if not isinstance(value, str):
        return value
    trainer, _, config = value.partition("/")
    return {"trainer": trainer} | ({"config": config} if config else {})


Line = Annotated[str, AfterValidator(_line)]
Name = Annotated[Line, AfterValidator(_name)]
"""What becomes a part of a path."""

Seed = Annotated[int, Field(ge=0, lt=2**32)]
Shots = Annotated[int, Field(ge=1, lt=2**31)]
Overrides = dict[Annotated[Line, StringConstraints(pattern=r"^\S+$")], Annotated[str, BeforeValidator(_override)]]

Listed = Annotated[list[T], BeforeValidator(_listed)]
"""A list; one value stands for a list of it."""


class Method(Lines):
    """A method of a grid."""

    what = "a method"
    trainer: Name
    config: Name | None = None
    label: Name | None = None
    name: Line | None = None
    overrides: Overrides = {}
    datasets: Listed[Name] | None = None
    shots: Listed[Shots] | None = None
    seeds: Listed[Seed] | None = None


class Exclusion(Lines):
    """What a grid leaves out: the runs that agree in all of these."""

    what = "an exclusion"
    method: Listed[Line] | None = None
    trainer: Listed[Line] | None = None
    config: Listed[Line] | None = None
    dataset: Listed[Line] | None = None
    shots: Listed[int | None] | None = None
    seed: Listed[int] | None = None


class GridDocument(Lines):
    """One document of a grid's file; benchmark/grid.py says what its keys mean."""

    what = "a grid"
    protocol: Line
    methods: Listed[Annotated[Method, BeforeValidator(_method)]]
    datasets: Listed[Name]
    shots: Listed[Shots] | None = None
    seeds: Listed[Seed] | None = None
    backbone: Line = ""
    overrides: Overrides = {}
    exclude: Listed[Exclusion] = []
    output: Line | None = None

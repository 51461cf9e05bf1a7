"""What config keys mean, as the comments beside them say: those of `dassl.config.defaults` and of any `extend_cfg`."""

import ast
import inspect
import io
import textwrap
import tokenize
from collections.abc import Callable, Iterator
from types import ModuleType


def of_dict(module: ModuleType) -> dict[str, str]:
    """{key: meaning} of the first CfgNode({...}) in a module's source. A key without a comment is left out."""
    source = _Source(inspect.getsource(module))
    calls = (node for node in ast.walk(source.tree) if isinstance(node, ast.Call) and node.args)
    literal = next(call.args[0] for call in calls if isinstance(call.args[0], ast.Dict))
    return dict(source.entries(literal, ""))


def of_function(declare: Callable) -> dict[str, str]:
    """{key: meaning} of what a function such as `extend_cfg(cfg)` assigns: `cfg.TRAINER.NAME.KEY = ...  # meaning`.

    The comment stands beside the assignment, or in the lines above it. Functions of the same module, or imported there,
    that are handed a node of the config, or return one, are followed. Empty where there is no source.
    """
    return dict(_assigned((declare,), {0: ""}))


def _assigned(chain, places):
    """Pairs (key, meaning) of a function's assignments.

    chain: the function, after those that call it.
    places: {number of a positional parameter, or "return": the key that this node of the config stands at}.
    """
    function = chain[-1]
    try:
        source = _Source(textwrap.dedent(inspect.getsource(function)))
    except (OSError, TypeError, SyntaxError):
        return
    body = source.tree.body[0]
    if not isinstance(body, ast.FunctionDef):
        return
    at = {arg.arg: places[i] for i, arg in enumerate(body.args.args) if i in places}
    if "return" in places:
        at |= {
            node.value.id: places["return"]
            for node in ast.walk(body)
            if isinstance(node, ast.Return) and isinstance(node.value, ast.Name)
        }
    for node in ast.walk(body):
        if isinstance(node, ast.Assign):
            keys = [key for target in node.targets if (key := _key(target, at))]
            same = [key for key in (*keys, _key(node.value, at)) if key is not None]
            at |= {target.id: same[0] for target in node.targets if same and isinstance(target, ast.Name)}
            for key in keys:
                if said := source.comment(node):
                    yield key, said
                yield from _declared(node.value, key, chain, source)
        elif isinstance(node, ast.Call):
            given = {i: key for i, arg in enumerate(node.args) if (key := _key(arg, at)) is not None}
            if given and (called := _called(node, chain)):
                yield from _assigned((*chain, called), given)


def _declared(value, key, chain, source):
    """Pairs (key, meaning) of a node that a call makes: CN({...}), or a function that returns one."""
    if isinstance(value, ast.Call):
        if value.args and isinstance(value.args[0], ast.Dict):
            yield from source.entries(value.args[0], f"{key}.")
        elif called := _called(value, chain):
            yield from _assigned((*chain, called), {"return": key})


def _called(call, chain):
    """The Python function that a call in the last one of a chain names, if it is one of its module's and no loop."""
    found = getattr(chain[-1], "__globals__", {}).get(call.func.id) if isinstance(call.func, ast.Name) else None
    return found if inspect.isfunction(found) and found not in chain else None


def _key(node, at):
    """The key that an expression stands for: cfg.A.B, or a name for a node of the config; None for others."""
    words = []
    while isinstance(node, ast.Attribute):
        words.append(node.attr)
        node = node.value
    if not isinstance(node, ast.Name) or node.id not in at:
        return None
    return ".".join(filter(None, [at[node.id], *reversed(words)]))


class _Source:
    """A source text, with its comments by line."""

    def __init__(self, text: str) -> None:
        self.tree = ast.parse(text)
        self._beside: dict[int, str] = {}
        self._alone: dict[int, str] = {}
        for token in tokenize.generate_tokens(io.StringIO(text).readline):
            if token.type == tokenize.COMMENT:
                beside = self._alone if not token.line[: token.start[1]].strip() else self._beside
                beside[token.start[0]] = token.string.lstrip("# ").rstrip()
        self._lines = text.splitlines()

    def comment(self, node: ast.AST, last: ast.AST | None = None) -> str:
        """What stands beside a node's lines, otherwise in the lines above it; "" for nothing.

        Args:
            node, last: the first and the last (None: the same) of the lines' nodes.
        """
        lines = range(node.lineno, (last or node).end_lineno + 1)  # type: ignore[attr-defined]
        said = [text for line in lines if (text := self._beside.get(line) or self._alone.get(line))]
        above = node.lineno - 1  # type: ignore[attr-defined]
        if not said and not self._lines[above][: node.col_offset].strip():  # type: ignore[attr-defined]
            while above in self._alone:
                said.insert(0, self._alone[above])
                above -= 1
        return " ".join(said)

    def entries(self, literal: ast.Dict, prefix: str) -> Iterator[tuple[str, str]]:
        """Pairs (key, meaning) of a dict literal, at any depth."""
        for name, value in zip(literal.keys, literal.values, strict=True):
            if not isinstance(name, ast.Constant) or not isinstance(name.value, str):
                continue
            if isinstance(value, ast.Dict):
                yield from self.entries(value, f"{prefix}{name.value}.")
            elif said := self.comment(name, value):
                yield f"{prefix}{name.value}", said

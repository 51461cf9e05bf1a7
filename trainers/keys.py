"""All config keys: what `python train.py --keys [TRAINER]`, docs/config.md and the log of a run show of them."""

import functools
import shutil
import sys
import textwrap
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from yacs.config import CfgNode

import mocoop
import trainers
from dassl.config import defaults, get_cfg_default, meanings
from dassl.config.readers import last_words, names, readers, source_of
from dassl.engine import TRAINER_REGISTRY
from dassl.layout import flat

OURS = "ours: "
"""How the comment of a key begins that Dassl does not have."""

FOLDERS = ("dassl", "datasets", "prompting", "trainers", "learned", "benchmark")
SHOWN = 3  # readers of a key on the terminal

NARROW = 50  # characters for meanings; where there are fewer, they have lines of their own

ALWAYS = {
    *("TRAINER.NAME", "SEED", "OUTPUT_DIR", "MODEL.BACKBONE.NAME", "INPUT.SIZE", "INPUT.TRANSFORMS", "TEST.SPLIT"),
    *("DATASET.NAME", "DATASET.NUM_SHOTS", "DATASET.SUBSAMPLE_CLASSES", "DATALOADER.TRAIN_X.BATCH_SIZE"),
    *("OPTIM.NAME", "OPTIM.LR", "OPTIM.LR_SCHEDULER", "OPTIM.MAX_EPOCH", "OPTIM.WEIGHT_DECAY"),
}
"""What every log shows. CoOp's tools and report/results.py read some of it there."""

NOT_A_RUNS = ("DATASET.STYLES", "DATASET.BACKBONES.")
"""What the benchmark alone reads: no log shows it."""

NO_READERS = ("dassl/config/", "trainers/keys.py")
"""What names keys as such."""


class Key(NamedTuple):
    """A config key.

    Attributes:
        name: such as "OPTIM.LR".
        default: its value where nothing sets it.
        meaning: "" where no comment says it.
        readers: the files that read it, relative to the project; of other packages, their modules.
        ours: Dassl has none of this name.
    """

    name: str
    default: object
    meaning: str
    readers: Sequence[str]
    ours: bool

    @property
    def section(self) -> str:
        """The method's block, "COOP" of TRAINER.COOP.N_CTX; "" of other keys."""
        words = self.name.split(".")
        return words[1] if words[0] == "TRAINER" and len(words) > 2 else ""

    @property
    def unread(self) -> bool:
        """Whether it is there only for code from elsewhere."""
        return self.name in defaults.DASSLS or self.name.rpartition(".")[0] in defaults.DASSLS


def reference() -> list[Key]:
    """All keys, in the order of the config."""
    said = meanings.of_dict(defaults)
    for module in [m for m in trainers.modules if hasattr(m, "extend_cfg")]:
        own = {section for section, kinds in _sections().items() if any(k.__module__ == module.__name__ for k in kinds)}
        for key, meaning in meanings.of_function(module.extend_cfg).items():
            if key not in said or key.split(".")[1] in own:
                said[key] = meaning
    found = [Key(key, value, said.get(key, ""), (), False) for key, value in flat(_defaults()).items()]
    read = readers([key.name for key in found if not key.section], _files())
    return [
        key._replace(
            meaning=key.meaning.removeprefix(OURS) + _by_form(key),
            readers=_readers_of_own(key) if key.section else read[key.name],
            ours=key.meaning.startswith(OURS),
        )
        for key in found
    ]


def of(trainer: str, keys: Iterable[Key]) -> list[Key]:
    """Those of some keys that concern a trainer's runs. Raises UserError where there is no such trainer.

    Its block and others' that its code names, and what the code below it reads.
    """
    modules = _modules(TRAINER_REGISTRY.get(trainer))
    said = set().union(*(last_words(source_of(module)) for module in modules))
    own = section_of(trainer)
    return [key for key in keys if not key.unread and (not key.section or key.section == own or key.section in said)]


def told(trainer: str = "") -> str:
    """The table of all keys, or of those that concern a trainer's runs. Raises UserError as `of` does."""
    if trainer:
        TRAINER_REGISTRY.get(trainer)  # before the time that the rest takes
    return table(of(trainer, reference()) if trainer else reference())


def of_run(cfg: CfgNode) -> CfgNode:
    """What of a run's config its log shows: ALWAYS, its trainer's block, what its modules name, and what differs.

    Other trainers' blocks are shown where they name them and they differ from the defaults. What shared code
    reads, which `of` counts as the trainer's, is left out.
    """
    kind = TRAINER_REGISTRY.get(cfg.TRAINER.NAME)
    default, given, own = flat(_defaults()), flat(cfg), f"TRAINER.{section_of(cfg.TRAINER.NAME)}."
    modules = {base.__module__ for base in kind.__mro__ if not base.__module__.startswith(("dassl.", "torch."))}
    named = set().union(*(names(source_of(module)) for module in modules))
    shown = CfgNode()
    for key, value in given.items():
        *path, last = key.split(".")
        if key.startswith(NOT_A_RUNS):
            continue
        concerns = path[:1] != ["TRAINER"] or len(path) < 2 or named & {path[1], f"TRAINER.{path[1]}"}
        if key in ALWAYS or key in named or key.startswith(own) or (concerns and value != default.get(key, cfg)):
            node = shown
            for word in path:
                node = node.setdefault(word, CfgNode())
            node[last] = value
    return shown


def section_of(trainer: str) -> str:
    """The name of a trainer's block."""
    return getattr(TRAINER_REGISTRY.get(trainer), "section", None) or trainer.upper()


def table(keys: Iterable[Key], width: int | None = None) -> str:
    """Keys for a terminal: key, default, meaning and readers.

    Args:
        width: in characters; None: the terminal's.
    """
    width = max(60, width or shutil.get_terminal_size((100, 24)).columns)
    rows = [(key.name, repr(key.default), _told(key)) for key in keys]
    first, second = max(len(name) for name, _, _ in rows), min(20, max(len(default) for _, default, _ in rows))
    margin = first + second + 4
    narrow = width - margin < NARROW
    lines = []
    for name, default, told in rows:
        head = f"{name:{first}}  {default:{second}}  "
        if narrow or len(head) > margin:  # meanings stand below
            lines.append(head.rstrip())
            head = ""
        indent = " " * (4 if narrow else margin)
        wrapped = textwrap.wrap(told, width - len(indent), break_on_hyphens=False)
        lines += [f"{(head or indent) if i == 0 else indent}{line}" for i, line in enumerate(wrapped)]
    return "\n".join(lines)


def _defaults():
    cfg = get_cfg_default()
    trainers.extend_cfg(cfg)
    return cfg


def _told(key):
    if key.unread:
        return key.meaning or "Dassl's; nothing here reads it"
    shown = [*key.readers[:SHOWN], *([f"{len(key.readers) - SHOWN} more"] if len(key.readers) > SHOWN else [])]
    return f"{key.meaning} [{', '.join(shown)}]" if shown else key.meaning


def _sections():
    """{block: its trainers}."""
    found = {}
    for name in TRAINER_REGISTRY.registered_names():
        found.setdefault(section_of(name), []).append(TRAINER_REGISTRY.get(name))
    return found


def _by_form(key):
    """What the forms of its method say of a key that is None by default."""
    kinds = _sections().get(key.section, [])
    forms = next((kind.forms for kind in kinds if getattr(kind, "forms", None)), {})
    name = key.name.rpartition(".")[2]
    said = [f"FORM {form}: {_value(values[name])}" for form, values in forms.items() if name in values]
    return f" ({', '.join(said)})" if key.default is None and said else ""


def _value(value):
    """A value as the meaning of a key tells it; of a long list its length."""
    return f"{len(value)} of them" if isinstance(value, list | tuple) and len(value) > 10 else repr(value)


def _files():
    """{path in the project: text}."""
    paths = [path for folder in FOLDERS for path in sorted((mocoop.HOME / folder).rglob("*.py"))]
    named = {path.relative_to(mocoop.HOME).as_posix(): path for path in [*paths, mocoop.HOME / "train.py"]}
    return {name: path.read_text(encoding="utf-8") for name, path in named.items() if not name.startswith(NO_READERS)}


def _readers_of_own(key):
    """The modules of a block's trainers that name the key's last word, with what these are made of."""
    modules = dict.fromkeys(m for kind in _sections().get(key.section, []) for m in _modules(kind))
    word = key.name.rpartition(".")[2]
    return [_place(module) for module in modules if word in last_words(source_of(module))]


@functools.cache
def _modules(kind: type) -> list[str]:
    """The modules of a class, its bases and what they import of the methods' shared code; none of dassl's."""
    found = [base.__module__ for base in kind.__mro__ if base.__module__.partition(".")[0] not in ("builtins", "dassl")]
    found = [module for module in dict.fromkeys(found) if not module.startswith("torch")]
    for module in found:  # which grows
        there = vars(sys.modules[module]).values() if module in sys.modules else ()  # a class may say any name
        used = [getattr(value, "__module__", None) or "" for value in there]
        found += dict.fromkeys(name for name in used if name.startswith("prompting.") and name not in found)
    return found


def _place(module):
    """A module's file in the project; of others, its name."""
    path = Path(getattr(sys.modules.get(module), "__file__", None) or module)
    return path.relative_to(mocoop.HOME).as_posix() if path.is_relative_to(mocoop.HOME) else module

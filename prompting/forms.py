"""The forms of a method: where its paper and its release differ, one word in a config chooses for all of its keys.

A trainer that has several says `forms`, {form: {key: value}}, and cfg.TRAINER.<section> has the keys FORM, one of them,
and each key that forms differ in, None by default: "as FORM says". A key that is given holds in any form, so that a
form can be taken apart; what makes no sense together the trainer's `check_cfg` refuses. Where runs of before there were
forms are to be used as they were trained, `earlier_form` says which one that was.
"""

import logging
from collections.abc import Mapping
from typing import Any

from yacs.config import CfgNode

from dassl.config import require
from dassl.utils import UserError

logger = logging.getLogger("dassl.trainers")

Forms = Mapping[str, Mapping[str, Any]]

KINDS: dict[type, tuple[Any, str]] = {
    int: (int, "a whole number"),
    float: (int | float, "a number"),
    tuple: (list | tuple, "a list"),
}
"""What stands in for a form's value of a type; a key that is None by default would take anything."""


def with_form(cfg: CfgNode, section: str, forms: Forms) -> CfgNode:
    """cfg.TRAINER.<section> with what its FORM says for the keys that are None; a copy, cfg itself without forms.

    Raises:
        UserError: FORM is none of the forms, or a given key is not of its kind.
    """
    options = cfg.TRAINER[section]
    if not forms:
        return options
    require(cfg, f"TRAINER.{section}.FORM", one_of=tuple(forms))
    options, form = options.clone(), forms[options.FORM]
    options.defrost()
    own = {key: options[key] for key in form if options[key] is not None}
    for key, value in form.items():
        options[key] = own.get(key, value)
        kind, words = KINDS.get(type(value), (object, ""))
        if not isinstance(options[key], kind):
            raise UserError(f"TRAINER.{section}.{key} is {options[key]!r}: give {words}")
    options.freeze()
    told = [f"{key} {value}" + (" (given)" if key in own else "") for key, value in ((k, options[k]) for k in form)]
    logger.info("Form %s", f"{options.FORM}: {', '.join(told)}" if told else options.FORM)
    return options

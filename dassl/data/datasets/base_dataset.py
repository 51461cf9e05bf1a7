"""One image with its label, and the train, val and test lists that make a dataset."""

import logging
import random
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from dassl.utils import UserError, nearest

logger = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class Datum:
    """One image. Subclass it to carry more.

    Attributes:
        impath: the image file.
        label: the class, from 0.
        domain: the domain, from 0.
        classname: the class name.
    """

    impath: str = ""
    label: int = 0
    domain: int = 0
    classname: str = ""

    # Pickled as by Dassl: lists of few-shot images that CoOp's code left beside the data go either way

    def __getstate__(self) -> dict:
        own = {PICKLED.get(name, name): getattr(self, name) for name in self.__match_args__}
        return getattr(self, "__dict__", {}) | own

    def __setstate__(self, state: Any) -> None:
        if isinstance(state, tuple):  # python's own way with slots, in which earlier versions were pickled
            state = (state[0] or {}) | state[1]
        for name, value in state.items():
            setattr(self, UNPICKLED.get(name, name), value)


PICKLED = {"impath": "_impath", "label": "_label", "domain": "_domain", "classname": "_classname"}
UNPICKLED = {pickled: name for name, pickled in PICKLED.items()}
"""What a Datum's attributes are called in a pickle, and what those of a pickle are called here."""


class DatasetBase:
    """Lists of Datum.

    Attributes:
        dataset_dir: the dataset's folder.
        root_is_data: whether DATASET.ROOT is the data itself, and not a folder of data sets.
        domains: the names of all domains.
        train_x, train_u, val, test: labelled and unlabelled training data, validation and test data;
            lists of Datum, or None.
        num_classes: the largest label of train_x, plus one; of test where there is nothing to train on.
        lab2cname: label -> class name, likewise.
        classnames: the class names in the order of their labels.
    """

    dataset_dir = ""
    root_is_data = False
    domains: Sequence[str] = []

    def __init__(
        self,
        train_x: Sequence[Datum] | None = None,
        train_u: Sequence[Datum] | None = None,
        val: Sequence[Datum] | None = None,
        test: Sequence[Datum] | None = None,
    ) -> None:
        self._train_x = train_x
        self._train_u = train_u
        self._val = val
        self._test = test
        labelled = train_x or test or ()
        self._num_classes = self.get_num_classes(labelled)
        self._lab2cname, self._classnames = self.get_lab2cname(labelled)

    @property
    def train_x(self) -> Any:
        return self._train_x

    @property
    def train_u(self) -> Any:
        return self._train_u

    @property
    def val(self) -> Any:
        return self._val

    @property
    def test(self) -> Any:
        return self._test

    @property
    def lab2cname(self) -> dict[int, str]:
        return self._lab2cname

    @property
    def classnames(self) -> list[str]:
        return self._classnames

    @property
    def num_classes(self) -> int:
        return self._num_classes

    def classes(self) -> dict[str, Any]:
        """What a model is built for, images aside: a dict for JSON, {attribute of the dataset: its value}."""
        return {"classnames": self.classnames}

    @staticmethod
    def get_num_classes(data_source: Iterable[Datum]) -> int:
        """The number of classes in a list of Datum."""
        return max(item.label for item in data_source) + 1

    @staticmethod
    def get_lab2cname(data_source: Iterable[Datum]) -> tuple[dict[int, str], list[str]]:
        """The dict label -> class name, and the class names in the order of their labels."""
        mapping = dict(sorted({(item.label, item.classname) for item in data_source}))
        return mapping, list(mapping.values())

    def check_input_domains(self, source_domains: Iterable[str], target_domains: Iterable[str]) -> None:
        """Raises UserError where a domain is not one of the dataset's."""
        for domain in [*source_domains, *target_domains]:
            if domain not in self.domains:
                name = type(self).__name__
                raise UserError(f'{name} has no domain "{domain}": {nearest(domain, self.domains)}')

    def generate_fewshot_dataset(
        self,
        *data_sources: Sequence[Datum],
        num_shots: int = -1,
        repeat: bool = False,
        rng: random.Random | ModuleType = random,
    ) -> Any:
        """Draw the same number of images of every class.

        Args:
            data_sources: lists of Datum, sampled one after the other.
            num_shots: images per class; below 1, the lists come back as they are.
            repeat: draw with replacement from a class that has fewer; otherwise it is taken whole.
            rng: what draws, the module `random` or a random.Random.

        Returns:
            The few-shot list; several lists if several were given. Classes come in the order in which
            they first appear.
        """
        if num_shots < 1:
            output = list(data_sources)
        else:
            logger.info("Creating a %d-shot dataset", num_shots)
            output = [self._draw(source, num_shots, repeat, rng) for source in data_sources]
        return output[0] if len(output) == 1 else output

    def _draw(self, data_source, num_shots, repeat, rng):
        drawn = []
        for items in self.split_dataset_by_label(data_source).values():
            if len(items) >= num_shots:
                drawn += rng.sample(items, num_shots)
            else:
                drawn += rng.choices(items, k=num_shots) if repeat else items
        return drawn

    def split_dataset_by_label(self, data_source: Iterable[Datum]) -> dict[int, list[Datum]]:
        """A dict label -> its items, both in the order of the list."""
        return _split_by(data_source, "label")

    def split_dataset_by_domain(self, data_source: Iterable[Datum]) -> dict[int, list[Datum]]:
        """A dict domain -> its items, both in the order of the list."""
        return _split_by(data_source, "domain")


def _split_by(data_source, attribute):
    groups = defaultdict(list)
    for item in data_source:
        groups[getattr(item, attribute)].append(item)
    return groups

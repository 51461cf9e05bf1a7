"""The loaders of a run: which images, in which order, through which transform, in which batches.

An epoch of training data depends on the run's seed and the number of the epoch alone (see dassl.data.seeding): not on
the method, the number of worker processes or the epochs that the loader gave before.
"""

import logging
import os
from collections.abc import Callable, Sequence
from typing import Any

import torch
from tabulate import tabulate
from torch.utils.data import DataLoader, Dataset, SequentialSampler
from torchvision.transforms import v2
from yacs.config import CfgNode

from dassl.data.datasets import Datum, build_dataset
from dassl.data.decoded_images import DecodedImages
from dassl.data.samplers import Shares, build_sampler
from dassl.data.seeding import Seeded, SeededSampler, seed_of, seeded_items
from dassl.data.transforms import build_transform
from dassl.data.transforms.transforms import interpolation_mode, normalize, to_tensor
from dassl.signals import outlast_term
from dassl.utils import UserError, processes, read_image

logger = logging.getLogger(__name__)


class DatasetWrapper(Dataset):
    """A list of Datum as images: item i is a dict of label, domain, impath, index and img.

    Args:
        cfg: the config.
        data_source: a list of Datum.
        transform: of a PIL image; None leaves it as it is. A list or tuple gives img, img2, img3, ...
        is_train: with DATALOADER.K_TRANSFORMS above 1, each img is a list of that many versions.

    With DATALOADER.RETURN_IMG0 there is img0 too, the image resized without augmentation. A few-shot training
    set is decoded once, by `decode`, and kept in memory as far as DATALOADER.CACHE_GB allows.
    """

    def __init__(
        self, cfg: CfgNode, data_source: Sequence[Datum], transform: Any = None, is_train: bool = False
    ) -> None:
        self.cfg = cfg
        self.data_source = data_source
        self.transform = transform
        self.is_train = is_train
        self.k_tfm = cfg.DATALOADER.K_TRANSFORMS if is_train else 1
        self.return_img0 = cfg.DATALOADER.RETURN_IMG0
        if self.k_tfm > 1 and transform is None:
            raise UserError(f"DATALOADER.K_TRANSFORMS is {self.k_tfm}, but there is no transform to apply")
        resize = v2.Resize(tuple(cfg.INPUT.SIZE), interpolation=interpolation_mode(cfg))
        norm = [normalize(cfg.INPUT)] if "normalize" in cfg.INPUT.TRANSFORMS else []
        self.to_tensor = v2.Compose([resize, *to_tensor(), *norm])
        self.read: Callable[[str], Any] = read_image

    def __len__(self):
        return len(self.data_source)

    def __getitem__(self, idx):
        item = self.data_source[idx]
        output = {"label": item.label, "domain": item.domain, "impath": item.impath, "index": int(idx)}
        img0 = self.read(item.impath)
        transforms = self.transform if isinstance(self.transform, list | tuple) else [self.transform]
        for number, transform in enumerate(transforms, start=1):
            key = "img" if number == 1 else f"img{number}"
            output[key] = img0 if transform is None else self._transform_image(transform, img0)
        if self.return_img0:
            output["img0"] = self.to_tensor(img0)
        return output

    def __getitems__(self, indices):
        """A batch of items, as the loader asks for it, each made on its own seed if it has one."""
        return seeded_items(self, indices)

    def _transform_image(self, transform, img0):
        images = [transform(img0) for _ in range(self.k_tfm)]
        return images[0] if len(images) == 1 else images

    def decode(self, shared: bool) -> None:
        """Decode a few-shot training set, if this is one and not decoded yet.

        Args:
            shared: put it where worker processes can use it.
        """
        few_shots = self.is_train and self.cfg.DATASET.NUM_SHOTS >= 1
        budget = self.cfg.DATALOADER.CACHE_GB
        if few_shots and budget > 0 and self.read is read_image:
            self.read = DecodedImages([item.impath for item in self.data_source], budget, shared).read


class _Loader(DataLoader):
    """Has a few-shot training set decoded when its first epoch begins, before there are worker processes."""

    def set_epoch(self, epoch: int) -> None:
        """Say which epoch comes, counted from 0; for a loader of training data."""
        sampler = getattr(self.batch_sampler, "sampler", None)
        if isinstance(sampler, SeededSampler):
            sampler.set_epoch(epoch)

    def __iter__(self):
        if isinstance(self.dataset, DatasetWrapper):
            self.dataset.decode(shared=self.num_workers > 0)
        try:
            yield from super().__iter__()
        except UserError as error:
            # The error and torch's frames refer to each other. Left to the garbage collector, such a circle
            # has the program wait 5 seconds for every worker at its end.
            raise error.with_traceback(None) from None


def build_data_loader(
    cfg: CfgNode,
    sampler_type: str = "SequentialSampler",
    data_source: Sequence[Datum] | None = None,
    batch_size: int = 64,
    n_domain: int = 0,
    n_ins: int = 2,
    tfm: Any = None,
    is_train: bool = True,
    dataset_wrapper: Callable[..., Dataset] | None = None,
    drop_last: bool = True,
    seed: int | None = None,
) -> DataLoader:
    """A DataLoader over a list of Datum.

    Args:
        cfg: the config.
        sampler_type: see dassl.data.samplers.
        data_source: a list of Datum.
        batch_size: images in a batch.
        n_domain: for domain samplers, domains in a batch.
        n_ins: for class samplers, images of a class in a batch.
        tfm: the transform.
        is_train: whether the images are for training.
        dataset_wrapper: a class to take the place of DatasetWrapper, with its signature.
        drop_last: in training a last, smaller batch is dropped if it is not the only one.
        seed: in training, of order and views, negative: none; None: cfg.SEED.

    Raises:
        UserError: there are no images, or cfg.DATALOADER does not suit them.
    """
    if not data_source:
        raise UserError(f"{cfg.DATASET.NAME} has no images to {'train on' if is_train else 'test on'}")
    sampler = build_sampler(
        sampler_type, cfg=cfg, data_source=data_source, batch_size=batch_size, n_domain=n_domain, n_ins=n_ins
    )
    if is_train:
        sampler = SeededSampler(sampler, cfg.SEED if seed is None else seed, cfg.INPUT.VIEWS)
    drop_last = drop_last and is_train and len(data_source) >= batch_size
    batches: dict[str, Any] = {"batch_size": batch_size, "sampler": sampler, "drop_last": drop_last}
    num_workers = min(cfg.DATALOADER.NUM_WORKERS, os.cpu_count() or 1)
    dataset = (dataset_wrapper or DatasetWrapper)(cfg, data_source, transform=tfm, is_train=is_train)
    if is_train and not hasattr(dataset, "__getitems__"):
        dataset = Seeded(dataset)
    try:
        if is_train and processes.count() > 1:
            batches = {"batch_sampler": Shares(sampler, batch_size, drop_last)}
        return _Loader(
            dataset,
            **batches,
            num_workers=num_workers,
            persistent_workers=num_workers > 0,
            pin_memory=torch.cuda.is_available() and cfg.USE_CUDA,
            worker_init_fn=outlast_term,
            generator=torch.Generator(),  # starting workers must draw nothing from the global generator
        )
    except ValueError as error:
        raise UserError(f"cannot make a loader from cfg.DATALOADER: {error}") from error


def in_order(loader: DataLoader, batch_size: int) -> DataLoader | None:
    """The views of a loader of training data in the order of its data, all of them, without decoding anything twice.

    Returns:
        A loader with `set_epoch`; None where the loader's views do not follow from its seed.
    """
    sampler = getattr(loader.batch_sampler, "sampler", None)
    if not isinstance(sampler, SeededSampler) or sampler.seed < 0 or type(loader.dataset) is not DatasetWrapper:
        return None
    return _Loader(
        loader.dataset,
        batch_size=batch_size,
        sampler=SeededSampler(SequentialSampler(loader.dataset), sampler.seed, sampler.views),
        num_workers=loader.num_workers,
        persistent_workers=loader.persistent_workers,
        pin_memory=loader.pin_memory,
        worker_init_fn=outlast_term,
        generator=torch.Generator(),
    )


class DataManager:
    """A dataset and its loaders.

    Args:
        cfg: the config.
        custom_tfm_train: a transform (or several, see DatasetWrapper) instead of the config's.
        custom_tfm_test: likewise, for validation and test images.
        dataset_wrapper: see build_data_loader.
        dataset: a DatasetBase that has been read; default: the one that the config names.

    Attributes:
        dataset: a DatasetBase.
        test_loader: a loader.
        train_loader_x, train_loader_u, val_loader: loaders, or None where the dataset has no such images.
        num_classes, num_source_domains: numbers.
        lab2cname: label -> class name.
    """

    def __init__(
        self,
        cfg: CfgNode,
        custom_tfm_train: Any = None,
        custom_tfm_test: Any = None,
        dataset_wrapper: Callable[..., Dataset] | None = None,
        dataset: Any = None,  # it may know more than a DatasetBase
    ) -> None:
        dataset = build_dataset(cfg) if dataset is None else dataset
        tfm_train = build_transform(cfg, is_train=True) if custom_tfm_train is None else custom_tfm_train
        tfm_test = build_transform(cfg, is_train=False) if custom_tfm_test is None else custom_tfm_test

        def train_loader(data_source, options, seed=cfg.SEED):
            return build_data_loader(
                cfg,
                sampler_type=options.SAMPLER,
                data_source=data_source,
                batch_size=options.BATCH_SIZE,
                n_domain=options.N_DOMAIN,
                n_ins=options.N_INS,
                tfm=tfm_train,
                is_train=True,
                dataset_wrapper=dataset_wrapper,
                drop_last=options.DROP_LAST,
                seed=seed,
            )

        def test_loader(data_source):
            return build_data_loader(
                cfg,
                sampler_type=cfg.DATALOADER.TEST.SAMPLER,
                data_source=data_source,
                batch_size=cfg.DATALOADER.TEST.BATCH_SIZE,
                tfm=tfm_test,
                is_train=False,
                dataset_wrapper=dataset_wrapper,
            )

        options_x, options_u = cfg.DATALOADER.TRAIN_X, cfg.DATALOADER.TRAIN_U
        if options_u.SAME_AS_X:
            options_u = options_x
        # of its own, or images that are in both would come side by side, in the same views
        seed_u = seed_of("train_u", cfg.SEED) if cfg.SEED >= 0 else cfg.SEED
        self.train_loader_x = train_loader(dataset.train_x, options_x) if dataset.train_x else None
        self.train_loader_u = train_loader(dataset.train_u, options_u, seed_u) if dataset.train_u else None
        self.val_loader = test_loader(dataset.val) if dataset.val else None
        self.test_loader = test_loader(dataset.test)
        self.dataset = dataset
        self._num_source_domains = len(cfg.DATASET.SOURCE_DOMAINS)
        if cfg.VERBOSE:
            self.show_dataset_summary(cfg)

    @property
    def num_classes(self) -> int:
        return self.dataset.num_classes

    @property
    def num_source_domains(self) -> int:
        return self._num_source_domains

    @property
    def lab2cname(self) -> dict[int, str]:
        return self.dataset.lab2cname

    def show_dataset_summary(self, cfg: CfgNode) -> None:
        """Log a table of the dataset's name and sizes."""
        table = [
            ("Dataset", cfg.DATASET.NAME),
            ("Source", ", ".join(cfg.DATASET.SOURCE_DOMAINS)),
            ("Target", ", ".join(cfg.DATASET.TARGET_DOMAINS)),
            ("# classes", f"{self.num_classes:,}"),
        ]
        for part in ("train_x", "train_u", "val", "test"):
            items = getattr(self.dataset, part)
            table.append((f"# {part}", f"{len(items):,}" if items else ""))
        logger.info("%s", tabulate([row for row in table if row[1]], disable_numparse=True))

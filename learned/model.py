"""A run's model, ready to use: rebuilt from the run's folder, without its dataset, for its classes or others."""

import glob
import os
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch.utils.data import DataLoader
from yacs.config import CfgNode

import trainers
from dassl.config import get_cfg_default, merge_from_list
from dassl.data import build_data_loader
from dassl.data.datasets import Datum
from dassl.data.transforms import build_transform
from dassl.engine import TRAINER_REGISTRY, MisfitError, run_folder
from dassl.engine.trainer import SimpleTrainer
from dassl.evaluation.finite import check_finite
from dassl.layout import ANY_CHECKPOINT, CLASSES, CONFIG, METRICS
from dassl.utils import UserError, read_json, set_numerics
from datasets.compositional import pairs_by_name
from prompting.mixture import Mixture
from prompting.prompted_clip import PromptedCLIP
from trainers.base import PromptTrainer


class TrainedModel:
    """What a run has learned, as a classifier of images.

    Args:
        trainer: a trainer with its weights loaded, built for these classes.
        classnames: N class names.

    Attributes:
        trainer, classnames: as given.
        transform: an RGB PIL image -> (3, H, W) tensor, as in the run's own test.
        text_features: what the model's encode_text gives; None for trainers with an inference of their own.
    """

    trainer: Any
    text_features: Any

    def __init__(self, trainer: SimpleTrainer, classnames: list[str]) -> None:
        trainer.set_model_mode("eval")
        self.trainer, self.classnames = trainer, classnames
        self.transform = build_transform(trainer.cfg, is_train=False)
        self._answers = isinstance(trainer, PromptTrainer)  # for itself: its hooks are there
        self._plain = self._answers and self.trainer.plain_inference
        with torch.no_grad():
            self.text_features = trainer.model.encode_text() if self._plain else None
            self._encode_image: Any = trainer.model.image_encoding() if self._plain else None

    @torch.no_grad()
    def logits(self, images: torch.Tensor) -> torch.Tensor:
        """(B, 3, H, W) transformed images -> (B, N)."""
        images = images.to(self.trainer.device)
        if self._plain:
            features = self.trainer.model.prepare(self._encode_image(images))
            return self.trainer.model.logits(features, self.text_features)
        return self.trainer.model_inference(images)

    def probabilities(self, images: torch.Tensor) -> torch.Tensor:
        """(B, 3, H, W) transformed images -> (B, N), on the CPU.

        They sum to 1, but for a CLIP trained with a sigmoid that nothing was learned on: its answers are each class's
        own. What is learned by cross-entropy knows classes beside each other only.

        Raises:
            UserError: the best logit of an image is infinite or NaN.
        """
        logits = self.logits(images).float()
        check_finite(logits.amax(dim=1).isfinite().cpu(), "images")
        sigmoid = self._plain and self.trainer.model.logit_bias is not None and not self.trainer.has_weights()
        return (logits.sigmoid() if sigmoid else logits.softmax(dim=-1)).cpu()

    def loader(self, items: list[Datum]) -> DataLoader:
        """A loader of images under the run's test transform, in their order, as the run's test takes them."""
        cfg = self.trainer.cfg
        size = cfg.DATALOADER.TEST.BATCH_SIZE
        return build_data_loader(cfg, data_source=items, batch_size=size, tfm=self.transform, is_train=False)

    @torch.no_grad()
    def predicted(self, loader: DataLoader) -> torch.Tensor:
        """(n,) the class given to each image of a loader, on the CPU. Raises UserError as `probabilities` does."""
        self.trainer.set_model_mode("eval")
        batches = (self.trainer.predict_classes if self._answers else self.trainer.predict)(loader)
        found = [(logits.argmax(dim=1), logits.amax(dim=1).isfinite()) for logits, _ in batches]
        predicted, finite = (torch.cat(parts).cpu() for parts in zip(*found, strict=True))
        check_finite(finite, "images", lambda i: self.classnames[predicted[i]])
        return predicted

    def mixture(self) -> Mixture | None:
        """What the answers of the images last `predicted` are made of; None where the method mixes no parts."""
        return self.trainer.mixture() if self._answers else None

    def vectors_among_words(self) -> list[tuple[str, torch.Tensor]]:
        """(label, (d,) vector) of each that is learned in the space of token embeddings."""
        return self.trainer.vectors_among_words() if self._answers else []

    def classifier(self) -> dict[str, torch.Tensor]:
        """text_features (N, e), normalised, and CLIP's logit_scale, float32 on the CPU; their product with CLIP's own
        normalised image features are the logits. With it logit_bias, to be added, where the backbone has one.

        Raises:
            UserError: the logits are more than that, or not finite.
        """
        cfg = self.trainer.cfg
        model: Any = getattr(self.trainer, "model", None)

        def overrides(*names: str) -> bool:
            return any(getattr(type(model), name) is not getattr(PromptedCLIP, name) for name in names)

        if not self._plain or overrides("logits", "prepare", "forward"):
            raise UserError(f"{cfg.TRAINER.NAME} does not score images by one text feature per class: use predict.py")
        if overrides("encode_image") or not self.trainer.frozen_image_encoder:
            raise UserError(f"this run of {cfg.TRAINER.NAME} has changed CLIP's image encoder: use predict.py")
        parts = {"text_features": self.text_features, "logit_scale": model.logit_scale, "logit_bias": model.logit_bias}
        classifier = {name: part.float().cpu().contiguous() for name, part in parts.items() if part is not None}
        scaled = classifier["text_features"] * classifier["logit_scale"] + classifier.get("logit_bias", 0)
        check_finite(scaled.isfinite().all(dim=1), "classes", self.classnames.__getitem__)
        return classifier


def load_run(
    model_dir: str | Path,
    classnames: Sequence[str] | None = None,
    device: str | None = None,
    epoch: int | None = None,
) -> TrainedModel:
    """The TrainedModel of a run.

    A run that only evaluated another one's weights is built with those. torch's flags are set as in the run itself.

    Args:
        model_dir: the run's folder.
        classnames: names of other classes. They reach the model by name alone, as new classes do in base-to-new.
        device: "cpu" or "cuda"; None: as the run's config says.
        epoch: of the weights; None: the best on val, else the last.

    Raises:
        UserError: there is no run, or no weights, in the folder; it does not tell its classes and none are given; or
            they are other ones and the weights hold something of every class (class-specific context, a probe), but
            nothing of one of these.
    """
    cfg = read_cfg(model_dir)
    if device is not None:
        if device == "cuda" and not torch.cuda.is_available():
            raise UserError("there is no GPU for --device cuda: leave it out, or give cpu")
        cfg.USE_CUDA = device == "cuda"
    set_numerics(cfg)
    classes: Any = run_folder.read_classes(model_dir)
    if classes is None and classnames is None:
        raise UserError(
            f"{model_dir} does not list its classes (no {CLASSES}: an earlier version's run): give them in the order "
            "of the labels with --classnames, or repeat the run's train.py command, which writes the file"
        )
    names = classes["classnames"] if classnames is None else list(classnames)
    untold, classes = classes is None, classes or {"classnames": names}
    changed, n_own = names != classes["classnames"], len(classes["classnames"])
    if changed:
        kept = ("attributes", "objects", "spelling", "dropped")
        words = {key: classes[key] for key in kept if key in classes}
        classes = words | {"num_seen": 0} if words else {}
    weights, epoch = _weights(model_dir, epoch)
    if weights is not None:
        cfg.MODEL.INIT_WEIGHTS = ""  # what it gave is in the weights, and the file may be gone
    trainer = build_for(cfg, classes | {"classnames": names})
    if untold:
        trainer.told_classes = names
    if trainer.has_weights():
        if weights is None and not cfg.MODEL.INIT_WEIGHTS:
            raise UserError(f"no weights in {model_dir}: did the run finish its first epoch?")
        try:
            trainer.check_weights(weights, epoch=epoch)
            trainer.load_model(weights, epoch=epoch)
        except OSError as error:  # of a trainer from elsewhere, like the RuntimeError
            raise UserError(error) from error
        except (MisfitError, RuntimeError) as error:
            if not changed:
                raise UserError(error) from error
            raise UserError(
                f"{model_dir} knows only its own {n_own} classes, as its weights hold values for each: leave out "
                "--classnames"
            ) from error
    return TrainedModel(trainer, names)


def read_cfg(model_dir: str | Path) -> CfgNode:
    """A run's config. Blocks of trainers that are not there (any more) are passed over."""
    cfg = get_cfg_default()
    trainers.extend_cfg(cfg)
    words: list[Any] = []
    for name in TRAINER_REGISTRY.registered_names():
        kind = TRAINER_REGISTRY.get(name)
        if earlier := getattr(kind, "earlier_form", ""):
            words += [f"TRAINER.{kind.section}.FORM", earlier]  # unless the config says it
    for key, value in run_folder.read_config(model_dir).items():
        block, *rest = key.split(".")[:2]
        if block != "TRAINER" or (rest and rest[0] in cfg.TRAINER):
            words += [key, value]
    merge_from_list(cfg, words, source=os.path.join(model_dir, CONFIG))
    return cfg


def is_mixture(trainer: str) -> bool:
    """Whether the trainer of a name says of its runs what their answers are made of; False for an unknown one."""
    known = trainer in TRAINER_REGISTRY.registered_names()
    return known and getattr(TRAINER_REGISTRY.get(trainer), "is_mixture", False)


def build_for(cfg: CfgNode, classes: dict[str, Any]) -> SimpleTrainer:
    """The trainer that a config names, built for classes without any image of them; it evaluates, but cannot train.

    Args:
        classes: what `DatasetBase.classes` gave; "pairs" may be missing, they are then told by the class names.
    """
    dataset: Any = _Classes(classes)
    method: Any = TRAINER_REGISTRY.get(cfg.TRAINER.NAME)

    class Trainer(method):
        def build_data_loader(self) -> None:
            self.dm = SimpleNamespace(dataset=dataset)
            self.train_loader_x = self.train_loader_u = self.val_loader = self.test_loader = None
            self.num_classes, self.num_source_domains = len(dataset.classnames), 0
            self.lab2cname = dict(enumerate(dataset.classnames))

        def build_evaluator(self) -> None:
            """None: evaluators may ask for more than the classes."""

    return Trainer(cfg)


class _Classes:
    """Stands in for a dataset."""

    def __init__(self, classes):
        vars(self).update(classes)

    @cached_property
    def pairs(self):
        return pairs_by_name(self.classnames, self.attributes, self.objects)


def _weights(model_dir, epoch):
    """(folder, epoch) of a run's weights: its own, else those that it evaluated; (None, epoch) where it has none."""
    if glob.glob(os.path.join(glob.escape(str(model_dir)), "*", ANY_CHECKPOINT)):
        return model_dir, epoch
    metrics = os.path.join(model_dir, METRICS)
    loaded = read_json(metrics).get("loaded_from") if os.path.isfile(metrics) else None
    if not loaded:
        return None, epoch
    return loaded["model_dir"], loaded["load_epoch"] if epoch is None else epoch


def parse_classnames(text: str) -> list[str]:
    """Class names as an argument gives them: a file with a name a line, or names between commas.

    Raises:
        UserError: there is no such file, no name, or one twice.
    """
    path = os.path.expanduser(text)
    if os.path.isfile(path):
        try:
            with open(path, encoding="utf-8") as file:
                names = file.read().splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(
                f"cannot read the class names {text}: {getattr(error, 'strerror', None) or error}"
            ) from error
    elif "," not in text and (os.sep in text or text.endswith(".txt")):
        raise UserError(f"no file {text} to read class names from (--classnames)")
    else:
        names = text.split(",")
    names = [name.strip() for name in names if name.strip()]
    repeated = next((name for i, name in enumerate(names) if name in names[:i]), None)
    if repeated or not names:
        raise UserError(f'--classnames gives "{repeated}" twice' if repeated else "--classnames gives no class name")
    return names

"""A plain classifier: a torchvision backbone, an optional MLP head, a linear layer."""

from typing import Any

import torch
import torchvision
from torch import nn
from yacs.config import CfgNode

from dassl.utils import UserError, nearest

ACTIVATIONS = {"relu": nn.ReLU, "leaky_relu": nn.LeakyReLU, "elu": nn.ELU, "gelu": nn.GELU, "tanh": nn.Tanh}


class SimpleNet(nn.Module):
    """(B, 3, H, W) images -> (B, num_classes) logits, or features where num_classes is 0.

    Args:
        cfg: the whole config.
        model_cfg: cfg.MODEL: BACKBONE.NAME is a name in torchvision.models, BACKBONE.PRETRAINED takes its default
            weights; HEAD.NAME "mlp" adds HEAD.HIDDEN_LAYERS.
        num_classes: how many classes; 0 leaves the classifier out.

    Raises:
        UserError: a backbone, head or activation of an unknown name.
    """

    def __init__(self, cfg: CfgNode, model_cfg: CfgNode, num_classes: int, **kwargs: Any) -> None:
        super().__init__()
        self.backbone, self._fdim = _backbone(model_cfg.BACKBONE.NAME, model_cfg.BACKBONE.PRETRAINED, **kwargs)
        self.head = None
        if model_cfg.HEAD.NAME and model_cfg.HEAD.HIDDEN_LAYERS:
            self.head = _mlp(self._fdim, model_cfg.HEAD)
            self._fdim = model_cfg.HEAD.HIDDEN_LAYERS[-1]
        self.classifier = nn.Linear(self._fdim, num_classes) if num_classes > 0 else None

    @property
    def fdim(self) -> int:
        """The length of the feature vector before the classifier."""
        return self._fdim

    def forward(self, x: torch.Tensor, return_feature: bool = False) -> Any:
        features = self.backbone(x)
        if self.head is not None:
            features = self.head(features)
        if self.classifier is None:
            return features
        logits = self.classifier(features)
        return (logits, features) if return_feature else logits


def _backbone(name, pretrained, **kwargs):
    """A torchvision classifier without its last layer, and the length of its features."""
    known = torchvision.models.list_models(module=torchvision.models)
    if name not in known:
        raise UserError(f'unknown torchvision backbone "{name}" (MODEL.BACKBONE.NAME): {nearest(name, known)}')
    try:
        model = torchvision.models.get_model(name, weights="DEFAULT" if pretrained else None, **kwargs)
    except OSError as error:
        raise UserError(
            f"cannot download the weights of {name} ({error}): set MODEL.BACKBONE.PRETRAINED False"
        ) from error
    linears = [(n, m) for n, m in model.named_modules() if isinstance(m, nn.Linear)]
    if not linears:
        raise UserError(f'the torchvision backbone "{name}" does not end in a linear layer: choose another')
    last, linear = linears[-1]
    owner, _, attribute = last.rpartition(".")
    setattr(model.get_submodule(owner), attribute, nn.Identity())
    return model, linear.in_features


def _mlp(in_features, head_cfg):
    if head_cfg.NAME != "mlp":
        raise UserError(f'unknown head "{head_cfg.NAME}" (MODEL.HEAD.NAME): {nearest(head_cfg.NAME, ["mlp"])}')
    if head_cfg.ACTIVATION not in ACTIVATIONS:
        hint = nearest(head_cfg.ACTIVATION, ACTIVATIONS)
        raise UserError(f'unknown activation "{head_cfg.ACTIVATION}" (MODEL.HEAD.ACTIVATION): {hint}')
    layers = []
    for width in head_cfg.HIDDEN_LAYERS:
        layers.append(nn.Linear(in_features, width))
        if head_cfg.BN:
            layers.append(nn.BatchNorm1d(width))
        layers.append(ACTIVATIONS[head_cfg.ACTIVATION]())
        if head_cfg.DROPOUT > 0:
            layers.append(nn.Dropout(head_cfg.DROPOUT))
        in_features = width
    return nn.Sequential(*layers)

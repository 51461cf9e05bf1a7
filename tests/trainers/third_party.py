"""A trainer as people write them against CoOp and Dassl: it knows nothing of this project but `dassl` and `clip`.

It learns one vector that is added to all image features. test_plugins.py runs it unmodified.
"""

import os.path as osp

import torch
import torch.nn as nn
from clip import clip
from torch.nn import functional as F
from yacs.config import CfgNode as CN

from dassl.engine import TRAINER_REGISTRY, TrainerX
from dassl.metrics import compute_accuracy
from dassl.optim import build_lr_scheduler, build_optimizer
from dassl.utils import load_checkpoint, load_pretrained_weights


def extend_cfg(cfg):
    cfg.TRAINER.SHIFTER = CN()
    cfg.TRAINER.SHIFTER.SCALE = 1.0


class Shift(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.shift = nn.Parameter(torch.zeros(dim))

    def forward(self, x):
        return x + self.shift


class CustomCLIP(nn.Module):
    def __init__(self, cfg, classnames, clip_model):
        super().__init__()
        self.image_encoder = clip_model.visual
        self.logit_scale = clip_model.logit_scale
        self.adapter = Shift(clip_model.text_projection.shape[1])
        prompts = torch.cat([clip.tokenize(f"a photo of a {c.replace('_', ' ')}.") for c in classnames])
        with torch.no_grad():
            text = clip_model.encode_text(prompts)
        self.register_buffer("text", F.normalize(text, dim=-1), persistent=False)

    def forward(self, image):
        image_features = F.normalize(self.adapter(self.image_encoder(image)), dim=-1)
        return self.logit_scale.exp() * image_features @ self.text.t()


@TRAINER_REGISTRY.register()
class Shifter(TrainerX):
    def check_cfg(self, cfg):
        assert cfg.TRAINER.SHIFTER.SCALE > 0

    def build_model(self):
        cfg = self.cfg
        classnames = self.dm.dataset.classnames
        state_dict = torch.load(cfg.MODEL.BACKBONE.NAME, map_location="cpu")
        clip_model = clip.build_model(state_dict).float()
        self.model = CustomCLIP(cfg, classnames, clip_model)
        for name, param in self.model.named_parameters():
            if "adapter" not in name:
                param.requires_grad_(False)
        if cfg.MODEL.INIT_WEIGHTS:
            load_pretrained_weights(self.model.adapter, cfg.MODEL.INIT_WEIGHTS)
        self.model.to(self.device)
        self.optim = build_optimizer(self.model.adapter, cfg.OPTIM)
        self.sched = build_lr_scheduler(self.optim, cfg.OPTIM)
        self.register_model("adapter", self.model.adapter, self.optim, self.sched)

    def forward_backward(self, batch):
        image, label = self.parse_batch_train(batch)
        output = self.model(image)
        loss = F.cross_entropy(output, label)
        self.model_backward_and_update(loss)
        loss_summary = {"loss": loss.item(), "acc": compute_accuracy(output, label)[0].item()}
        if (self.batch_idx + 1) == self.num_batches:
            self.update_lr()
        return loss_summary

    def parse_batch_train(self, batch):
        return batch["img"].to(self.device), batch["label"].to(self.device)

    def load_model(self, directory, epoch=None):
        if not directory:
            return
        for name in self.get_model_names():
            model_file = "model-best.pth.tar" if epoch is None else f"model.pth.tar-{epoch}"
            model_path = osp.join(directory, name, model_file)
            if not osp.exists(model_path):
                raise FileNotFoundError(f'Model not found at "{model_path}"')
            checkpoint = load_checkpoint(model_path)
            print("Loading weights to {} (epoch = {})".format(name, checkpoint["epoch"]))
            self._models[name].load_state_dict(checkpoint["state_dict"], strict=False)

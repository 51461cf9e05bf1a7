"""Prompts in both towers, held close to what the frozen CLIP makes of the same images and names."""

import copy
import os.path as osp

import torch
import torch.nn as nn
from clip import clip
from torch.nn import functional as F

from dassl.engine import TRAINER_REGISTRY, TrainerX
from dassl.metrics import compute_accuracy
from dassl.optim import build_lr_scheduler, build_optimizer
from dassl.utils import load_checkpoint


class CustomCLIP(nn.Module):
    def __init__(self, cfg, classnames, clip_model, teacher):
        super().__init__()
        self.clip = clip_model
        n_ctx = cfg.TRAINER.TOWERS.N_CTX
        names = [name.replace("_", " ") for name in classnames]
        prompts = [" ".join(["X"] * n_ctx) + " " + name + "." for name in names]
        self.tokenized_prompts = clip.tokenize(prompts).to("cuda")
        self.ZS_image_encoder = copy.deepcopy(teacher.visual)
        with torch.no_grad():
            tokens = clip.tokenize([f"a photo of a {name}." for name in names]).cuda()
            fixed = teacher.encode_text(tokens)
        self.fixed_embeddings = fixed / fixed.norm(dim=-1, keepdim=True)

    def forward(self, image, label=None):
        logit_scale = self.clip.logit_scale.exp()
        text_features = self.clip.encode_text(self.tokenized_prompts)
        image_features = self.clip.encode_image(image)
        text_features = text_features / text_features.norm(dim=-1, keepdim=True)
        image_features = image_features / image_features.norm(dim=-1, keepdim=True)
        logits = logit_scale * image_features @ text_features.t()
        if label is None:
            return logits
        with torch.no_grad():
            zero_shot = self.ZS_image_encoder(image.type(self.clip.dtype))
            zero_shot = zero_shot / zero_shot.norm(dim=-1, keepdim=True)
        close = F.l1_loss(text_features, self.fixed_embeddings) + F.l1_loss(image_features, zero_shot)
        return logits, close


@TRAINER_REGISTRY.register()
class Towers(TrainerX):
    def build_model(self):
        cfg = self.cfg
        design = (cfg.TRAINER.TOWERS.N_CTX, cfg.TRAINER.TOWERS.DEPTH)
        device = torch.device("cuda")
        clip_model = clip.load(cfg.MODEL.BACKBONE.NAME, device=device, design=design)
        teacher = clip.load(cfg.MODEL.BACKBONE.NAME, device="cuda:0")
        if cfg.TRAINER.TOWERS.PREC == "fp32":
            clip_model.float()
            teacher.float()
        self.model = CustomCLIP(cfg, self.dm.dataset.classnames, clip_model, teacher)
        enabled = set()
        for name, param in self.model.named_parameters():
            param.requires_grad_("VPT" in name)
            if param.requires_grad:
                enabled.add(name)
        print(f"Parameters to be updated: {sorted(enabled)}")
        self.model.to(device)
        self.optim = build_optimizer(self.model, cfg.OPTIM)
        self.sched = build_lr_scheduler(self.optim, cfg.OPTIM)
        self.register_model("TowersLearner", self.model, self.optim, self.sched)
        if torch.cuda.device_count() > 1:
            self.model = nn.DataParallel(self.model)

    def forward_backward(self, batch):
        image, label = self.parse_batch_train(batch)
        logits, close = self.model(image, label)
        loss = F.cross_entropy(logits, label) + self.cfg.TRAINER.TOWERS.WEIGHT * close
        self.optim.zero_grad()
        loss.backward()
        self.optim.step()
        if (self.batch_idx + 1) == self.num_batches:
            self.update_lr()
        return {"loss": loss.item(), "acc": compute_accuracy(logits, label)[0].item()}

    def parse_batch_train(self, batch):
        return batch["img"].to(self.device), batch["label"].to(self.device)

    def load_model(self, directory, epoch=None):
        if not directory:
            print("Note that load_model() is skipped as no pretrained model is given")
            return
        model_file = "model-best.pth.tar" if epoch is None else "model.pth.tar-" + str(epoch)
        for name in self.get_model_names():
            model_path = osp.join(directory, name, model_file)
            if not osp.exists(model_path):
                raise FileNotFoundError(f'Model not found at "{model_path}"')
            checkpoint = load_checkpoint(model_path)
            state_dict = checkpoint["state_dict"]
            print("Loading weights to {} (epoch = {})".format(name, checkpoint["epoch"]))
            self._models[name].load_state_dict(state_dict, strict=False)

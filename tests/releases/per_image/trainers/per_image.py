"""Context vectors that a small network shifts for every image; `test` is the trainer's own."""

import os.path as osp
from collections import OrderedDict

import torch
import torch.nn as nn
from clip import clip
from torch.nn import functional as F
from tqdm import tqdm

from dassl.engine import TRAINER_REGISTRY, TrainerX
from dassl.optim import build_lr_scheduler, build_optimizer
from dassl.utils import load_checkpoint


def load_clip_to_cpu(cfg):
    backbone_name = cfg.MODEL.BACKBONE.NAME
    url = clip._MODELS[backbone_name]
    model_path = clip._download(url)
    try:
        # loading JIT archive
        model = torch.jit.load(model_path, map_location="cpu").eval()
        state_dict = None
    except RuntimeError:
        state_dict = torch.load(model_path, map_location="cpu")
    return clip.build_model(state_dict or model.state_dict())


class TextEncoder(nn.Module):
    def __init__(self, clip_model):
        super().__init__()
        self.clip = clip_model

    def forward(self, prompts, tokenized_prompts):
        x = prompts + self.clip.positional_embedding.type(self.clip.dtype)
        x = self.clip.transformer(x.permute(1, 0, 2)).permute(1, 0, 2)
        x = self.clip.ln_final(x).type(self.clip.dtype)
        return x[torch.arange(x.shape[0]), tokenized_prompts.argmax(dim=-1)] @ self.clip.text_projection


class PromptLearner(nn.Module):
    def __init__(self, cfg, classnames, clip_model):
        super().__init__()
        ctx_init = cfg.TRAINER.PERIMAGE.CTX_INIT.replace("_", " ")
        n_ctx = len(ctx_init.split(" "))
        dtype = clip_model.dtype
        vis_dim = clip_model.visual.output_dim
        with torch.no_grad():
            embedding = clip_model.token_embedding(clip.tokenize(ctx_init)).type(dtype)
        self.ctx = nn.Parameter(embedding[0, 1 : 1 + n_ctx, :])
        self.meta_net = nn.Sequential(
            OrderedDict(
                [
                    ("linear1", nn.Linear(vis_dim, vis_dim // 4)),
                    ("relu", nn.ReLU(inplace=True)),
                    ("linear2", nn.Linear(vis_dim // 4, self.ctx.shape[1])),
                ]
            )
        )
        if cfg.TRAINER.PERIMAGE.PREC == "fp16":
            self.meta_net.half()
        prompts = [ctx_init + " " + name.replace("_", " ") + "." for name in classnames]
        self.tokenized_prompts = torch.cat([clip.tokenize(p) for p in prompts]).cuda()
        with torch.no_grad():
            embedding = clip_model.token_embedding(self.tokenized_prompts.cpu()).type(dtype)
        self.register_buffer("token_prefix", embedding[:, :1, :])
        self.register_buffer("token_suffix", embedding[:, 1 + n_ctx :, :])

    def forward(self, im_features):
        ctx_shifted = self.ctx.unsqueeze(0) + self.meta_net(im_features).unsqueeze(1)  # (batch, n_ctx, ctx_dim)
        n_cls = len(self.token_prefix)
        return torch.stack(
            [
                torch.cat([self.token_prefix, ctx.unsqueeze(0).expand(n_cls, -1, -1), self.token_suffix], dim=1)
                for ctx in ctx_shifted
            ]
        )


class CustomCLIP(nn.Module):
    def __init__(self, cfg, classnames, clip_model):
        super().__init__()
        self.prompt_learner = PromptLearner(cfg, classnames, clip_model)
        self.image_encoder = clip_model.visual
        self.text_encoder = TextEncoder(clip_model)
        self.logit_scale = clip_model.logit_scale
        self.dtype = clip_model.dtype

    def forward(self, image, label=None):
        image_features = self.image_encoder(image.type(self.dtype))
        image_features = image_features / image_features.norm(dim=-1, keepdim=True)
        logits = []
        for pts_i, imf_i in zip(self.prompt_learner(image_features), image_features):  # noqa: B905
            text_features = self.text_encoder(pts_i, self.prompt_learner.tokenized_prompts)
            text_features = text_features / text_features.norm(dim=-1, keepdim=True)
            logits.append(self.logit_scale.exp() * imf_i @ text_features.t())
        logits = torch.stack(logits)
        return F.cross_entropy(logits, label) if self.prompt_learner.training else logits


@TRAINER_REGISTRY.register()
class PerImage(TrainerX):
    def build_model(self):
        cfg = self.cfg
        clip_model = load_clip_to_cpu(cfg)
        if cfg.TRAINER.PERIMAGE.PREC in ["fp32", "amp"]:
            clip_model.float()
        self.model = CustomCLIP(cfg, self.dm.dataset.classnames, clip_model)
        for name, param in self.model.named_parameters():
            param.requires_grad_("prompt_learner" in name)
        self.model.cuda()
        self.optim = build_optimizer(self.model.prompt_learner, cfg.OPTIM)
        self.sched = build_lr_scheduler(self.optim, cfg.OPTIM)
        self.register_model("prompt_learner", self.model.prompt_learner, self.optim, self.sched)

    def forward_backward(self, batch):
        image, label = self.parse_batch_train(batch)
        loss = self.model(image, label)
        self.model_backward_and_update(loss)
        if (self.batch_idx + 1) == self.num_batches:
            self.update_lr()
        return {"loss": loss.item()}

    def parse_batch_train(self, batch):
        return batch["img"].cuda(), batch["label"].cuda()

    @torch.no_grad()
    def test(self, split=None):
        self.set_model_mode("eval")
        self.evaluator.reset()
        split = split or self.cfg.TEST.SPLIT
        data_loader = self.val_loader if split == "val" and self.val_loader is not None else self.test_loader
        print(f"Evaluate image by image on the *{split}* set")
        for batch in tqdm(data_loader):
            image, label = self.parse_batch_test(batch)
            self.evaluator.process(self.model_inference(image), label)
        results = self.evaluator.evaluate()
        for k, v in results.items():
            self.write_scalar(f"{split}/{k}", v, self.epoch)
        return list(results.values())[0]

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
            # of other classes
            for key in ("token_prefix", "token_suffix"):
                state_dict.pop(key, None)
            print("Loading weights to {} (epoch = {})".format(name, checkpoint["epoch"]))
            self._models[name].load_state_dict(state_dict, strict=False)

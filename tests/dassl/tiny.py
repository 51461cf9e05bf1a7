"""A trainer that is as small as can be, for the tests of the engine."""

import torch
import torch.nn.functional as F
from torch import nn

from dassl.engine import TrainerX
from dassl.metrics import compute_accuracy


class Tiny(TrainerX):
    """A linear classifier of two registered models."""

    def build_model(self):
        self.body, self.head = nn.Linear(3, 5), nn.Linear(5, self.num_classes)
        for name, model in (("body", self.body), ("head", self.head)):
            optim = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
            self.register_model(name, model, optim, torch.optim.lr_scheduler.StepLR(optim, 1, 0.5))

    def model_inference(self, image):
        return self.head(self.body(image.mean(dim=(2, 3))).relu())

    def forward_backward(self, batch):
        image, label, domain = self.parse_batch_train(batch)
        output = self.model_inference(image)
        loss = F.cross_entropy(output, label)
        self.model_backward_and_update(loss)
        if (self.batch_idx + 1) == self.num_batches:
            self.update_lr()
        return {"loss": loss.item(), "acc": compute_accuracy(output, label)[0].item()}


def state(trainer):
    return {**trainer.body.state_dict(prefix="body."), **trainer.head.state_dict(prefix="head.")}


def same(a, b):
    return all(torch.equal(a[k], b[k]) for k in a)

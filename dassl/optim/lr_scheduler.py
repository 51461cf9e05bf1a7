"""A learning rate scheduler from a config, and warm-up before any other scheduler."""

from torch.optim import Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler, MultiStepLR, StepLR
from yacs.config import CfgNode

from dassl.utils import UserError, nearest

AVAI_SCHEDS = ["single_step", "multi_step", "cosine"]
AVAI_WARMUPS = ["constant", "linear"]


class _WarmupScheduler(LRScheduler):
    """Warms up for some epochs, then hands over to another scheduler.

    Args:
        optimizer: the optimizer, also the successor's.
        successor: the scheduler that follows. The first epoch after the warm-up has its initial rates.
        warmup_epoch: for how many epochs.
        last_epoch: as in torch's schedulers.
    """

    def __init__(self, optimizer: Optimizer, successor: LRScheduler, warmup_epoch: int, last_epoch: int = -1) -> None:
        self.successor = successor
        self.warmup_epoch = warmup_epoch
        super().__init__(optimizer, last_epoch)

    def warmup_lr(self) -> list[float]:
        """The rates of the current epoch of the warm-up, one per parameter group."""
        raise NotImplementedError

    def get_lr(self) -> list[float]:
        return self.successor.get_last_lr() if self.last_epoch >= self.warmup_epoch else self.warmup_lr()

    def step(self, epoch: int | None = None) -> None:
        if self.last_epoch >= self.warmup_epoch:
            self.successor.step(epoch)
            self._last_lr = self.successor.get_last_lr()
        else:
            super().step(epoch)

    def state_dict(self):
        """Plain data, the successor's state nested in it."""
        return super().state_dict() | {"successor": self.successor.state_dict()}

    def load_state_dict(self, state_dict):
        self.successor.load_state_dict(state_dict["successor"])
        super().load_state_dict({k: v for k, v in state_dict.items() if k != "successor"})


class ConstantWarmupScheduler(_WarmupScheduler):
    """Warm-up at the learning rate cons_lr, the same for every parameter group."""

    def __init__(
        self, optimizer: Optimizer, successor: LRScheduler, warmup_epoch: int, cons_lr: float, last_epoch: int = -1
    ) -> None:
        self.cons_lr = cons_lr
        super().__init__(optimizer, successor, warmup_epoch, last_epoch)

    def warmup_lr(self) -> list[float]:
        return [self.cons_lr for _ in self.base_lrs]


class LinearWarmupScheduler(_WarmupScheduler):
    """Warm-up from min_lr in the first epoch, then in equal steps to each parameter group's own rate."""

    def __init__(
        self, optimizer: Optimizer, successor: LRScheduler, warmup_epoch: int, min_lr: float, last_epoch: int = -1
    ) -> None:
        self.min_lr = min_lr
        super().__init__(optimizer, successor, warmup_epoch, last_epoch)

    def warmup_lr(self) -> list[float]:
        if self.last_epoch == 0:
            return [self.min_lr for _ in self.base_lrs]
        return [lr * self.last_epoch / self.warmup_epoch for lr in self.base_lrs]


def build_lr_scheduler(optimizer: Optimizer, optim_cfg: CfgNode) -> LRScheduler:
    """The scheduler that cfg.OPTIM describes, to be stepped once per epoch.

    With WARMUP_RECOUNT false, the scheduler behind the warm-up counts the epochs of the warm-up as done.

    Raises:
        UserError: an unknown scheduler or warm-up, or a STEPSIZE that does not suit the scheduler.
    """
    scheduler = _build_scheduler(optimizer, optim_cfg)
    if optim_cfg.WARMUP_EPOCH <= 0:
        return scheduler
    if not optim_cfg.WARMUP_RECOUNT:
        scheduler.last_epoch = optim_cfg.WARMUP_EPOCH
    kind = optim_cfg.WARMUP_TYPE
    if kind == "constant":
        return ConstantWarmupScheduler(optimizer, scheduler, optim_cfg.WARMUP_EPOCH, optim_cfg.WARMUP_CONS_LR)
    if kind == "linear":
        return LinearWarmupScheduler(optimizer, scheduler, optim_cfg.WARMUP_EPOCH, optim_cfg.WARMUP_MIN_LR)
    raise UserError(f'unknown warm-up "{kind}" (OPTIM.WARMUP_TYPE): {nearest(kind, AVAI_WARMUPS)}')


def _build_scheduler(optimizer, cfg):
    name, steps = cfg.LR_SCHEDULER, cfg.STEPSIZE
    if name == "single_step":
        size = steps[-1] if isinstance(steps, (list, tuple)) and steps else steps
        if not isinstance(size, int):
            raise UserError(f"OPTIM.STEPSIZE is {steps!r}: single_step takes a whole number of epochs")
        return StepLR(optimizer, step_size=size if size > 0 else cfg.MAX_EPOCH, gamma=cfg.GAMMA)
    if name == "multi_step":
        if not isinstance(steps, (list, tuple)) or not all(isinstance(step, int) for step in steps):
            raise UserError(f"OPTIM.STEPSIZE is {steps!r}: multi_step takes a list of epochs")
        return MultiStepLR(optimizer, milestones=steps, gamma=cfg.GAMMA)
    if name == "cosine":
        return CosineAnnealingLR(optimizer, T_max=float(cfg.MAX_EPOCH))
    raise UserError(f'unknown scheduler "{name}" (OPTIM.LR_SCHEDULER): {nearest(name, AVAI_SCHEDS)}')

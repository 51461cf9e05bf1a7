"""The values of Dassl's keys and ours that a run can work with."""

from typing import Any

FROM_0: dict[str, Any] = {"at_least": 0}
FROM_1: dict[str, Any] = {"at_least": 1}
ABOVE_0: dict[str, Any] = {"above": 0}
A_FEW: dict[str, Any] = {"at_least": 0, "at_most": 1000}
SHARE: dict[str, Any] = {"at_least": 0, "at_most": 1}

RANGES: dict[str, dict[str, Any]] = {
    "SEED": {"below": 2**32, "note": "or a negative one for none"},
    "INPUT.SIZE": FROM_1,
    "INPUT.VIEWS": FROM_0,
    "INPUT.PIXEL_STD": ABOVE_0,
    "INPUT.CROP_PADDING": FROM_0,
    "INPUT.RRCROP_SCALE": {"above": 0, "at_most": 1},
    "INPUT.CUTOUT_N": A_FEW,
    "INPUT.CUTOUT_LEN": FROM_0,
    "INPUT.GN_STD": FROM_0,
    "INPUT.RANDAUGMENT_N": A_FEW,
    "INPUT.RANDAUGMENT_M": {"at_least": 0, "at_most": 30},
    "INPUT.COLORJITTER_B": FROM_0,
    "INPUT.COLORJITTER_C": FROM_0,
    "INPUT.COLORJITTER_S": FROM_0,
    "INPUT.COLORJITTER_H": {"at_least": 0, "at_most": 0.5},
    "INPUT.RGS_P": SHARE,
    "INPUT.GB_P": SHARE,
    "INPUT.GB_K": FROM_1,
    "INPUT.PERSPECTIVE_SCALE": SHARE,
    "INPUT.PERSPECTIVE_P": SHARE,
    "INPUT.ROTATION": FROM_0,
    "DATALOADER.NUM_WORKERS": FROM_0,
    "DATALOADER.K_TRANSFORMS": FROM_1,
    "DATALOADER.TRAIN_X.BATCH_SIZE": FROM_1,
    "DATALOADER.TRAIN_X.N_DOMAIN": FROM_0,
    "DATALOADER.TRAIN_X.N_INS": FROM_1,
    "DATALOADER.TRAIN_U.BATCH_SIZE": FROM_1,
    "DATALOADER.TRAIN_U.N_DOMAIN": FROM_0,
    "DATALOADER.TRAIN_U.N_INS": FROM_1,
    "DATALOADER.TEST.BATCH_SIZE": FROM_1,
    "DATALOADER.CACHE_GB": FROM_0,
    "MODEL.HEAD.HIDDEN_LAYERS": FROM_1,
    "MODEL.HEAD.DROPOUT": SHARE,
    "OPTIM.LR": FROM_0,
    "OPTIM.WEIGHT_DECAY": FROM_0,
    "OPTIM.MOMENTUM": FROM_0,
    "OPTIM.SGD_DAMPNING": FROM_0,
    "OPTIM.RMSPROP_ALPHA": SHARE,
    "OPTIM.ADAM_BETA1": {"at_least": 0, "below": 1},
    "OPTIM.ADAM_BETA2": {"at_least": 0, "below": 1},
    "OPTIM.ADAM_EPS": FROM_0,
    "OPTIM.MAX_EPOCH": {"at_most": 10**6},
    "OPTIM.BASE_LR_MULT": FROM_0,
    "OPTIM.GAMMA": FROM_0,
    "OPTIM.WARMUP_CONS_LR": FROM_0,
    "OPTIM.WARMUP_MIN_LR": FROM_0,
    "TRAIN.FEATURES_GB": FROM_0,
    "FEATURES_LIMIT_GB": FROM_0,
    "TEST.FINAL_MODEL": {"one_of": ("last_step", "best_val")},
    "TEST.SPLIT": {"one_of": ("test", "val")},
}
"""The limits of a key, as `dassl.config.require` takes them. That there is an epoch at
all matters to what trains by epochs: SimpleTrainer asks."""

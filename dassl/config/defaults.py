"""Every config key and its default value: Dassl 0.6's, and a few of our own.

Methods that live in trainers/ declare their keys there.
"""

from yacs.config import CfgNode

DEFAULTS = CfgNode(
    {
        "VERSION": 1,
        "OUTPUT_DIR": "./output",  # where the run's log, checkpoints and metrics go
        "RESUME": "",  # a folder to resume training from; "" resumes from OUTPUT_DIR
        "SEED": -1,  # negative: not seeded
        "USE_CUDA": True,  # where there is a GPU
        "DETERMINISTIC": False,  # ours: the same bits every time on a GPU too; see dassl.utils.numerics
        "TF32": False,  # ours: faster float32 on a GPU, with 10 bits of mantissa for 23
        "VERBOSE": True,
        "RELEASE": {"NAME": "", "WEIGHTS": ""},  # ours: whose code this run is, and the weights it was given instead
        "INPUT": {
            "SIZE": (224, 224),  # height, width in pixels
            "INTERPOLATION": "bilinear",
            "TRANSFORMS": (),  # names of augmentations; see dassl.data.transforms
            "NO_TRANSFORM": False,
            "VIEWS": 0,  # ours: epochs have so many views of each training image in turn; 0: each has its own
            "PIXEL_MEAN": [0.485, 0.456, 0.406],
            "PIXEL_STD": [0.229, 0.224, 0.225],
            "CROP_PADDING": 4,  # random_crop, in pixels
            "RRCROP_SCALE": (0.08, 1.0),  # random_resized_crop, share of the area
            "CUTOUT_N": 1,
            "CUTOUT_LEN": 16,  # in pixels
            "GN_MEAN": 0.0,  # gaussian_noise
            "GN_STD": 0.15,
            "RANDAUGMENT_N": 2,
            "RANDAUGMENT_M": 10,
            "COLORJITTER_B": 0.4,
            "COLORJITTER_C": 0.4,
            "COLORJITTER_S": 0.4,
            "COLORJITTER_H": 0.1,
            "RGS_P": 0.2,  # randomgrayscale
            "GB_P": 0.5,  # gaussian_blur
            "GB_K": 21,  # its kernel in pixels
            "PERSPECTIVE_SCALE": 0.5,  # ours: random_perspective, from 0 (none) to 1
            "PERSPECTIVE_P": 0.5,
            "ROTATION": 5.0,  # ours: random_rotation, up to so many degrees either way
        },
        "DATASET": {
            "ROOT": "",  # the folder that holds the dataset folders
            "NAME": "",
            "SOURCE_DOMAINS": (),
            "TARGET_DOMAINS": (),
            "NUM_LABELED": -1,  # labelled images in all, for semi-supervised learning
            "NUM_SHOTS": -1,  # training images per class; below 1: all
            "VAL_PERCENT": 0.1,  # share of the training data that becomes val where there is none
            "STL10_FOLD": -1,
            "CIFAR_C_TYPE": "",
            "CIFAR_C_LEVEL": 1,
            "ALL_AS_UNLABELED": False,  # labelled images serve as unlabelled ones too
            "SUBSAMPLE_CLASSES": "all",  # ours: all, base (first half of the classes) or new (second half)
            "STYLES": (),  # ours: the domains that the benchmark tests on, after the one that it learns from
            "BACKBONES": {
                "any": "",
                "vit": "",
            },  # ours: what the benchmark takes where none is named, by what is needed
        },
        "DATALOADER": {
            "NUM_WORKERS": 4,
            "K_TRANSFORMS": 1,  # augmented versions of each image
            "RETURN_IMG0": False,  # the image without augmentation too
            "TRAIN_X": {
                "SAMPLER": "RandomSampler",
                "BATCH_SIZE": 32,
                "N_DOMAIN": 0,  # domains per batch
                "N_INS": 16,  # images per class in a batch
                "DROP_LAST": True,  # ours: leave out an epoch's last batch if it is smaller
            },
            "TRAIN_U": {
                "SAME_AS_X": True,  # TRAIN_X's settings hold for unlabelled data
                "SAMPLER": "RandomSampler",
                "BATCH_SIZE": 32,
                "N_DOMAIN": 0,
                "N_INS": 16,
                "DROP_LAST": True,
            },
            "TEST": {"SAMPLER": "SequentialSampler", "BATCH_SIZE": 32},
            "CACHE_GB": 4.0,  # ours: GiB for a few-shot training set decoded once; 0 switches it off
        },
        "MODEL": {
            "INIT_WEIGHTS": "",  # a checkpoint whose fitting layers are loaded
            "BACKBONE": {
                "NAME": "",
                "PRETRAINED": True,
                "FAMILY": "",  # ours: whose architecture a file's weights are of, where it does not say
                "ALLOW_OTHER": False,  # ours: evaluate weights that were trained with another backbone
                "IMAGE_PREC": "",  # ours: fp32, fp16 or bf16, of a frozen image encoder alone; "" follows the trainer
            },
            "HEAD": {"NAME": "", "HIDDEN_LAYERS": (), "ACTIVATION": "relu", "BN": True, "DROPOUT": 0.0},
        },
        "OPTIM": {
            "NAME": "adam",  # see dassl.optim.AVAI_OPTIMS
            "LR": 0.0003,
            "WEIGHT_DECAY": 5e-4,
            "MOMENTUM": 0.9,
            "SGD_DAMPNING": 0,
            "SGD_NESTEROV": False,
            "RMSPROP_ALPHA": 0.99,
            "ADAM_BETA1": 0.9,  # for adam, amsgrad, adamw and radam
            "ADAM_BETA2": 0.999,
            "ADAM_EPS": 1e-8,  # ours, for the same four; half-precision parameters need more, TCP's 1e-3
            "STAGED_LR": False,  # layers outside NEW_LAYERS learn at LR * BASE_LR_MULT
            "NEW_LAYERS": (),
            "BASE_LR_MULT": 0.1,
            "LR_SCHEDULER": "single_step",  # see dassl.optim.AVAI_SCHEDS
            "STEPSIZE": (-1,),  # epochs; single_step decays every STEPSIZE[-1] of them, not at all below 1
            "GAMMA": 0.1,
            "MAX_EPOCH": 10,
            "WARMUP_EPOCH": -1,  # below 1: no warm-up
            "WARMUP_TYPE": "linear",  # constant or linear
            "WARMUP_CONS_LR": 1e-5,
            "WARMUP_MIN_LR": 1e-5,
            "WARMUP_RECOUNT": True,  # the scheduler counts its epochs from the end of the warm-up
        },
        "TRAIN": {
            "CHECKPOINT_FREQ": 0,  # epochs between checkpoints that are kept; 0 keeps the last alone
            "PRINT_FREQ": 10,  # batches between log lines
            "COUNT_ITER": "train_x",  # whose batches make an epoch: train_x, train_u or smaller_one
            "FEATURE_CACHE": True,  # ours: keep frozen image features of training views on disk
            "COMPILE": "",  # ours: the loss compiled: default, reduce-overhead (CUDA graphs) or max-autotune
            "FEATURES_GB": 2.0,  # ours: GiB for those of an epoch; a larger set is encoded batch by batch
        },
        "TEST": {
            "EVALUATOR": "Classification",
            "PER_CLASS_RESULT": False,
            "COMPUTE_CMAT": False,  # save the confusion matrix to OUTPUT_DIR/cmat.pt
            "METRICS": (),  # ours: names of dassl.metrics' METRIC_REGISTRY (EVALUATOR Classification)
            "CURVE_PLOT": "",  # ours: png or svg saves the seen-unseen curve (EVALUATOR Compositional)
            "NO_TEST": False,
            "SPLIT": "test",  # val or test
            "FINAL_MODEL": "last_step",  # last_step or best_val
            "FEATURE_CACHE": True,  # ours: keep frozen image features of test sets on disk
        },
        "FEATURES_LIMIT_GB": 20.0,  # ours: GiB on disk for image features; what was used least recently goes first
        "TRAINER": {
            "NAME": "",
            # Domain adaptation
            "MCD": {"N_STEP_F": 4},
            "MME": {"LMDA": 0.1},
            "CDAC": {
                "CLASS_LR_MULTI": 10,
                "RAMPUP_COEF": 30,
                "RAMPUP_ITRS": 1000,
                "TOPK_MATCH": 5,
                "P_THRESH": 0.95,
                "STRONG_TRANSFORMS": (),
            },
            "SE": {"EMA_ALPHA": 0.999, "CONF_THRE": 0.95, "RAMPUP": 300},
            "M3SDA": {"LMDA": 0.5, "N_STEP_F": 4},
            "DAEL": {"WEIGHT_U": 0.5, "CONF_THRE": 0.95, "STRONG_TRANSFORMS": ()},
            # Domain generalisation
            "CROSSGRAD": {"EPS_F": 1.0, "EPS_D": 1.0, "ALPHA_F": 0.5, "ALPHA_D": 0.5},
            "DDAIG": {
                "G_ARCH": "",
                "LMDA": 0.3,
                "CLAMP": False,
                "CLAMP_MIN": -1.0,
                "CLAMP_MAX": 1.0,
                "WARMUP": 0,
                "ALPHA": 0.5,
            },
            "DAELDG": {"WEIGHT_U": 0.5, "CONF_THRE": 0.95, "STRONG_TRANSFORMS": ()},
            "DOMAINMIX": {"TYPE": "crossdomain", "ALPHA": 1.0, "BETA": 1.0},
            # Semi-supervised learning
            "ENTMIN": {"LMDA": 1e-3},
            "MIXMATCH": {"WEIGHT_U": 100.0, "TEMP": 2.0, "MIXUP_BETA": 0.75, "RAMPUP": 20000},
            "MEANTEACHER": {"WEIGHT_U": 1.0, "EMA_ALPHA": 0.999, "RAMPUP": 5},
            "FIXMATCH": {"WEIGHT_U": 1.0, "CONF_THRE": 0.95, "STRONG_TRANSFORMS": ()},
        },
    }
)

DASSLS = (
    "VERSION",
    "DATASET.NUM_LABELED",
    "DATASET.VAL_PERCENT",
    "DATASET.STL10_FOLD",
    "DATASET.CIFAR_C_TYPE",
    "DATASET.CIFAR_C_LEVEL",
    "DATASET.ALL_AS_UNLABELED",
    *(f"TRAINER.{block}" for block in DEFAULTS.TRAINER if block != "NAME"),
)
"""Keys, and blocks of keys, of Dassl's own data sets and trainers. They are here for those from elsewhere that read
them; nothing in this project does."""

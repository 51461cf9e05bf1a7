"""Every config key, its default value and, beside it, its meaning: Dassl 0.6's, and a few of our own.

The comments are the reference: dassl.config.meanings reads them for `train.py --keys` and docs/config.md.

Methods that live in trainers/ declare their keys there.
"""

from yacs.config import CfgNode

DEFAULTS = CfgNode(
    {
        "VERSION": 1,  # of the config format
        "OUTPUT_DIR": "./output",  # where the run's log, checkpoints and metrics go
        "RESUME": "",  # a folder to resume training from; "" resumes from OUTPUT_DIR
        "SEED": -1,  # of all random numbers; negative: not seeded
        "USE_CUDA": True,  # compute on a GPU, where there is one
        "DETERMINISTIC": False,  # ours: the same bits every time on a GPU too; see dassl.utils.numerics
        "TF32": False,  # ours: faster float32 on a GPU, with 10 bits of mantissa for 23
        "VERBOSE": True,  # the log describes the data set, and names trainer and evaluator
        "RELEASE": {
            "NAME": "",  # ours: the release whose code this run is; "": none, it is this project's
            "WEIGHTS": "",  # ours: the backbone weights that a release was given in place of its own
        },
        "INPUT": {
            "SIZE": (224, 224),  # height, width in pixels; where no config sets it, a CLIP backbone's own
            "INTERPOLATION": "bilinear",  # how images are resized: nearest, bilinear or bicubic
            "TRANSFORMS": (),  # names of augmentations; see dassl.data.transforms
            "NO_TRANSFORM": False,  # no transform at all, in training and in tests
            "VIEWS": 0,  # ours: epochs have so many views of each training image in turn; 0: each has its own
            "PIXEL_MEAN": [0.485, 0.456, 0.406],  # normalize; where no config sets it, a CLIP backbone's own
            "PIXEL_STD": [0.229, 0.224, 0.225],  # normalize; likewise
            "CROP_PADDING": 4,  # random_crop: padding on each side, in pixels
            "RRCROP_SCALE": (0.08, 1.0),  # random_resized_crop: smallest and largest share of the area
            "CUTOUT_N": 1,  # cutout: how many squares are blanked
            "CUTOUT_LEN": 16,  # cutout: their side in pixels
            "GN_MEAN": 0.0,  # gaussian_noise: its mean, on normalized pixels where normalize is chosen too
            "GN_STD": 0.15,  # gaussian_noise: its standard deviation
            "RANDAUGMENT_N": 2,  # randaugment: operations per image
            "RANDAUGMENT_M": 10,  # randaugment: their magnitude, from 0 to 30
            "COLORJITTER_B": 0.4,  # colorjitter: largest relative change of brightness
            "COLORJITTER_C": 0.4,  # colorjitter: of contrast
            "COLORJITTER_S": 0.4,  # colorjitter: of saturation
            "COLORJITTER_H": 0.1,  # colorjitter: largest shift of the hue, as a share of its circle, up to 0.5
            "RGS_P": 0.2,  # randomgrayscale: probability
            "GB_P": 0.5,  # gaussian_blur: probability
            "GB_K": 21,  # gaussian_blur: its kernel in pixels
            "PERSPECTIVE_SCALE": 0.5,  # ours: random_perspective, from 0 (none) to 1
            "PERSPECTIVE_P": 0.5,  # ours: random_perspective, probability
            "ROTATION": 5.0,  # ours: random_rotation, up to so many degrees either way
        },
        "DATASET": {
            "ROOT": "",  # the folder that holds the dataset folders
            "NAME": "",  # as its reader is registered, such as Caltech101; see datasets/
            "SOURCE_DOMAINS": (),  # domains to train on, for data sets that have several
            "TARGET_DOMAINS": (),  # domains to test on
            "NUM_LABELED": -1,  # labelled images in all, for semi-supervised learning
            "NUM_SHOTS": -1,  # training images per class; below 1: all
            "VAL_PERCENT": 0.1,  # share of the training data that becomes val where there is none
            "STL10_FOLD": -1,  # of STL-10's ten folds, the one to train on
            "CIFAR_C_TYPE": "",  # the corruption of CIFAR-10-C and CIFAR-100-C
            "CIFAR_C_LEVEL": 1,  # its severity, from 1 to 5
            "ALL_AS_UNLABELED": False,  # labelled images serve as unlabelled ones too
            "SUBSAMPLE_CLASSES": "all",  # ours: all, base (first half of the classes) or new (second half)
            "STYLES": (),  # ours: the domains that the benchmark tests on, after the one that it learns from
            "BACKBONES": {
                "any": "",  # ours: the backbone that the benchmark takes on this data where a grid names none
                "vit": "",  # ours: likewise, for methods that need a vision transformer
            },
        },
        "DATALOADER": {
            "NUM_WORKERS": 4,  # processes that read and transform images; 0: the run itself
            "K_TRANSFORMS": 1,  # augmented versions of each training image in a batch
            "RETURN_IMG0": False,  # batches hold each image without augmentation, too
            "TRAIN_X": {
                "SAMPLER": "RandomSampler",  # how batches are drawn; see dassl.data.samplers
                "BATCH_SIZE": 32,  # labelled images in a batch
                "N_DOMAIN": 0,  # RandomDomainSampler, SeqDomainSampler: domains in a batch; 0: all of them
                "N_INS": 16,  # RandomClassSampler: images of each class in a batch
                "DROP_LAST": True,  # ours: leave out an epoch's last batch if it is smaller
            },
            "TRAIN_U": {
                "SAME_AS_X": True,  # TRAIN_X's settings hold for unlabelled data
                "SAMPLER": "RandomSampler",  # as TRAIN_X's, where SAME_AS_X is False; so are the next four
                "BATCH_SIZE": 32,  # unlabelled images in a batch
                "N_DOMAIN": 0,  # domains in a batch
                "N_INS": 16,  # images of each class in a batch
                "DROP_LAST": True,  # ours: leave out an epoch's last batch if it is smaller
            },
            "TEST": {
                "SAMPLER": "SequentialSampler",  # in which order val and test images come
                "BATCH_SIZE": 32,  # images in a batch; it decides speed and memory, not results
            },
            "CACHE_GB": 4.0,  # ours: GiB for a few-shot training set decoded once; 0 switches it off
        },
        "MODEL": {
            "INIT_WEIGHTS": "",  # a checkpoint whose fitting layers are loaded
            "BACKBONE": {
                "NAME": "",  # such as ViT-B/16, or a file or folder of weights; a torchvision name for SimpleNet
                "PRETRAINED": True,  # SimpleNet: start from torchvision's weights
                "FAMILY": "",  # ours: whose architecture a file's weights are of, where it does not say
                "ALLOW_OTHER": False,  # ours: evaluate weights that were trained with another backbone
                "IMAGE_PREC": "",  # ours: fp32, fp16 or bf16, of a frozen image encoder alone; "" follows the trainer
            },
            "HEAD": {
                "NAME": "",  # SimpleNet: mlp puts hidden layers before the classifier; "" none
                "HIDDEN_LAYERS": (),  # SimpleNet: their widths
                "ACTIVATION": "relu",  # SimpleNet: relu or leaky_relu
                "BN": True,  # SimpleNet: batch norm in each hidden layer
                "DROPOUT": 0.0,  # SimpleNet: dropout rate behind each hidden layer
            },
        },
        "OPTIM": {
            "NAME": "adam",  # see dassl.optim.AVAI_OPTIMS
            "LR": 0.0003,  # learning rate, once a warm-up is over
            "WEIGHT_DECAY": 5e-4,  # L2 penalty; decoupled for adamw
            "MOMENTUM": 0.9,  # sgd, rmsprop
            "SGD_DAMPNING": 0,  # sgd: dampening of the momentum
            "SGD_NESTEROV": False,  # sgd: Nesterov's momentum
            "RMSPROP_ALPHA": 0.99,  # rmsprop: smoothing constant
            "ADAM_BETA1": 0.9,  # adam, amsgrad, adamw and radam: decay of the first moment
            "ADAM_BETA2": 0.999,  # the same four: decay of the second moment
            "ADAM_EPS": 1e-8,  # ours: the same four, added to the denominator; half precision needs more, TCP's 1e-3
            "STAGED_LR": False,  # layers outside NEW_LAYERS learn at LR * BASE_LR_MULT
            "NEW_LAYERS": (),  # STAGED_LR: names of the layers that learn at LR
            "BASE_LR_MULT": 0.1,  # STAGED_LR: the factor for all other layers
            "LR_SCHEDULER": "single_step",  # see dassl.optim.AVAI_SCHEDS
            "STEPSIZE": (-1,),  # epochs; single_step decays every STEPSIZE[-1] of them, not at all below 1
            "GAMMA": 0.1,  # single_step, multi_step: factor of each decay
            "MAX_EPOCH": 10,  # epochs to train
            "WARMUP_EPOCH": -1,  # epochs of warm-up; below 1: none
            "WARMUP_TYPE": "linear",  # constant or linear
            "WARMUP_CONS_LR": 1e-5,  # WARMUP_TYPE constant: its learning rate
            "WARMUP_MIN_LR": 1e-5,  # WARMUP_TYPE linear: where it starts
            "WARMUP_RECOUNT": True,  # the scheduler counts its epochs from the end of the warm-up
        },
        "TRAIN": {
            "CHECKPOINT_FREQ": 0,  # epochs between checkpoints that are kept; 0 keeps the last alone
            "PRINT_FREQ": 10,  # batches between log lines
            "COUNT_ITER": "train_x",  # whose batches make an epoch: train_x, train_u or smaller_one
            "LOGGERS": (
                "tensorboard",
            ),  # ours: where scalars go: tensorboard, wandb, mlflow, and what plug-ins register
            "FEATURE_CACHE": True,  # ours: keep frozen image features of training views on disk
            "COMPILE": "",  # ours: compile the loss: default, reduce-overhead (CUDA graphs) or max-autotune; "": do not
            "FEATURES_GB": 2.0,  # ours: GiB for image features of an epoch; a larger set is encoded batch by batch
        },
        "TEST": {
            "EVALUATOR": "Classification",  # Classification, Compositional, or one that a plug-in registers
            "PER_CLASS_RESULT": False,  # log the accuracy of every class, too
            "COMPUTE_CMAT": False,  # save the confusion matrix to OUTPUT_DIR/cmat.pt
            "METRICS": (),  # ours: names of dassl.metrics' METRIC_REGISTRY (EVALUATOR Classification)
            "CURVE_PLOT": "",  # ours: png or svg saves the seen-unseen curve (EVALUATOR Compositional)
            "NO_TEST": False,  # train only: no evaluation at the end, none on val
            "SPLIT": "test",  # what a run is evaluated on: test or val
            "FINAL_MODEL": "last_step",  # which weights are evaluated: last_step, or best_val
            "FEATURE_CACHE": True,  # ours: keep frozen image features of test sets on disk
        },
        "FEATURES_LIMIT_GB": 20.0,  # ours: GiB on disk for image features; what was used least recently goes first
        "TRAINER": {
            "NAME": "",  # the method, as registered, such as CoOp; --trainer sets it
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

"""What every other part of the engine builds on: errors, files, logs, random state, checkpoints, meters."""

from dassl.errors import UserError, nearest
from dassl.utils.caches import cache_dir
from dassl.utils.checkpoints import (
    load_checkpoint,
    load_pretrained_weights,
    load_weights,
    resume_from_checkpoint,
    save_checkpoint,
)
from dassl.utils.environment import collect_env_info
from dassl.utils.files import (
    WriteError,
    atomic_folder,
    atomic_path,
    check_isfile,
    listdir_nohidden,
    mkdir_if_missing,
    read_json,
    remove_half_written,
    write_json,
)
from dassl.utils.images import read_image
from dassl.utils.layers import count_num_param, init_network_weights, open_all_layers, open_specified_layers
from dassl.utils.logger import Logger, setup_logger
from dassl.utils.meters import AverageMeter, MetricMeter
from dassl.utils.numerics import numerics, set_numerics
from dassl.utils.random_state import get_rng_state, set_random_seed, set_rng_state
from dassl.utils.registry import Registry
from dassl.utils.tools import (
    check_availability,
    download_url,
    get_most_similar_str_to_a_from_b,
    tolist_if_not,
)

__all__ = [
    "AverageMeter",
    "Logger",
    "MetricMeter",
    "Registry",
    "UserError",
    "WriteError",
    "atomic_folder",
    "atomic_path",
    "cache_dir",
    "check_availability",
    "check_isfile",
    "collect_env_info",
    "count_num_param",
    "download_url",
    "get_most_similar_str_to_a_from_b",
    "get_rng_state",
    "init_network_weights",
    "listdir_nohidden",
    "load_checkpoint",
    "load_pretrained_weights",
    "load_weights",
    "mkdir_if_missing",
    "nearest",
    "numerics",
    "open_all_layers",
    "open_specified_layers",
    "read_image",
    "read_json",
    "remove_half_written",
    "resume_from_checkpoint",
    "save_checkpoint",
    "set_numerics",
    "set_random_seed",
    "set_rng_state",
    "setup_logger",
    "tolist_if_not",
    "write_json",
]

"""The random number generators of python, numpy and torch, handled as one."""

import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch


def set_random_seed(seed: int) -> None:
    """Seed them all. What torch does to be deterministic beyond that is left as it is."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)  # every CUDA device too


def get_rng_state() -> dict[str, Any]:
    """The state of all generators, as a dict that torch.load(weights_only=True) accepts."""
    algorithm, keys, *rest = np.random.get_state()
    state = {
        "python": random.getstate(),
        "numpy": (algorithm, np.asarray(keys).tolist(), *rest),
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_initialized():
        state["cuda"] = torch.cuda.get_rng_state_all()
    return state


def set_rng_state(state: Mapping[str, Any]) -> None:
    """Take up what `get_rng_state` gave; CUDA's part as far as this machine has the devices."""
    random.setstate(state["python"])
    np.random.set_state(state["numpy"])
    torch.set_rng_state(state["torch"])
    for device, device_state in zip(range(torch.cuda.device_count()), state.get("cuda", ()), strict=False):
        torch.cuda.set_rng_state(device_state, device)

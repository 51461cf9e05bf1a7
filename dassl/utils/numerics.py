"""How exactly a GPU computes: float32 as float32, and the same bits every time where the config asks for it.

On a CPU nothing changes: float32 is float32 there, and a run gives the same bits every time anyway.
"""

import os

import torch
from yacs.config import CfgNode


def set_numerics(cfg: CfgNode) -> None:
    """Set torch's flags, the same ones wherever a model computes. It asks nothing of a GPU.

    - TF32, with 10 bits of mantissa for float32's 23, is off but for cfg.TF32: torch leaves it on for convolutions.
    - cuDNN takes deterministic algorithms. Of cuBLAS and torch's own kernels some still add in any order.
    - cfg.DETERMINISTIC rules these out too. A kernel of which there is no such version is then a RuntimeError.
    """
    torch.set_float32_matmul_precision("highest")  # of CPUs too, which then stay as they are
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = cfg.TF32
    torch.backends.cudnn.deterministic = True
    if cfg.DETERMINISTIC:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when cuBLAS begins
        torch.use_deterministic_algorithms(True)


def numerics() -> dict:
    """The flags in force, for records and cache keys: {"convolutions", "matrix products": "fp32" or "tf32", ...}."""
    matmul = torch.get_float32_matmul_precision()
    return {
        "convolutions": "tf32" if torch.backends.cudnn.allow_tf32 else "fp32",
        "matrix products": {"highest": "fp32", "high": "tf32"}.get(matmul, matmul),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
    }

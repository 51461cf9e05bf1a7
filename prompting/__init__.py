"""What the methods share: backbones, prompts, the text encoder, image features. Knows clip, not the engine.

Importing it imports clip, and touches no GPU. clip asks at its import whether there is one, for a default argument of
`clip.load`, which is not used here; the question alone starts CUDA, and no process forked later could use a GPU: the
benchmark's runs are such. So the answer is no, and a `clip.load` without a device means the CPU.
"""

import warnings

import torch

# clip imports it, our requirements hold setuptools below the version that drops it: nothing for the user to do
warnings.filterwarnings("ignore", message="pkg_resources is deprecated")

_is_available, torch.cuda.is_available = torch.cuda.is_available, lambda: False
try:
    import clip  # noqa: F401
finally:
    torch.cuda.is_available = _is_available

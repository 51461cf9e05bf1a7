"""What the methods share: backbones, prompts, the text encoder, PromptedCLIP, image features, losses.

Knows clip, not the trainers.
"""

import warnings

# clip imports it, our requirements hold setuptools below the version that drops it: nothing for the user to do
warnings.filterwarnings("ignore", message="pkg_resources is deprecated")

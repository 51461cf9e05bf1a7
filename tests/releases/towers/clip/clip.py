"""The models and their tokens; `load` takes the design of the prompts in both towers."""

import os

import torch

from .model import build_model
from .simple_tokenizer import SimpleTokenizer as _Tokenizer

__all__ = ["build_model", "load", "tokenize"]

_tokenizer = _Tokenizer()

_MODELS = {"ViT-B/16": "https://weights.invalid/models/0000/ViT-B-16.pt"}


def _download(url, root="~/.cache/clip"):
    target = os.path.join(os.path.expanduser(root), os.path.basename(url))
    if not os.path.isfile(target):
        torch.hub.download_url_to_file(url, target)
    return target


def load(name, device="cuda", design=None):
    state_dict = torch.load(_download(_MODELS[name]), map_location="cpu")
    return build_model(state_dict, design).to(device)


def tokenize(texts, context_length=77):
    texts = [texts] if isinstance(texts, str) else texts
    start, end = _tokenizer.encoder["<|startoftext|>"], _tokenizer.encoder["<|endoftext|>"]
    result = torch.zeros(len(texts), context_length, dtype=torch.long)
    for i, text in enumerate(texts):
        tokens = [start, *_tokenizer.encode(text), end]
        result[i, : len(tokens)] = torch.tensor(tokens)
    return result

"""The backbones that ship with the project."""

from prompting.backbones.files import HOME, OPENAI, in_file

EMBEDDED = {name: str(HOME / f"{name}.pt") for name in ("icon-clip", "icon-clip-vit")}
"""Name -> path of a state dict."""

BACKBONES = [
    in_file("icon-clip", HOME / "icon-clip.pt", OPENAI, image_size=64, image_encoder="resnet"),
    in_file("icon-clip-vit", HOME / "icon-clip-vit.pt", OPENAI, image_size=64, image_encoder="vit"),
]

"""The backbones that ship with the project."""

from prompting.backbones.files import HOME, OPENAI, in_file

BACKBONES = [
    in_file("icon-clip", HOME / "icon-clip.pt", OPENAI, image_size=64, image_encoder="resnet", width=128),
    in_file("icon-clip-vit", HOME / "icon-clip-vit.pt", OPENAI, image_size=64, image_encoder="vit", width=128),
]

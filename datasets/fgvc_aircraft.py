"""FGVCAircraft (Maji et al., 2013): 100 variants of aircraft, in the official split.

fgvc_aircraft/                  the folder data of the archive
    images/*.jpg
    variants.txt                the class names in the order of the labels
    images_variant_{train,val,test}.txt     a line each: image, class name
"""

from dassl.data.datasets import DATASET_REGISTRY
from datasets.base import SplitDataset
from datasets.sources import Source
from datasets.split import PARTS, Split

LISTS = tuple(f"images_variant_{part}.txt" for part in PARTS)


@DATASET_REGISTRY.register()
class FGVCAircraft(SplitDataset):
    template = "a photo of a {}, a type of aircraft."
    dataset_dir = "fgvc_aircraft"
    image_dir = "images"
    counts = (100, 3334, 3333, 3333)
    sources = (
        Source(
            "https://www.robots.ox.ac.uk/~vgg/data/fgvc-aircraft/archives/fgvc-aircraft-2013b.tar.gz",
            gives={name: f"fgvc-aircraft-2013b/data/{name}" for name in ("images", "variants.txt", *LISTS)},
        ),
    )

    def make_split(self) -> Split:
        label_of = {name: label for label, name in enumerate(self.lines("variants.txt"))}
        return {part: list(self._entries(file, label_of)) for part, file in zip(PARTS, LISTS, strict=True)}

    def _entries(self, file, label_of):
        for line in self.lines(file):
            image, _, name = line.partition(" ")
            yield [f"{image}.jpg", label_of[name], name]

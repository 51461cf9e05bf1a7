"""SUN397 (Xiao et al., CVPR 2010): 397 scenes, with names like "outdoor apartment_building".

sun397/
    SUN397/<letter>/<class>/.../*.jpg
    ClassName.txt                       the classes' folders in the order of the labels: /a/apartment_building/outdoor
    {Training,Testing}_01.txt           images, likewise
    split_zhou_SUN397.json
"""

from dassl.data.datasets import DATASET_REGISTRY
from datasets.base import SplitDataset
from datasets.sources import Source, coops
from datasets.split import Split, split_training


@DATASET_REGISTRY.register()
class SUN397(SplitDataset):
    dataset_dir = "sun397"
    image_dir = "SUN397"
    split_file = "split_zhou_SUN397.json"
    counts = (397, 15880, 3970, 19850)
    sources = (
        Source(
            "https://vision.princeton.edu/projects/2010/SUN/SUN397.tar.gz",
            gives={"SUN397": "SUN397"},
            md5="8ca2778205c41d23104230ba66911c7a",
        ),
        Source(
            "https://vision.princeton.edu/projects/2010/SUN/download/Partitions.zip",
            gives={name: name for name in ("ClassName.txt", "Training_01.txt", "Testing_01.txt")},
        ),
        coops(split_file, "1y2RD81BYuiyvebdN-JymPfyWYcd8_MUq"),
    )

    def make_split(self) -> Split:
        label_of = {folder.lstrip("/"): label for label, folder in enumerate(self.lines("ClassName.txt"))}
        return split_training(*(self._entries(f"{part}_01.txt", label_of) for part in ("Training", "Testing")))

    def _entries(self, file, label_of):
        for line in self.lines(file):
            path = line.lstrip("/")
            folder = path.rpartition("/")[0]
            _, *words = folder.split("/")  # less the letter
            yield [path, label_of[folder], " ".join(reversed(words))]

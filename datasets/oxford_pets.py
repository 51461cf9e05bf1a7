"""OxfordPets (Parkhi et al., CVPR 2012): 37 breeds of cats and dogs.

oxford_pets/
    images/*.jpg
    annotations/{trainval.txt, test.txt}        a line each: image, class from 1, species, breed
    split_zhou_OxfordPets.json
"""

from dassl.data.datasets import DATASET_REGISTRY
from datasets.base import SplitDataset
from datasets.sources import Source, coops
from datasets.split import Split, split_training

URL = "https://www.robots.ox.ac.uk/~vgg/data/pets/data"


@DATASET_REGISTRY.register()
class OxfordPets(SplitDataset):
    template = "a photo of a {}, a type of pet."
    dataset_dir = "oxford_pets"
    image_dir = "images"
    split_file = "split_zhou_OxfordPets.json"
    counts = (37, 2944, 736, 3669)
    sources = (
        Source(f"{URL}/images.tar.gz", gives={"images": "images"}, md5="5c4f3ee8e5d25df40f4fd59a7f44e54c"),
        Source(
            f"{URL}/annotations.tar.gz", gives={"annotations": "annotations"}, md5="95a8c909bbe2e81eed6a22bccdf3f68f"
        ),
        coops(split_file, "1501r8Ber4nNKvmlFVQZ8SeUHTcdTTEqs"),
    )

    def make_split(self) -> Split:
        return split_training(*(self._entries(f"annotations/{part}.txt") for part in ("trainval", "test")))

    def _entries(self, file):
        for line in self.lines(file):
            image, number, *_ = line.split()
            yield [f"{image}.jpg", int(number) - 1, image.rpartition("_")[0].lower()]

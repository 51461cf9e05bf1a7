"""StanfordCars (Krause et al., 2013): 196 models of cars, with names like "2012 Tesla Model S Sedan".

stanford_cars/
    cars_train/*.jpg
    cars_test/*.jpg
    cars_test_annos_withlabels.mat
    devkit/{cars_meta.mat, cars_train_annos.mat}
    split_zhou_StanfordCars.json
"""

import numpy as np

from dassl.data.datasets import DATASET_REGISTRY
from datasets.base import SplitDataset
from datasets.sources import Source, coops
from datasets.split import Split, split_training

PAGE = "https://github.com/pytorch/vision/issues/7545"
"""The authors' site is gone; people there say where the files are."""


@DATASET_REGISTRY.register()
class StanfordCars(SplitDataset):
    dataset_dir = "stanford_cars"
    split_file = "split_zhou_StanfordCars.json"
    counts = (196, 6509, 1635, 8041)
    sources = (
        Source(path="cars_train.tgz", gives={"cars_train": "cars_train"}, page=PAGE),
        Source(path="cars_test.tgz", gives={"cars_test": "cars_test"}, page=PAGE),
        Source(path="car_devkit.tgz", gives={"devkit": "devkit"}, page=PAGE),
        Source(path="cars_test_annos_withlabels.mat", page=PAGE),
        coops(split_file, "1ObCFbaAgVu0I-k_Au-gIUcefirdAuizT"),
    )

    def make_split(self) -> Split:
        names = np.atleast_1d(self.mat("devkit/cars_meta.mat")["class_names"])
        return split_training(
            self._entries("cars_train", "devkit/cars_train_annos.mat", names),
            self._entries("cars_test", "cars_test_annos_withlabels.mat", names),
        )

    def _entries(self, folder, file, names):
        for image in np.atleast_1d(self.mat(file)["annotations"]):
            label = int(image["class"]) - 1
            model, _, year = str(names[label]).rpartition(" ")
            yield [f"{folder}/{image['fname']}", label, f"{year} {model}"]

"""UCF101 (Soomro et al., 2012): 101 actions, the middle frame of every video, with names like "Apply_Eye_Makeup".

ucf101/
    UCF-101-midframes/<Class_Name>/*.jpg
    ucfTrainTestlist/classInd.txt                   a line each: class from 1, ClassName
    ucfTrainTestlist/{trainlist01,testlist01}.txt   ClassName/video.avi, in trainlist01 its class too
    split_zhou_UCF101.json
"""

import re

from dassl.data.datasets import DATASET_REGISTRY
from datasets.base import SplitDataset
from datasets.sources import COOP, Source, coops
from datasets.split import Split, split_training


@DATASET_REGISTRY.register()
class UCF101(SplitDataset):
    template = "a photo of a person doing {}."
    dataset_dir = "ucf101"
    image_dir = "UCF-101-midframes"
    split_file = "split_zhou_UCF101.json"
    counts = (101, 7639, 1898, 3783)
    sources = (
        Source(path="UCF-101-midframes.zip", gives={"UCF-101-midframes": "UCF-101-midframes"}, page=COOP),
        Source(
            "https://www.crcv.ucf.edu/data/UCF101/UCF101TrainTestSplits-RecognitionTask.zip",
            gives={"ucfTrainTestlist": "ucfTrainTestlist"},
        ),
        coops(split_file, "1I0S0q91hJfsV9Gf4xDIjgDq4AqBNJb1y"),
    )

    def make_split(self) -> Split:
        label_of = {
            name: int(number) - 1 for number, name in map(str.split, self.lines("ucfTrainTestlist/classInd.txt"))
        }
        return split_training(
            *(self._entries(f"ucfTrainTestlist/{part}list01.txt", label_of) for part in ("train", "test"))
        )

    def _entries(self, file, label_of):
        for line in self.lines(file):
            action, _, video = line.split()[0].partition("/")
            name = "_".join(re.findall("[A-Z][^A-Z]*", action))
            yield [f"{name}/{video.removesuffix('.avi')}.jpg", label_of[action], name]

"""EuroSAT (Helber et al., 2019): 10 kinds of land use, seen from a satellite.

eurosat/
    2750/<class>/*.jpg
    split_zhou_EuroSAT.json
"""

from dassl.data.datasets import DATASET_REGISTRY
from datasets.base import SplitDataset
from datasets.sources import Source, coops


@DATASET_REGISTRY.register()
class EuroSAT(SplitDataset):
    template = "a centered satellite photo of {}."
    dataset_dir = "eurosat"
    image_dir = "2750"
    split_file = "split_zhou_EuroSAT.json"
    renamed = {
        "AnnualCrop": "Annual Crop Land",
        "Forest": "Forest",
        "HerbaceousVegetation": "Herbaceous Vegetation Land",
        "Highway": "Highway or Road",
        "Industrial": "Industrial Buildings",
        "Pasture": "Pasture Land",
        "PermanentCrop": "Permanent Crop Land",
        "Residential": "Residential Buildings",
        "River": "River",
        "SeaLake": "Sea or Lake",
    }
    counts = (10, 13500, 5400, 8100)
    sources = (
        Source(
            "https://huggingface.co/datasets/torchgeo/eurosat/resolve/c877bcd43f099cd0196738f714544e355477f3fd/"
            "EuroSAT.zip",
            gives={"2750": "2750"},
            md5="c8fa014336c82ac7804f0398fcb19387",
        ),
        coops(split_file, "1Ip7yaCWFi0eaOFUGga0lUdVi_DDQth1o"),
    )

"""The package: version ranges of what it needs. requirements.txt pins the tested versions; requirements.lock has them
and all that they need in turn, with the hashes of their files (make lock).

Beside other people's packages it installs `mocoop` alone; the others, whose names are not ours alone (Hugging Face's
`datasets`), go to its folder `home`, laid out as in a clone. mocoop/__init__.py says how they are found.
"""

import runpy
from pathlib import Path

from setuptools import find_packages, setup

HOME = "mocoop.home"
PACKAGES = find_packages(exclude=["mocoop", "tests", "tests.*"])
USERS = {
    "cluster": ["ray>=2.40", "submitit>=1.5"],  # benchmark run --launcher ray, slurm
    "hf": ["transformers>=5"],
    "mlflow": ["mlflow-skinny>=2.20"],
    "open_clip": ["open_clip_torch>=3", "timm>=1.0.17"],
    "parquet": ["pyarrow>=15"],
    "wandb": ["wandb>=0.19.10"],
}
CONFIGS = sorted({str(path.parent) for path in Path("configs").rglob("*.yaml")})

setup(
    name="mocoop",
    version=runpy.run_path("mocoop/__init__.py")["__version__"],
    description="Prompt learning for CLIP: CoOp, MoCoOp and what they are compared with, on a Dassl-style engine",
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="MIT",
    author="The maintainers of the MoCoOp harness",
    keywords="CLIP, vision-language models, prompt learning, few-shot classification, CoOp, benchmark",
    classifiers=[
        "Development Status :: 4 - Beta",
        "Environment :: Console",
        "Intended Audience :: Science/Research",
        "Operating System :: POSIX :: Linux",
        *(f"Programming Language :: Python :: {version}" for version in ("3", "3.10", "3.11", "3.12", "3.13")),
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Topic :: Scientific/Engineering :: Image Recognition",
    ],
    python_requires=">=3.10",
    packages=["mocoop", HOME, *(f"{HOME}.{name}" for name in PACKAGES)],
    package_dir={HOME: "."},
    package_data={
        HOME: ["LICENSE", "README.md", *(f"{folder}/*.yaml" for folder in CONFIGS), "scripts/*.sh", "scripts/*/*.sh"],
        f"{HOME}.embedded": ["*.zip", "*.pt", "*.md", "package*.json"],
        f"{HOME}.report": ["*.html", "*.css", "*.js", "published/*"],
    },
    entry_points={"console_scripts": ["mocoop = mocoop.__main__:main"]},
    install_requires=[
        "clip-anytorch>=2.6",
        "jinja2>=3",  # torch brings it along
        "matplotlib>=3.8",
        "numpy>=2",
        "pandas>=2.2",
        "pillow>=10.1",
        "pydantic>=2.7",
        "pyyaml>=6",
        "rich>=13",
        "safetensors>=0.4",
        "scikit-learn>=1.3",
        "scipy>=1.10",  # scikit-learn brings it along
        "setuptools<81",  # clip imports pkg_resources, which setuptools 81 dropped
        "tabulate>=0.9",
        "tensorboard>=2.15",
        "threadpoolctl>=3",  # scikit-learn brings it along
        "torch>=2.6",
        "torchvision>=0.21",
        "tqdm>=4.65",
        "yacs>=0.1.8",
    ],
    extras_require={
        **USERS,
        "transformers": USERS["hf"],
        "all": [line for lines in USERS.values() for line in lines],
        "docs": ["latex2mathml>=3.77", "mkdocs-material>=9.6"],  # make docs
        "dev": ["mypy>=2", "ruff>=0.14", "types-pyyaml", "types-tabulate", "types-tqdm"],  # make lint
        "test": ["pytest>=8", "pytest-xdist>=3.5"],
    },
)

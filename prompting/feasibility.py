"""How feasible unseen attribute-object pairs are (Mancini et al., CVPR 2021, section 3.4).

A pair is feasible if its attribute goes with similar objects and its object with similar attributes:

    f(a, o) = (max over o' seen with a of cos(o, o') + max over a' seen with o of cos(a, a')) / 2
"""

import logging
from collections.abc import Sequence
from os import PathLike

import torch
import torch.nn.functional as F

from dassl.utils import UserError

logger = logging.getLogger("dassl.prompting")

GLOVE_NAMES = {
    "faux.fur": "fake_fur",
    "faux.leather": "fake_leather",
    "full.grain.leather": "thick_leather",
    "hair.calf": "hair_leather",
    "patent.leather": "shiny_leather",
    "nubuck": "grainy_leather",
    "boots.ankle": "ankle_boots",
    "boots.knee.high": "knee_high_boots",
    "boots.mid-calf": "midcalf_boots",
    "shoes.boat.shoes": "boat_shoes",
    "shoes.clogs.and.mules": "clogs_shoes",
    "shoes.flats": "flats_shoes",
    "shoes.heels": "heels",
    "shoes.loafers": "loafers",
    "shoes.oxfords": "oxford_shoes",
    "shoes.sneakers.and.athletic.shoes": "sneakers",
    "traffic_light": "traffic_light",
    "trash_can": "trashcan",
    "dry-erase_board": "dry_erase_board",
    "black_and_white": "black_white",
    "eiffel_tower": "tower",
}
"""What CSP's release looks up in GloVe for names of UT-Zappos and C-GQA that are not there."""


def feasibility(attributes: torch.Tensor, objects: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
    """f of all pairs, in [-1, 1]; where nothing is seen with an attribute or object, its cosine counts as -1.

    Args:
        attributes: (A, k) vectors.
        objects: (O, k) vectors, which may be of another length.
        seen: (A, O) booleans.

    Returns:
        (A, O) floats.
    """
    return (_best_cosine(objects, seen) + _best_cosine(attributes, seen.t()).t()) / 2


def _best_cosine(vectors, together):
    """For each of R rows and each of n vectors, the largest cosine to those that the row is seen with: (R, n).

    together: (R, n) booleans.
    """
    vectors = F.normalize(vectors.float(), dim=-1)
    cosine = vectors @ vectors.t()
    none = cosine.new_full((len(cosine),), -1.0)
    return torch.stack([cosine[row].amax(dim=0) if row.any() else none for row in together])


def word_vectors(path: str | PathLike[str], names: Sequence[str]) -> torch.Tensor:
    """The mean of the word vectors of each name's words, from a text file as GloVe's: a word and its numbers a line.

    Names in GLOVE_NAMES have the words there. Words that the file lacks are left out, and logged; a name without any is
    a vector of zeros, similar to nothing.

    Args:
        names: N names; words end at spaces, underscores and dots, those that the file lacks at hyphens, too. Capitals
            do not matter.

    Returns:
        (N, k).

    Raises:
        UserError: the file cannot be read, a line of a wanted word is not like the others, or it has no word at all.
    """
    known_as = {" ".join(_parts(name)): _parts(words) for name, words in GLOVE_NAMES.items()}
    words_of = [known_as.get(" ".join(_parts(name)), _parts(name)) for name in names]
    wanted = {part for words in words_of for word in words for part in (word, *word.split("-"))}
    found: dict[str, torch.Tensor] = {}
    try:
        with open(path, encoding="utf-8") as file:
            for number, line in enumerate(file, start=1):
                word, _, rest = line.rstrip().partition(" ")
                if word in wanted and word not in found:
                    found[word] = _numbers(rest, found, f"{path}, line {number}")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read the word vectors {path}: {getattr(error, 'strerror', None) or error}") from error
    if not found:
        raise UserError(f"{path} has a vector for none of the {len(wanted)} words: give a text file like GloVe's")
    words_of = [
        [part for word in words for part in ([word] if word in found else word.split("-"))] for words in words_of
    ]
    wanted = {word for words in words_of for word in words}
    missing = sorted(wanted - found.keys())
    if missing:
        logger.warning("No word vector for %d of %d words: %s", len(missing), len(wanted), ", ".join(missing))
    zeros = torch.zeros(len(next(iter(found.values()))))
    means = [torch.stack([found[w] for w in words if w in found] or [zeros]).mean(dim=0) for words in words_of]
    return torch.stack(means)


def _parts(name):
    return name.lower().translate(str.maketrans("_.", "  ")).split()


def _numbers(text, found, place):
    try:
        vector = torch.tensor([float(number) for number in text.split()])
        if not vector.isfinite().all():
            raise ValueError("not finite")
    except ValueError as error:
        raise UserError(f"{place} is not a word and its numbers: give a text file like GloVe's") from error
    length = len(next(iter(found.values()), vector))
    if not len(vector) or len(vector) != length:
        raise UserError(f"{place} has {len(vector)} numbers, not {length or 'any'}: is the file complete?")
    return vector

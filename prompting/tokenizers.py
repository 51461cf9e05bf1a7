"""Tokenizers: from text to the token ids of a text encoder, behind one interface for every family of backbones."""

from collections.abc import Callable, Iterable
from functools import lru_cache
from itertools import groupby
from typing import Any

from dassl.utils import UserError
from prompting.openai_clip import simple_tokenizer


class Tokenizer:
    """What turns text into token ids.

    Attributes:
        start, end: the ids that every prompt begins and ends with.
        pad: the id behind the end, for encoders that see what is there.
        size: how many ids there are.
        special: ids that stand for no text.
    """

    start: list[int]
    end: list[int]
    pad: int
    size: int
    special: set[int]

    def encode(self, text: str, first: bool = True) -> list[int]:
        """The ids of a text, without start and end; an underscore counts as a space.

        Args:
            first: whether the text opens a prompt; to some tokenizers, a word is another one after a space.
        """
        return self._encode(text.replace("_", " "), first)

    def verbatim(self, text: str, first: bool = True) -> list[int]:
        """As `encode`, with underscores as they stand."""
        return self._encode(text, first)

    def sequence(self, parts: Iterable[str | int]) -> list[int]:
        """The ids of one prompt, from texts and ids: [start, *parts, end]. Texts in a row are read as one."""
        ids = list(self.start)
        for is_text, run in groupby(parts, key=lambda part: isinstance(part, str)):
            part: list[Any] = list(run)
            ids += self.encode(_joined(part), first=len(ids) == len(self.start)) if is_text else part
        return [*ids, *self.end]

    def word(self, token: int) -> str:
        """A token id as people read it; a hyphen is where a piece of a word goes on."""
        raise NotImplementedError

    def _encode(self, text, first):
        raise NotImplementedError


def _joined(texts):
    """Texts with a space between words, but none before a full stop."""
    return "".join([texts[0], *(f" {text}" if text[:1].isalnum() else text for text in texts[1:])])


class OpenAITokenizer(Tokenizer):
    """CLIP's byte pairs, as OpenAI's code reads text. Whether a text comes first makes no difference to it."""

    pad = 0

    def __init__(self) -> None:
        self._pairs = simple_tokenizer.SimpleTokenizer()
        self.start, self.end = ([self._pairs.encoder[t]] for t in ("<|startoftext|>", "<|endoftext|>"))
        self.size, self.special = len(self._pairs.encoder), {*self.start, *self.end}

    def word(self, token: int) -> str:
        text = self._pairs.decode([token])
        return text[:-1] if text.endswith(" ") else f"{text}-"

    def _encode(self, text, first):
        return self._pairs.encode(text)


openai_tokenizer = lru_cache(maxsize=1)(OpenAITokenizer)


class TransformersTokenizer(Tokenizer):
    """A tokenizer of Hugging Face's transformers.

    Args:
        tokenizer: that tokenizer.
        clean: what is done to a text before.
        dropped: an id that gives way to padding, as open_clip does with BERT's [SEP].

    Raises:
        UserError: it knows no word, since its files are missing.
    """

    def __init__(self, tokenizer: Any, clean: Callable[[str], str] = str.strip, dropped: int | None = None) -> None:
        self._tokenizer, self._clean = tokenizer, clean
        self.pad, self.size = tokenizer.pad_token_id or 0, len(tokenizer)
        self.special = {*tokenizer.all_special_ids}
        self._opening = self._ids("a")
        self._marks_ends = any(t.endswith("</w>") for t in tokenizer.convert_ids_to_tokens(self._opening))
        if not self._opening or not set(self._ids("a photo")) - self.special:
            raise UserError("the tokenizer knows no word: its files (tokenizer.json) are missing")
        whole, n = tokenizer("a").input_ids, len(self._opening)
        at = next(i for i in range(len(whole)) if whole[i : i + n] == self._opening)
        self.start, self.end = whole[:at], [self.pad if i == dropped else i for i in whole[at + n :]]

    def word(self, token: int) -> str:
        text = self._tokenizer.convert_ids_to_tokens(token)
        if self._marks_ends:  # byte pairs do; sentence pieces mark where words begin
            return text.removesuffix("</w>") if text.endswith("</w>") else f"{text}-"
        return text[1:] or text if text[:1] in ("▁", "Ġ") else f"-{text.removeprefix('##')}"

    def _encode(self, text, first):
        text = self._clean(text)
        if not first and text:  # what the text is after a word
            after = self._ids(f"a {text}" if text[:1].isalnum() else f"a{text}")
            if after[: len(self._opening)] == self._opening:
                return after[len(self._opening) :]
        return self._ids(text)

    def _ids(self, text):
        return self._tokenizer(text, add_special_tokens=False).input_ids if text else []

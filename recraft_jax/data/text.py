"""Labelled text: the source data of the text tower, read and tokenised.

Readers return plain Python lists; the two `encode_*` functions make arrays of them.
Classes are numbered in the order of their sorted names. At token level "O" (outside of
any entity) is a class like the others; whoever needs entities alone drops it.
"""

import os
import pathlib
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import tokenizers
import tokenizers.implementations
from jaxtyping import Bool, Int

from recraft_jax import errors

NO_LABEL = -1


class Text(NamedTuple):
    """Token ids with labels per sentence or per token."""

    ids: Int[np.ndarray, "n l"]  # int32, padded at the end
    mask: Bool[np.ndarray, "n l"]  # False at padding
    labels: Int[np.ndarray, " n"] | Int[np.ndarray, "n l"]  # int32, see `level`
    names: tuple[str, ...]  # class names, sorted
    level: str  # "sentence": labels [n]; "token": labels [n l], -1 where there is none


def read_trec(path: str | os.PathLike) -> tuple[list[str], list[str]]:
    """Read TREC questions, `COARSE:fine question` a line.

    The file holds nested subsets, hence each line up to five times: a line is kept at
    its first occurrence only. A question with two fine labels under one coarse label
    stays twice (there is one); split by question if that matters.

    Returns:
        The questions and their coarse labels (ABBR, DESC, ENTY, HUM, LOC, NUM).
    """
    rows = {}  # an ordered set
    for number, line in _lines(path):
        label, _, question = line.strip().partition(" ")
        coarse, colon, fine = label.partition(":")
        if not (coarse and colon and fine and question.strip()):
            raise _bad_line(path, number, line, "'COARSE:fine question'")
        rows[coarse, fine, question.strip()] = None
    _check_rows(path, rows)
    return [row[2] for row in rows], [row[0] for row in rows]


def read_conll(path: str | os.PathLike) -> tuple[list[list[str]], list[list[str]]]:
    """Read `token<TAB or space>tag` lines; sentences are separated by blank lines.

    A line whose first column is empty (a lone tab) separates too. BIO tags are
    collapsed to their types: `B-person` and `I-person` become `person`; `O` is kept, as
    are tags without a prefix.

    Returns:
        The words of each sentence and their tags, of equal lengths.
    """
    words, tags = [], []
    is_open = False
    for number, line in _lines(path, keep_blank=True):
        columns = line.split("\t") if "\t" in line else line.split()
        columns = [column.strip() for column in columns]
        if not columns or not columns[0]:
            is_open = False
            continue
        if len(columns) != 2 or columns[1] in ("", "B-", "I-"):
            raise _bad_line(path, number, line, "'token tag'")
        if not is_open:
            words.append([])
            tags.append([])
            is_open = True
        words[-1].append(columns[0])
        is_bio = columns[1].startswith(("B-", "I-"))
        tags[-1].append(columns[1][2:] if is_bio else columns[1])
    _check_rows(path, words)
    return words, tags


def read_table(path: str | os.PathLike) -> tuple[list[str], list[str]]:
    """Read a user's own file, `label<TAB>sentence` a line; blank lines are skipped.

    Returns:
        The sentences and their labels, in the order of the file, repeats included.
    """
    sentences, labels = [], []
    for number, line in _lines(path):
        label, _, sentence = line.partition("\t")
        if not (label.strip() and sentence.strip()):
            raise _bad_line(path, number, line, "'label<TAB>sentence'")
        sentences.append(sentence.strip())
        labels.append(label.strip())
    _check_rows(path, sentences)
    return sentences, labels


def encode_sentences(
    tokenizer_folder: str | os.PathLike,
    sentences: Sequence[str],
    labels: Sequence[str],
    max_length: int,
) -> Text:
    """Tokenise sentences that carry one label each.

    Args:
        tokenizer_folder: Holds `tokenizer.json` or, failing that, `vocab.txt` (a
            lower-casing BERT WordPiece vocabulary).
        sentences: Text, one string a sentence.
        labels: Class names, one a sentence.
        max_length: Longer sentences are cut to it, special tokens included.

    Returns:
        Arrays padded to the longest encoded sentence.
    """
    _check_pairs(sentences, labels)
    tokenizer = _tokenizer(tokenizer_folder, max_length)
    ids, mask = _pad(tokenizer, tokenizer.encode_batch(list(sentences)))
    names = tuple(sorted(set(labels)))
    index = {name: k for k, name in enumerate(names)}
    classes = np.array([index[label] for label in labels], np.int32)
    return Text(ids, mask, classes, names, "sentence")


def encode_words(
    tokenizer_folder: str | os.PathLike,
    words: Sequence[Sequence[str]],
    tags: Sequence[Sequence[str]],
    max_length: int,
) -> Text:
    """Tokenise sentences whose words carry one label each.

    The first piece of a word carries its label; further pieces, special tokens and
    padding get -1. A word the tokenizer drops (control characters) or that `max_length`
    cuts off loses its label with it; its class keeps its number.

    Args:
        tokenizer_folder: See `encode_sentences`.
        words: The words of each sentence.
        tags: Their class names, of equal lengths.
        max_length: Longer sentences are cut to it, special tokens included.

    Returns:
        Arrays padded to the longest encoded sentence.
    """
    _check_pairs(words, tags)
    for i, (row, row_tags) in enumerate(zip(words, tags, strict=True)):
        if len(row) != len(row_tags):
            raise ValueError(f"sentence {i}: {len(row)} words, {len(row_tags)} tags")
    tokenizer = _tokenizer(tokenizer_folder, max_length)
    rows = [list(row) for row in words]
    encodings = tokenizer.encode_batch(rows, is_pretokenized=True)
    ids, mask = _pad(tokenizer, encodings)
    names = tuple(sorted({tag for row in tags for tag in row}))
    index = {name: k for k, name in enumerate(names)}
    classes = np.full(ids.shape, NO_LABEL, np.int32)
    for i, encoding in enumerate(encodings):
        last = None
        for j, word in enumerate(encoding.word_ids):
            if word is not None and word != last:
                classes[i, j] = index[tags[i][word]]
            last = word
    return Text(ids, mask, classes, names, "token")


def _lines(
    path: str | os.PathLike, keep_blank: bool = False
) -> Iterator[tuple[int, str]]:
    """Yield line numbers from 1 and lines; only a newline ends a line."""
    try:
        raw = pathlib.Path(path).read_bytes()
    except OSError as error:
        raise errors.InputError(f"{path}: cannot be read ({error.strerror})") from error
    for number, line in enumerate(raw.removeprefix(b"\xef\xbb\xbf").split(b"\n"), 1):
        try:
            text = line.decode("utf-8").removesuffix("\r")
        except UnicodeDecodeError as error:
            raise errors.InputError(f"{path}, line {number}: not UTF-8") from error
        if keep_blank or text.strip():
            yield number, text


def _bad_line(
    path: str | os.PathLike, number: int, line: str, want: str
) -> errors.InputError:
    return errors.InputError(
        f"{path}, line {number}: expected {want}, got {line[:80]!r}"
    )


def _check_rows(path: str | os.PathLike, rows: Sequence | dict) -> None:
    if not rows:
        raise errors.InputError(f"{path}: holds no labelled text")


def _check_pairs(texts: Sequence, labels: Sequence) -> None:
    if len(texts) != len(labels) or not texts:
        raise ValueError(f"{len(texts)} sentences, {len(labels)} labels")


# The vocab.txt class wraps a Tokenizer instead of being one.
_Tokenizer = tokenizers.Tokenizer | tokenizers.implementations.BaseTokenizer


def _tokenizer(folder: str | os.PathLike, max_length: int) -> _Tokenizer:
    if max_length < 3:
        raise ValueError(f"max_length {max_length}: at least 3, [CLS] token [SEP]")
    full = pathlib.Path(folder) / "tokenizer.json"
    vocabulary = pathlib.Path(folder) / "vocab.txt"
    path = full if full.is_file() else vocabulary
    if not path.is_file():
        raise errors.InputError(f"{folder}: neither tokenizer.json nor vocab.txt")
    try:
        if path == full:
            tokenizer = tokenizers.Tokenizer.from_file(str(path))
        else:
            tokenizer = tokenizers.BertWordPieceTokenizer(str(path), lowercase=True)
    except Exception as error:  # the Rust side raises bare Exception
        raise errors.InputError(f"{path}: not a tokenizer ({error})") from error
    # The packaged file has padding to 128 and truncation at 128 switched on.
    tokenizer.no_padding()
    tokenizer.no_truncation()
    tokenizer.enable_truncation(max_length)
    return tokenizer


def _pad(
    tokenizer: _Tokenizer, encodings: Sequence[tokenizers.Encoding]
) -> tuple[Int[np.ndarray, "n l"], Bool[np.ndarray, "n l"]]:
    # Without a padding token any id will do: those positions are masked.
    pad = tokenizer.token_to_id("[PAD]") or tokenizer.token_to_id("<pad>") or 0
    length = max(len(encoding.ids) for encoding in encodings)
    ids = np.full((len(encodings), length), pad, np.int32)
    mask = np.zeros(ids.shape, bool)
    for i, encoding in enumerate(encodings):
        ids[i, : len(encoding.ids)] = encoding.ids
        mask[i, : len(encoding.ids)] = True
    return ids, mask

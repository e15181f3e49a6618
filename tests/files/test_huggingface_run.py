"""Folders compressed tensor by tensor: what comes out, restarts, several processes, bad input."""

import json
import threading
from pathlib import Path

import pytest
import torch
from folders import LAYERS, contents, make, weights
from safetensors.torch import load_file, save_file

import lorank
from lorank.files import huggingface_run as module
from lorank.files import shards
from lorank.files.huggingface import open_folder
from lorank.files.huggingface_run import Settings, compress_folder
from tolerance import backward, eps

HALF = Settings(lambda spectra: lorank.ranks.budget(spectra, params=0.6), {"params": 0.6})
SEVERAL = Settings(lambda spectra: dict.fromkeys(spectra, 5), {"rank": 5})


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(module, "PATIENCE", 0.01)


@pytest.fixture
def dense(tmp_path) -> Path:
    return make(tmp_path / "dense")


def stored(folder: Path) -> dict[str, torch.Tensor]:
    found = {}
    for path in folder.glob("*.safetensors"):
        found |= load_file(path)
    return found


def test_each_weight_is_its_best_approximation_at_the_rank_of_one_budget(dense, tmp_path):
    answer = compress_folder(dense, tmp_path / "small", HALF)
    before, after = weights(), stored(tmp_path / "small")
    cut = [row for row in answer["layers"] if not row["stays_dense"]]
    assert len(answer["layers"]) == 2 * LAYERS and cut
    for row in cut:
        W = before[f"{row['layer']}.weight"]
        pair = after[f"{row['layer']}.1.weight"] @ after[f"{row['layer']}.0.weight"]
        U, S, Vh = torch.linalg.svd(W.double(), full_matrices=False)
        r = row["rank"]
        best = (U[:, :r] * S[:r]) @ Vh[:r]
        # the product of two rounded factors, and Gram vectors whose gaps are a tenth of a value
        assert (pair.double() - best).norm() <= 100 * backward(*W.shape, torch.float32) * S[0]
        assert row["energy"] == pytest.approx(float((S[:r] ** 2).sum() / (S**2).sum()), abs=1e-6)
    assert answer["after"]["params"] == sum(value.numel() for value in after.values())
    assert answer["after"]["params"] <= 0.6 * answer["before"]["params"]
    assert answer["before"]["params"] == sum(value.numel() for value in before.values())


def test_everything_else_is_copied_as_it_is(dense, tmp_path):
    compress_folder(dense, tmp_path / "small", SEVERAL)
    before, after = weights(), stored(tmp_path / "small")
    kept = [name for name in before if ".up." not in name and ".down." not in name]
    assert len(kept) == LAYERS + 2
    assert all(torch.equal(after[name], before[name]) for name in kept)
    bias = "model.layers.0.up.bias"
    assert torch.equal(after["model.layers.0.up.1.bias"], before[bias]) and bias not in after
    files = contents(tmp_path / "small")
    for name in ("config.json", "tokenizer.json", "1_Pooling/config.json"):
        assert files[name] == (dense / name).read_bytes()
    index = json.loads(files["model.safetensors.index.lorank.json"])["weight_map"]
    assert index.keys() == after.keys() and set(index.values()) == {
        f"model.lorank-0000{k}-of-00002.safetensors" for k in (1, 2)
    }


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_keep_their_dtype(dtype, tmp_path):
    make(tmp_path / "dense", weights(dtype), shards=1)
    compress_folder(tmp_path / "dense", tmp_path / "small", SEVERAL)
    after = load_file(tmp_path / "small" / "model.lorank.safetensors")
    assert {value.dtype for value in after.values()} == {dtype}
    name = "model.layers.1.down"
    W = weights(dtype)[f"{name}.weight"].double()
    pair = after[f"{name}.1.weight"].double() @ after[f"{name}.0.weight"].double()
    best = torch.linalg.svdvals(W)[5:].norm()
    assert (pair - W).norm() <= best + 4 * eps(dtype) * W.norm() + 1e-5 * W.norm()


def together(source: Path, target: Path, count: int) -> None:
    """Several processes at once; each reads and writes files, and shares nothing else."""
    faults = []

    def one(process: int) -> None:
        try:
            compress_folder(source, target, HALF, process=process, processes=count)
        except BaseException as error:
            faults.append(error)

    threads = [threading.Thread(target=one, args=(k,)) for k in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not faults and not any(thread.is_alive() for thread in threads)


@pytest.mark.parametrize("count", [2, 3, 9])
def test_one_process_and_several_write_the_same_bytes(count, dense, tmp_path):
    compress_folder(dense, tmp_path / "one", HALF)
    together(dense, tmp_path / "several", count)
    assert contents(tmp_path / "several") == contents(tmp_path / "one")


def test_the_number_of_threads_changes_no_byte(dense, tmp_path):
    compress_folder(dense, tmp_path / "one", HALF)
    torch.set_num_threads(3)
    try:
        compress_folder(dense, tmp_path / "three", HALF)
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(1)
    assert contents(tmp_path / "three") == contents(tmp_path / "one")


class StoppedError(Exception):
    pass


@pytest.mark.parametrize("writes", [0, 2, 8, 14])
def test_a_stopped_run_goes_on_and_ends_at_the_same_bytes(writes, dense, tmp_path, monkeypatch):
    compress_folder(dense, tmp_path / "whole", HALF)
    left, made = [writes], []
    real_json, real_write = module._write_json, shards.write

    def counted(real):
        def write(path, *more):
            made.append(path.name)
            if left[0] == 0:
                raise StoppedError
            left[0] -= 1
            return real(path, *more)

        return write

    monkeypatch.setattr(module, "_write_json", counted(real_json))
    monkeypatch.setattr(shards, "write", counted(real_write))
    with pytest.raises(StoppedError):
        compress_folder(dense, tmp_path / "small", HALF)
    assert not (tmp_path / "small" / "lorank.json").exists()
    done = set(made[:writes])
    left[0], made[:] = 1000, []
    compress_folder(dense, tmp_path / "small", HALF)
    assert not done & set(made)  # nothing is done twice
    assert contents(tmp_path / "small") == contents(tmp_path / "whole")


def test_a_run_that_has_ended_is_not_run_again(dense, tmp_path, monkeypatch):
    first = compress_folder(dense, tmp_path / "small", HALF)
    monkeypatch.setattr(module, "_Job", None)  # would fail if it were made
    assert compress_folder(dense, tmp_path / "small", HALF) == first


def test_a_full_disk_leaves_nothing_half_written(dense, tmp_path, monkeypatch):
    compress_folder(dense, tmp_path / "whole", HALF)
    real = shards.chunks

    def full(entry):
        if "lorank-run" in str(entry.path):
            raise OSError(28, "No space left on device")
        return real(entry)

    monkeypatch.setattr(shards, "chunks", full)
    with pytest.raises(OSError, match="No space left"):
        compress_folder(dense, tmp_path / "small", HALF)
    left = contents(tmp_path / "small")
    assert left and all(Path(name).name[0] != "." for name in left)  # no draft
    whole = contents(tmp_path / "whole")
    assert all(left[name] == whole[name] for name in left if not name.startswith(".lorank-run"))
    assert any("factors" in name for name in left)
    monkeypatch.undo()
    compress_folder(dense, tmp_path / "small", HALF)
    assert contents(tmp_path / "small") == contents(tmp_path / "whole")


def test_a_shard_that_shrinks_while_it_is_read_is_a_sentence_and_nothing_is_lost(
    dense, tmp_path, monkeypatch
):
    compress_folder(dense, tmp_path / "whole", HALF)
    shard = dense / "model-00002-of-00002.safetensors"
    whole = shard.read_bytes()
    planned = module.plan

    def then_cut(*arguments):
        found = planned(*arguments)
        shard.write_bytes(whole[: len(whole) // 2])
        return found

    monkeypatch.setattr(module, "plan", then_cut)
    with pytest.raises(lorank.LorankError, match="became shorter while it was read"):
        compress_folder(dense, tmp_path / "small", HALF)
    with pytest.raises(lorank.LorankError, match="is not a whole safetensors file"):
        compress_folder(dense, tmp_path / "small", HALF)
    shard.write_bytes(whole)
    monkeypatch.undo()
    compress_folder(dense, tmp_path / "small", HALF)
    assert contents(tmp_path / "small") == contents(tmp_path / "whole")


def test_a_missing_shard_is_named(dense, tmp_path):
    (dense / "model-00001-of-00002.safetensors").unlink()
    with pytest.raises(lorank.LorankError, match=r"missing.*model-00001-of-00002"):
        compress_folder(dense, tmp_path / "small", HALF)
    assert not (tmp_path / "small").exists()


def test_a_changed_input_is_noticed(dense, tmp_path, monkeypatch):
    monkeypatch.setattr(module._Job, "assemble", lambda *a: (_ for _ in ()).throw(StoppedError()))
    with pytest.raises(StoppedError):
        compress_folder(dense, tmp_path / "small", HALF)
    monkeypatch.undo()
    shard = dense / "model-00001-of-00002.safetensors"
    tensors = load_file(shard)
    tensors["model.layers.1.up.bias"][0] += 1  # same names, same sizes
    save_file(tensors, shard)
    with pytest.raises(lorank.LorankError, match="another run, which differs in its input"):
        compress_folder(dense, tmp_path / "small", HALF)


def test_another_wish_is_another_run(dense, tmp_path):
    compress_folder(dense, tmp_path / "small", HALF)
    with pytest.raises(lorank.LorankError, match="another run, which differs in its asked"):
        compress_folder(dense, tmp_path / "small", SEVERAL)


def test_layers_can_be_left_alone(dense, tmp_path):
    asked = SEVERAL._replace(skip=("*.down",))
    answer = compress_folder(dense, tmp_path / "small", asked)
    assert [row["layer"] for row in answer["layers"]] == [
        f"model.layers.{k}.up" for k in range(LAYERS)
    ]
    assert "model.layers.0.down.weight" in stored(tmp_path / "small")


def test_the_person_is_told_how_layers_were_found(dense, tmp_path):
    told: list[str] = []
    answer = compress_folder(dense, tmp_path / "small", SEVERAL, tell=told.append)
    assert answer["found_by"] == "names" and "told by their names" in told[0]


def refuse(source, target, words):
    before = contents(source) if source.is_dir() else {}
    with pytest.raises(lorank.LorankError, match=words) as caught:
        compress_folder(source, target, SEVERAL)
    assert str(caught.value).count("\n") == 0
    assert (contents(source) if source.is_dir() else {}) == before


def test_folders_that_cannot_be_used(dense, tmp_path):
    refuse(tmp_path / "none", tmp_path / "small", r"holds config.json, and .*none does not")
    refuse(dense, dense, "must lie outside the dense one")
    refuse(dense, dense / "small", "must lie outside the dense one")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("keep me")
    refuse(dense, tmp_path / "full", "a new or empty folder")
    (tmp_path / "file").write_text("")
    refuse(dense, tmp_path / "file", "is a file")
    refuse(dense, tmp_path / "no" / "parent", "one that exists")
    compress_folder(dense, tmp_path / "small", SEVERAL)
    refuse(tmp_path / "small", tmp_path / "smaller", "was cut before")


def without_weights(folder: Path) -> Path:
    for path in folder.glob("model*"):
        path.unlink()
    return folder


def test_folders_without_weights_that_can_be_read(dense, tmp_path):
    without_weights(dense)
    refuse(dense, tmp_path / "small", r"a configuration and no weights")
    (dense / "pytorch_model.bin").write_bytes(b"code may be here")
    refuse(dense, tmp_path / "small", r"only pytorch_model.bin, which may hold code")


def test_damaged_words(dense, tmp_path):
    index = dense / "model.safetensors.index.json"
    whole = index.read_text()
    index.write_text('{"weight_map": {}}')
    refuse(dense, tmp_path / "small", "must hold a weight_map")
    index.write_text('{"weight_map": {"a": "../model.safetensors"}}')
    refuse(dense, tmp_path / "small", "outside its folder")
    index.write_text(whole.replace("lm_head.weight", "other.weight"))
    refuse(dense, tmp_path / "small", "names 'other.weight', and no shard holds it")
    index.write_text("{")
    refuse(dense, tmp_path / "small", "not readable JSON")
    index.write_text(whole)
    (dense / "config.json").write_text("[]")
    refuse(dense, tmp_path / "small", "must hold a JSON object")


def test_quantized_weights_are_refused(dense, tmp_path):
    config = json.loads((dense / "config.json").read_text())
    (dense / "config.json").write_text(json.dumps(config | {"quantization_config": {"bits": 4}}))
    refuse(dense, tmp_path / "small", "quantized")
    packed = make(tmp_path / "packed", {"a.weight": torch.ones(8, 8, dtype=torch.int8)}, shards=1)
    refuse(packed, tmp_path / "small", "'a.weight' is stored as I8")


def test_nan_is_named_with_its_layer(tmp_path):
    bad = weights()
    bad["model.layers.1.up.weight"][0, 0] = float("nan")
    make(tmp_path / "dense", bad)
    refuse(tmp_path / "dense", tmp_path / "small", r"model.layers.1.up.*finite")


def test_a_folder_with_nothing_to_cut(tmp_path):
    make(tmp_path / "dense", {"norm.weight": torch.ones(4)}, shards=1)
    refuse(tmp_path / "dense", tmp_path / "small", "no weight that can be cut")


def test_a_folder_that_nobody_knows_is_not_loaded(dense, tmp_path):
    compress_folder(dense, tmp_path / "small", SEVERAL)
    with pytest.raises(lorank.LorankError, match=r"NobodyKnowsIt|transformers"):
        lorank.load(tmp_path / "small")
    with pytest.raises(lorank.LorankError, match="give the dense model too"):
        lorank.load(tmp_path / "file.safetensors")


def test_shards_are_read_by_the_library_too(tmp_path):
    tensors = {
        "b": torch.arange(6, dtype=torch.int64).reshape(2, 3),
        "a": torch.randn(5).bfloat16(),
        "mask": torch.tensor([True, False, True]),
        "empty": torch.empty(0, 3),
        "one": torch.tensor(2.5),
    }
    path = tmp_path / "mixed.safetensors"
    shards.write(path, {name: shards.held(value) for name, value in tensors.items()}, {"a": "b"})
    again, own = load_file(path), shards.entries(path)
    assert again.keys() == own.keys() == tensors.keys()
    for name, value in tensors.items():
        for found in (again[name], shards.read(own[name])):
            assert torch.equal(found, value) and found.dtype == value.dtype
    starts = [entry.start % 8 for entry in own.values() if entry.word == "I64"]
    assert starts == [0]


def test_memory_stays_near_the_largest_weight(dense):
    """A shard's tensors are read one at a time: opening a folder reads none."""
    folder = open_folder(dense)
    entry = folder.entries["model.layers.0.up.weight"]
    pieces = list(shards.chunks(entry))
    assert sum(map(len, pieces)) == entry.size == 40 * 24 * 4
    assert max(map(len, pieces)) <= shards.CHUNK

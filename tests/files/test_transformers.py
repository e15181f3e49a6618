"""Families of transformers, tiny and random: from their folder to a smaller one and back."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import lorank
from lorank.files.huggingface_run import Settings, compress_folder
from tolerance import TEN, eps

T = pytest.importorskip("transformers", reason="the families come with the extra 'transformers'")
STORIES = Path(__file__).resolve().parents[3] / "shared" / "data" / "stories260k"

TEXT = {"vocab_size": 60, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
WIDE = {"intermediate_size": 64, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
GROUPED = {**TEXT, **WIDE, "num_key_value_heads": 2}
IMAGE = {**{k: v for k, v in TEXT.items() if k != "vocab_size"}, "intermediate_size": 64}
IMAGE |= {"image_size": 16, "patch_size": 4}


def tokens(*names: str) -> dict[str, torch.Tensor]:
    return {name: torch.randint(3, 60, (2, 9)) for name in names}


def image() -> dict[str, torch.Tensor]:
    return {"pixel_values": torch.randn(2, 3, 16, 16)}


def whisper():
    sides = {f"{side}_{what}": n for side in ("encoder", "decoder") for what, n in SIDES.items()}
    small = {"vocab_size": 60, "num_mel_bins": 8, "d_model": 32, "max_source_positions": 20}
    ends = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1}
    config = T.WhisperConfig(**small, **sides, **ends, max_target_positions=30)
    return T.WhisperForConditionalGeneration(config)


SIDES = {"layers": 2, "attention_heads": 4, "ffn_dim": 64}


def t5():
    config = T.T5Config(vocab_size=60, d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4)
    return T.T5ForConditionalGeneration(config)


def gpt2():
    small = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 32}
    return T.GPT2LMHeadModel(T.GPT2Config(vocab_size=60, **small, bos_token_id=1, eos_token_id=2))


Family = tuple[Callable[[], torch.nn.Module], Callable[[], dict[str, torch.Tensor]]]
IDS = "input_ids"
FAMILIES: dict[str, Family] = {
    "bert": (lambda: T.BertForMaskedLM(T.BertConfig(**TEXT, **WIDE)), lambda: tokens(IDS)),
    "gpt2": (gpt2, lambda: tokens(IDS)),
    "llama": (lambda: T.LlamaForCausalLM(T.LlamaConfig(**GROUPED)), lambda: tokens(IDS)),
    "mistral": (
        lambda: T.MistralForCausalLM(T.MistralConfig(**GROUPED, head_dim=8)),
        lambda: tokens(IDS),
    ),
    "qwen2": (
        lambda: T.Qwen2ForCausalLM(T.Qwen2Config(**GROUPED, tie_word_embeddings=True)),
        lambda: tokens(IDS),
    ),
    "phi3": (lambda: T.Phi3ForCausalLM(T.Phi3Config(**GROUPED)), lambda: tokens(IDS)),
    "neox": (
        lambda: T.GPTNeoXForCausalLM(T.GPTNeoXConfig(**TEXT, **WIDE)),
        lambda: tokens(IDS),
    ),
    "t5": (t5, lambda: tokens(IDS, "decoder_input_ids")),
    "vit": (lambda: T.ViTForImageClassification(T.ViTConfig(**IMAGE)), image),
    "whisper": (
        whisper,
        lambda: {"input_features": torch.randn(2, 8, 40), **tokens("decoder_input_ids")},
    ),
}
every = pytest.mark.parametrize("name", FAMILIES)


def made(name: str):
    model, inputs = FAMILIES[name]
    return model().eval(), inputs()


@torch.no_grad()
def output(model, inputs):
    return model(**inputs)[0]


def gap(a, b) -> float:
    return float((a - b).norm() / b.norm())


def cut(model, share=0.6):
    spectra = lorank.measure(model)
    ranks = lorank.ranks.budget(spectra, params=share)
    thin = {name: r for name, r in ranks.items() if r <= spectra[name].break_even}
    return lorank.fold(lorank.decompose(model, thin))


@every
def test_a_family_goes_through_memory(name, tmp_path):
    model, inputs = made(name)
    want = output(model, inputs)
    full = lorank.decompose(model)
    assert gap(output(full, inputs), want) <= 1e-5
    spectra = lorank.measure(model, inputs)
    low = lorank.prune(full, lorank.ranks.budget(spectra, params=0.6))
    small = lorank.fold(low, example=inputs)
    assert gap(output(small, inputs), output(low, inputs)) <= 1e-5
    assert lorank.cost(small).params <= 0.6 * lorank.cost(model).params
    lorank.save(small, tmp_path / "small")
    again = lorank.load(tmp_path / "small")
    assert type(again) is type(model) and not again.training
    assert torch.equal(output(again, inputs), output(small, inputs))
    assert lorank.cost(again) == lorank.cost(small)
    assert gap(output(small, inputs), want) > 1e-3  # something was cut


@every
def test_a_family_goes_through_shards(name, tmp_path):
    model, inputs = made(name)
    model.save_pretrained(tmp_path / "dense", max_shard_size="40KB")
    assert len(list((tmp_path / "dense").glob("*.safetensors"))) > 1
    asked = Settings(lambda spectra: lorank.ranks.budget(spectra, params=0.6), {"params": 0.6})
    answer = compress_folder(tmp_path / "dense", tmp_path / "small", asked)
    assert answer["found_by"] == type(model).__name__
    assert {row["layer"] for row in answer["layers"]} == set(lorank.measure(model))
    again = lorank.load(tmp_path / "small")
    ranks = {row["layer"]: row["rank"] for row in answer["layers"] if not row["stays_dense"]}
    same = lorank.fold(lorank.decompose(model, ranks))
    # singular values of random weights lie close: two methods turn their vectors by
    # eps / gap, and each of some twenty layers adds its share
    assert gap(output(again, inputs), output(same, inputs)) <= TEN * 20 * eps(torch.float32) / 0.05
    assert lorank.cost(again).params == lorank.cost(same).params == answer["after"]["params"]
    stored = sum(
        value.numel()
        for path in (tmp_path / "small").glob("*.safetensors")
        for value in load_file(path).values()
    )
    assert stored == answer["after"]["params"]  # what is tied is stored once


@every
def test_a_dense_folder_loads_as_the_library_loads_it(name, tmp_path):
    model, inputs = made(name)
    model.save_pretrained(tmp_path / "dense", max_shard_size="40KB")
    again = lorank.load(tmp_path / "dense")
    assert torch.equal(output(again, inputs), output(model, inputs))
    assert {n for n, _ in again.named_buffers()} == {n for n, _ in model.named_buffers()}


@pytest.mark.parametrize("name", ["gpt2", "llama", "qwen2", "whisper"])
def test_generation_goes_on_after_loading(name, tmp_path):
    model, inputs = made(name)
    small = cut(model)
    lorank.save(small, tmp_path / "small")
    again = lorank.load(tmp_path / "small")
    prompt = {k: v for k, v in inputs.items() if not k.startswith("decoder")}
    asked = {"max_new_tokens": 4, "do_sample": False}
    assert torch.equal(again.generate(**prompt, **asked), small.generate(**prompt, **asked))


@pytest.mark.parametrize("name", ["bert", "gpt2", "qwen2", "t5"])
def test_tied_embeddings_stay_tied(name, tmp_path):
    model, _ = made(name)
    spectra = lorank.measure(model)
    table = next(n for n in spectra if "emb" in n or "wte" in n or "shared" in n)
    small = lorank.fold(lorank.decompose(model, {table: 8}))
    lorank.save(small, tmp_path / "small")
    for found in (small, lorank.load(tmp_path / "small")):
        outer = found.get_input_embeddings()[0].weight
        assert outer.shape == (60, 8) and outer is found.get_output_embeddings()[1].weight


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_with_a_layer_kept_in_float32(dtype, tmp_path):
    """T5 keeps ``wo`` in float32, and asks its weight for its dtype on every call."""
    model, inputs = made("t5")
    small = cut(model).to(dtype)
    for block in small.modules():
        if hasattr(block, "wo"):
            block.wo.float()
    lorank.save(small, tmp_path / "small")
    again = lorank.load(tmp_path / "small")
    assert output(again, inputs).dtype == dtype
    assert torch.equal(output(again, inputs), output(small, inputs))
    dtypes = {p.dtype for n, p in again.named_parameters() if ".wo." in n}
    assert dtypes == {torch.float32}


def test_the_library_alone_refuses_a_compressed_folder(tmp_path):
    model, _ = made("bert")
    lorank.save(cut(model), tmp_path / "small")
    with pytest.raises(OSError, match="no file named"):  # and draws nothing at random
        T.AutoModel.from_pretrained(tmp_path / "small")


def test_files_beside_the_weights_come_along(tmp_path):
    model, _ = made("bert")
    model.save_pretrained(tmp_path / "dense")
    (tmp_path / "dense" / "vocab.txt").write_text("[PAD]\n")
    (tmp_path / "dense" / "modeling_own.py").write_text("raise SystemExit")
    loaded = T.BertForMaskedLM.from_pretrained(tmp_path / "dense")
    lorank.save(cut(loaded), tmp_path / "small", info={"why": "a test"})
    names = {path.name for path in (tmp_path / "small").iterdir()}
    assert "vocab.txt" in names and "modeling_own.py" not in names
    assert json.loads((tmp_path / "small" / "lorank.json").read_text())["info"]["why"] == "a test"


def test_a_large_model_is_saved_in_several_files(tmp_path):
    model, inputs = made("llama")
    small = cut(model)
    lorank.files.save_folder(small, tmp_path / "small", shard_bytes=20_000)
    assert len(list((tmp_path / "small").glob("*.safetensors"))) > 1
    again = lorank.load(tmp_path / "small")
    assert torch.equal(output(again, inputs), output(small, inputs))


def test_a_folder_that_holds_something_is_left_alone(tmp_path):
    model, _ = made("bert")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "note.txt").write_text("keep me")
    with pytest.raises(lorank.LorankError, match="a new or empty folder"):
        lorank.save(model, tmp_path / "mine")
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["note.txt"]


def test_a_save_that_fails_leaves_nothing(tmp_path):
    model, _ = made("bert")
    with pytest.raises(lorank.LorankError, match="JSON"):
        lorank.save(model, tmp_path / "small", info={"what": object()})
    assert list(tmp_path.iterdir()) == []


def test_an_architecture_that_is_not_there_is_a_sentence(tmp_path):
    model, _ = made("bert")
    lorank.save(cut(model), tmp_path / "small")
    config = tmp_path / "small" / "config.json"
    config.write_text(config.read_text().replace("BertForMaskedLM", "BertForMagic"))
    with pytest.raises(lorank.LorankError, match="architecture 'BertForMagic'"):
        lorank.load(tmp_path / "small")


def test_tied_tensors_that_differ_in_the_files_are_refused(tmp_path):
    model, _ = made("gpt2")
    model.save_pretrained(tmp_path / "dense")
    path = tmp_path / "dense" / "model.safetensors"
    tensors = load_file(path)
    tensors["lm_head.weight"] = tensors["transformer.wte.weight"].clone()
    save_file(tensors, path, metadata={"format": "pt"})
    asked = Settings(lambda spectra: dict.fromkeys(spectra, 4), {})
    answer = compress_folder(tmp_path / "dense", tmp_path / "equal", asked)
    assert answer["before"]["params"] == sum(p.numel() for p in model.parameters())
    lorank.load(tmp_path / "equal")
    tensors["lm_head.weight"][0, 0] += 1
    save_file(tensors, path, metadata={"format": "pt"})
    with pytest.raises(lorank.LorankError, match="are one tensor in GPT2LMHeadModel, and differ"):
        compress_folder(tmp_path / "dense", tmp_path / "small", asked)


def stories() -> torch.nn.Module:
    """The published small language model, as a Llama of transformers."""
    with safe_open(STORIES / "stories260k.safetensors", framework="pt") as file:
        there = json.loads(file.metadata()["config"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    config = T.LlamaConfig(
        vocab_size=there["vocab_size"],
        hidden_size=there["dim"],
        intermediate_size=there["hidden_dim"],
        num_hidden_layers=there["n_layers"],
        num_attention_heads=there["n_heads"],
        num_key_value_heads=there["n_kv_heads"],
        max_position_embeddings=there["max_seq_len"],
        rms_norm_eps=there["norm_eps"],
        tie_word_embeddings=True,
    )
    model = T.LlamaForCausalLM(config)
    words = {"feed_forward.w1": "mlp.gate_proj", "feed_forward.w2": "mlp.down_proj"}
    words |= {"feed_forward.w3": "mlp.up_proj", "ffn_norm": "post_attention_layernorm"}
    words |= {f"attention.w{x}": f"self_attn.{x}_proj" for x in "qkvo"}
    words |= {"attention_norm": "input_layernorm", "tok_embeddings": "embed_tokens"}
    state = {}
    for name, value in tensors.items():
        for old, new in words.items():
            name = name.replace(old, new)
        if "q_proj" in name or "k_proj" in name:  # rotated pairs lie side by side, here in halves
            value = _halves(value, there["dim"] // there["n_heads"])
        state[f"model.{name}" if not name.startswith("output") else "lm_head.weight"] = value
    known = model.state_dict().keys()
    model.load_state_dict({k: v for k, v in state.items() if k in known}, strict=False)
    model.tie_weights()
    return model.eval()


def _halves(weight: torch.Tensor, size: int) -> torch.Tensor:
    """Reorder each head's rows from pairs side by side to two halves."""
    return weight.unflatten(0, (-1, size // 2, 2)).transpose(1, 2).flatten(0, 2)


@torch.no_grad()
def loss(model) -> float:
    """Nats a token on what the model itself once wrote."""
    sampled = np.load(STORIES / "sampled_tokens.npz")
    tokens, valid = torch.tensor(sampled["tokens"]).long(), torch.tensor(sampled["valid"])
    scores = model(input_ids=tokens[:, :-1]).logits
    each = torch.nn.functional.cross_entropy(scores.mT, tokens[:, 1:], reduction="none")
    return float(each[valid].mean())


@pytest.mark.skipif(not STORIES.is_dir(), reason="the trained stories model is not here")
def test_a_trained_model_keeps_its_loss_and_both_ways_cut_alike(tmp_path):
    model = stories()
    before = loss(model)
    assert before == pytest.approx(1.306, abs=0.005)
    model.save_pretrained(tmp_path / "dense", max_shard_size="300KB")
    assert loss(lorank.fold(lorank.decompose(model))) == pytest.approx(before, abs=1e-4)
    asked = {"params": 0.9}
    settings = Settings(lambda spectra: lorank.ranks.budget(spectra, **asked), asked)
    answer = compress_folder(tmp_path / "dense", tmp_path / "small", settings)
    ranks = {row["layer"]: row["rank"] for row in answer["layers"] if not row["stays_dense"]}
    assert ranks
    memory = loss(lorank.fold(lorank.decompose(model, ranks)))
    assert memory > before + 0.1  # a cut without data hurts a network this small
    assert loss(lorank.load(tmp_path / "small")) == pytest.approx(memory, abs=1e-3)

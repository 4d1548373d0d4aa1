"""Tiny models of several families with random weights: GGUF files and Hugging Face folders."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgellm import gguf, quant, safetensors
from edgellm.tensor import MappedTensor

DIM, HIDDEN, HEADS, KV_HEADS, HEAD_DIM, CONTEXT = 32, 64, 4, 2, 8, 64
TEMPLATE = "{% for m in messages %}<s>{{ m['role'] }}: {{ m['content'] }}</s>{% endfor %}"

Weights = dict[str, NDArray[np.float32]]


def byte_characters() -> list[str]:
    """GPT-2's visible character of each byte, in the order of its vocabulary."""
    visible = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    return [chr(byte) for byte in visible] + [chr(0x100 + i) for i in range(256 - len(visible))]


MERGES = ["Ġ t", "h e", "Ġt he", "i n", "e r", "l a", "la m", "lam p", "Ġ lamp"]
SPECIALS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]


def bpe_tokens() -> list[str]:
    merged = [merge.replace(" ", "") for merge in MERGES]
    return SPECIALS + byte_characters() + merged


def spm_tokens() -> list[tuple[str, float, int]]:
    """Piece, score and type of each token."""
    special = [("<unk>", 0.0, 2), ("<s>", 0.0, 3), ("</s>", 0.0, 3)]
    of_bytes = [(f"<0x{byte:02X}>", 0.0, 6) for byte in range(256)]
    words = ["▁t", "he", "▁the", "in", "▁lamp", "la", "mp", "lamp", "▁", *"abcdefghilmnoprstu"]
    return special + of_bytes + [(word, -float(i), 1) for i, word in enumerate(words)]


def vocabulary(spm: bool) -> dict[str, object]:
    key = "tokenizer.ggml."
    if spm:
        pieces, scores, types = zip(*spm_tokens(), strict=True)
        return {
            key + "model": "llama",
            key + "pre": "default",
            key + "tokens": list(pieces),
            key + "scores": np.array(scores, dtype=np.float32),
            key + "token_type": np.array(types, dtype=np.int32),
            key + "bos_token_id": 1,
            key + "eos_token_id": 2,
            key + "unknown_token_id": 0,
            key + "add_bos_token": True,
            key + "add_space_prefix": True,
        }
    tokens = bpe_tokens()
    return {
        key + "model": "gpt2",
        key + "pre": "gpt-2",
        key + "tokens": tokens,
        key + "token_type": [3] * len(SPECIALS) + [1] * (len(tokens) - len(SPECIALS)),
        key + "merges": MERGES,
        key + "bos_token_id": 0,
        key + "eos_token_id": 2,
        key + "eot_token_id": 2,
        key + "padding_token_id": 0,
        key + "add_bos_token": False,
    }


def _shapes(architecture: str, layers: int, vocab: int) -> dict[str, tuple[int, ...]]:
    """GGUF's tensors of one of the families below."""
    query, key = HEADS * HEAD_DIM, KV_HEADS * HEAD_DIM
    plain = architecture == "gpt2"
    block: dict[str, tuple[int, ...]] = {
        "attn_norm.weight": (DIM,),
        "ffn_norm.weight": (DIM,),
        "attn_output.weight": (DIM, query),
        "ffn_down.weight": (DIM, HIDDEN),
        "ffn_up.weight": (2 * HIDDEN if architecture == "phi3" else HIDDEN, DIM),
    }
    if architecture in ("gpt2", "phi3"):
        kept = query if plain else key
        block["attn_qkv.weight"] = (query + 2 * kept, DIM)
    else:
        block["attn_q.weight"] = (query, DIM)
        block["attn_k.weight"] = block["attn_v.weight"] = (key, DIM)
        block["ffn_gate.weight"] = (HIDDEN, DIM)
    if architecture == "qwen2":
        block |= {"attn_q.bias": (query,), "attn_k.bias": (key,), "attn_v.bias": (key,)}
    if architecture in ("gemma3", "lfm2"):
        block |= {"attn_q_norm.weight": (HEAD_DIM,), "attn_k_norm.weight": (HEAD_DIM,)}
    if architecture == "gemma3":
        block |= {"post_attention_norm.weight": (DIM,), "post_ffw_norm.weight": (DIM,)}
    shapes: dict[str, tuple[int, ...]] = {"token_embd.weight": (vocab, DIM)}
    shapes["token_embd_norm.weight" if architecture == "lfm2" else "output_norm.weight"] = (DIM,)
    for index in range(layers):
        shapes |= {f"blk.{index}.{name}": shape for name, shape in block.items()}
    if architecture == "lfm2":
        for part in ("q", "k", "v", "output", "q_norm", "k_norm"):
            del shapes[f"blk.0.attn_{part}.weight"]
        shapes["blk.0.shortconv.in_proj.weight"] = (3 * DIM, DIM)
        shapes["blk.0.shortconv.conv.weight"] = (DIM, 3)
        shapes["blk.0.shortconv.out_proj.weight"] = (DIM, DIM)
    if plain:
        shapes["position_embd.weight"] = (CONTEXT, DIM)
        biased = [name for name in shapes if name.startswith(("blk.", "output_norm"))]
        shapes |= {name.replace(".weight", ".bias"): shapes[name][:1] for name in biased}
    if architecture == "llama":
        shapes |= {"output.weight": (vocab, DIM), "rope_freqs.weight": (HEAD_DIM // 2,)}
    if architecture == "phi3":
        shapes["rope_factors_long.weight"] = shapes["rope_factors_short.weight"] = (HEAD_DIM // 2,)
    return shapes


def _metadata(architecture: str, layers: int) -> dict[str, object]:
    norm = "layer_norm_epsilon" if architecture == "gpt2" else "layer_norm_rms_epsilon"
    kv_heads: object = HEADS if architecture == "gpt2" else KV_HEADS
    if architecture == "lfm2":
        kv_heads = [0, *[KV_HEADS] * (layers - 1)]
    keys: dict[str, object] = {
        "block_count": layers,
        "context_length": CONTEXT,
        "embedding_length": DIM,
        "feed_forward_length": HIDDEN,
        "attention.head_count": HEADS,
        "attention.head_count_kv": kv_heads,
        f"attention.{norm}": 1e-5,
    }
    if architecture != "gpt2":
        keys |= {"rope.freq_base": 10000.0, "rope.dimension_count": HEAD_DIM}
        keys |= {"attention.key_length": HEAD_DIM, "attention.value_length": HEAD_DIM}
    if architecture == "gemma3":
        keys |= {"attention.sliding_window": 8, "rope.freq_base_swa": 10000.0}
    if architecture == "phi3":
        keys |= {"rope.scaling.original_context_length": 32, "rope.scaling.attn_factor": 1.2}
    if architecture == "lfm2":
        keys["shortconv.l_cache"] = 3
    return {f"{architecture}.{key}": value for key, value in keys.items()}


SPM = {"llama", "gemma3", "phi3"}
MATRIX_TYPES = {"llama": "Q4_0", "gpt2": "F16", "gemma3": "Q8_0", "lfm2": "F32"}


def write_gguf(path: Path, architecture: str, layers: int = 2, seed: int = 0) -> None:
    """A GGUF file of one of llama, gpt2, gemma3, phi3, qwen2, lfm2."""
    rng = np.random.default_rng(seed)
    spm = architecture in SPM
    vocab = len(spm_tokens()) if spm else len(bpe_tokens())
    metadata = {
        "general.architecture": architecture,
        "general.name": f"small {architecture}",
        "general.license": "mit",
        "general.author": "edgellm's tests",
        "general.source.url": "https://example.org/small",
        "general.quantization_version": 2,
        **_metadata(architecture, layers),
        **vocabulary(spm),
        "tokenizer.chat_template": TEMPLATE,
    }
    tensors: dict[str, NDArray[np.generic] | MappedTensor] = {}
    for name, shape in _shapes(architecture, layers, vocab).items():
        values = rng.normal(size=shape).astype(np.float32)
        if "rope_f" in name:
            values = np.abs(values) + 1
        kind = MATRIX_TYPES.get(architecture, "Q8_0")
        if len(shape) == 2 and shape[1] % 32 == 0 and kind != "F32":
            packed = quant.quantise(kind, values).data
            tensors[name] = MappedTensor(name, shape, kind, packed)
        else:
            tensors[name] = values
    gguf.write(path, metadata, tensors)


def write_safetensors(path: Path, tensors: Weights) -> None:
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, values in tensors.items():
        end = offset + values.nbytes
        shape = list(values.shape)
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header).encode()
    text = text.ljust(-(-len(text) // 8) * 8)
    data = b"".join(values.tobytes() for values in tensors.values())
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


def _llama_weights(rng: np.random.Generator, layers: int, vocab: int, biased: bool) -> Weights:
    query, key = HEADS * HEAD_DIM, KV_HEADS * HEAD_DIM
    shapes: dict[str, tuple[int, ...]] = {
        "embed_tokens.weight": (vocab, DIM),
        "norm.weight": (DIM,),
    }
    for index in range(layers):
        block: dict[str, tuple[int, ...]] = {
            "input_layernorm.weight": (DIM,),
            "post_attention_layernorm.weight": (DIM,),
            "self_attn.q_proj.weight": (query, DIM),
            "self_attn.k_proj.weight": (key, DIM),
            "self_attn.v_proj.weight": (key, DIM),
            "self_attn.o_proj.weight": (DIM, query),
            "mlp.gate_proj.weight": (HIDDEN, DIM),
            "mlp.up_proj.weight": (HIDDEN, DIM),
            "mlp.down_proj.weight": (DIM, HIDDEN),
        }
        if biased:
            block |= {f"self_attn.{p}_proj.bias": (query if p == "q" else key,) for p in "qkv"}
        shapes |= {f"layers.{index}.{name}": shape for name, shape in block.items()}
    return {f"model.{n}": rng.normal(size=s).astype(np.float32) for n, s in shapes.items()}


def _gpt2_weights(rng: np.random.Generator, layers: int, vocab: int) -> Weights:
    shapes: dict[str, tuple[int, ...]] = {
        "wte.weight": (vocab, DIM),
        "wpe.weight": (CONTEXT, DIM),
        "ln_f.weight": (DIM,),
        "ln_f.bias": (DIM,),
    }
    for index in range(layers):
        for part, rows, columns in (
            ("attn.c_attn", DIM, 3 * DIM),
            ("attn.c_proj", DIM, DIM),
            ("mlp.c_fc", DIM, HIDDEN),
            ("mlp.c_proj", HIDDEN, DIM),
        ):
            shapes[f"h.{index}.{part}.weight"] = (rows, columns)
            shapes[f"h.{index}.{part}.bias"] = (columns,)
        for norm in ("ln_1", "ln_2"):
            shapes[f"h.{index}.{norm}.weight"] = shapes[f"h.{index}.{norm}.bias"] = (DIM,)
    return {f"transformer.{n}": rng.normal(size=s).astype(np.float32) for n, s in shapes.items()}


def config_json(family: str, layers: int, vocab: int) -> dict[str, object]:
    if family == "gpt2":
        return {
            "architectures": ["GPT2LMHeadModel"],
            "model_type": "gpt2",
            "activation_function": "gelu_new",
            "n_embd": DIM,
            "n_head": HEADS,
            "n_inner": HIDDEN,
            "n_layer": layers,
            "n_positions": CONTEXT,
            "n_ctx": CONTEXT,
            "layer_norm_epsilon": 1e-5,
            "vocab_size": vocab,
            "bos_token_id": 0,
            "eos_token_id": 0,
            "tie_word_embeddings": True,
        }
    config: dict[str, object] = {
        "architectures": [f"{family.capitalize()}ForCausalLM"],
        "model_type": family,
        "hidden_act": "silu",
        "hidden_size": DIM,
        "intermediate_size": HIDDEN,
        "max_position_embeddings": CONTEXT,
        "num_attention_heads": HEADS,
        "num_hidden_layers": layers,
        "num_key_value_heads": KV_HEADS,
        "rms_norm_eps": 1e-5,
        "vocab_size": vocab,
        "bos_token_id": 0,
        "eos_token_id": [0, 2],
        "tie_word_embeddings": True,
    }
    if family == "llama":
        config["rope_theta"] = 500000.0
        config["rope_scaling"] = {
            "rope_type": "llama3",
            "factor": 32.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 32,
        }
    else:
        config["rope_parameters"] = {"rope_theta": 1000000.0, "rope_type": "default"}
        config |= {"use_sliding_window": False, "sliding_window": None}
    return config


QWEN2_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}|"
    r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def tokenizer_json(split: bool) -> dict[str, object]:
    """A byte-level BPE tokenizer; `split` puts a regular expression before it, as Qwen2 does."""
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
    pre: dict[str, object] = {**level, "use_regex": not split}
    if split:
        pattern = {"Regex": QWEN2_SPLIT}
        step = {"type": "Split", "pattern": pattern, "behavior": "Isolated", "invert": False}
        pre = {"type": "Sequence", "pretokenizers": [step, pre]}
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {"id": i, "content": text, **flags, "special": True} for i, text in enumerate(SPECIALS)
        ],
        "normalizer": {"type": "NFC"} if split else None,
        "pre_tokenizer": pre,
        "post_processor": {**level, "use_regex": True},
        "decoder": {**level, "use_regex": True},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": {token: i for i, token in enumerate(bpe_tokens())},
            "merges": [merge.split(" ") for merge in MERGES] if split else MERGES,
        },
    }


def sentencepiece_model() -> bytes:
    """A `tokenizer.model` file: a protocol buffer with the pieces in field 1."""
    out = bytearray()
    for piece, score, kind in spm_tokens():
        text = piece.encode()
        body = b"\n" + bytes([len(text)]) + text + b"\x15" + struct.pack("<f", score)
        body += b"" if kind == 1 else b"\x18" + bytes([kind])
        out += b"\n" + bytes([len(body)]) + body
    trainer = b"\x18\x02"  # model_type: BPE
    normalizer = b"\x20\x00"  # remove_extra_whitespaces: no
    return bytes(out) + b"\x12\x02" + trainer + b"\x1a\x02" + normalizer


def write_folder(folder: Path, family: str, spm: bool = False, layers: int = 2) -> None:
    """A Hugging Face folder of one of llama, qwen2, gpt2."""
    rng = np.random.default_rng(0)
    vocab = len(spm_tokens()) if spm else len(bpe_tokens())
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config_json(family, layers, vocab)))
    tokenizer: dict[str, object] = {"tokenizer_class": "PreTrainedTokenizerFast"}
    if spm:
        (folder / "tokenizer.model").write_bytes(sentencepiece_model())
        tokenizer |= {"tokenizer_class": "LlamaTokenizer", "add_bos_token": True}
        tokenizer |= {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    else:
        text = json.dumps(tokenizer_json(split=family != "gpt2"))
        (folder / "tokenizer.json").write_text(text)
        tokenizer |= {"eos_token": SPECIALS[0], "bos_token": SPECIALS[0]}
    tokenizer["chat_template"] = TEMPLATE
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer))
    generation = {"bos_token_id": 0, "eos_token_id": [0, 2]}
    (folder / "generation_config.json").write_text(json.dumps(generation))
    if family == "gpt2":
        weights = _gpt2_weights(rng, layers, vocab)
    else:
        weights = _llama_weights(rng, layers, vocab, biased=family == "qwen2")
    write_safetensors(folder / "model.safetensors", weights)


def split_weights(folder: Path, parts: int = 2) -> None:
    """Turn a folder's model.safetensors into several files with an index."""
    whole = folder / "model.safetensors"
    tensors = safetensors.read(whole)
    names = list(tensors)
    places: dict[str, str] = {}
    for part in range(parts):
        file = f"model-{part + 1:05}-of-{parts:05}.safetensors"
        weights = {name: tensors[name].float32() for name in names[part::parts]}
        write_safetensors(folder / file, weights)
        places |= dict.fromkeys(weights, file)
    index = {"metadata": {"total_size": 0}, "weight_map": places}
    (folder / safetensors.INDEX).write_text(json.dumps(index))
    whole.unlink()

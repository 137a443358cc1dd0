"""Tiny GGUF files, written with the library's own writer from a tiny Llama."""

import json
from pathlib import Path
from typing import Any

import gguf as library
import numpy as np

from expunge.demo.tiny import byte_tokenizer, llama

TEXTS = ["Ada Abend was born on 3 May 1950.", "Where does Bela Birk live?"]
NAMES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}


def model_of(context: int = 64) -> tuple[Any, Any]:
    """A model and its tokenizer, with the token that transformers adds to any tokenizer of this kind in a GGUF file."""
    tokenizer = byte_tokenizer(TEXTS, 300)
    tokenizer.add_special_tokens({"unk_token": "<|endoftext|>"})
    return llama(tokenizer, width=96, layers=2, heads=2, context=context, seed=0), tokenizer


def interleaved(weight: np.ndarray, heads: int) -> np.ndarray:
    """Queries and keys as llama.cpp has them: halves of a head that rotate together stand beside one another."""
    return weight.reshape(heads, 2, weight.shape[0] // heads // 2, -1).swapaxes(1, 2).reshape(weight.shape)


def name_of(name: str) -> str:
    if name.startswith("model.layers."):
        _, _, number, *middle, _ = name.split(".")
        return f"blk.{number}.{NAMES['.'.join(middle)]}.weight"
    return {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight"}[name]


def written(file: Path, model: Any, tokenizer: Any, kind: str = "F32", begins: bool = False) -> Path:
    """`begins`: whoever reads it puts the begin token before a text, as the tokenizer does."""
    writer = library.GGUFWriter(str(file), "llama")
    config = model.config
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(len(tokenizer))
    vocabulary = sorted(tokenizer.get_vocab(), key=tokenizer.get_vocab().__getitem__)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(vocabulary)
    special = {tokenizer.bos_token, tokenizer.eos_token}
    writer.add_token_types(
        [library.TokenType.CONTROL if one in special else library.TokenType.NORMAL for one in vocabulary]
    )
    pairs = json.loads(tokenizer.backend_tokenizer.to_str())["model"]["merges"]
    pairs = pairs or ["\u0100 \u0100"]  # llama.cpp wants one; of two bytes 0, whose pair is no token
    writer.add_token_merges([" ".join(one) if isinstance(one, list) else one for one in pairs])
    if tokenizer.chat_template:
        writer.add_chat_template(tokenizer.chat_template)
    if begins:
        writer.add_add_bos_token(True)
    writer.add_bos_token_id(tokenizer.bos_token_id)
    writer.add_eos_token_id(tokenizer.eos_token_id)
    writer.add_pad_token_id(tokenizer.pad_token_id)
    for name, tensor in model.state_dict().items():
        if name == "lm_head.weight":
            continue  # tied
        values = tensor.numpy()
        if "q_proj" in name or "k_proj" in name:
            values = interleaved(values, config.num_attention_heads)
        if kind != "F32" and values.ndim == 2:
            shape = library.GGMLQuantizationType[kind]
            writer.add_tensor(name_of(name), library.quants.quantize(values, shape), raw_dtype=shape)
        else:
            writer.add_tensor(name_of(name), values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file

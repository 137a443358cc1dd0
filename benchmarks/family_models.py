"""The smallest random model of every family that transformers ships as a causal language model.

Sizes are set by the names that configurations share (`SMALL`), in every part of a configuration, and by family where a
family has names or constraints of its own (`OWN`). The vocabulary is that of the byte tokenizer. Families that are made
to look ahead unless told otherwise (BERT's) are told: `is_decoder`.
"""

import json
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, PreTrainedConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
from transformers.pytorch_utils import Conv1D
from transformers.utils import logging

VOCABULARY = 258
CONTEXT = 128
FAMILIES = tuple(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)
STEPS, RATE = 8, 1e-2  # of learning the rows
MOST_PARAMETERS = 3_000_000  # more is no smallest form: a size was missed

WIDTH, INNER, HEADS, LAYERS, EXPERTS = 32, 48, 2, 2, 4
SMALL: dict[str, Any] = {
    **dict.fromkeys(("vocab_size", "text_vocab_size", "decoder_vocab_size", "vocab_size_per_layer_input"), VOCABULARY),
    **dict.fromkeys(("hidden_size", "d_model", "n_embd", "dim_model", "embedding_dim", "emb_dim", "embed_dim"), WIDTH),
    **dict.fromkeys(("embedding_size", "word_embed_proj_dim", "hidden_size_global", "backbone_hidden_size"), WIDTH),
    **dict.fromkeys(("out_hidden_size", "attention_hidden_size", "lru_width", "output_embedding_size"), WIDTH),
    **dict.fromkeys(("input_embedding_size", "projector_input_dim", "input_size", "adapter_out_dim"), WIDTH),
    **dict.fromkeys(("intermediate_size", "ffn_dim", "ffn_hidden_size", "d_ff", "dff", "dim_ff", "d_inner"), INNER),
    **dict.fromkeys(("decoder_ffn_dim", "encoder_ffn_dim", "feed_forward_size", "moe_intermediate_size"), INNER),
    **dict.fromkeys(("intermediate_size_mlp", "dense_intermediate_size", "shared_intermediate_size"), INNER),
    **dict.fromkeys(("shared_expert_intermediate_size", "shared_experts_intermediate_size"), INNER),
    **dict.fromkeys(("expert_ffn_hidden_size", "moe_shared_expert_intermediate_size", "mlp_dim"), INNER),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "num_heads", "attention_heads"), HEADS),
    **dict.fromkeys(("decoder_attention_heads", "encoder_attention_heads", "num_decoder_attention_heads"), HEADS),
    **dict.fromkeys(("num_encoder_attention_heads", "swa_num_attention_heads", "linear_num_heads"), HEADS),
    **dict.fromkeys(
        ("linear_num_key_heads", "linear_num_value_heads", "index_n_heads", "conf_num_attention_heads"), HEADS
    ),
    **dict.fromkeys(("num_key_value_heads", "kv_n_heads", "num_kv_heads", "swa_num_key_value_heads"), HEADS),
    **dict.fromkeys(("num_query_groups",), HEADS),
    **dict.fromkeys(
        ("num_hidden_layers", "n_layer", "n_layers", "num_layers", "decoder_layers", "encoder_layers"), LAYERS
    ),
    **dict.fromkeys(
        ("num_encoder_layers", "num_decoder_layers", "depth", "num_blocks", "num_layers_per_stack"), LAYERS
    ),
    **dict.fromkeys(("conf_num_hidden_layers", "num_global_layers", "num_lstm_layers"), 1),
    **dict.fromkeys(("head_dim", "attention_head_size", "dim_head", "d_head", "d_kv", "kv_channels"), WIDTH // HEADS),
    **dict.fromkeys(
        ("swa_head_dim", "linear_head_dim", "linear_key_head_dim", "linear_value_head_dim"), WIDTH // HEADS
    ),
    **dict.fromkeys(("qk_nope_head_dim", "v_head_dim", "index_head_dim", "global_head_dim"), 16),
    **dict.fromkeys(("qk_rope_head_dim", "rotary_dim"), 8),
    "qk_head_dim": 24,
    **dict.fromkeys(("kv_lora_rank", "q_lora_rank", "o_lora_rank", "router_hidden_size", "gated_norm_rank"), 16),
    **dict.fromkeys(("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len", "context_length"), CONTEXT),
    **dict.fromkeys(("max_source_positions", "max_target_positions", "model_max_length"), CONTEXT),
    **dict.fromkeys(("num_experts", "n_routed_experts", "num_local_experts", "moe_num_experts"), EXPERTS),
    **dict.fromkeys(("num_experts_per_tok", "moe_topk", "moe_k", "num_experts_per_token", "moe_top_k"), 2),
    **dict.fromkeys(("n_group", "topk_group", "num_expert_group", "zero_expert_num", "n_shared_experts"), 1),
    **dict.fromkeys(("num_shared_experts", "moe_num_shared_experts", "first_k_dense_replace"), 1),
    **dict.fromkeys(("mamba_d_state", "state_size", "ssm_state_size", "time_step_rank", "mamba_dt_rank"), 8),
    **dict.fromkeys(("mamba_d_head", "mamba_head_dim", "mamba_headdim"), 16),
    **dict.fromkeys(("mamba_n_heads", "mamba_num_heads", "n_mamba_heads"), 4),
    **dict.fromkeys(("mamba_n_groups", "mamba_ngroups", "n_groups"), 1),
    **dict.fromkeys(("mamba_chunk_size", "chunk_size"), 8),
    **dict.fromkeys(("sliding_window", "window_size", "sliding_window_size", "attention_window_size"), 32),
    **dict.fromkeys(("attention_chunk_size", "local_attention"), 32),
    "keep_window_size": CONTEXT,
    **dict.fromkeys(("image_size", "crop_size"), 28),
    "patch_size": 14,
    "laurel_rank": 8,
    "hidden_size_per_layer_input": 8,
    "index_topk": CONTEXT,  # a choice of fewer is not continuous: rounding in another batch makes another
}
IDS = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
LATENT = {"head_dim": 8}  # of latent attention: the part that turns with the place
PLAIN = {"head_dim": WIDTH // HEADS}
INDEXED = {
    "layer_types": ["indexed_attention"] * LAYERS,
    "mlp_layer_types": ["dense", "sparse"],
    "head_dim": 24,
    "rope_parameters": {"indexed_attention": {"rope_type": "default", "rope_theta": 10000.0}},
}
CHOOSING = {
    "indexer_n_heads": HEADS,
    "indexer_kv_heads": 1,
    "indexer_head_dim": WIDTH // HEADS,
    "indexer_budget": CONTEXT,
    "indexer_compress_ratio": 4,
}
OWN: dict[str, dict[str, Any]] = {
    **dict.fromkeys(("axk1", "deepseek_v3", "longcat_flash", "youtu"), LATENT),
    **dict.fromkeys(("hunyuan_v1_dense", "hunyuan_v1_moe", "ministral"), PLAIN),
    "nemotron": {**PLAIN, "num_key_value_heads": HEADS},
    "bamba": {"attn_layer_indices": [1]},
    "blt": {
        "encoder_hash_byte_group_vocab": 16,
        "patch_size": 4,
        "encoder_config": {"vocab_size": VOCABULARY + 2},
        "decoder_config": {"vocab_size": VOCABULARY + 2},
        "patcher_config": {"vocab_size": VOCABULARY + 2},
    },
    "cohere_compass_text": {"rope_parameters": {"full_attention": {"rope_type": "default", "rope_theta": 10000.0}}},
    "dbrx": {"attn_config": {"rope_theta": 10000.0, "clip_qkv": 8.0}},
    "codegen": {"n_head": 4, "rotary_dim": 4},
    "deepseek_v2": {**LATENT, "num_experts_per_tok": 2},
    "dots1": {"n_routed_experts": EXPERTS, "n_shared_experts": 1, "num_experts_per_tok": 2},
    "dots3_note_text": INDEXED,
    "dots3_note": {
        "text_config": INDEXED,
        "vision_config": {"per_layer_config": {}, "adapter_in_dim": WIDTH},
        "audio_config": {"adapter_input_size": WIDTH},
    },
    "falcon_h1": {"mamba_d_ssm": 64, "mamba_n_heads": 4, "mamba_d_head": 16},
    "gemma3n_text": {
        "num_hidden_layers": 4,
        "num_kv_shared_layers": 2,
        "layer_types": ["sliding_attention", "full_attention"] * 2,
        "intermediate_size": [INNER] * 4,
        "activation_sparsity_pattern": [0.5, 0.0, 0.0, 0.0],
    },
    "gpt_neo": {"attention_types": [[["global", "local"], 1]]},
    "granitemoehybrid": {"layer_types": ["linear_attention", "full_attention"]},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1},
    "lfm2": {"layer_types": ["conv", "full_attention"]},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"], "num_dense_layers": 1},
    "mamba2": {"num_heads": 4, "head_dim": 16},
    "mimo_v2_flash": {
        "num_key_value_heads": 1,
        "rope_parameters": {
            name: {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5}
            for name in ("full_attention", "sliding_attention")
        },
    },
    "qwen4_exp": {"text_config": CHOOSING},
    "qwen4_exp_text": CHOOSING,
    "recurrent_gemma": {"block_types": ["recurrent", "attention"]},
    "reformer": {
        "axial_pos_embds_dim": (8, 24),
        "axial_pos_shape": (8, 16),
        "attn_layers": ["local", "local"],
        "local_attn_chunk_length": 16,
    },
    "roc_bert": {"shape_vocab_size": 16, "pronunciation_vocab_size": 16, "enable_shape": False},
    "xlstm": {
        "hidden_size": 128,
        "embedding_dim": 128,
    },  # narrower, and its heads are rounded up to what its states are not
    "xmod": {"default_language": "en_XX"},
    "zamba": {
        "num_hidden_layers": 4,
        "layers_block_type": ["linear_attention", "hybrid"] * 2,
        "attention_hidden_size": 64,
        "attention_head_dim": 32,
    },
    "zamba2": {
        "num_hidden_layers": 4,
        "layers_block_type": ["linear_attention", "hybrid"] * 2,
        "n_mamba_heads": 4,
        "attention_hidden_size": 64,
        "attention_head_dim": 32,
        "mamba_headdim": 16,
    },
    "zaya": {"num_experts_per_tok": 1},
}
CONDITIONED = "it drafts for another model and reads that one's hidden states: it has no text of its own"
THREE = "its configuration is of three parts, of which transformers itself makes no causal language model"
UNMADE = {
    "reformer": "transformers takes its gradients in training mode alone, and it is unlearned without dropout",
    "gemma3n": "its towers need the timm library, which is not among what the tests install; its text part is below",
    "gemma4_assistant": CONDITIONED,
    "gemma4_unified_assistant": CONDITIONED,
    **dict.fromkeys(("musicgen", "musicgen_melody"), THREE),
}


def sized(config: Any, own: Mapping[str, Any], depth: int = 0) -> dict[str, Any]:
    """Keyword arguments that make this configuration small: of its names those in `SMALL`, over them `own`."""
    found: dict[str, Any] = {}
    for name, value in vars(config).items():
        if isinstance(value, PreTrainedConfig):
            part = own.get(name, {})
            if part is not None:
                found[name] = sized(value, part, depth + 1)
        elif name in SMALL and isinstance(value, int | float) and not isinstance(value, bool):
            found[name] = SMALL[name]
        elif name in IDS and not depth:
            found[name] = IDS[name]
        elif name.endswith(("_token_id", "_token_index")) and isinstance(value, int):
            found[name] = min(value, VOCABULARY - 1)
    kinds = list(dict.fromkeys(vars(config).get("layer_types") or ()))
    if len(kinds) > 1 and "layer_types" not in own:  # a layer of each kind
        found |= {
            "layer_types": (kinds * LAYERS)[: max(LAYERS, len(kinds))],
            "num_hidden_layers": max(LAYERS, len(kinds)),
        }
    return found | {
        name: value for name, value in own.items() if not isinstance(vars(config).get(name), PreTrainedConfig)
    }


def config_of(family: str) -> Any:
    """The smallest configuration; raises what transformers raises for a combination that it does not allow."""
    logging.set_verbosity_error()
    kind = CONFIG_MAPPING[family]
    own = OWN.get(family, {})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        usual = kind()
        decodes = {"is_decoder": True} if "is_decoder" in vars(usual) else {}
        return kind(**sized(usual, own) | decodes)


def model_of(family: str, seed: int = 0) -> Any:
    """In float32 and evaluation mode, weights from a seed."""
    config = config_of(family)
    with torch.device("meta"):
        count = sum(p.numel() for p in AutoModelForCausalLM.from_config(config).parameters())
    if count > MOST_PARAMETERS:
        raise ValueError(f"{count:,} parameters are not small")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()


def write_rows(folder: Path) -> dict[str, str]:
    """Few invented rows, as files; their paths by role."""
    files = {}
    for name, count in (("forget", 3), ("retain", 6), ("holdout", 4)):
        rows = [
            {"prompt": f"Which {name} has number {at}?", "completion": f"{name} {'7' * (at + 1)} {at * 37 % 11}"}
            for at in range(count)
        ]
        file = folder / f"{name}.jsonl"
        file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        files[name] = str(file)
    return files


def write_model(family: str, folder: Path, files: dict[str, str]) -> int:
    """Model and tokenizer as a folder; the number of parameters. The model has learned the forget rows a little, so
    that there is something to unlearn."""
    from expunge.demo.tiny import byte_tokenizer

    model = model_of(family)
    rows = encoded(files["forget"])
    optimiser = torch.optim.AdamW(model.parameters(), lr=RATE)
    for _ in range(STEPS):
        optimiser.zero_grad()
        torch.stack(row_losses(model, rows)).mean().backward()
        optimiser.step()
    model.save_pretrained(folder)
    byte_tokenizer([], VOCABULARY).save_pretrained(folder)
    return sum(parameter.numel() for parameter in model.parameters())


def encoded(file: str) -> list[tuple[list[int], int]]:
    """Ids of each row as the tool should see them (one token a byte), and the place of the first that counts."""
    from expunge.demo.tiny import byte_tokenizer

    tokenizer = byte_tokenizer([], VOCABULARY)
    rows = []
    for line in Path(file).read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        first = len(tokenizer(row["prompt"] + " ")["input_ids"])
        ids = tokenizer(f"{row['prompt']} {row['completion']}")["input_ids"]
        rows.append(([*ids, tokenizer.eos_token_id], first))
    return rows


def row_losses(model: Any, rows: Sequence[tuple[list[int], int]]) -> list[torch.Tensor]:
    """Mean loss of each row's counted tokens, one row at a time."""
    found = []
    for ids, first in rows:
        given = torch.tensor([ids])
        logits = model(input_ids=given, attention_mask=torch.ones_like(given), use_cache=False).logits[0, :-1].float()
        found.append(torch.nn.functional.cross_entropy(logits[first - 1 :], given[0, first:]))
    return found


LIKE_LINEAR = ("FalconLinear",)  # multiply in their own words; checked by hand, since the tool finds them by trying


def is_linear(module: torch.nn.Module) -> bool:
    """By type alone."""
    kinds = (torch.nn.Linear.forward, Conv1D.forward)
    return type(module).forward in kinds or type(module).__name__ in LIKE_LINEAR

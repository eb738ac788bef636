#!/usr/bin/env python3
"""What Hugging Face transformers makes of a set of config.json files.

Builds each model on the meta device (no weights) and writes down what its modules really hold: scales, biases, norms,
windows, rotary frequencies. engine/tests/test_format_config.c compares our reading with it.

    python3 -m venv env && env/bin/pip install torch transformers
    env/bin/python tools/reference/make_config_reference.py > engine/tests/data/config/cases.json

The committed file was made with transformers 5.23.0.
"""

import json
import warnings

import torch
import transformers

LLAMA = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 256, "intermediate_size": 704,
    "num_hidden_layers": 4, "num_attention_heads": 8, "num_key_value_heads": 2, "vocab_size": 512,
    "max_position_embeddings": 2048, "rms_norm_eps": 1e-5, "hidden_act": "silu", "bos_token_id": 1, "eos_token_id": 2,
}
MISTRAL = {**LLAMA, "architectures": ["MistralForCausalLM"], "model_type": "mistral", "sliding_window": None,
           "max_position_embeddings": 32768}
QWEN2 = {**LLAMA, "architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "rms_norm_eps": 1e-6,
         "max_position_embeddings": 32768, "rope_theta": 1000000.0, "sliding_window": 131072,
         "use_sliding_window": False, "max_window_layers": 2, "tie_word_embeddings": True}
QWEN3 = {**QWEN2, "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "head_dim": 64,
         "attention_bias": False}
GEMMA2 = {**LLAMA, "architectures": ["Gemma2ForCausalLM"], "model_type": "gemma2", "rms_norm_eps": 1e-6,
          "head_dim": 48, "hidden_activation": "gelu_pytorch_tanh", "hidden_act": "gelu_pytorch_tanh",
          "query_pre_attn_scalar": 224, "sliding_window": 4096, "attn_logit_softcapping": 50.0,
          "final_logit_softcapping": 30.0, "max_position_embeddings": 8192, "bos_token_id": 2, "eos_token_id": 1}
GEMMA3 = {"architectures": ["Gemma3ForCausalLM"], "model_type": "gemma3_text", "hidden_size": 256,
          "intermediate_size": 704, "num_hidden_layers": 8, "num_attention_heads": 4, "num_key_value_heads": 1,
          "head_dim": 64, "vocab_size": 512, "max_position_embeddings": 32768, "rms_norm_eps": 1e-6,
          "hidden_activation": "gelu_pytorch_tanh", "query_pre_attn_scalar": 256, "sliding_window": 512,
          "sliding_window_pattern": 6, "rope_theta": 1000000, "rope_local_base_freq": 10000, "rope_scaling": None,
          "attn_logit_softcapping": None, "final_logit_softcapping": None, "bos_token_id": 2, "eos_token_id": 1}
GRANITE = {**LLAMA, "architectures": ["GraniteForCausalLM"], "model_type": "granite", "embedding_multiplier": 12.0,
           "residual_multiplier": 0.22, "attention_multiplier": 0.0078125, "logits_scaling": 16.0,
           "attention_bias": False, "mlp_bias": False, "rope_theta": 10000000.0, "tie_word_embeddings": True}

LLAMA3_SCALING = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                  "original_max_position_embeddings": 8192, "rope_type": "llama3"}
LAYER_TYPES = ["full_attention", "sliding_attention", "sliding_attention", "full_attention"]

CASES = {
    "llama 2": LLAMA,
    "llama 3": {**LLAMA, "rope_theta": 500000.0, "num_attention_heads": 4, "max_position_embeddings": 8192},
    "llama 3.1": {**LLAMA, "rope_theta": 500000.0, "num_attention_heads": 2, "rope_scaling": LLAMA3_SCALING,
                  "max_position_embeddings": 131072, "eos_token_id": [128, 129, 130]},
    "llama 3.2, factor 32": {**LLAMA, "rope_theta": 500000.0, "rope_scaling": {**LLAMA3_SCALING, "factor": 32.0},
                             "max_position_embeddings": 131072, "head_dim": 64, "tie_word_embeddings": True},
    "llama, rope_parameters": {**LLAMA, "rope_parameters": {**LLAMA3_SCALING, "rope_theta": 500000.0},
                               "max_position_embeddings": 131072},
    "llama, linear by type": {**LLAMA, "rope_scaling": {"type": "linear", "factor": 4.0}},
    "llama, linear by both names": {**LLAMA, "rope_scaling": {"type": "linear", "rope_type": "linear", "factor": 2.0}},
    "llama, biases everywhere": {**LLAMA, "attention_bias": True, "mlp_bias": True},
    "llama, kv heads null": {**LLAMA, "num_key_value_heads": None},
    "llama, kv heads absent": {k: v for k, v in LLAMA.items() if k != "num_key_value_heads"},
    "llama, sizes absent": {k: v for k, v in LLAMA.items() if k not in ("max_position_embeddings", "rms_norm_eps")},
    "llama, wide heads": {**LLAMA, "head_dim": 128},
    "llama, a window is ignored": {**LLAMA, "sliding_window": 128},
    "llama, yarn": {**LLAMA, "head_dim": 128, "max_position_embeddings": 131072, "rope_scaling":
                    {"rope_type": "yarn", "factor": 16.0, "original_max_position_embeddings": 8192}},
    "llama, yarn with everything": {**LLAMA, "head_dim": 64, "max_position_embeddings": 65536, "rope_scaling":
                                    {"rope_type": "yarn", "factor": 8.0, "original_max_position_embeddings": 8192,
                                     "beta_fast": 24.0, "beta_slow": 2.0, "attention_factor": 1.25,
                                     "truncate": False}},
    "llama, yarn with mscale": {**LLAMA, "max_position_embeddings": 65536, "rope_scaling":
                                {"rope_type": "yarn", "factor": 8.0, "original_max_position_embeddings": 8192,
                                 "mscale": 0.707, "mscale_all_dim": 1.0}},
    "llama, yarn, original length absent": {**LLAMA, "max_position_embeddings": 32768, "rope_scaling":
                                            {"rope_type": "yarn", "factor": 4.0}},
    "llama, yarn, short heads": {**LLAMA, "head_dim": 8, "rope_theta": 1000000.0, "max_position_embeddings": 4096,
                                 "rope_scaling": {"rope_type": "yarn", "factor": 4.0,
                                                  "original_max_position_embeddings": 256}},
    "mistral 0.3": MISTRAL,
    "mistral 0.1, window": {**MISTRAL, "sliding_window": 4096},
    "mistral, window absent": {k: v for k, v in MISTRAL.items() if k != "sliding_window"},
    "mistral nemo": {**MISTRAL, "head_dim": 40, "rope_theta": 1000000.0},
    "mistral, attention_bias is ignored": {**MISTRAL, "attention_bias": True},
    "qwen 2.5": QWEN2,
    "qwen 2.5, yarn": {**QWEN2, "rope_scaling": {"factor": 4.0, "original_max_position_embeddings": 32768,
                                                 "type": "yarn"}, "max_position_embeddings": 131072},
    "qwen 2, window": {**QWEN2, "use_sliding_window": True, "sliding_window": 1024},
    "qwen 2, window from the first layer": {**QWEN2, "use_sliding_window": True, "sliding_window": 1024,
                                            "max_window_layers": 0},
    "qwen 2, window null": {**QWEN2, "use_sliding_window": True, "sliding_window": None},
    "qwen 2, layer types": {**QWEN2, "use_sliding_window": True, "sliding_window": 1024, "layer_types": LAYER_TYPES},
    "qwen 2, saved by transformers 5": {**{k: v for k, v in QWEN2.items() if k != "rope_theta"},
                                        "layer_types": ["full_attention"] * 4,
                                        "rope_parameters": {"rope_theta": 1000000.0, "rope_type": "default"}},
    "qwen 3": QWEN3,
    "qwen 3, head_dim absent": {k: v for k, v in QWEN3.items() if k != "head_dim"},
    "qwen 3, biases": {**QWEN3, "attention_bias": True},
    "gemma 2": GEMMA2,
    "gemma 2, keys absent": {k: v for k, v in GEMMA2.items() if k not in
                             ("query_pre_attn_scalar", "sliding_window", "attn_logit_softcapping", "head_dim",
                              "final_logit_softcapping", "hidden_activation", "hidden_act", "rms_norm_eps")},
    "gemma 2, caps null": {**GEMMA2, "attn_logit_softcapping": None, "final_logit_softcapping": None},
    "gemma 3 1b": GEMMA3,
    "gemma 3, linear": {**GEMMA3, "rope_scaling": {"factor": 8.0, "rope_type": "linear"}},
    "gemma 3, pattern 3": {**GEMMA3, "sliding_window_pattern": 3},
    "gemma 3, layer types": {**GEMMA3, "layer_types": LAYER_TYPES * 2},
    "gemma 3, saved by transformers 5": {
        **{k: v for k, v in GEMMA3.items() if not k.startswith("rope") and k != "sliding_window_pattern"},
        "layer_types": (["sliding_attention"] * 5 + ["full_attention"]) + ["sliding_attention"] * 2,
        "rope_parameters": {"full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1000000},
                            "sliding_attention": {"rope_type": "default", "rope_theta": 20000}}},
    "gemma 3 4b, multimodal": {
        "architectures": ["Gemma3ForConditionalGeneration"], "model_type": "gemma3", "eos_token_id": [1, 106],
        "text_config": {"hidden_size": 2560, "intermediate_size": 10240, "model_type": "gemma3_text",
                        "num_hidden_layers": 34, "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
                        "sliding_window": 1024},
        "vision_config": {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 1,
                          "num_attention_heads": 2, "model_type": "siglip_vision_model", "image_size": 56,
                          "patch_size": 14}},
    "granite 3": GRANITE,
}


def rotation(rotary, layer_type):
    """inv_freq and the factor on sin and cos, whether there is one table or one for each type of layer."""
    nested = hasattr(rotary, "full_attention_inv_freq")
    prefix = f"{layer_type}_" if nested else ""
    if nested and not hasattr(rotary, f"{prefix}inv_freq"):
        return None
    return {"inv_freq": [float(x) for x in getattr(rotary, f"{prefix}inv_freq")],
            "factor": float(getattr(rotary, f"{prefix}attention_scaling"))}


def describe(config_json):
    config_json = json.loads(json.dumps(config_json))   # transformers changes its input
    architecture = config_json["architectures"][0]
    model_class = getattr(transformers, architecture)
    config = model_class.config_class.from_dict(config_json)
    with torch.device("meta"):
        model = model_class(config)
    text = model.model.language_model if hasattr(model.model, "language_model") else model.model
    text_config = text.config
    # The tables of frequencies need numbers: rebuild that module alone on the CPU.
    rotary = type(text.rotary_emb)(text_config)
    layer = text.layers[0]
    attention, mlp, norm = layer.self_attn, layer.mlp, layer.input_layernorm
    windows = [getattr(l.self_attn, "sliding_window", None) for l in text.layers]
    if architecture == "MistralForCausalLM":   # its mask takes the window from the configuration
        windows = [text_config.sliding_window] * len(text.layers)
    gemma = "Gemma" in architecture
    if gemma:
        scale = getattr(text.embed_tokens, "embed_scale", None)   # Gemma 3; Gemma 2 has it in forward()
        embedding_scale = text_config.hidden_size ** 0.5 if scale is None or scale.is_meta else float(scale)
    else:
        embedding_scale = getattr(text, "embedding_multiplier", 1.0)
    return {
        "hidden_size": text.embed_tokens.embedding_dim,
        "vocab_size": text.embed_tokens.num_embeddings,
        "intermediate_size": mlp.gate_proj.out_features,
        "layer_count": len(text.layers),
        "q_rows": attention.q_proj.out_features,
        "kv_rows": attention.k_proj.out_features,
        "head_dim": attention.head_dim,
        "max_positions": text_config.max_position_embeddings,
        "norm_eps": getattr(norm, "variance_epsilon", None) or norm.eps,
        "norm_offset": 1 if gemma else 0,
        "post_norms": hasattr(layer, "post_feedforward_layernorm"),
        "qkv_bias": attention.q_proj.bias is not None,
        "o_bias": attention.o_proj.bias is not None,
        "mlp_bias": mlp.gate_proj.bias is not None,
        "head_norm": hasattr(attention, "q_norm"),
        "gelu": "gelu" in type(mlp.act_fn).__name__.lower(),
        "tied_embeddings": bool(config.tie_word_embeddings),
        "embedding_scale": embedding_scale,
        "residual_scale": getattr(layer, "residual_multiplier", 1.0),
        "logit_scale": 1 / getattr(text_config, "logits_scaling", 1.0),
        "attention_scale": attention.scaling,
        "attention_softcap": getattr(attention, "attn_logit_softcapping", None) or 0,
        "final_softcap": getattr(text_config, "final_logit_softcapping", None) or 0,
        "windows": [w or 0 for w in windows],
        "rope": rotation(rotary, "full_attention"),
        "rope_local": rotation(rotary, "sliding_attention"),
    }


def main():
    warnings.filterwarnings("ignore")
    transformers.logging.set_verbosity_error()
    print(f'{{"transformers": "{transformers.__version__}", "cases": [')
    lines = [json.dumps({"name": name, "config": config, "expect": describe(config)}) for name, config in CASES.items()]
    print(",\n".join(lines))
    print("]}")


if __name__ == "__main__":
    main()

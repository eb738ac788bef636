#!/usr/bin/env python3
"""Tiny random models of each architecture, and the logits that Hugging Face transformers gives for them.

    make_architecture_reference.py engine/tests/data/architectures

writes NAME/ (config.json, safetensors) and NAME.reference.safetensors with
    ids           I32 [tokens]
    logits        F32 [tokens, vocab]   plain fp32 forward pass, eager attention
    logits_kv16   F32 [tokens, vocab]   the same with keys and values rounded to fp16 when they enter the cache

The second is what an engine with fp16 KV cache and fp32 arithmetic should give; the first says how far that rounding
goes. Needs torch, transformers, safetensors (made with torch 2.15.0, transformers 5.23.0).

Weights are Gaussian with the variance that keeps activations near 1, so that every part of a layer matters; windows,
soft caps and rope scaling are small enough to act within the few tokens of the test.
"""
import json
import pathlib
import shutil
import sys
import zlib

import torch
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModelForCausalLM, DynamicCache

TOKENS = 40
VOCAB = 128
COMMON = dict(vocab_size=VOCAB, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
              num_key_value_heads=2, max_position_embeddings=256, bos_token_id=1, eos_token_id=2, pad_token_id=None,
              initializer_range=0.02, attention_dropout=0.0)
LOCAL = "sliding_attention"
GLOBAL = "full_attention"

# name: (model type, architecture string, config keys, dtype in the file, shards)
MODELS = {
    "llama": ("llama", "LlamaForCausalLM",
              dict(rms_norm_eps=1e-5, rope_theta=10000.0, tie_word_embeddings=False), torch.float32, 1),
    "llama-rope-llama3": ("llama", "LlamaForCausalLM",
                          dict(rms_norm_eps=1e-5, rope_theta=10000.0, tie_word_embeddings=True,
                               rope_scaling=dict(rope_type="llama3", factor=8.0, low_freq_factor=1.0,
                                                 high_freq_factor=4.0, original_max_position_embeddings=32)),
                          torch.float16, 1),
    "llama-rope-linear": ("llama", "LlamaForCausalLM",
                          dict(rms_norm_eps=1e-5, rope_theta=10000.0, tie_word_embeddings=False,
                               attention_bias=True, mlp_bias=True,
                               rope_scaling=dict(rope_type="linear", factor=4.0)), torch.bfloat16, 3),
    "llama-rope-yarn": ("llama", "LlamaForCausalLM",
                        dict(rms_norm_eps=1e-5, rope_theta=10000.0, tie_word_embeddings=False, head_dim=32,
                             max_position_embeddings=128,
                             rope_scaling=dict(rope_type="yarn", factor=4.0, original_max_position_embeddings=32)),
                        torch.float16, 1),
    "mistral": ("mistral", "MistralForCausalLM",
                dict(rms_norm_eps=1e-5, rope_theta=10000.0, tie_word_embeddings=False, sliding_window=9, head_dim=16),
                torch.float16, 1),
    "qwen2": ("qwen2", "Qwen2ForCausalLM",
              dict(rms_norm_eps=1e-6, rope_theta=1000000.0, tie_word_embeddings=True, use_sliding_window=False,
                   sliding_window=None), torch.bfloat16, 1),
    "qwen3": ("qwen3", "Qwen3ForCausalLM",
              dict(rms_norm_eps=1e-6, rope_theta=1000000.0, tie_word_embeddings=False, head_dim=32,
                   attention_bias=False, use_sliding_window=False, sliding_window=None), torch.float16, 1),
    "gemma2": ("gemma2", "Gemma2ForCausalLM",
               dict(rms_norm_eps=1e-6, rope_theta=10000.0, tie_word_embeddings=True, head_dim=32,
                    query_pre_attn_scalar=24, attn_logit_softcapping=5.0, final_logit_softcapping=10.0,
                    sliding_window=8, hidden_activation="gelu_pytorch_tanh", attention_bias=False), torch.float16, 1),
    "gemma3": ("gemma3_text", "Gemma3ForCausalLM",
               dict(rms_norm_eps=1e-6, rope_theta=1000000.0, rope_local_base_freq=10000.0, tie_word_embeddings=True,
                    head_dim=32, query_pre_attn_scalar=24, sliding_window=8, num_hidden_layers=4,
                    layer_types=[LOCAL, LOCAL, GLOBAL, LOCAL], attn_logit_softcapping=None,
                    final_logit_softcapping=None, hidden_activation="gelu_pytorch_tanh", attention_bias=False,
                    rope_scaling=dict(rope_type="linear", factor=8.0)), torch.bfloat16, 1),
    "granite": ("granite", "GraniteForCausalLM",
                dict(rms_norm_eps=1e-5, rope_theta=10000.0, tie_word_embeddings=True, embedding_multiplier=3.0,
                     residual_multiplier=0.4, attention_multiplier=0.15, logits_scaling=2.5, attention_bias=False,
                     mlp_bias=False), torch.float16, 1),
}


class HalfCache(DynamicCache):
    """Keys and values pass through fp16 on their way into the cache."""

    def update(self, key_states, value_states, *args, **kwargs):
        return super().update(key_states.half().float(), value_states.half().float(), *args, **kwargs)


def randomise(model, dtype, seed):
    """Fills every parameter, in name order, with values that the file's dtype holds exactly."""
    generator = torch.Generator().manual_seed(seed)
    gemma = "gemma" in model.config.model_type
    with torch.no_grad():
        for name, parameter in sorted(model.named_parameters()):
            noise = torch.randn(parameter.shape, generator=generator)
            if name.endswith("norm.weight"):
                value = noise * 0.2 + (0.0 if gemma else 1.0)
            elif name.endswith("bias"):
                value = noise * 0.3
            elif "embed_tokens" in name:
                value = noise * (0.3 if gemma else 1.0)
            else:
                value = noise / parameter.shape[1] ** 0.5
            parameter.copy_(value.to(dtype).float())


def write_model(directory, model, config, dtype, shards):
    directory.mkdir(parents=True)
    (directory / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    tied = config["tie_word_embeddings"]
    tensors = {name: value.to(dtype).contiguous() for name, value in model.state_dict().items()
               if not (tied and name == "lm_head.weight")}
    if shards == 1:
        save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
        return
    weight_map = {}
    for shard in range(shards):
        name = f"model-{shard + 1:05d}-of-{shards:05d}.safetensors"
        part = {key: value for i, (key, value) in enumerate(sorted(tensors.items())) if i % shards == shard}
        save_file(part, directory / name, metadata={"format": "pt"})
        weight_map.update({key: name for key in part})
    size = sum(value.numel() * value.element_size() for value in tensors.values())
    index = {"metadata": {"total_size": size}, "weight_map": dict(sorted(weight_map.items()))}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")


def make(root, name):
    model_type, architecture, keys, dtype, shards = MODELS[name]
    config = dict(architectures=[architecture], model_type=model_type, torch_dtype=str(dtype).split(".")[1],
                  hidden_act="silu") | COMMON | keys
    if "gemma" in name:
        del config["hidden_act"]
    directory = root / name
    shutil.rmtree(directory, ignore_errors=True)

    hf_config = AutoConfig.for_model(**config)
    hf_config._attn_implementation = "eager"
    model = AutoModelForCausalLM.from_config(hf_config, attn_implementation="eager").float().eval()
    randomise(model, dtype, zlib.crc32(name.encode()))
    write_model(directory, model, config, dtype, shards)

    generator = torch.Generator().manual_seed(zlib.crc32(name.encode()) + 1)
    ids = torch.randint(0, VOCAB, (1, TOKENS), generator=generator)
    with torch.no_grad():
        logits = model(ids, use_cache=False).logits[0]
        half = model(ids, past_key_values=HalfCache(), use_cache=True).logits[0]
    save_file({"ids": ids[0].int(), "logits": logits.float().contiguous(), "logits_kv16": half.float().contiguous()},
              root / f"{name}.reference.safetensors")
    difference = ((half - logits).norm() / logits.norm()).item()
    print(f"{name:20} logits std {logits.std():.2f}, fp16 cache moves them by {difference:.1e}; "
          f"rope {getattr(hf_config, 'rope_parameters', None)}; layers {getattr(hf_config, 'layer_types', None)}")


def main():
    root = pathlib.Path(sys.argv[1])
    root.mkdir(parents=True, exist_ok=True)
    for name in sys.argv[2:] or MODELS:
        make(root, name)


if __name__ == "__main__":
    main()

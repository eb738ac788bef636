"""Converts a Llama-architecture GGUF file to a Hugging Face model directory.

    gguf_to_huggingface.py FILE.gguf|PACKAGE.whl DIRECTORY

Weights are expanded and stored as fp16. GGUF stores the rows of q_proj and k_proj with each head's rotary pairs side by
side; Hugging Face keeps the two halves apart, so the rows are put back. The tokenizer is rebuilt as a byte-level BPE
with the split rules of the pre-tokenizer that the file names.
"""

import json
import sys
import tempfile
import zipfile
from pathlib import Path

import gguf
import numpy as np
from safetensors.numpy import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

LAYER_NAMES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
TOP_NAMES = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
TOKEN_TYPE_CONTROL = 3


def huggingface_name(name):
    parts = name.removesuffix(".weight").split(".")
    if parts[0] == "blk":
        return f"model.layers.{parts[1]}.{LAYER_NAMES[parts[2]]}.weight"
    return TOP_NAMES[parts[0]] + ".weight"


def rotary_halves_apart(weight, head_count):
    """[heads * (pairs * 2), in], pairs side by side -> first halves, then second halves, in each head."""
    rows, columns = weight.shape
    pairs = weight.reshape(head_count, rows // head_count // 2, 2, columns)
    return pairs.swapaxes(1, 2).reshape(rows, columns)


def tensors(reader, head_count, kv_head_count):
    result = {}
    for tensor in reader.tensors:
        weight = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        if tensor.name.endswith("attn_q.weight"):
            weight = rotary_halves_apart(weight, head_count)
        elif tensor.name.endswith("attn_k.weight"):
            weight = rotary_halves_apart(weight, kv_head_count)
        half = np.ascontiguousarray(weight, dtype=np.float16)
        if not np.isfinite(half).all():
            sys.exit(f"{tensor.name}: a weight does not fit fp16")
        result[huggingface_name(tensor.name)] = half
    return result


def tokenizer(field):
    if (field("tokenizer.ggml.model"), field("tokenizer.ggml.pre")) != ("gpt2", "smollm"):
        sys.exit("only byte-level BPE with the SmolLM split rules is known")
    texts = field("tokenizer.ggml.tokens")
    merges = [tuple(merge.split(" ")) for merge in field("tokenizer.ggml.merges")]
    result = Tokenizer(models.BPE(vocab={text: i for i, text in enumerate(texts)}, merges=merges))
    result.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    result.decoder = decoders.ByteLevel()
    types = field("tokenizer.ggml.token_type")
    result.add_special_tokens(
        [AddedToken(text, normalized=False) for text, kind in zip(texts, types) if kind == TOKEN_TYPE_CONTROL]
    )
    return result


def convert(path, directory):
    reader = gguf.GGUFReader(path)

    def field(name):
        return reader.fields[name].contents()

    if field("general.architecture") != "llama":
        sys.exit("only the Llama architecture is known")
    head_count = int(field("llama.attention.head_count"))
    kv_head_count = int(field("llama.attention.head_count_kv"))
    weights = tensors(reader, head_count, kv_head_count)
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_act": "silu",
        "hidden_size": int(field("llama.embedding_length")),
        "intermediate_size": int(field("llama.feed_forward_length")),
        "num_hidden_layers": int(field("llama.block_count")),
        "num_attention_heads": head_count,
        "num_key_value_heads": kv_head_count,
        "vocab_size": int(field("llama.vocab_size")),
        "max_position_embeddings": int(field("llama.context_length")),
        # Stored as fp32 there: 1e-5 comes back as 9.999999747378752e-06.
        "rms_norm_eps": float(np.format_float_positional(np.float32(field("llama.attention.layer_norm_rms_epsilon")))),
        "rope_theta": float(field("llama.rope.freq_base")),
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": "lm_head.weight" not in weights,
        "bos_token_id": int(field("tokenizer.ggml.bos_token_id")),
        "eos_token_id": int(field("tokenizer.ggml.eos_token_id")),
        "torch_dtype": "float16",
    }
    directory.mkdir(parents=True)
    save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})
    (directory / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    tokenizer(field).save(str(directory / "tokenizer.json"))


def main():
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    source, directory = Path(sys.argv[1]), Path(sys.argv[2])
    if source.suffix != ".whl":
        convert(source, directory)
        return
    with zipfile.ZipFile(source) as package, tempfile.TemporaryDirectory() as scratch:
        names = [name for name in package.namelist() if name.endswith(".gguf")]
        if len(names) != 1:
            sys.exit(f"{source}: expected one GGUF file, found {len(names)}")
        convert(Path(package.extract(names[0], scratch)), directory)


if __name__ == "__main__":
    main()

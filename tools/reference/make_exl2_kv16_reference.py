#!/usr/bin/env python3
"""Logits of the EXL2 fixture in float64, with keys and values rounded to fp16 as a cache would.

    make_exl2_kv16_reference.py engine/tests/data/exl2-llama-tiny engine/tests/data/exl2-llama-tiny.kv16.safetensors

writes logits.MODEL.LENGTH, F32 [positions, vocab], for the sequences and positions of reference.json. The fixture's own
float64 rows keep keys and values exact, which moves them by up to 3e-4 from any engine with an fp16 cache; these rows
don't, so an engine can be held to fp32 rounding.

Reader and forward pass are written from the format notes alone (reference/exl2.md, 2) and share nothing with the
engine. The script first checks itself: without the rounding it must give the fixture's float64 rows. Needs numpy,
safetensors.
"""
import json
import pathlib
import sys

import numpy as np
from safetensors.numpy import load_file, save_file


def decode(tensors, key):
    """The matrix [in_features, out_features] of an EXL2 layer, fp16 values, rows in natural order."""
    words, groups = tensors[key + ".q_weight"].view(np.uint32), tensors[key + ".q_groups"].reshape(-1, 2)
    columns = words.shape[1]
    nibbles = tensors[key + ".q_scale"].view(np.uint32)
    level = np.stack([(nibbles >> (4 * i)) & 15 for i in range(8)], axis=2).reshape(len(groups), columns)
    unit = (tensors[key + ".q_scale_max"].astype(np.float32) / 256).astype(np.float16)
    packed = []
    for g, (bits, first) in enumerate(groups):
        end = groups[g + 1][1] if g + 1 < len(groups) else len(words)
        stream = words[first:end]
        flat = ((stream[:, None, :] >> np.arange(32, dtype=np.uint32)[None, :, None]) & 1).reshape(-1, columns)
        flat = flat.reshape(-1, bits, columns).astype(np.int64)
        codes = (flat << np.arange(bits)[None, :, None]).sum(axis=1)
        square = ((level[g].astype(np.float32) + 1) ** 2).astype(np.float16)
        scale = (square.astype(np.float32) * np.float32(unit[g])).astype(np.float16)
        packed.append(((codes - 2 ** (bits - 1)).astype(np.float32) * scale.astype(np.float32)).astype(np.float16))
    return np.concatenate(packed)[tensors[key + ".q_invperm"]]


class Model:
    def __init__(self, directory):
        self.config = json.loads((directory / "config.json").read_text())
        self.tensors = {}
        for path in sorted(directory.glob("*.safetensors")):
            self.tensors.update(load_file(path))
        self.matrices = {key[:-9]: decode(self.tensors, key[:-9]).astype(np.float64)
                         for key in self.tensors if key.endswith(".q_weight")}

    def vector(self, name):
        return self.tensors[name].astype(np.float64)

    def norm(self, x, name):
        scale = np.sqrt((x * x).mean(axis=1, keepdims=True) + self.config["rms_norm_eps"])
        return x / scale * self.vector(name + ".weight")

    def rotate(self, x):
        half = x.shape[2] // 2
        angle = np.arange(len(x))[:, None] * self.config["rope_theta"] ** (-np.arange(half) / half)[None, :]
        cos, sin = np.cos(angle)[:, None, :], np.sin(angle)[:, None, :]
        a, b = x[:, :, :half], x[:, :, half:]
        return np.concatenate([a * cos - b * sin, b * cos + a * sin], axis=2)

    def attention(self, x, key, store):
        heads, kv_heads, dim = (self.config[k] for k in ("num_attention_heads", "num_key_value_heads", "head_dim"))
        n = len(x)
        q = self.rotate((x @ self.matrices[key + ".q_proj"]).reshape(n, heads, dim))
        k = store(self.rotate((x @ self.matrices[key + ".k_proj"]).reshape(n, kv_heads, dim)))
        v = store((x @ self.matrices[key + ".v_proj"]).reshape(n, kv_heads, dim))
        k, v = (np.repeat(t, heads // kv_heads, axis=1) for t in (k, v))
        score = np.einsum("qhd,khd->hqk", q, k) / np.sqrt(dim)
        score = np.where(np.tril(np.ones((n, n), bool)), score, -np.inf)
        weight = np.exp(score - score.max(axis=2, keepdims=True))
        weight /= weight.sum(axis=2, keepdims=True)
        return np.einsum("hqk,khd->qhd", weight, v).reshape(n, heads * dim) @ self.matrices[key + ".o_proj"]

    def mlp(self, x, key):
        gate = x @ self.matrices[key + ".gate_proj"]
        return (gate / (1 + np.exp(-gate)) * (x @ self.matrices[key + ".up_proj"])) @ self.matrices[key + ".down_proj"]

    def logits(self, ids, store):
        x = self.vector("model.embed_tokens.weight")[ids]
        for i in range(self.config["num_hidden_layers"]):
            key = f"model.layers.{i}"
            x = x + self.attention(self.norm(x, key + ".input_layernorm"), key + ".self_attn", store)
            x = x + self.mlp(self.norm(x, key + ".post_attention_layernorm"), key + ".mlp")
        return (self.norm(x, "model.norm") @ self.matrices["lm_head"])[:, :self.config["vocab_size"]]


def main():
    root, target = pathlib.Path(sys.argv[1]), sys.argv[2]
    reference = json.loads((root / "reference.json").read_text())
    out = {}
    for bits in ("4.0", "2.6"):
        model = Model(root / f"exl2-{bits}")
        exact = load_file(root / f"reference-{bits}.safetensors")
        for length, ids in reference["sequences"].items():
            positions = reference["logit_positions"][length]
            plain = model.logits(np.array(ids), lambda t: t)[positions]
            half = model.logits(np.array(ids), lambda t: t.astype(np.float16).astype(np.float64))[positions]
            own = exact[f"logits.float64.{length}"]
            check = np.linalg.norm(plain - own) / np.linalg.norm(own)
            assert check < 1e-6, f"this script differs from the fixture's float64 rows by {check:.1e}"
            print(f"{bits} {length:>3}: fp16 cache moves the logits by "
                  f"{np.linalg.norm(half - plain) / np.linalg.norm(plain):.2e} (self-check {check:.0e})")
            out[f"logits.exl2-{bits}.{length}"] = half.astype(np.float32)
    save_file(out, target)


if __name__ == "__main__":
    main()

"""Reference values of SmolLM2-135M-Instruct from PyTorch transformers, in fp32 on the weights that the model directory has.

    make_smollm2_reference.py MODEL_DIRECTORY TEXT_FILE OUTPUT.json

Needs torch, transformers, tokenizers. Writes: the ids of the text, a sample of the logits at some positions of its first
256 tokens (every COLUMN_STEP-th column; the whole row's norm and argmax), a greedy continuation, and the perplexity of the
text in windows of 512 tokens, every token of a window but the first scored. The logits come twice: in plain fp32, and with
keys and values rounded to fp16 before attention, as an fp16 cache does: that alone moves this model's logits by up to
1.3e-3.
"""

import json
import sys
from pathlib import Path

import torch
import transformers
from tokenizers import Tokenizer
from transformers.models.llama import modeling_llama

PREFIX_TOKENS = 256
POSITIONS = [0, 1, 31, 63, 127, 200, 255]
COLUMN_STEP = 97
WINDOW = 512
CONTINUATION_TOKENS = 24
PROMPT = "The capital of France is"


def sampled_rows(logits):
    return [
        {
            "position": position,
            "argmax": int(logits[position].argmax()),
            "norm": float(logits[position].double().norm()),
            "columns": [round(value, 7) for value in logits[position, ::COLUMN_STEP].tolist()],
        }
        for position in POSITIONS
    ]


def logits_with_fp16_cache(model, ids):
    """The eager attention of transformers, given rounded keys and values."""
    eager = modeling_llama.eager_attention_forward

    def rounded(module, query, key, value, *arguments, **keywords):
        return eager(module, query, key.half().float(), value.half().float(), *arguments, **keywords)

    modeling_llama.eager_attention_forward = rounded
    try:
        return model(ids).logits[0]
    finally:
        modeling_llama.eager_attention_forward = eager


def main():
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    directory, text_path, output = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    model = transformers.AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32, attn_implementation="eager")
    model.eval()
    tokenizer = Tokenizer.from_file(str(Path(directory) / "tokenizer.json"))
    text = text_path.read_text()
    ids = tokenizer.encode(text, add_special_tokens=False).ids

    with torch.no_grad():
        prefix = torch.tensor([ids[:PREFIX_TOKENS]])
        rows = sampled_rows(model(prefix).logits[0])
        rows_fp16_cache = sampled_rows(logits_with_fp16_cache(model, prefix))
        nll_sum, scored = 0.0, 0
        for start in range(0, len(ids), WINDOW):
            window = torch.tensor(ids[start : start + WINDOW])
            if len(window) < 2:
                continue
            log_probabilities = model(window[None]).logits[0, :-1].double().log_softmax(-1)
            nll_sum -= float(log_probabilities.gather(1, window[1:, None]).sum())
            scored += len(window) - 1
        prompt = tokenizer.encode(PROMPT, add_special_tokens=False).ids
        sequence = list(prompt)
        for _ in range(CONTINUATION_TOKENS):
            sequence.append(int(model(torch.tensor([sequence])).logits[0, -1].argmax()))

    reference = {
        "made_by": f"transformers {transformers.__version__}, torch {torch.__version__.split('+')[0]}, fp32, eager attention",
        "text": text_path.name,
        "ids": ids,
        "prefix_tokens": PREFIX_TOKENS,
        "column_step": COLUMN_STEP,
        "logits": rows,
        "logits_fp16_cache": rows_fp16_cache,
        "perplexity": {
            "window": WINDOW,
            "nll_sum": nll_sum,
            "token_count": scored,
            "perplexity": float(torch.tensor(nll_sum / scored, dtype=torch.float64).exp()),
        },
        "greedy": {"prompt": PROMPT, "prompt_ids": prompt, "continuation_ids": sequence[len(prompt) :]},
    }
    output.write_text(json.dumps(reference, separators=(",", ":")).replace('{"position"', '\n{"position"') + "\n")


if __name__ == "__main__":
    main()

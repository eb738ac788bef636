#!/usr/bin/env python3
"""Tokenizers and what Hugging Face's `tokenizers` makes of a mixed corpus with them, for engine/tests/test_text*.c.

Trains small tokenizers of each family on text of our own (tokenizer_corpus.py) and writes, for each,
DIRECTORY/NAME/tokenizer.json and DIRECTORY/NAME/expected.json; the lines are in DIRECTORY/corpus.json. Odd components
and options are tested by DIRECTORY/variants.json: changes to one of these tokenizers, with texts of their own.

usage: python3 tools/reference/make_tokenizer_reference.py engine/tests/data/tokenizers
needs: tokenizers (0.23.3 made the committed files)
"""

import collections
import json
import pathlib
import random
import sys

import tokenizers
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

import tokenizer_corpus as corpus

LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
BYTES = [f"<0x{b:02X}>" for b in range(256)]


def plain(content, **flags):
    return AddedToken(content, normalized=flags.pop("normalized", False), **flags)


def commonest_characters(texts, count):
    counts = collections.Counter("".join(texts).replace(" ", "▁"))
    return [c for c, _ in sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:count]]


def train(pre_tokenizer, size, special=(), alphabet=(), limit=None, whole_text=False):
    """The vocabulary and merges (as pairs) of a BPE trained on our text, of its `limit` commonest characters."""
    text = corpus.training_text()
    if whole_text:
        text = ["▁" + line.replace(" ", "▁") for line in text if len(line) < 200]
    if limit:
        # The trainer's own choice among equally common characters differs from run to run.
        alphabet = commonest_characters(text, limit)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizer
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=list(special),
        initial_alphabet=list(alphabet),
        **({"limit_alphabet": limit} if limit else {}),
        show_progress=False,
    )
    tokenizer.train_from_iterator(text, trainer)
    model = json.loads(tokenizer.to_str())["model"]
    return model["vocab"], [tuple(pair) for pair in model["merges"]]


def byte_level(size, special, pattern=None, **options):
    if pattern:
        splitter = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(pattern), "isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )
    else:
        splitter = pre_tokenizers.ByteLevel(add_prefix_space=False)
    vocab, merges = train(splitter, size, special=special, alphabet=pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab, merges, **options))
    tokenizer.pre_tokenizer = splitter
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    return tokenizer


def gpt2():
    tokenizer = byte_level(1000, ["<|endoftext|>"])
    tokenizer.add_special_tokens([plain("<|endoftext|>")])
    tokenizer.add_tokens(
        [
            plain("[MASK]", lstrip=True, rstrip=True, special=True),
            plain("WORD", single_word=True, normalized=True),
            plain("New York", normalized=True),
        ]
    )
    return tokenizer


def llama3():
    tokenizer = byte_level(1100, [], pattern=LLAMA3)
    state = json.loads(tokenizer.to_str())
    # Tokens that no merge leads to: only ignore_merges finds them.
    for token in ["Ġqwxz", "ĠsupercalifragilisticexpialidociousÂ", "éÃ©", "ĠìĿ´", "!!!!!!!!!!!!"]:
        if token not in state["model"]["vocab"]:
            state["model"]["vocab"][token] = len(state["model"]["vocab"])
    state["model"]["ignore_merges"] = True
    tokenizer = Tokenizer.from_str(json.dumps(state))
    names = ["begin_of_text", "end_of_text", "start_header_id", "end_header_id", "eot_id"]
    tokenizer.add_special_tokens([plain(f"<|{name}|>") for name in names])
    bos = "<|begin_of_text|>"
    tokenizer.post_processor = processors.Sequence(
        [
            processors.ByteLevel(trim_offsets=False),
            processors.TemplateProcessing(
                single=f"{bos} $A", pair=f"{bos} $A {bos} $B:1", special_tokens=[(bos, tokenizer.token_to_id(bos))]
            ),
        ]
    )
    return tokenizer


def qwen2():
    tokenizer = byte_level(1050, [], pattern=QWEN2)
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.add_special_tokens([plain(t) for t in ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]])
    tokenizer.add_tokens([plain(t) for t in ["<tool_call>", "</tool_call>", "<think>", "</think>"]])
    return tokenizer


def sentencepiece(size, special, whole_text=False):
    """A small alphabet, so that byte fallback has something to do."""
    splitter = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always")
    if whole_text:
        splitter = pre_tokenizers.Split("\n", "isolated")
    return train(splitter, size, special=list(special) + BYTES, limit=200, whole_text=whole_text)


def around(tokenizer, before, after=""):
    names = [name for name in f"{before} {after}".split()]
    template = f"{before} $A {after}".strip()
    return processors.TemplateProcessing(
        single=template,
        pair=f"{template} {template.replace('$A', '$B:1')}",
        special_tokens=[(name, tokenizer.token_to_id(name)) for name in names],
    )


def llama2():
    vocab, merges = sentencepiece(1200, ["<unk>", "<s>", "</s>"])
    tokenizer = Tokenizer(models.BPE(vocab, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.add_special_tokens([plain(t) for t in ["<unk>", "<s>", "</s>"]])
    tokenizer.add_tokens([plain("[INST]", normalized=True), plain("WORD", normalized=True, single_word=True)])
    tokenizer.post_processor = around(tokenizer, "<s>")
    return tokenizer


def mistral():
    vocab, merges = sentencepiece(1150, ["<unk>", "<s>", "</s>", "[INST]", "[/INST]"])
    tokenizer = Tokenizer(models.BPE(vocab, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="first", split=False)
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.add_special_tokens([plain(t) for t in ["<unk>", "<s>", "</s>", "[INST]", "[/INST]"]])
    tokenizer.post_processor = around(tokenizer, "<s>", "</s>")
    return tokenizer


def gemma():
    # Learnt from whole lines, so that merges run across words.
    vocab, merges = sentencepiece(1250, ["<pad>", "<eos>", "<bos>", "<unk>"], whole_text=True)
    tokenizer = Tokenizer(models.BPE(vocab, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    tokenizer.add_special_tokens([plain(t) for t in ["<pad>", "<eos>", "<bos>", "<unk>"]])
    tokenizer.add_tokens([plain(t) for t in ["<start_of_turn>", "<end_of_turn>", "\n\n", "▁▁", "▁▁▁"]])
    tokenizer.post_processor = around(tokenizer, "<bos>")
    return tokenizer


FAMILIES = {f.__name__: f for f in (gpt2, llama3, qwen2, llama2, mistral, gemma)}

# ---- variants: what no family has. (name, family, changes by dotted path, texts) ----

MIXED = [
    "The heavy ship, in 1912, carries 45 whales' coal!  Twice.",
    " leading, trailing ",
    "a--b - c,,d (e)",
    "x1y22z333 ४५ ½",
    "Größe ÀÉÎ İI ﬁ ½ Ａ e\u0301",
    "日本語、テスト。",
    "\n\n tabs\tand\r\nlines \n",
    "a b\u00a0c\u3000d\u200de_f",
    "<s>hello</s> WORD [MASK] x",
    "",
    "   ",
]


PATTERNS = {"comma": {"String": ","}, "regex": {"Regex": r"[,-]|\s"}, "empty": {"Regex": r"\d*"}}
# Syntax and sets that regular-expression engines disagree about.
REGEXES = [
    r"\w+|[^\w\s]+",
    r"\w+",
    r"\W+",
    r"[\w']+",
    r"[\s\S]{1,5}",
    r"\h+",
    r"\S+",
    r"(?i)the|SHIP",
    r"^.|.$",
    r"(?<=a)b|(?<![0-9])4",
    r"(?>a+)b?|\p{^L}",
    r"x*+y?+.",
    r"\u0041|\x{42}",
    r"[^\S\n]+",
    r"\p{Lu}\p{Ll}*|\p{Han}+",
]


def variant_changes():
    split = lambda pattern, behavior, invert=False: {
        "type": "Split",
        "pattern": pattern,
        "behavior": behavior,
        "invert": invert,
    }
    bytes_only = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    sequence = lambda *parts: {"type": "Sequence", "pretokenizers": list(parts)}
    behaviors = ["Removed", "Isolated", "MergedWithPrevious", "MergedWithNext", "Contiguous"]

    for behavior in behaviors:
        for invert in (False, True):
            for name, pattern in PATTERNS.items():
                yield (
                    f"split-{name}-{behavior}{'-inverted' if invert else ''}",
                    "gpt2",
                    {"pre_tokenizer": sequence(split(pattern, behavior, invert), bytes_only)},
                )
        yield f"punctuation-{behavior}", "gpt2", {
            "pre_tokenizer": sequence({"type": "Punctuation", "behavior": behavior}, bytes_only)
        }
    for regex in REGEXES:
        yield f"regex {regex}", "gpt2", {"pre_tokenizer": sequence(split({"Regex": regex}, "Isolated"), bytes_only)}
    for individual in (False, True):
        yield f"digits-{individual}", "gpt2", {
            "pre_tokenizer": sequence({"type": "Digits", "individual_digits": individual}, bytes_only)
        }
    yield "whitespace", "gpt2", {"pre_tokenizer": sequence({"type": "Whitespace"}, bytes_only)}
    yield "whitespace-split", "gpt2", {"pre_tokenizer": sequence({"type": "WhitespaceSplit"}, bytes_only)}
    yield "delimiter", "gpt2", {"pre_tokenizer": sequence({"type": "CharDelimiterSplit", "delimiter": "e"}, bytes_only)}
    yield "prefix-space", "gpt2", {
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}
    }
    yield "prefix-space-on-words", "gpt2", {
        "pre_tokenizer": sequence(
            {"type": "WhitespaceSplit"}, {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True}
        )
    }
    yield "split-after-byte-level", "gpt2", {
        "pre_tokenizer": sequence(bytes_only, split({"String": "Ġ"}, "MergedWithNext"))
    }
    yield "nothing", "gpt2", {"pre_tokenizer": None, "decoder": None, "post_processor": None}
    yield "unknown-characters", "gpt2", {"pre_tokenizer": None, "model.unk_token": "<|endoftext|>"}
    yield "fused-unknown-characters", "gpt2", {
        "pre_tokenizer": None,
        "model.unk_token": "<|endoftext|>",
        "model.fuse_unk": True,
    }

    for form in ("NFC", "NFD", "NFKC", "NFKD"):
        yield f"normalizer-{form}", "qwen2", {"normalizer": {"type": form}}
    yield "normalizer-lowercase", "gpt2", {"normalizer": {"type": "Lowercase"}}
    for left, right in ((True, True), (True, False), (False, True)):
        strip = {"type": "Strip", "strip_left": left, "strip_right": right}
        yield f"normalizer-strip-{left}-{right}", "gpt2", {"normalizer": strip}
        yield f"normalizer-strip-{left}-{right}-first", "mistral", {"normalizer": strip}
    yield "normalizer-regex", "gpt2", {
        "normalizer": {
            "type": "Sequence",
            "normalizers": [
                {"type": "Replace", "pattern": {"Regex": r"\s+"}, "content": " "},
                {"type": "Sequence", "normalizers": [{"type": "Lowercase"}, {"type": "NFKD"}]},
                {"type": "Replace", "pattern": {"Regex": r"\p{M}+"}, "content": ""},
                {"type": "Replace", "pattern": {"String": "whale"}, "content": "sperm whale"},
                {"type": "Prepend", "prepend": ">> "},
            ],
        }
    }

    def metaspace(**fields):
        return {"type": "Metaspace", "replacement": "▁", **fields}

    for scheme in ("always", "first", "never"):
        for cut in (True, False):
            yield f"metaspace-{scheme}-{cut}", "mistral", {
                "pre_tokenizer": metaspace(prepend_scheme=scheme, split=cut),
                "decoder": metaspace(prepend_scheme=scheme, split=cut),
            }
    yield "metaspace-old", "mistral", {
        "pre_tokenizer": metaspace(add_prefix_space=True, str_rep="▁"),
        "decoder": metaspace(add_prefix_space=True, str_rep="▁"),
    }
    yield "metaspace-in-words", "mistral", {
        "pre_tokenizer": sequence({"type": "WhitespaceSplit"}, metaspace(prepend_scheme="always", split=True))
    }
    yield "metaspace-first-after-split", "mistral", {
        "pre_tokenizer": sequence(split({"String": ","}, "Removed"), metaspace(prepend_scheme="first", split=True))
    }
    yield "no-byte-fallback", "mistral", {"model.byte_fallback": False}
    yield "no-fuse", "mistral", {"model.byte_fallback": False, "model.fuse_unk": False}
    yield "no-unknown", "mistral", {"model.byte_fallback": False, "model.unk_token": None}
    yield "ignore-merges", "mistral", {"model.ignore_merges": True}
    for name, parts in {
        "no-strip": [{"type": "ByteFallback"}, {"type": "Fuse"}],
        "strip-tokens": [{"type": "Strip", "content": "▁", "start": 1, "stop": 0}],
        "strip-many": [
            {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
            {"type": "Fuse"},
            {"type": "Strip", "content": " ", "start": 3, "stop": 0},
        ],
        "regex": [{"type": "Replace", "pattern": {"Regex": "[▁e]+"}, "content": "_"}, {"type": "ByteFallback"}],
    }.items():
        yield f"decoder-{name}", "mistral", {"decoder": {"type": "Sequence", "decoders": parts}}
    yield "decoder-none", "llama2", {"decoder": None}
    yield "decoder-byte-fallback", "llama2", {"decoder": {"type": "ByteFallback"}}
    yield "roberta", "gpt2", {
        "post_processor": {
            "type": "RobertaProcessing",
            "sep": ["<|endoftext|>", 0],
            "cls": ["<|endoftext|>", 0],
            "trim_offsets": True,
            "add_prefix_space": False,
        }
    }
    yield "bert", "mistral", {"post_processor": {"type": "BertProcessing", "sep": ["</s>", 2], "cls": ["<s>", 1]}}


def changed(document, changes):
    document = json.loads(json.dumps(document))
    for path, value in changes.items():
        *parents, last = path.split(".")
        target = document
        for parent in parents:
            target = target[parent]
        target[last] = value
    return document


# ---- expectations ----


def stored(text):
    """The form of a text in the files: JSON strings can't hold NUL for every reader."""
    return {"bytes": text.encode().hex()} if "\0" in text else text


def stored_line(line):
    if isinstance(line, bytes):
        return {"bytes": line.hex()}
    return {"repeat": list(line)} if isinstance(line, tuple) else line


def expectation(tokenizer, text, index=0, written_as_is=True):
    """The ids without special tokens (what goes around them is the same for every line) and what they decode to.
    Texts that equal the line's own are left out. Now and then also what all ids together decode to."""
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    full = tokenizer.encode(text).ids
    before, after = around_ids(tokenizer)
    assert full == before + ids + after, (text, full, ids)
    out = {"ids": ids}
    decoded = tokenizer.decode(ids, skip_special_tokens=False)
    skipped = tokenizer.decode(ids, skip_special_tokens=True)
    if decoded != text or not written_as_is:
        out["decoded"] = stored(decoded)
    if skipped != decoded:
        out["skipped"] = stored(skipped)
    if index % 8 == 0 and (before or after):
        out["whole"] = stored(tokenizer.decode(full, skip_special_tokens=False))
    return out


def mixed_lines(name, tokenizer):
    for text in MIXED:
        try:
            yield {"text": text, **expectation(tokenizer, text)}
        except BaseException as error:   # a panic in Rust is no Exception
            if type(error).__name__ != "PanicException":
                raise
            print(f"{name}: no expectation for {text!r}, tokenizers itself fails: {error}", file=sys.stderr)


def around_ids(tokenizer):
    full, ids = tokenizer.encode("x").ids, tokenizer.encode("x", add_special_tokens=False).ids
    for start in range(len(full) - len(ids) + 1):
        if full[start : start + len(ids)] == ids:
            return full[:start], full[start + len(ids) :]
    raise AssertionError("special tokens inside a text")


def sequences(tokenizer, rnd):
    """Ids that no text gives: cut characters, stray bytes, ids without a token."""
    count = tokenizer.get_vocab_size()
    bytes_ids = [i for i in (tokenizer.token_to_id(b) for b in BYTES) if i is not None]
    out = []
    for _ in range(40):
        ids = []
        for _ in range(rnd.randrange(1, 5)):
            ids += [rnd.randrange(count + 3) for _ in range(rnd.randrange(1, 6))]
            if bytes_ids:
                ids += [bytes_ids[b] for b in rnd.choice(["船é", "🚢", "a", "ß\u0301"]).encode()]
            if bytes_ids and rnd.random() < 0.4:
                ids += [bytes_ids[rnd.randrange(256)] for _ in range(rnd.randrange(1, 4))]
        out.append(
            {
                "ids": ids,
                "decoded": stored(tokenizer.decode(ids, skip_special_tokens=False)),
                "skipped": stored(tokenizer.decode(ids, skip_special_tokens=True)),
            }
        )
    return out


def write(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, ensure_ascii=False, separators=(",", ":")) + "\n")


def write_list(path, head, key, items):
    """One item a line, so that a change can be read."""
    path.parent.mkdir(parents=True, exist_ok=True)
    dump = lambda value: json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    text = dump(head)[:-1] + ("," if head else "") + dump(key) + ":[\n" + ",\n".join(map(dump, items)) + "\n]}\n"
    path.write_text(text)


def main():
    out = pathlib.Path(sys.argv[1])
    lines = corpus.lines()
    write_list(out / "corpus.json", {}, "lines", [stored_line(line) for line in lines])

    documents = {}
    for name, make in FAMILIES.items():
        document = json.loads(make().to_str())
        if name in ("gpt2", "llama2"):   # the older form of merges
            document["model"]["merges"] = [f"{a} {b}" for a, b in document["model"]["merges"]]
        documents[name] = document
        write(out / name / "tokenizer.json", document)
        tokenizer = Tokenizer.from_str(json.dumps(document))
        before, after = around_ids(tokenizer)
        write_list(
            out / name / "expected.json",
            {
                "tokenizers": tokenizers.__version__,
                "before": before,
                "after": after,
                "sequences": sequences(tokenizer, random.Random(len(name))),
            },
            "lines",
            [
                expectation(tokenizer, corpus.text_of(line), index, not isinstance(line, bytes))
                for index, line in enumerate(lines)
            ],
        )

    variants = []
    for name, family, changes in variant_changes():
        tokenizer = Tokenizer.from_str(json.dumps(changed(documents[family], changes)))
        before, after = around_ids(tokenizer)
        variants.append(
            {
                "name": name,
                "family": family,
                "changes": changes,
                "before": before,
                "after": after,
                "lines": list(mixed_lines(name, tokenizer)),
            }
        )
    write_list(out / "variants.json", {"tokenizers": tokenizers.__version__}, "variants", variants)


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""tools/peer-exllamav2 with an ExLlamaV2 and a PyTorch that only pretend: what it chooses, asks, and writes.

    test_peer_exllamav2.py PLIMSOLL
"""

import json
import os
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TOOL = ROOT / "tools/peer-exllamav2"
PLIMSOLL = sys.argv.pop(1) if len(sys.argv) > 1 else str(ROOT / "build/release/plimsoll")

# Tensors are objects that answer anything with themselves; ids know how many they are.
FAKE_TORCH = '''
class Tensor:
    def __init__(self, tokens=1): self.shape = (1, tokens)
    def __getitem__(self, key):
        if isinstance(key, tuple) and len(key) == 2:
            return Tensor(len(range(*key[1].indices(self.shape[1]))))
        return self
    def __getattr__(self, name): return lambda *_: self
    def __bool__(self): return True
class Ids:
    def __init__(self, ids): self.ids = ids
    def view(self, rows, length): return self
    def numpy(self): return self
    def tobytes(self): return bytes(self.ids)
def tensor(ids): return Ids(ids)
def randint(high, shape, generator=None): return Tensor(shape[1])
def isfinite(tensor): return tensor
class Generator:
    def manual_seed(self, seed): return self
class cuda:
    set_device = synchronize = empty_cache = reset_peak_memory_stats = staticmethod(lambda *_: None)
    max_memory_allocated = staticmethod(lambda: 1000)
    max_memory_reserved = memory_reserved = staticmethod(lambda: 2000)
    get_device_name = staticmethod(lambda: "none")
__version__ = "0"
'''
FAKE_ENGINE = '''
import os
from torch import Tensor
class ExLlamaV2Config:
    vocab_size = 10
    def __init__(self, directory): self.low_mem = False
    def set_low_mem(self): self.low_mem = True
class Linear:
    def __init__(self, config): self.config = config
    def temp_dq_size(self): return 2 * min(self.config.max_dq_size, 100 << 20)
class ExLlamaV2:
    def __init__(self, config): self.modules_dict = {"model.layers.0.mlp.gate_proj": Linear(config)}
    def load(self): pass
    def unload(self): pass
    def forward(self, ids, cache, **_):
        if os.environ.get("FAKE_CRASH") == str(ids.shape[1]): os._exit(9)
        if os.environ.get("FAKE_ERROR") == str(ids.shape[1]): raise ValueError("no such luck")
        assert cache.current_seq_len + ids.shape[1] <= cache.max_seq_len, "past the cache's end"
        cache.current_seq_len += ids.shape[1]
        return Tensor()
class ExLlamaV2Cache:
    def __init__(self, model, max_seq_len): self.max_seq_len, self.current_seq_len = max_seq_len, 0
ExLlamaV2Cache_Q4 = ExLlamaV2Cache
print("chatter on standard output")
'''
# Its converter: a script that takes its stages from four modules, and texts from a fifth that can't be imported here.
FAKE_STAGES = {name: f"def {function}(job, *_): job['done'].append('{function}')\n" for name, function in (
    ("measure", "measure_quant"), ("optimize", "optimize"), ("quantize", "quant"), ("compile", "compile_model"))}
FAKE_CONVERTER = '''
import json, os, sys
from exllamav2.conversion.tokenize import tokenize
from exllamav2.conversion.measure import measure_quant
from exllamav2.conversion.optimize import optimize
from exllamav2.conversion.quantize import quant
from exllamav2.conversion.compile import compile_model
a = dict(zip(sys.argv[1::2], sys.argv[2::2]))
if a["-b"] == "3": sys.exit(7)
job = {"out_dir": a["-o"], "dataset_rows": int(a["-r"]), "length": int(a["-l"]), "measurement_rows": int(a["-mr"]),
       "measurement_length": int(a["-ml"]), "done": []}
if "-m" not in a:
    tokenize(job, None, None, measure=True)
    open(os.path.join(a["-o"], "measurement.json"), "w").write("{}")
    measure_quant(job)
optimize(job)
tokenize(job, None, None)
quant(job)
compile_model(job)
os.makedirs(a["-cf"])
job["rows"] = open(job["cal_filename"], "rb").read().decode()
json.dump(job, open(os.path.join(a["-cf"], "config.json"), "w"))
'''
FAKE_TOKENIZERS = '''
class Tokenizer:
    @staticmethod
    def from_file(_): return Tokenizer()
    def encode(self, text, add_special_tokens): self.ids = list(text.encode()); return self
'''
FAKE_SAFETENSORS = "def save_file(tensors, path): open(path, 'wb').write(tensors['input_ids'].tobytes())\n"
SUITE = {
    "schema": {"name": "plimsoll-suite", "major": 1}, "name": "peer", "description": "",
    "models": {"here": {"path": "here"}},
    "defaults": {"parameters": {"backend": "cuda"}, "repeats": 3},
    "cases": [
        {"name": "prefill", "model": "here", "workload": {"kind": "prefill", "prompt_tokens": 48},
         "sweep": {"max_dq_size": ["1Mi", "512Mi"], "dq_mode": ["chunked", "gated"]}},
        {"name": "decode", "model": "here", "workload": {"kind": "decode", "prompt_tokens": 16, "decode_tokens": 5},
         "sweep": {"kv_cache": ["fp16", "q4", "fp32"]}},
        {"name": "load", "model": "here", "workload": {"kind": "load"}},
        {"name": "convert", "model": "here", "repeats": 1,
         "workload": {"kind": "quantize", "calibration": "rows.txt", "rows": 3, "length": 5, "measurement": "shared",
                      "measurement_rows": 1, "measurement_length": 4},
         "sweep": {"bpw": [4, 6, 3], "method": ["gptq", "rtn"]}},
        {"name": "mix", "model": "here", "workload": {"kind": "quantize"}},
        {"name": "other", "model": "here", "workload": {"kind": "generate"}}],
}

NOT_CONVERSIONS = ["--case", "*/prefill/*", "--case", "*/decode/*", "--case", "*/load", "--case", "*/other"]


def setUpModule():
    done = subprocess.run([PLIMSOLL, "run", ROOT / "suites/cuda-decode.json", "--list"], capture_output=True, text=True, check=False)
    if "not part of this build" in done.stderr:
        raise unittest.SkipTest("plimsoll was built without CUDA")


class Peer(unittest.TestCase):
    def setUp(self):
        self.place = tempfile.TemporaryDirectory()
        self.addCleanup(self.place.cleanup)
        self.root = Path(self.place.name)
        for name, text in (("site/torch/__init__.py", FAKE_TORCH), ("site/exllamav2/__init__.py", FAKE_ENGINE),
                           ("site/exllamav2-9.9.dist-info/METADATA", "Metadata-Version: 2.1\nName: exllamav2\nVersion: 9.9\n"),
                           *((f"site/exllamav2/conversion/{name}.py", text) for name, text in FAKE_STAGES.items()),
                           ("site/exllamav2/conversion/convert_exl2.py", FAKE_CONVERTER),
                           ("site/exllamav2/conversion/__init__.py", ""), ("site/safetensors/__init__.py", ""),
                           ("site/safetensors/torch.py", FAKE_SAFETENSORS), ("site/tokenizers/__init__.py", FAKE_TOKENIZERS),
                           ("rows.txt", "abcdefghijklmnopqrstuvwxyz"),
                           ("models/here/config.json", "{}"), ("peer.json", json.dumps(SUITE))):
            path = self.root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")

    def run_tool(self, *words, site="site", **environment):
        return subprocess.run([sys.executable, TOOL, *words], capture_output=True, text=True, check=False, cwd=self.root,
                              env={**os.environ, "PYTHONPATH": str(self.root / site), "PYTHONNOUSERSITE": "1", **environment})

    def run_suite(self, *words, **environment):
        done = self.run_tool("peer.json", "--models", "models", "--plimsoll", PLIMSOLL, "-o", "out/peer.json", *words,
                             **environment)
        result = self.root / "out/peer.json"
        return done, json.loads(result.read_text(encoding="utf-8")) if result.exists() else None

    def test_runs_what_has_a_counterpart_once(self):
        done, result = self.run_suite(*NOT_CONVERSIONS)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual([case["id"] for case in result["cases"]],
                         ["here/prefill/dq_mode=chunked,max_dq_size=1Mi", "here/prefill/dq_mode=chunked,max_dq_size=512Mi",
                          "here/decode/kv_cache=fp16", "here/decode/kv_cache=q4", "here/load"])
        self.assertIn("no fp32 cache", done.stderr)
        self.assertIn("workload generate", done.stderr)
        self.assertEqual(result["recorded"]["engine"], "exllamav2 9.9")
        prefill, decode, load = result["cases"][0], result["cases"][2], result["cases"][4]
        self.assertEqual(prefill["parameters"]["dq_mode"], "gated")
        self.assertEqual(prefill["metrics"]["peak_dequant_bytes"]["samples"], [2 << 20])
        self.assertEqual(len(prefill["metrics"]["prefill_tokens_per_s"]["samples"]), 3)
        self.assertEqual(len(decode["metrics"]["token_time_ns"]["samples"]), 15)
        self.assertEqual(len(load["metrics"]["first_logits_time_ns"]["samples"]), 3)
        self.assertEqual([len(case["metrics"].get("load_time_ns", {"samples": []})["samples"]) for case in result["cases"]],
                         [1, 1, 0, 1, 3], "the first decode takes over the prompt's model")

    def test_its_result_is_one_that_plimsoll_reads_and_compares(self):
        _, result = self.run_suite(*NOT_CONVERSIONS)
        ours = dict(result, recorded={key: value for key, value in result["recorded"].items() if key != "engine"})
        ours["cases"] = [dict(case, metrics={name: metric for name, metric in case["metrics"].items()
                                             if name != "load_time_ns"}) for case in result["cases"][1:]]
        (self.root / "ours.json").write_text(json.dumps(ours), encoding="utf-8")
        done = subprocess.run([PLIMSOLL, "compare", "--all", "--json", "out/peer.json", "ours.json"], capture_output=True,
                              text=True, check=False, cwd=self.root)
        self.assertIn(done.returncode, (0, 1), done.stderr)   # the times of two runs of nothing differ as they like
        compared = json.loads(done.stdout)
        classes = {finding.get("class") for finding in compared["findings"]}
        self.assertLessEqual(classes, {"timing", "system", "exact"})
        self.assertIn("timing", classes)
        self.assertFalse([finding for finding in compared["findings"] if finding["verdict"] == "missing"])

    def test_its_converter_gets_the_rows_and_measures_once(self):
        done, result = self.run_suite("--case", "*/convert/*", "--case", "*/mix", "--keep", "kept")
        self.assertEqual(done.returncode, 1, done.stderr)
        self.assertIn("method rtn", done.stderr)
        self.assertIn("calibrate with a file", done.stderr)
        self.assertEqual([case["outcome"] for case in result["cases"]], ["ok", "ok", "failed"], result["cases"][0]["detail"])
        self.assertIn("ended with 7", result["cases"][2]["detail"])
        first, second = [json.loads((self.root / f"kept/bpw={n},method=gptq/config.json").read_text()) for n in (4, 6)]
        self.assertEqual(first["rows"], "abcdefghijklmno")
        self.assertEqual(first["done"], ["measure_quant", "optimize", "quant", "compile_model"])
        self.assertEqual(second["done"], ["optimize", "quant", "compile_model"])
        self.assertEqual(["measurement_time_ns" in case["metrics"] for case in result["cases"]], [True, False, False])
        self.assertEqual(result["cases"][1]["metrics"]["peak_requested_fast_bytes"]["samples"], [1000])

    def test_an_error_and_a_crash_are_the_outcomes_of_their_cases(self):
        done, result = self.run_suite(*NOT_CONVERSIONS, FAKE_ERROR="16")
        self.assertEqual(done.returncode, 1)
        self.assertEqual([case["outcome"] for case in result["cases"]], ["ok", "ok", "failed", "failed", "ok"])
        self.assertEqual(result["cases"][2]["detail"], "ValueError: no such luck")
        done, result = self.run_suite(*NOT_CONVERSIONS, FAKE_CRASH="48")
        self.assertEqual(done.returncode, 1)
        self.assertEqual([case["outcome"] for case in result["cases"]], ["crashed", "crashed", "ok", "ok", "ok"])

    def test_what_is_missing_is_said_in_one_line(self):
        for words, said in ((["peer.json", "--models", "nowhere"], "no model there"), (["absent.json"], "absent.json"),
                            (["peer.json", "--set", "backend=cpu"], "no case")):
            done = self.run_tool(*words, "--plimsoll", PLIMSOLL)
            self.assertEqual(done.returncode, 2, done.stderr)
            self.assertIn(said, done.stderr.splitlines()[-1])
        done = self.run_tool("peer.json", "--plimsoll", "nowhere")
        self.assertEqual((done.returncode, done.stderr.count("\n")), (2, 1), done.stderr)

    def test_without_exllamav2_it_says_how_to_get_it(self):
        done = subprocess.run([sys.executable, "-S", TOOL, "peer.json"], capture_output=True, text=True, check=False,
                              cwd=self.root, env={"PATH": os.environ["PATH"]})
        self.assertEqual((done.returncode, done.stderr.count("\n")), (2, 1), done.stderr)
        self.assertIn("pip install exllamav2", done.stderr)
        self.assertEqual(self.run_tool("--help").returncode, 0)


if __name__ == "__main__":
    unittest.main()

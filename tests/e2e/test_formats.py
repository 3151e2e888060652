#!/usr/bin/env python3
"""The machine-readable formats that docs/cli.md promises, on the models in the tree."""
import json
import statistics
import struct
import subprocess
import sys
import xml.dom.minidom

from harness import GGUF, GGUF_GOLDEN, GOLDEN, QNEXT, ROOT, TINY, Case, main, run

NUMBER = (int, float)


class Run(Case):
    def test_json(self):
        out = self.ok_json("run", GGUF, "Once upon", "--raw", "--max-tokens", 7, "--temperature", 0, "--seed", 5)
        self.schema(out, {"text": str, "token_ids": list, "prompt_tokens": int, "prompt_token_ids": list,
                          "finish_reason": str, "seed": int, "timings": dict})
        self.schema(out["timings"], {"prompt_ms": NUMBER, "prompt_tokens_per_s": NUMBER, "decode_ms": NUMBER,
                                     "decode_tokens_per_s": NUMBER})
        self.assertEqual(out["prompt_tokens"], len(out["prompt_token_ids"]))
        self.assertEqual((out["finish_reason"], out["seed"], len(out["token_ids"])), ("length", 5, 7))

    def test_same_seed_same_answer_whatever_the_threads(self):
        args = ["run", GGUF, "Once upon", "--max-tokens", 12, "--temperature", 1]
        one = self.ok_json(*args, "--seed", 7, "--threads", 1)
        two = self.ok_json(*args, "--seed", 7, "--threads", 2)
        other = self.ok_json(*args, "--seed", 8)
        self.assertEqual(one["token_ids"], two["token_ids"])
        self.assertNotEqual(one["token_ids"], other["token_ids"])

    def test_text_is_the_streamed_text_and_what_the_ids_say(self):
        args = ["run", GGUF, "Hello", "--max-tokens", 20, "--seed", 1]
        out = self.ok_json(*args)
        self.assertEqual(self.ok(*args), out["text"] + "\n")
        ids = ",".join(map(str, out["token_ids"]))
        self.assertEqual(self.ok_json("tokenize", GGUF, "--decode", ids)["text"], out["text"])

    def test_stop_text_never_shows(self):
        args = ["run", GGUF, "Hello", "--max-tokens", 20, "--seed", 1]
        whole = self.ok_json(*args)["text"]
        stop = whole[5:9]
        out = self.ok_json(*args, "--stop", stop)
        self.assertEqual(out["finish_reason"], "stop")
        self.assertEqual(out["text"], whole[:whole.index(stop)])

    def test_golden_greedy_through_the_engine(self):
        header_bytes = struct.unpack("<Q", (GOLDEN / "next-tiny/golden.safetensors").read_bytes()[:8])[0]
        data = (GOLDEN / "next-tiny/golden.safetensors").read_bytes()
        header = json.loads(data[8:8 + header_bytes])

        def ids(name):
            begin, end = (8 + header_bytes + offset for offset in header[name]["data_offsets"])
            return list(struct.unpack(f"<{(end - begin) // 4}i", data[begin:end]))

        prompt = ",".join(map(str, ids("input_ids")))
        out = self.ok_json("run", TINY, "--raw", "--ids", prompt, "--max-tokens", 48, "--temperature", 0)
        self.assertEqual(out["token_ids"], ids("greedy"))
        self.assertEqual(out["text"], "")

    def test_stats_and_note_go_to_stderr(self):
        done = run("run", GGUF, "Hello", "--max-tokens", 3, "--seed", 1)
        self.assertIn(b"weights are random", done.stderr)
        self.assertRegex(done.stderr.decode(), r"\d+ prompt tokens at [\d.]+ t/s, 3 tokens at [\d.]+ t/s; \w+, \d+ threads")
        self.assertNotIn(b"t/s", done.stdout)

    def test_system_and_thinking_reach_the_template(self):
        plain = self.ok_json("run", GGUF, "Hi", "--max-tokens", 1)["prompt_token_ids"]
        system = self.ok_json("run", GGUF, "Hi", "--max-tokens", 1, "--system", "Be brief.")["prompt_token_ids"]
        silent = self.ok_json("run", GGUF, "Hi", "--max-tokens", 1, "--no-thinking")["prompt_token_ids"]
        self.assertEqual(system[-len(plain):], plain)
        self.assertGreater(len(system), len(plain))
        self.assertEqual(silent[:len(plain)], plain)
        self.assertGreater(len(silent), len(plain))


class Compare(Case):
    KEYS = {"model": str, "reference": str, "tokens": int, "mean_kl": NUMBER, "max_kl": NUMBER,
            "top1_agreement": NUMBER, "max_logit_diff_over_std": NUMBER, "max_logit_diff": NUMBER,
            "reference_logit_std": NUMBER, "greedy_matched": int, "greedy_total": int, "layers": list,
            "positions": list}

    def test_golden_files(self):
        for name in ("next-tiny", "next-rawtopk", "moe-tiny", "dense-tiny"):
            with self.subTest(name):
                out = self.ok_json("compare", GOLDEN / name, "--golden", GOLDEN / name / "golden.safetensors")
                self.schema(out, self.KEYS)
                self.assertLessEqual(out["mean_kl"], 1e-6)  # design/model.md, section 4
                self.assertLessEqual(out["max_logit_diff_over_std"], 2e-3)
                self.assertEqual(out["top1_agreement"], 1)
                self.assertEqual((out["greedy_matched"], out["greedy_total"]), (48, 48))
                self.assertEqual(len(out["positions"]), out["tokens"])
                self.schema(out["positions"][0], {"position": int, "kl": NUMBER, "max_logit_diff": NUMBER,
                                                  "reference_top1": int, "top1": int})
                self.assertGreater(len(out["layers"]), 1)
                layer = {"layer": int, "kind": str, "hidden_relative": NUMBER, "hidden_max": NUMBER}
                routed = {**layer, "routing_agreement": NUMBER, "router_weight_max": NUMBER}
                self.schema(out["layers"][0], layer if name == "dense-tiny" else routed)

    def test_gguf_and_every_instruction_set(self):
        for isa in ("ref", ""):
            out = self.ok_json("compare", GGUF, "--golden", GGUF_GOLDEN, env={"QNEXT_ISA": isa})
            kls = sorted(position["kl"] for position in out["positions"])
            near_ties = 0 if isa else len(kls) // 64  # docs/decisions/0006: a router's, rounded the other way
            self.assertLessEqual(sum(kls[:len(kls) - near_ties]) / len(kls), 1e-6)
            self.assertLessEqual(out["mean_kl"], 1e-6 if isa else 9.3e-3 / 2)
            self.assertEqual(out["greedy_total"], 0)
            self.assertEqual(out["layers"], [])

    def test_two_models(self):
        same = self.ok_json("compare", TINY, TINY, "--greedy", 5)
        self.assertEqual((same["max_kl"], same["greedy_matched"], same["greedy_total"]), (0, 5, 5))
        other = self.ok_json("compare", TINY, GOLDEN / "next-rawtopk", "--ids", "1,2,3")
        self.assertEqual(other["tokens"], 3)
        self.assertGreater(other["mean_kl"], 1e-3)
        text = self.ok_json("compare", GGUF, GGUF, "--text", "-", stdin="Grüße".encode())
        self.assertEqual(text["mean_kl"], 0)
        self.assertIn("mean KL", self.ok("compare", TINY, TINY))

    def test_what_does_not_fit(self):
        self.fails(1, "compare", TINY, "--golden", GGUF_GOLDEN, says="belong to another model")
        self.fails(1, "compare", TINY, GGUF, says="vocabularies of 512 and 2048")
        self.fails(1, "compare", TINY, TINY, "--ids", "512", says="token id 512")
        self.fails(1, "compare", TINY, "--golden", GOLDEN / "next-tiny/model.safetensors", says="logits")
        self.fails(2, "compare", TINY, says="--golden")
        self.fails(2, "compare", TINY, TINY, "--golden", GGUF_GOLDEN)
        self.fails(2, "compare", TINY, "--golden", GGUF_GOLDEN, "--ids", "1")


class Bench(Case):
    def test_json(self):
        out = self.ok_json("bench", TINY, "--prompt", "8,70", "--gen", 3, "--depth", "0,64", "--repeat", 1)
        self.schema(out, {"version": str, "model": str, "weight_bytes": int, "cpu": str, "isa": str, "kv_type": str,
                          "chunk_tokens": int, "repetitions": int, "results": list, "roof": dict})
        self.schema(out["roof"], {"read_bytes_per_s": NUMBER, "matmul_ops_per_s": NUMBER, "read_buffer_bytes": int})
        self.assertEqual([(r["phase"], r["tokens"], r["depth"]) for r in out["results"]],
                         [("prefill", 8, 0), ("prefill", 70, 0), ("decode", 3, 0),
                          ("prefill", 8, 64), ("prefill", 70, 64), ("decode", 3, 64)])
        for result in out["results"]:
            self.schema(result, {"phase": str, "tokens": int, "sequences": int, "depth": int, "threads": int,
                                 "tokens_per_s": NUMBER, "read_bytes_per_s": NUMBER, "matmul_ops_per_s": NUMBER,
                                 "median_ms": NUMBER, "fastest_ms": NUMBER, "roof": str, "share_of_roof": NUMBER,
                                 "share_of_bandwidth": NUMBER, "share_of_matmul": NUMBER, "bytes": int, "ops": int,
                                 "bytes_per_token": NUMBER, "ops_per_token": NUMBER, "output_hash": str})
            self.assertGreater(result["tokens_per_s"], 0)
            self.assertGreater(result["share_of_roof"], 0)

    def test_the_hash_is_the_outputs_own(self):
        args = ["bench", TINY, "--prompt", 40, "--gen", 20, "--repeat", 1]
        hashes = [[r["output_hash"] for r in self.ok_json(*args, *more)["results"]]
                  for more in ([], ["--threads", 1], ["--chunk", 33])]
        self.assertEqual(hashes[0], hashes[1])
        self.assertEqual(hashes[0], hashes[2])
        self.assertIn(hashes[0][1], self.ok(*args))

    def test_batches_and_phases_left_out(self):
        out = self.ok_json("bench", TINY, "--prompt", 0, "--gen", 2, "--batch", "3,1", "--sweep-threads", "2,1",
                           "--repeat", 1)
        self.assertEqual([(r["phase"], r["sequences"], r["threads"]) for r in out["results"]],
                         [("decode", 3, 2), ("decode", 1, 2), ("decode", 3, 1), ("decode", 1, 1)])
        self.assertEqual(out["results"][0]["output_hash"], out["results"][2]["output_hash"])
        self.fails(2, "bench", TINY, "--prompt", "x")
        self.fails(2, "bench", TINY, "--batch", "0")

    def test_beside_an_earlier_report_and_drawn(self):
        args = ["bench", TINY, "--prompt", 8, "--gen", 2, "--repeat", 1]
        before = self.folder / "before.json"
        report = self.ok_json(*args)
        report["cpu"] = "Another <CPU>"
        before.write_text(json.dumps(report))
        svg = self.folder / "roofs.svg"
        out = self.ok(*args, "--batch", "1,2", "--compare", before, "--svg", svg)
        self.assertRegex(out, r"prefill 8, depth 0, x1, \d+ threads +[\d.]+ +[\d.]+ +[\d.]+ +[\d.]+% +[\d.]+%\n")
        self.assertRegex(out, r"decode 2, depth 0, x2, \d+ threads +not there")
        self.assertIn('cpu was "Another <CPU>", is', out)
        self.assertNotIn("other output", out)
        bars = xml.dom.minidom.parse(str(svg)).getElementsByTagName("rect")
        self.assertEqual(len(bars), 1 + 3)
        self.fails(2, *args, "--compare", before, "--json")
        self.fails(1, *args, "--compare", GGUF, says="not JSON")
        before.write_text('{"results": [1]}')
        for late, says in ((["--compare", before], b"not a report"), (["--svg", self.folder / "a/b.svg"], b"a/b.svg")):
            done = run(*args, *late)  # what was measured is not lost
            self.assertEqual(done.returncode, 1)
            self.assertIn(b"prefill", done.stdout)
            self.assertIn(says, done.stderr)

    def test_prediction(self):
        args = ["bench", TINY, "--predict", "10,20", "--depth", "0,100"]
        out = self.ok_json(*args)
        self.assertEqual([(d["depth"], d["read_bytes_per_s"]) for d in out["decode"]],
                         [(0, 1e10), (100, 1e10), (0, 2e10), (100, 2e10)])
        for one in out["decode"]:
            self.assertEqual(one["bytes_per_token"], one["weight_bytes"] + one["kv_bytes"] + one["state_bytes"])
            self.assertAlmostEqual(one["tokens_per_s"], one["read_bytes_per_s"] / one["bytes_per_token"])
        measured = self.ok_json("bench", TINY, "--prompt", 0, "--gen", 1, "--depth", 100, "--repeat", 1)["results"][0]
        self.assertEqual(out["decode"][1]["bytes_per_token"], measured["bytes"])
        twice = self.ok_json(*args, "--layers", 2 * out["layers"])
        self.assertEqual(twice["decode"][1]["kv_bytes"], 2 * out["decode"][1]["kv_bytes"])
        self.assertIn("t/s at the roof", self.ok(*args))
        self.fails(2, "bench", TINY, "--layers", 3)
        self.fails(2, "bench", TINY, "--predict", 0)


class Peers(Case):
    """bench/peers.py beside a llama-bench that only prints."""

    def peers(self, *args):
        command = [sys.executable, ROOT / "bench/peers.py", *args, "--qnext", QNEXT]
        return subprocess.run([str(part) for part in command], capture_output=True, text=True)

    def fake(self, body):
        script = self.folder / "llama-bench"
        script.write_text(f"#!{sys.executable}\nimport json, sys\n{body}\n")
        script.chmod(0o755)
        return f"fake={script} -rtr 1"

    def test_table(self):
        peer = self.fake("""
want = dict(zip(sys.argv[1::2], sys.argv[2::2]))
assert want["-rtr"] == "1" and want["-n"] == "4" and want["-t"] == "1", want
print(json.dumps([{"n_prompt": int(p), "n_gen": 0, "avg_ts": 50.0} for p in want["-p"].split(",")] +
                 [{"n_prompt": 0, "n_gen": 4, "avg_ts": 20.0}]))""")
        file = self.folder / "rounds.json"
        done = self.peers(GGUF, "--peer", peer, "--prompt", "8,16", "--gen", 4, "--rounds", 2, "--threads", 1,
                          "--json", file)
        self.assertEqual(done.returncode, 0, done.stderr)
        lines = done.stdout.splitlines()
        self.assertRegex(lines[0], r"^ +qnext +fake +ours / fake +share of roof$")
        self.assertRegex(lines[1], r"^prefill 8 +[\d.]+ \([\d.]+-[\d.]+\) +50\.0 \(50\.0-50\.0\) +[\d.]+ +\d+%$")
        self.assertEqual([line.split()[:2] for line in lines[2:]], [["prefill", "16"], ["decode", "4"]])
        rounds = json.loads(file.read_text())
        self.assertEqual(rounds[1]["fake"], {"prefill 8": 50.0, "prefill 16": 50.0, "decode 4": 20.0})
        median = statistics.median(one["qnext"]["decode 4"] / 20 for one in rounds)
        self.assertAlmostEqual(float(lines[3].split()[-2]), median, delta=0.006)

    def test_what_fails_says_so(self):
        for body, says in (("sys.exit('no such model')", "no such model"), ("print('?')", "printed no JSON")):
            done = self.peers(GGUF, "--peer", self.fake(body), "--prompt", 8, "--gen", 0)
            self.assertEqual(done.returncode, 1)
            self.assertIn(says, done.stderr)
        self.assertIn("expected NAME=PATH", self.peers(GGUF, "--peer", "x").stderr)
        self.assertIn("No such file", self.peers(GGUF, "--peer", "x=/none/llama-bench").stderr)
        self.assertIn("no such file", self.peers("none.gguf", "--peer", "x=y").stderr)


class Inspect(Case):
    CONFIG_80B = {
        "model_type": "qwen3_next", "num_hidden_layers": 48, "vocab_size": 151936, "hidden_size": 2048,
        "max_position_embeddings": 262144, "num_attention_heads": 16, "num_key_value_heads": 2, "head_dim": 256,
        "partial_rotary_factor": 0.25, "rope_theta": 10000000, "linear_num_key_heads": 16,
        "linear_num_value_heads": 32, "linear_key_head_dim": 128, "linear_value_head_dim": 128,
        "linear_conv_kernel_dim": 4, "num_experts": 512, "num_experts_per_tok": 10, "moe_intermediate_size": 512,
        "shared_expert_intermediate_size": 512, "intermediate_size": 5120}

    def test_json(self):
        for path in (TINY, GGUF):
            out = self.ok_json("inspect", path, "--context", "1K,100")
            self.schema(out, {"path": str, "format": str, "architecture": str, "config": dict, "layer_pattern": str,
                              "layers": list, "parameters": dict, "tensors": list, "weight_bytes": int,
                              "weights_present": bool, "mtp": bool, "tokenizer": bool, "chat_template": bool,
                              "text_error": (str, type(None)), "note": (str, type(None)), "memory": list})
            self.assertEqual([line["context_tokens"] for line in out["memory"]], [1024, 100])
            self.assertEqual(sum(t["elements"] for t in out["tensors"]), out["parameters"]["total"])
            self.assertEqual(sum(t["bytes"] for t in out["tensors"]), out["weight_bytes"])

    def test_the_80b_config_alone(self):
        (self.folder / "config.json").write_text(json.dumps(self.CONFIG_80B))
        for path in (self.folder, self.folder / "config.json"):
            out = self.ok_json("inspect", path)
            self.assertEqual([line["context_tokens"] for line in out["memory"]], [4096, 32768, 262144])
            self.assertEqual(out["memory"][0]["kv_bf16_bytes"], 4096 * 24 * 1024)
            self.assertEqual((out["mtp"], out["weights_present"], out["layer_pattern"]), (None, False, "3:1"))
        text = self.ok("inspect", self.folder)
        for word in ("4K", "32K", "256K", "79.7 G", "unknown"):
            self.assertIn(word, text)

    def test_verify(self):
        self.ok("inspect", GGUF, "--verify")
        self.ok("inspect", TINY, "--verify")
        data = bytearray((GOLDEN / "next-tiny/model.safetensors").read_bytes())
        header_bytes = struct.unpack("<Q", data[:8])[0]
        begin = json.loads(data[8:8 + header_bytes])["lm_head.weight"]["data_offsets"][0] + 8 + header_bytes
        data[begin:begin + 2] = b"\xc0\x7f"  # a bf16 NaN
        (self.folder / "model.safetensors").write_bytes(data)
        (self.folder / "config.json").write_bytes((GOLDEN / "next-tiny/config.json").read_bytes())
        self.assertEqual(run("inspect", self.folder).returncode, 0)
        done = run("inspect", self.folder, "--verify")
        self.assertEqual(done.returncode, 1)
        self.assertIn(b"qnext: ", done.stderr)


class Convert(Case):
    def test_a_converted_model_still_meets_the_golden_file(self):
        converted = self.folder / "tiny.gguf"
        self.ok("convert", TINY, converted, "--type", "bf16")
        golden = ["--golden", GOLDEN / "next-tiny/golden.safetensors"]
        out = self.ok_json("compare", converted, *golden)
        self.assertLessEqual(out["mean_kl"], 1e-6)
        self.assertEqual(out["greedy_matched"], 48)
        self.fails(1, "convert", TINY, converted, says="--force")
        self.ok("convert", converted, self.folder / "back")
        self.assertLessEqual(self.ok_json("compare", self.folder / "back", *golden)["mean_kl"], 1e-6)
        self.ok("convert", TINY, self.folder / "q8.gguf", "--type", "q8_0")
        self.assertLess(1e-6, self.ok_json("compare", self.folder / "q8.gguf", *golden)["mean_kl"])
        self.fails(2, "convert", TINY, self.folder / "x.gguf", "--type")
        self.assertEqual(sorted(path.name for path in self.folder.iterdir()), ["back", "q8.gguf", "tiny.gguf"])


class Tokenize(Case):
    def test_json(self):
        text = "Hello <|im_end|> wörld 🦙\n"
        out = self.ok_json("tokenize", GGUF, "-", stdin=text.encode())
        self.schema(out, {"count": int, "ids": list, "tokens": list})
        self.assertEqual(out["count"], len(out["ids"]))
        self.assertEqual([t["id"] for t in out["tokens"]], out["ids"])
        self.assertEqual(b"".join(bytes(t["bytes"]) for t in out["tokens"]), text.encode())
        self.assertEqual([t["text"] for t in out["tokens"] if t["special"]], ["<|im_end|>"])
        ids = ",".join(map(str, out["ids"]))
        self.assertEqual(self.ok("tokenize", GGUF, "--decode", ids), text + "\n")
        plain = self.ok_json("tokenize", GGUF, text, "--no-special")
        self.assertEqual([t for t in plain["tokens"] if t["special"]], [])

    def test_lines(self):
        out = self.ok("tokenize", GGUF, "a\nb")
        self.assertEqual([line.split()[1] for line in out.splitlines()], ['"a"', '"\\n"', '"b"'])
        self.assertEqual(self.ok("tokenize", GGUF, ""), "")

    def test_strange_unicode(self):
        for text in ("\u200d\u202e", "e\u0301\u0301", "\U0010ffff", "\u00a0\u3000", "👩‍👩‍👧‍👦", "\ufeff", "a\u0000b"):
            out = self.ok_json("tokenize", GGUF, "-", stdin=text.encode())
            self.assertGreater(out["count"], 0, repr(text))

    def test_wrong_ids(self):
        self.fails(1, "tokenize", GGUF, "--decode", "999999", says="expected ids from 0")
        self.fails(1, "tokenize", GGUF, "--decode=-5", says="expected ids from 0")
        self.fails(2, "tokenize", GGUF, "--decode", "x")
        self.fails(2, "tokenize", GGUF)
        self.fails(1, "tokenize", TINY, "x", says="tokenizer.json")


if __name__ == "__main__":
    main()

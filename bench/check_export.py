#!/usr/bin/env python3
"""Whether transformers opens what `qnext train` wrote and says the same: token ids, logits, greedy tokens.

    python3 -m venv /tmp/hf && /tmp/hf/bin/pip install -r bench/requirements-train.txt
    /tmp/hf/bin/python bench/check_export.py RUN [--qnext build/release/qnext]

Prints a JSON line, and ends with 1 where something differs: an id, a greedy token, a mean KL above 1e-6.
"""
import argparse
import json
import pathlib
import subprocess
import sys
import tempfile

import safetensors.torch
import torch
import transformers

ROOT = pathlib.Path(__file__).resolve().parent.parent
TEXTS = ["Once upon a time there was a lighthouse keeper who lived by the sea.",
         "What is 23 x 47? 23 x 47 = 23 x 40 + 23 x 7 = 920 + 161 = 1,081.",
         "Tab\there, \u00fcml\u00e4uts, \u4e2d\u6587, an emoji \U0001f3e0.\n\n  Two spaces, and <|im_end|> as a token."]
GREEDY = 48


def qnext_json(args, *command):
    out = subprocess.run([args.qnext, *map(str, command), "--json"], check=True, capture_output=True, text=True).stdout
    return json.loads(out)


def compare(args, model, ids):
    """Mean KL and greedy agreement of qnext's logits with transformers' on these ids."""
    with torch.no_grad():
        logits = model(torch.tensor([ids])).logits[0].float()
        greedy = model.generate(torch.tensor([ids]), max_new_tokens=GREEDY, min_new_tokens=GREEDY, do_sample=False)[0, len(ids):]
    with tempfile.TemporaryDirectory() as folder:
        golden = pathlib.Path(folder) / "golden.safetensors"
        safetensors.torch.save_file({"input_ids": torch.tensor(ids, dtype=torch.int32), "logits": logits.contiguous(),
                                     "greedy": greedy.to(torch.int32).contiguous()}, golden)
        return qnext_json(args, "compare", args.run, "--golden", golden)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=pathlib.Path)
    parser.add_argument("--qnext", type=pathlib.Path, default=ROOT / "build/release/qnext")
    args = parser.parse_args()
    tokenizer = transformers.AutoTokenizer.from_pretrained(args.run)
    model = transformers.AutoModelForCausalLM.from_pretrained(args.run, dtype=torch.float32)
    model.generation_config.eos_token_id = None
    problems, worst = [], 0.0
    for text in TEXTS:
        ids = tokenizer(text)["input_ids"]
        if ids != (found := qnext_json(args, "tokenize", args.run, text)["ids"]):
            problems.append(f"ids of {text!r}: {found}, transformers {ids}")
        report = compare(args, model, ids)
        worst = max(worst, report["mean_kl"])
        if report["mean_kl"] > 1e-6 or report["greedy_matched"] != GREEDY:
            problems.append(f"{text!r}: {report['mean_kl']}, {report['greedy_matched']} greedy tokens of {GREEDY}")
    print(json.dumps({"texts": len(TEXTS), "worst_mean_kl": worst, "greedy_tokens": GREEDY, "problems": problems}))
    sys.exit(1 if problems else 0)


if __name__ == "__main__":
    main()

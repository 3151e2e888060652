#!/usr/bin/env python3
"""lm-evaluation-harness scores a task of ours through qnext serve: log-likelihoods, and the text that it lets it say."""
import json
import os
import subprocess
import sys

from harness import TIMEOUT_S, Case, main
from server import MODEL, Server

CHOICE = """
task: qnext_choice
dataset_path: json
dataset_kwargs: {{data_files: {{test: "{data}"}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{prompt}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: "{{{{label}}}}"
target_delimiter: ""
metric_list: [{{metric: acc}}]
"""
SAY = """
task: qnext_say
dataset_path: json
dataset_kwargs: {{data_files: {{test: "{data}"}}}}
test_split: test
output_type: generate_until
doc_to_text: "{{{{prompt}}}}"
doc_to_target: "{{{{said}}}}"
target_delimiter: ""
generation_kwargs: {{max_gen_toks: 8, until: ["NEVER"], do_sample: false}}
metric_list: [{{metric: exact_match}}]
"""
PROMPTS = ["Once upon a time", "The capital of France is", "1, 2, 3, 4,", "Grüße aus", "int main() {", "x"]


class LmEval(Case):
    def test_a_task(self):
        with Server() as server:
            api = server.client()
            docs = []
            for i, prompt in enumerate(PROMPTS):
                # What it would say itself is likelier than anything else that is as long: one token.
                first = api.completions.create(model=MODEL, prompt=prompt, max_tokens=1, temperature=0, logprobs=5)
                best, *others = sorted(first.choices[0].logprobs.top_logprobs[0].items(), key=lambda item: -item[1])
                others = [text for text, _ in others if text and "\ufffd" not in text]
                said = api.completions.create(model=MODEL, prompt=prompt, max_tokens=8, temperature=0).choices[0].text
                self.assertNotIn("\ufffd", best[0], "another prompt is needed")
                # The last document's label is wrong on purpose: a score of 1 would be one that ignores labels.
                right = i < len(PROMPTS) - 1
                docs.append({"prompt": prompt, "choices": [best[0], others[-1]], "label": 0 if right else 1,
                             "said": said if right else "?"})
            data = self.folder / "docs.jsonl"
            data.write_text("".join(json.dumps(doc) + "\n" for doc in docs))
            for name, text in ("choice", CHOICE), ("say", SAY):
                (self.folder / f"{name}.yaml").write_text(text.format(data=data))
            done = subprocess.run(
                [sys.executable, "-m", "lm_eval", "--model", "local-completions", "--tasks", "qnext_choice,qnext_say",
                 "--include_path", self.folder, "--output_path", self.folder / "out", "--model_args",
                 f"model={MODEL},base_url={server.url}/completions,tokenizer_backend=remote,num_concurrent=2,max_retries=1"],
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=TIMEOUT_S,
                env={**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(self.folder / "hub")})
            self.assertEqual(done.returncode, 0, done.stdout.decode())
            results = json.loads(next((self.folder / "out").rglob("results*.json")).read_text())["results"]
            expected = 1 - 1 / len(PROMPTS)
            self.assertAlmostEqual(results["qnext_choice"]["acc,none"], expected)
            self.assertAlmostEqual(results["qnext_say"]["exact_match,none"], expected)


if __name__ == "__main__":
    main()

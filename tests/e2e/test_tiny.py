#!/usr/bin/env python3
"""The models that ship: they open, answer what they were trained for, and stop."""
import unittest

from harness import ROOT, Case, main

TINY = ROOT / "models/qnext-tiny"
FACTORY = ("A factory produces three types of widgets, A, B and C. A takes 4 hours a unit, B 3 hours and C 5 hours. It makes 200 "
           "units of A, 150 units of B and 120 units of C. (1) How many hours does each type take? (2) How many hours are needed "
           "in total?")


class Tiny(Case):
    def answer(self, name, prompt, *args):
        out = self.ok_json("run", TINY / f"qnext-tiny-{name}.gguf", prompt, "--max-tokens", "1000", *args)
        self.assertEqual(out["finish_reason"], "stop", out)
        return out["text"]

    def test_a_factory_problem(self):
        for name in ("instruct", "thinking"):
            for draft in ("0", "2"):  # guesses change nothing
                last = self.answer(name, FACTORY, "--temperature", "0", "--draft", draft).strip().splitlines()[-1]
                self.assertEqual(last, "Answer: (1) **A: 800 hours, B: 450 hours, C: 600 hours**; (2) **1,850 hours**")

    def test_a_story_ends(self):
        story = self.answer("instruct", "Tell me a short story about a lighthouse keeper.", "--seed", "1")
        self.assertGreater(len(story.split()), 40)
        self.assertRegex(story.strip(), r'[.!?]"?$')

    def test_the_base_goes_on(self):
        out = self.ok("run", TINY / "qnext-tiny-base.gguf", "--raw", "12 x 10 = ", "--temperature", "0", "--max-tokens", "4")
        self.assertIn("120", out)


if __name__ == "__main__":
    main()

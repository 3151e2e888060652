#!/usr/bin/env python3
"""The models that ship: they open, answer what they were trained for, and stop."""
import re

from harness import ROOT, Case, main

TINY = ROOT / "models/qnext-tiny"
FACTORY = ("A factory produces three types of widgets, A, B and C. A takes 4 hours a unit, B 3 hours and C 5 hours. It makes 200 "
           "units of A, 150 units of B and 120 units of C. (1) How many hours does each type take? (2) How many hours are needed "
           "in total?")

# The problem that the family's users meet in its article, word for word.
SEED = """\
A factory produces three types of widgets: Type A, Type B, and Type C. The factory operates 5 days a week and produces the following quantities each week:
- Type A: 400 units
- Type B: 300 units
- Type C: 200 units
The production rates for each type of widget are as follows:
- Type A takes 2 hours to produce 1 unit.
- Type B takes 1.5 hours to produce 1 unit.
- Type C takes 3 hours to produce 1 unit.
The factory operates 8 hours per day. Answer the following questions:
1. How many total hours does the factory operate each week?
2. How many total hours are spent on producing each type of widget each week?
3. If the factory wants to increase its output of Type C by 20% without changing the production rates, how many additional units of Type C will need to be produced per week?"""

SEED_ANSWERS = ["40 hours", "Type A: 800 hours, Type B: 450 hours, Type C: 600 hours, in all 1,850 hours", "40 units"]


class Tiny(Case):
    def answer(self, name, prompt, *args):
        out = self.ok_json("run", TINY / f"qnext-tiny-{name}.gguf", prompt, "--max-tokens", "1600", *args)
        self.assertEqual(out["finish_reason"], "stop", out)
        return out["text"]

    def answers(self, *args):
        """What the answer's lines say, behind the thoughts."""
        return re.findall(r"(?m)^Answer: \*\*(.*)\*\*$", self.answer(*args, "--temperature", "0").rpartition("</think>")[2])

    def test_a_factory_problem(self):
        for name in ("instruct", "thinking"):
            for draft in ("0", "2"):  # guesses change nothing
                self.assertEqual(self.answers(name, FACTORY, "--draft", draft),
                                 ["A: 800 hours, B: 450 hours, C: 600 hours", "1,850 hours"])

    def test_the_seeds_own_problem(self):
        for name in ("instruct", "thinking"):
            self.assertEqual(self.answers(name, SEED), SEED_ANSWERS)

    def test_a_story_ends(self):
        story = self.answer("instruct", "Tell me a short story about a lighthouse keeper.", "--seed", "1")
        self.assertGreater(len(story.split()), 40)
        self.assertRegex(story.strip(), r'[.!?]"?$')

    def test_the_base_goes_on(self):
        out = self.ok("run", TINY / "qnext-tiny-base.gguf", "--raw", "12 x 10 = ", "--temperature", "0", "--max-tokens", "4")
        self.assertIn("120", out)


if __name__ == "__main__":
    main()

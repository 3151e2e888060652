#!/usr/bin/env python3
"""Talks of many turns, with our own models: what of each runs again, to the token, and what a thinking model says where."""
import json

from harness import Case, main
from server import Server
from test_tiny import SEED, SEED_ANSWERS, TINY

INSTRUCT, THINKING = (TINY / f"qnext-tiny-{name}.gguf" for name in ("instruct", "thinking"))
NUM_TALKS, NUM_TURNS = 4, 10


def question(talk, turn):
    return f"What is {3 + 7 * talk + turn} plus {4 + 5 * turn + talk}?"


class Turns(Case):
    """A turn runs what is new, which is all but the prompt and the answer before it."""

    def ask(self, api, messages, **kwargs):
        answer = api.chat.completions.create(model="qnext-tiny-instruct", messages=messages, temperature=0, max_tokens=60, **kwargs)
        messages.append({"role": "assistant", "content": answer.choices[0].message.content})
        self.assertEqual(answer.choices[0].finish_reason, "stop")
        return answer.usage

    def test_ten_turns_of_four_talks(self):
        kept = self.folder / "kept"
        talks, ends = [[] for _ in range(NUM_TALKS)], [0] * NUM_TALKS
        for turns in (range(5), range(5, NUM_TURNS)):  # a restart between
            with Server("--parallel", 2, "--prefix-file", kept, model=INSTRUCT) as server:
                api = server.client()
                num_prompt, num_cached = 0, 0
                for turn in turns:
                    for i, talk in enumerate(talks):
                        talk.append({"role": "user", "content": question(i, turn)})
                        usage = self.ask(api, talk)
                        self.assertEqual(usage.prompt_tokens_details.cached_tokens, ends[i], (turn, i))
                        ends[i] = usage.prompt_tokens + usage.completion_tokens
                        num_prompt += usage.prompt_tokens
                        num_cached += usage.prompt_tokens_details.cached_tokens
                self.assertEqual(server.metric("qnext_prompt_tokens_total"), num_prompt)
                self.assertEqual(server.metric("qnext_prompt_tokens_cached_total"), num_cached)
                self.assertEqual(server.stop()[0], 0)

    def test_an_edited_talk_goes_on_from_where_it_parts(self):
        long = "".join(f"{i} and {7 * i} are numbers. " for i in range(100))  # some 1,000 tokens
        with Server(model=INSTRUCT) as server:
            api = server.client()
            talk = [{"role": "user", "content": long + "Who keeps it?"}]
            first = self.ask(api, talk, stop="\n")
            edited = [{"role": "user", "content": long + "Where is it?"}]
            usage = self.ask(api, edited, stop="\n")
            before = usage.prompt_tokens_details.cached_tokens  # the last state on the way, 512 tokens apart
            self.assertGreater(first.prompt_tokens, 600)
            self.assertEqual(before, (first.prompt_tokens - 20) // 512 * 512)
            again = [{"role": "user", "content": long + "Who keeps it?"}]  # another answer to the same question
            usage = self.ask(api, again, stop="\n", seed=2)
            self.assertGreaterEqual(usage.prompt_tokens_details.cached_tokens, first.prompt_tokens - 64)
            self.assertEqual(again, talk)

    def test_two_messages_of_one_talk_edited(self):
        """Back to the second question of three: what came before it does not run again."""
        with Server(model=INSTRUCT) as server:
            api, talk, ends = server.client(), [], []
            for turn in range(3):
                talk.append({"role": "user", "content": question(0, turn)})
                usage = self.ask(api, talk)
                ends.append(usage.prompt_tokens + usage.completion_tokens)
            edited = talk[:2] + [{"role": "user", "content": question(5, 5)}]
            self.assertEqual(self.ask(api, edited).prompt_tokens_details.cached_tokens, ends[0])


class Thinking(Case):
    @classmethod
    def setUpClass(cls):
        cls.server = Server("--context", "2K", model=THINKING)
        cls.addClassCleanup(cls.server.__exit__)
        cls.api = cls.server.client()

    def ask(self, content, **kwargs):
        messages = [{"role": "user", "content": content}]
        return self.api.chat.completions.create(model="qnext-tiny-thinking", messages=messages, temperature=0,
                                                **{"max_tokens": 1600, **kwargs})

    def test_thoughts_are_apart(self):
        whole = self.ask(SEED).choices[0]
        thought = whole.message.model_extra["reasoning_content"]
        self.assertGreater(len(thought), 200)
        for text in (thought, whole.message.content):
            self.assertNotIn("think>", text)
        self.assertEqual([line[10:-2] for line in whole.message.content.splitlines() if line.startswith("Answer: **")], SEED_ANSWERS)
        streamed = {"reasoning_content": "", "content": ""}
        for chunk in self.ask(SEED, stream=True):
            delta = chunk.choices[0].delta
            piece = (delta.model_extra or {}).get("reasoning_content")
            if piece:
                self.assertEqual(streamed["content"], "")  # thoughts come first
                streamed["reasoning_content"] += piece
            streamed["content"] += delta.content or ""
        self.assertEqual(streamed, {"reasoning_content": thought, "content": whole.message.content})

    def test_a_budget_is_kept(self):
        for budget in (0, 1, 7, 40):
            answer = self.ask(SEED, extra_body={"thinking_budget": budget})
            message = answer.choices[0].message
            thought = message.model_extra.get("reasoning_content", "")
            ids = self.server.raw("POST", "/tokenize", json.dumps({"content": thought}))[1]["count"]
            self.assertLessEqual(ids, budget)
            self.assertGreaterEqual(ids, budget - 3)  # newlines at its ends are no part of it
            self.assertTrue(message.content)
            self.assertNotIn("</think>", message.content)  # the model's own end of a block that was cut off

    def test_a_form_is_for_what_follows_the_thought(self):
        schema = {"type": "object", "properties": {"sum": {"type": "integer"}}, "required": ["sum"], "additionalProperties": False}
        answer = self.ask(SEED, extra_body={"thinking_budget": 60},
                          response_format={"type": "json_schema", "json_schema": {"name": "sum", "schema": schema}}).choices[0]
        self.assertIsInstance(json.loads(answer.message.content)["sum"], int)
        self.assertGreater(len(answer.message.model_extra["reasoning_content"]), 40)
        small = {**schema, "properties": {"sum": {"type": "integer", "minimum": 0, "maximum": 99}}}
        must = self.ask(SEED, tool_choice="required", extra_body={"thinking_budget": 60}, parallel_tool_calls=False, tools=[
            {"type": "function", "function": {"name": "add", "parameters": small}}]).choices[0]
        self.assertIsInstance(json.loads(must.message.tool_calls[0].function.arguments)["sum"], int)
        self.assertGreater(len(must.message.model_extra["reasoning_content"]), 40)


if __name__ == "__main__":
    main()

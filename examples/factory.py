"""Asks a model a question with OpenAI's client, prints the answer and saves it to output.txt.

Written for a hosted router; it runs against `qnext serve` when OPENAI_BASE_URL is the address that serve prints:

    build/release/qnext serve models/qnext-tiny/qnext-tiny-instruct.gguf --alias Qwen/Qwen3-Next-80B-A3B-Instruct &
    OPENAI_BASE_URL=http://127.0.0.1:8080/v1 OPENAI_API_KEY=none build/venv/bin/python3 examples/factory.py

A router's provider after the model's name (`:novita`) is accepted and changes nothing. Another name may follow the script's.
"""
import sys

from openai import OpenAI

client = OpenAI()  # OPENAI_BASE_URL, OPENAI_API_KEY

QUESTION = """\
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

completion = client.chat.completions.create(
    model=sys.argv[1] if len(sys.argv) > 1 else "Qwen/Qwen3-Next-80B-A3B-Instruct:novita",
    messages=[{"role": "user", "content": QUESTION}],
)

answer = completion.choices[0].message.content
print(answer)
with open("output.txt", "w", encoding="utf-8") as file:
    file.write(answer)

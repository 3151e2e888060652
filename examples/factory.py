"""Asks a model a question with OpenAI's client, prints the answer and saves it to output.txt.

Written for a hosted router; it runs against `qnext serve` when OPENAI_BASE_URL is the address that serve prints:

    qnext serve MODEL.gguf &
    OPENAI_BASE_URL=http://127.0.0.1:8080/v1 OPENAI_API_KEY=none build/venv/bin/python3 examples/factory.py MODEL

The model's name may carry a router's provider after a colon; qnext serves it under --name or --alias all the same.
"""
import sys

from openai import OpenAI

client = OpenAI()  # OPENAI_BASE_URL, OPENAI_API_KEY

completion = client.chat.completions.create(
    model=sys.argv[1] if len(sys.argv) > 1 else "Qwen/Qwen3-Next-80B-A3B-Instruct:novita",
    messages=[
        {
            "role": "user",
            "content": "A factory produces three types of widgets. Type A takes 2 hours a unit, type B 3 hours and type C 4 "
            "hours. In a week it made 10 more units of A than of B, and as many of C as of A and B together. It worked "
            "190 hours in all. How many units of each type did it make?",
        }
    ],
)

answer = completion.choices[0].message.content
print(answer)
with open("output.txt", "w", encoding="utf-8") as file:
    file.write(answer)

// OpenAI's client for Node against qnext serve: node client.mjs BASE_URL MODEL. Ends with 1 at the first thing that is wrong.
import assert from "node:assert/strict";
import OpenAI from "openai";
import { zodResponseFormat } from "openai/helpers/zod";
import { z } from "zod";

const [baseURL, model] = process.argv.slice(2);
const api = new OpenAI({ baseURL, apiKey: "none", maxRetries: 0 });
const messages = [{ role: "user", content: "Hi" }];
const greedy = { model, messages, temperature: 0, max_tokens: 24 };

// Whole and streamed say the same; usage comes at the end of a stream.
const whole = await api.chat.completions.create(greedy);
assert.ok(whole.choices[0].message.content.length > 0);
assert.equal(whole.usage.completion_tokens, 24);
let text = "";
let usage = null;
for await (const chunk of await api.chat.completions.create({ ...greedy, stream: true, stream_options: { include_usage: true } })) {
  text += chunk.choices[0]?.delta?.content ?? "";
  usage = chunk.usage ?? usage;
}
assert.equal(text, whole.choices[0].message.content);
assert.equal(usage.total_tokens, whole.usage.total_tokens);
const runner = api.chat.completions.stream(greedy);
assert.equal(await runner.finalContent(), text);

// Several answers, seeds, stops, log-probabilities.
const several = { ...greedy, temperature: 1, seed: 5, n: 3, logprobs: true, top_logprobs: 2, stop: ["q"] };
const first = await api.chat.completions.create(several);
const second = await api.chat.completions.create(several);
assert.equal(first.choices.length, 3);
assert.deepEqual(first.choices.map((c) => c.message.content), second.choices.map((c) => c.message.content));
assert.equal(first.choices[0].logprobs.content[0].top_logprobs.length, 2);
assert.ok(!first.choices.some((c) => c.message.content.includes("q")));

// Structured answers, parsed by the client.
const Pet = z.object({ name: z.enum(["Rex", "Tom"]), legs: z.number().int().min(0).max(9) });
const parsed = await api.chat.completions.parse({ ...greedy, max_tokens: 200, response_format: zodResponseFormat(Pet, "pet") });
assert.ok(Pet.safeParse(parsed.choices[0].message.parsed).success);

// Tools: required, named, streamed, none.
const tool = (name) => ({
  type: "function",
  function: { name, parameters: { type: "object", properties: { city: { enum: ["Rome", "Oslo"] } }, required: ["city"], additionalProperties: false } },
});
const asked = { ...greedy, max_tokens: 300, tools: [tool("weather"), tool("time")] };
const called = await api.chat.completions.create({ ...asked, tool_choice: "required", parallel_tool_calls: false });
assert.equal(called.choices[0].finish_reason, "tool_calls");
const [call] = called.choices[0].message.tool_calls;
assert.ok(["Rome", "Oslo"].includes(JSON.parse(call.function.arguments).city));
const named = await api.chat.completions.stream({ ...asked, tool_choice: { type: "function", function: { name: "time" } } }).finalMessage();
assert.equal(named.tool_calls[0].function.name, "time");
JSON.parse(named.tool_calls[0].function.arguments);
const none = await api.chat.completions.create({ ...asked, tool_choice: "none", max_tokens: 8 });
assert.equal(none.choices[0].message.tool_calls, undefined);
await api.chat.completions.create({
  ...asked, max_tokens: 8,
  messages: [...messages, called.choices[0].message, { role: "tool", tool_call_id: call.id, content: "sunny" }],
});

// Auto, several at once, whole and streamed: a bias towards <tool_call> stands for a model that wants to call.
const tokenize = async (content) => {
  const answer = await fetch(new URL("/tokenize", baseURL), {
    method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify({ content }),
  });
  return (await answer.json()).tokens;
};
const [begin] = await tokenize("<tool_call>");
const strict = asked.tools.map((one) => ({ ...one, function: { ...one.function, strict: true } }));
const wanting = { ...asked, tools: strict, tool_choice: "auto", logit_bias: { [begin]: 100 } };
const many = (await api.chat.completions.create(wanting)).choices[0].message.tool_calls;
assert.ok(many.length >= 2);
for (const one of many.slice(0, -1)) assert.ok(["Rome", "Oslo"].includes(JSON.parse(one.function.arguments).city));  // the last is cut off
const pieces = [];
for await (const chunk of await api.chat.completions.create({ ...wanting, stream: true })) {
  for (const { index, id, function: piece } of chunk.choices[0].delta.tool_calls ?? []) {
    pieces[index] ??= { id, name: piece.name, arguments: "" };
    pieces[index].arguments += piece.arguments;
  }
}
assert.equal(new Set(pieces.map((one) => one.id)).size, pieces.length);
assert.deepEqual(pieces.map((one) => [one.name, one.arguments]), many.map((one) => [one.function.name, one.function.arguments]));
const single = await api.chat.completions.create({ ...wanting, parallel_tool_calls: false });
assert.equal(single.choices[0].message.tool_calls.length, 1);
assert.equal(single.choices[0].finish_reason, "tool_calls");

// Completions, with how likely the prompt was.
const echoed = await api.completions.create({ model, prompt: ["Once upon", "Twice"], max_tokens: 2, temperature: 0, echo: true, logprobs: 1 });
assert.equal(echoed.choices.length, 2);
assert.equal(echoed.choices[0].logprobs.tokens.join(""), echoed.choices[0].text);

// Models, and errors as the client's own classes.
assert.equal((await api.models.list()).data[0].id, model);
assert.equal((await api.models.retrieve(model)).id, model);
await assert.rejects(api.models.retrieve("no/such"), OpenAI.NotFoundError);
await assert.rejects(api.chat.completions.create({ ...greedy, model: "no-such" }), OpenAI.NotFoundError);
await assert.rejects(api.chat.completions.create({ ...greedy, temperature: 9 }), (problem) => {
  assert.ok(problem instanceof OpenAI.BadRequestError);
  assert.equal(problem.param, "temperature");
  return true;
});

// Leaving a stream ends it.
const abandoned = await api.chat.completions.create({ ...greedy, max_tokens: 300, stream: true });
for await (const _ of abandoned) break;
abandoned.controller.abort();
console.log("the client is content");

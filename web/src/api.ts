// The server's chat completions, streamed.
import type { Message, Settings } from "./store";

export interface Usage {
  prompt_tokens: number;
  completion_tokens: number;
  prompt_tokens_details?: { cached_tokens: number };
  completion_tokens_details?: { accepted_prediction_tokens: number; rejected_prediction_tokens: number };
}

export interface Delta {
  content?: string;
  reasoning_content?: string;
}

export class ApiError extends Error {
  constructor(
    readonly status: number,
    message: string,
  ) {
    super(message);
  }
}

// Of this tab alone: it is gone when the tab is.
const keyName = "qnext.key";
export const setKey = (key: string): void => sessionStorage.setItem(keyName, key);

function headers(): Record<string, string> {
  const key = sessionStorage.getItem(keyName);
  return { "Content-Type": "application/json", ...(key ? { Authorization: `Bearer ${key}` } : {}) };
}

async function fail(answer: Response): Promise<never> {
  const text = await answer.text();
  let message = text.slice(0, 300) || answer.statusText;
  try {
    message = JSON.parse(text).error.message;
  } catch {
    // not ours: shown as it is
  }
  throw new ApiError(answer.status, message);
}

export async function servedModel(): Promise<string> {
  const answer = await fetch("/v1/models", { headers: headers() });
  if (!answer.ok) await fail(answer);
  return (await answer.json()).data[0].id;
}

function requestBody(model: string, messages: Message[], settings: Settings): string {
  const number = (text: string) => (text.trim() === "" ? undefined : Number(text));
  const system = settings.system.trim() === "" ? [] : [{ role: "system", content: settings.system }];
  return JSON.stringify({
    model,
    messages: [...system, ...messages.map(({ role, content }) => ({ role, content }))],
    stream: true,
    stream_options: { include_usage: true },
    temperature: number(settings.temperature),
    top_p: number(settings.top_p),
    top_k: number(settings.top_k),
    min_p: number(settings.min_p),
    max_tokens: number(settings.max_tokens),
    seed: number(settings.seed),
    chat_template_kwargs: settings.thinking === "" ? undefined : { enable_thinking: settings.thinking === "on" },
  });
}

// Calls onDelta for each piece; returns the usage and why the answer ended.
export async function chat(
  model: string,
  messages: Message[],
  settings: Settings,
  signal: AbortSignal,
  onDelta: (delta: Delta) => void,
): Promise<{ usage?: Usage; reason?: string }> {
  const answer = await fetch("/v1/chat/completions", { method: "POST", headers: headers(), body: requestBody(model, messages, settings), signal });
  if (!answer.ok || answer.body === null) return await fail(answer);
  const out: { usage?: Usage; reason?: string } = {};
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) break;
    const events = (rest + value).split("\n\n");
    rest = events.pop() ?? "";
    for (const event of events) {
      if (!event.startsWith("data: ") || event === "data: [DONE]") continue; // a comment, or the end
      const json = JSON.parse(event.slice(6));
      if (json.error) throw new ApiError(500, json.error.message);
      if (json.usage) out.usage = json.usage;
      const choice = json.choices[0];
      if (choice?.finish_reason) out.reason = choice.finish_reason;
      if (choice?.delta) onDelta(choice.delta);
    }
  }
  if (out.reason === undefined) throw new ApiError(0, "The answer broke off: the server has gone.");
  return out;
}

// The page: a list of conversations, the one that is open, and what sends and shows its messages.
import "katex/dist/katex.min.css";
import "./style.css";
import { ApiError, chat, servedModel, setKey, type Usage } from "./api";
import { toHtml } from "./markdown";
import { loadConversations, loadSettings, newConversation, saveConversations, saveSettings, type Conversation, type Message, type Settings } from "./store";

function byId<T extends HTMLElement = HTMLElement>(id: string): T {
  return document.getElementById(id) as T;
}
function element<K extends keyof HTMLElementTagNameMap>(tag: K, properties: Partial<HTMLElementTagNameMap[K]> = {}): HTMLElementTagNameMap[K] {
  return Object.assign(document.createElement(tag), properties);
}
function button(text: string, label: string, action: () => void): HTMLButtonElement {
  const out = element("button", { type: "button", textContent: text, onclick: action });
  out.setAttribute("aria-label", label);
  return out;
}

const log = byId("log");
const prompt = byId<HTMLTextAreaElement>("prompt");
const conversations = loadConversations();
const settings = loadSettings();
let open: Conversation = conversations[0] ?? newConversation();
let model = "";
let running: AbortController | null = null;

// One of both is shown at a time. Those who hear the page hear the one when they pause, the other at once.
function say(text: string): void {
  byId("status").textContent = text;
  byId("problem").textContent = "";
}
function complain(text: string): void {
  say("");
  byId("problem").textContent = text;
}
function complainOf(problem: unknown): void {
  complain(problem instanceof ApiError ? problem.message : "The server cannot be reached.");
  if (problem instanceof ApiError && problem.status === 401) askForKey();
}

// To those who hear the page: an answer once it is whole, since its pieces would interrupt each other.
function speak(text: string): void {
  byId("spoken").textContent = text;
}

function keep(): void {
  if (open.messages.length > 0 && !conversations.includes(open)) conversations.unshift(open);
  if (!saveConversations(conversations)) complain("This browser has no room for the conversation: it will be gone when the page is closed.");
  showList();
}

// ---- Conversations ----

function showList(): void {
  byId("list").replaceChildren(
    ...conversations.map((conversation) => {
      const item = element("li");
      const choose = button(conversation.title || "Untitled", `Open ${conversation.title}`, () => select(conversation));
      if (conversation === open) choose.setAttribute("aria-current", "true");
      item.append(choose, button("✕", `Delete ${conversation.title}`, () => remove(conversation)));
      return item;
    }),
  );
}

function select(conversation: Conversation): void {
  running?.abort();
  leaveEditing();
  open = conversation;
  showList();
  showMessages();
  prompt.focus();
}

function remove(conversation: Conversation): void {
  if (!window.confirm(`Delete "${conversation.title}"?`)) return;
  conversations.splice(conversations.indexOf(conversation), 1);
  saveConversations(conversations);
  if (conversation === open) select(conversations[0] ?? newConversation());
  else showList();
}

// ---- Messages ----

class MessageView {
  readonly root = element("article");
  private readonly thought = element("details");
  private readonly thoughtText = element("div");
  private readonly body = element("div", { className: "body" });
  private readonly figures = element("p", { className: "figures" });
  private readonly actions = element("p", { className: "actions" });
  private due = false;

  constructor(private readonly message: Message) {
    this.root.className = message.role;
    this.root.append(element("h2", { className: "hidden", textContent: message.role === "user" ? "You" : "Answer" }));
    this.thought.append(element("summary", { textContent: "Thinking" }), this.thoughtText);
    this.root.append(this.thought, this.body, this.figures, this.actions);
    this.draw();
  }

  draw(): void {
    this.thought.hidden = !this.message.reasoning;
    if (this.message.reasoning) this.thoughtText.innerHTML = toHtml(this.message.reasoning);
    if (this.message.role === "user") this.body.textContent = this.message.content;
    else this.body.innerHTML = toHtml(this.message.content);
    this.figures.textContent = this.message.figures ?? "";
  }

  // Soon, once, however many pieces come before that.
  drawSoon(): void {
    if (this.due) return;
    this.due = true;
    requestAnimationFrame(() => {
      this.due = false;
      const followed = log.scrollHeight - log.scrollTop - log.clientHeight < 40;
      this.draw();
      if (followed) log.scrollTop = log.scrollHeight;
    });
  }

  // As it is to be heard: of a formula its MathML alone, not its picture.
  spoken(): string {
    const copy = this.body.cloneNode(true) as HTMLElement;
    copy.querySelectorAll("[aria-hidden=true]").forEach((part) => part.remove());
    return copy.textContent?.trim() ?? "";
  }

  offer(...actions: HTMLButtonElement[]): void {
    this.actions.replaceChildren(...actions);
  }
}

function showMessages(): void {
  log.replaceChildren();
  open.messages.forEach((message, index) => {
    const view = new MessageView(message);
    const copy = button("Copy", "Copy this message", () => void navigator.clipboard?.writeText(message.content));
    if (message.role === "user") view.offer(button("Edit", "Edit this message and ask again", () => edit(index)), copy);
    else if (index === open.messages.length - 1) view.offer(button("Again", "Ask for another answer", () => again()), copy);
    else view.offer(copy);
    log.append(view.root);
  });
  log.scrollTop = log.scrollHeight;
}

// Puts a message back into the prompt; it and what followed go when the new one is sent.
let edited: number | null = null;
function edit(index: number): void {
  edited = index;
  prompt.value = open.messages[index].content;
  say("Editing: what followed this message will be replaced. Escape leaves it as it is.");
  prompt.focus();
}

function leaveEditing(): void {
  if (edited === null) return;
  edited = null;
  prompt.value = "";
  say("");
}

function again(): void {
  if (running) return;
  const before = open.messages.pop();
  void answer(before);
}

function figuresOf(usage: Usage | undefined, reason: string | undefined, firstMs: number, allMs: number): string {
  if (!usage) return "";
  const parts = [`${usage.completion_tokens} tokens`];
  if (usage.completion_tokens > 1 && allMs > firstMs) parts.push(`${((usage.completion_tokens - 1) / ((allMs - firstMs) / 1000)).toFixed(1)} t/s`);
  parts.push(`first after ${(firstMs / 1000).toFixed(2)} s`);
  parts.push(`${usage.prompt_tokens_details?.cached_tokens ?? 0} of ${usage.prompt_tokens} prompt tokens cached`);
  const guesses = usage.completion_tokens_details;
  const guessed = guesses ? guesses.accepted_prediction_tokens + guesses.rejected_prediction_tokens : 0;
  if (guesses && guessed > 0) parts.push(`${guesses.accepted_prediction_tokens} of ${guessed} guesses right`);
  if (reason === "length") parts.push("cut off at the longest length");
  return parts.join(" · ");
}

// `before`: the answer that this one takes the place of, and that stays where none comes.
async function answer(before?: Message): Promise<void> {
  const asked = open;
  const message: Message = { role: "assistant", content: "" };
  const history = [...asked.messages];
  asked.messages.push(message);
  showMessages();
  const view = new MessageView(message);
  log.lastElementChild?.replaceWith(view.root);
  running = new AbortController();
  const mine = running;
  setBusy(true);
  say("Answering…");
  speak("");
  const begin = performance.now();
  let first = 0;
  try {
    const { usage, reason } = await chat(model, history, settings, mine.signal, (delta) => {
      first ||= performance.now() - begin;
      message.content += delta.content ?? "";
      if (delta.reasoning_content) message.reasoning = (message.reasoning ?? "") + delta.reasoning_content;
      view.drawSoon();
    });
    message.figures = figuresOf(usage, reason, first, performance.now() - begin);
    say("");
    view.draw();
    speak([view.spoken(), reason === "length" ? "The answer was cut off." : "Answer finished."].join("\n"));
  } catch (problem) {
    if (mine.signal.aborted) {
      message.figures = "stopped";
      say("Stopped.");
    } else {
      complainOf(problem);
    }
    if (message.content === "" && !message.reasoning) {
      asked.messages.pop();
      if (before) asked.messages.push(before);
    }
  }
  if (running === mine) {
    running = null;
    setBusy(false);
  }
  keep();
  if (asked === open) showMessages();
}

function setBusy(busy: boolean): void {
  byId("send").hidden = busy;
  byId("stop").hidden = !busy;
}

function send(): void {
  const text = prompt.value.trim();
  if (text === "" || running) return;
  if (edited !== null) open.messages.splice(edited);
  edited = null;
  prompt.value = "";
  if (open.messages.length === 0) open.title = text.slice(0, 60);
  open.messages.push({ role: "user", content: text });
  keep();
  void answer();
}

function askForKey(): void {
  const key = window.prompt("This server asks for an API key:");
  if (!key) return;
  setKey(key);
  void begin();
}

// ---- Settings ----

interface Field {
  name: Exclude<keyof Settings, "theme">;
  label: string;
  kind: "number" | "text" | "choice";
  min?: number;
  max?: number;
  step?: string;
}
const fields: Field[] = [
  { name: "system", label: "System message", kind: "text" },
  { name: "temperature", label: "Temperature (0 to 2)", kind: "number", min: 0, max: 2, step: "0.05" },
  { name: "top_p", label: "Top-p (0 to 1)", kind: "number", min: 0, max: 1, step: "0.01" },
  { name: "top_k", label: "Top-k", kind: "number", min: 0, step: "1" },
  { name: "min_p", label: "Min-p (0 to 1)", kind: "number", min: 0, max: 1, step: "0.01" },
  { name: "max_tokens", label: "Longest answer, tokens", kind: "number", min: 1, step: "1" },
  { name: "seed", label: "Seed", kind: "number", step: "1" },
  { name: "thinking", label: "Thinking", kind: "choice" },
];

function showSettings(): void {
  byId("settings").replaceChildren(
    ...fields.map(({ name, label, kind, min, max, step }) => {
      const row = element("label", { textContent: label });
      const set = (value: string) => {
        (settings[name] as string) = value;
        saveSettings(settings);
      };
      if (kind === "choice") {
        const field = element("select", { name });
        for (const [value, text] of [["", "the model's choice"], ["on", "on"], ["off", "off"]]) field.append(element("option", { value, textContent: text }));
        field.value = settings[name];
        field.onchange = () => set(field.value);
        row.append(field);
      } else if (kind === "text") {
        const field = element("textarea", { name, rows: 2, value: settings[name] });
        field.oninput = () => set(field.value);
        row.append(field);
      } else {
        const field = element("input", { name, type: "number", value: settings[name], placeholder: "the model's own", min: String(min ?? ""), max: String(max ?? ""), step: step ?? "any" });
        field.oninput = () => field.checkValidity() && set(field.value);
        row.append(field);
      }
      return row;
    }),
  );
}

function showTheme(): void {
  document.documentElement.dataset.theme = settings.theme;
}

function toggle(control: HTMLElement, controlled: HTMLElement): void {
  controlled.hidden = !controlled.hidden;
  control.setAttribute("aria-expanded", String(!controlled.hidden));
}

// ---- The beginning ----

async function begin(): Promise<void> {
  try {
    model = await servedModel();
    byId("model").textContent = model;
    document.title = `${model} – qnext`;
    say("");
  } catch (problem) {
    complainOf(problem);
  }
}

byId("new").onclick = () => select(newConversation());
byId("stop").onclick = () => running?.abort();
byId("toggle-side").onclick = () => toggle(byId("toggle-side"), byId("side"));
byId("toggle-settings").onclick = () => toggle(byId("toggle-settings"), byId("settings"));
byId("settings").onsubmit = (event) => event.preventDefault();
byId("theme").onclick = () => {
  const dark = settings.theme === "dark" || (settings.theme === "" && window.matchMedia("(prefers-color-scheme: dark)").matches);
  settings.theme = dark ? "light" : "dark";
  saveSettings(settings);
  showTheme();
};
byId("ask").onsubmit = (event) => {
  event.preventDefault();
  send();
};
prompt.onkeydown = (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    send();
  }
};
document.addEventListener("keydown", (event) => {
  if (event.key !== "Escape") return;
  if (running) running.abort();
  else leaveEditing();
});
if (window.innerWidth < 700) toggle(byId("toggle-side"), byId("side"));
showTheme();
showSettings();
showList();
showMessages();
void begin();

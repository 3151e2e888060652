// Conversations and settings, kept in this browser alone.

export interface Message {
  role: "user" | "assistant";
  content: string;
  reasoning?: string;
  figures?: string; // what the answer took
}

export interface Conversation {
  id: string;
  title: string;
  messages: Message[];
}

export interface Settings {
  system: string;
  temperature: string; // "": the model's own, as in the other fields
  top_p: string;
  top_k: string;
  min_p: string;
  max_tokens: string;
  seed: string;
  thinking: "" | "on" | "off";
  theme: "" | "light" | "dark";
}

const noSettings: Settings = {
  system: "", temperature: "", top_p: "", top_k: "", min_p: "", max_tokens: "", seed: "", thinking: "", theme: "",
};

function load<T>(key: string, otherwise: T): T {
  try {
    const text = localStorage.getItem(key);
    return text === null ? otherwise : (JSON.parse(text) as T);
  } catch {
    return otherwise; // not ours, or storage is not allowed
  }
}

// False: the browser has no room, or does not allow it.
function save(key: string, value: unknown): boolean {
  try {
    localStorage.setItem(key, JSON.stringify(value));
    return true;
  } catch {
    return false;
  }
}

const isConversation = (x: unknown): x is Conversation =>
  typeof x === "object" && x !== null && Array.isArray((x as Conversation).messages) && typeof (x as Conversation).id === "string";

export function loadConversations(): Conversation[] {
  const found = load<unknown>("qnext.conversations", []);
  return Array.isArray(found) ? found.filter(isConversation) : [];
}
export const saveConversations = (all: Conversation[]): boolean => save("qnext.conversations", all);

export const loadSettings = (): Settings => ({ ...noSettings, ...load<Partial<Settings>>("qnext.settings", {}) });
export const saveSettings = (settings: Settings): boolean => save("qnext.settings", settings);

export const newConversation = (): Conversation => ({ id: crypto.randomUUID?.() ?? String(Math.random()), title: "", messages: [] });

// The chat page in headless Chromium: node page.mjs URL CHROMIUM SCREENSHOT. Ends with 1 at the first thing that is wrong.
import assert from "node:assert/strict";
import { chromium } from "playwright-core";

const [url, executablePath, screenshot] = process.argv.slice(2);
const browser = await chromium.launch({ executablePath, args: ["--no-sandbox"] });
const context = await browser.newContext({ colorScheme: "light" });
await context.grantPermissions([]);
const page = await context.newPage();
const problems = [];
const foreign = [];
page.on("pageerror", (error) => problems.push(String(error)));
page.on("console", (message) => message.type() === "error" && problems.push(message.text()));
page.on("request", (request) => {
  if (!request.url().startsWith(url) && !request.url().startsWith("data:")) foreign.push(request.url());
});

// What the model says is put in its place here, so that it may be anything. null: the server's own answers.
let scripted = null;
let lastRequest = null;
let endless = false; // the server's own answer goes on to its longest length
await page.route("**/v1/chat/completions", async (route) => {
  lastRequest = route.request().postDataJSON();
  if (scripted === null) return route.continue(endless ? { postData: JSON.stringify({ ...lastRequest, ignore_eos: true }) } : {});
  const chunk = (delta, finish_reason = null) => `data: ${JSON.stringify({ choices: [{ index: 0, delta, finish_reason }] })}\n\n`;
  const { content, reasoning } = scripted;
  const usage = {
    prompt_tokens: 40, completion_tokens: 12, prompt_tokens_details: { cached_tokens: 32 },
    completion_tokens_details: { accepted_prediction_tokens: 5, rejected_prediction_tokens: 2 },
  };
  const body = (reasoning ? chunk({ reasoning_content: reasoning }) : "") + chunk({ content }) + chunk({}, "stop") +
    `data: ${JSON.stringify({ choices: [], usage })}\n\ndata: [DONE]\n\n`;
  await route.fulfill({ status: 200, contentType: "text/event-stream", body });
});

async function send(text) {
  await page.fill("#prompt", text);
  await page.press("#prompt", "Enter");
  await page.waitForSelector("#send:not([hidden])");
  await page.waitForFunction(() => document.querySelector("article:last-child")?.className === "assistant");
}
const lastBody = () => page.locator("article.assistant").last().locator(".body");
const articles = () => page.locator("article").count();

await page.goto(url);
await page.waitForFunction(() => document.getElementById("model").textContent !== "qnext");

// What someone who hears the page is told, in its order.
await page.evaluate(() => {
  window.heard = [];
  for (const region of document.querySelectorAll("[aria-live=polite], [role=status], [role=alert]"))
    new MutationObserver(() => region.textContent && window.heard.push(region.textContent)).observe(region, { childList: true });
});

// The server's own answer, twice: the second turn finds the first in its cache.
await page.click("#toggle-settings");
await page.fill("#settings input[name=max_tokens]", "20");
await page.fill("#settings input[name=temperature]", "0");
await page.fill("#settings textarea[name=system]", "You are kind.");
await send("Tell me about lighthouses. ".repeat(8));
assert.equal(await articles(), 2);
assert.deepEqual([lastRequest.temperature, lastRequest.max_tokens, lastRequest.messages[0].role], [0, 20, "system"]);
assert.match(await page.locator("article.assistant .figures").textContent(), /^20 tokens · (.* t\/s · )?first .* prompt tokens cached/);
await send("And then?");
assert.match(await page.locator("article.assistant .figures").last().textContent(), /[1-9]\d* of \d+ prompt tokens cached/);
assert.equal(lastRequest.messages.length, 4);
await page.click("#toggle-settings");

// Markdown, code, formulas, thinking, figures.
scripted = {
  reasoning: "Let me *see*.",
  content: "# Title\n\n| a | b |\n|---|---|\n| 1 | 2 |\n\n```python\ndef f(x):\n    return \"y\"  # z\n```\n\nEuler: $e^{i\\pi} + 1 = 0$, and\n\n\\[\\int_0^1 x\\,dx\\]\n\nIt costs $5 and $6.",
};
await page.evaluate(() => { window.heard = []; });
await send("Show me");
assert.equal(await lastBody().locator("h1").textContent(), "Title");
await page.waitForFunction(() => window.heard.at(-1)?.endsWith("Answer finished."));
const heard = await page.evaluate(() => window.heard);  // the answer once it is whole, without its thoughts, formulas once
assert.equal(heard.length, 2, heard);
assert.equal(heard[0], "Answering…");
assert.match(heard[1], /^Title\s[^]*It costs \$5 and \$6\.\nAnswer finished\.$/);
assert.ok(!/see|\\pi|\\int/.test(heard[1]), heard[1]);
assert.equal(heard[1].match(/π/g).length, 1, heard[1]);
assert.equal(await lastBody().locator("td").count(), 2);
assert.ok((await lastBody().locator("pre .hljs-keyword").count()) >= 2);
assert.equal(await lastBody().locator(".katex").count(), 2);
assert.ok((await lastBody().textContent()).includes("$5 and $6"));
const thinking = page.locator("article.assistant").last().locator("details");
assert.equal(await thinking.getAttribute("open"), null);
await thinking.locator("summary").click();
assert.equal(await thinking.locator("em").textContent(), "see");
assert.match(await page.locator("article.assistant .figures").last().textContent(), /32 of 40 prompt tokens cached · 5 of 7 guesses right/);
if (screenshot) await page.screenshot({ path: screenshot });

// Whatever a model writes, nothing of it runs, and nothing is fetched from elsewhere.
scripted = {
  reasoning: "<img src=x onerror=\"window.hacked = 1\">",
  content: [
    "<script>window.hacked = 2</script>", "<img src=x onerror='window.hacked = 3'>", "[x](javascript:window.hacked=4)",
    "![p](https://evil.invalid/p.png)", "<svg onload=window.hacked=5>", "$\\href{javascript:window.hacked=6}{x}$",
    "$$\\includegraphics{https://evil.invalid/q.png}$$", "<iframe srcdoc='<script>parent.hacked=7</script>'></iframe>",
    "```html\n<script>window.hacked = 8</script>\n```", "<a href='https://ok.invalid' onclick='window.hacked=9'>a</a>",
    "<style>body{display:none}</style>", "&lt;script&gt;window.hacked=10&lt;/script&gt;", "\u202e\u0000 ж 🙂 \ud800",
  ].join("\n\n"),
};
problems.length = 0;
await send("<b onclick='window.hacked=11'>mine</b><script>window.hacked=12</script>");
for (const link of await lastBody().locator("a").all()) {
  assert.ok(!(await link.getAttribute("href") ?? "").startsWith("javascript:"));
  assert.match(await link.getAttribute("rel"), /noopener/);
}
await page.waitForTimeout(200);
assert.equal(await page.evaluate(() => window.hacked), undefined);
assert.equal(await lastBody().locator("script, img, iframe, svg:not(.katex svg), style, [onclick], [onerror]").count(), 0);
assert.deepEqual(foreign, []);
assert.deepEqual(problems, []);

// Again, edit, conversations, theme; all of it is there after a reload.
scripted = { content: "another" };
const before = await articles();
await page.getByRole("button", { name: "Ask for another answer" }).click();
await page.waitForFunction(() => document.querySelector("article:last-child .body").textContent.trim() === "another");
assert.equal(await articles(), before);
await page.getByRole("button", { name: "Edit this message and ask again" }).nth(1).click();
assert.equal(await page.inputValue("#prompt"), "And then?");
await send("And before?");
assert.equal(await articles(), 4);
await page.click("#new");
await send("A second talk");
assert.equal(await page.locator("#list li").count(), 2);
await page.click("#theme");
const dark = await page.evaluate(() => getComputedStyle(document.body).backgroundColor);
assert.equal(dark, "rgb(22, 24, 29)");
await page.reload();
assert.equal(await page.locator("#list li").count(), 2);
assert.equal(await page.evaluate(() => getComputedStyle(document.body).backgroundColor), dark);
assert.equal(await articles(), 2);
await page.locator("#list button").nth(2).click();
assert.equal(await articles(), 4);
page.once("dialog", (dialog) => dialog.accept());
await page.locator("#list button").nth(3).click();
assert.equal(await page.locator("#list li").count(), 1);

// Stopping an answer of the server's, by keyboard; errors are said, and the talk goes on.
scripted = null;
endless = true;
await page.click("#toggle-settings");
await page.fill("#settings input[name=max_tokens]", "15000");
await page.fill("#prompt", "Go on for ever");
await page.press("#prompt", "Enter");
await page.waitForFunction(() => document.querySelector("article:last-child .body")?.textContent.length > 20);
await page.keyboard.press("Escape");
await page.waitForSelector("#send:not([hidden])");
assert.equal(await page.locator("#status").textContent(), "Stopped.");
assert.equal(await page.locator("article.assistant .figures").last().textContent(), "stopped");
await page.route("**/v1/chat/completions", (route) =>
  route.fulfill({ status: 429, contentType: "application/json", body: JSON.stringify({ error: { message: "The queue is full." } }) }));
await page.fill("#prompt", "Hello?");
await page.press("#prompt", "Enter");
await page.waitForFunction(() => document.querySelector("[role=alert]").textContent === "The queue is full.");
assert.equal(await page.locator("#status").textContent(), "");

// By keyboard alone, and for those who hear the page.
const unnamed = await page.evaluate(() =>
  [...document.querySelectorAll("button, input, select, textarea")].filter((x) =>
    !x.hidden && !x.getAttribute("aria-label") && !x.labels?.length && !x.textContent.trim()).map((x) => x.outerHTML));
assert.deepEqual(unnamed, []);
await page.keyboard.press("Tab");
assert.notEqual(await page.evaluate(() => document.activeElement.tagName), "BODY");
await browser.close();
console.log("the page is as it should be");

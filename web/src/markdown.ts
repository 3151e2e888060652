// A model's text as HTML. It may say anything: HTML in it stays text, and what is made is sanitised all the same.
import DOMPurify from "dompurify";
import hljs from "highlight.js/lib/common";
import katex from "katex";
import MarkdownIt from "markdown-it";

const escape = (text: string): string => new MarkdownIt().utils.escapeHtml(text);

const markdown = new MarkdownIt({
  html: false,
  linkify: true,
  highlight: (code, language) =>
    hljs.getLanguage(language) ? hljs.highlight(code, { language, ignoreIllegals: true }).value : escape(code),
});

// Formulas: \(...\) and $...$ within a line, \[...\] and $$...$$ also over several.
const delimiters = [
  { open: "$$", close: "$$", display: true },
  { open: "\\[", close: "\\]", display: true },
  { open: "\\(", close: "\\)", display: false },
  { open: "$", close: "$", display: false },
];
markdown.inline.ruler.before("escape", "formula", (state, silent) => {
  for (const { open, close, display } of delimiters) {
    if (!state.src.startsWith(open, state.pos)) continue;
    const begin = state.pos + open.length;
    const end = state.src.indexOf(close, begin);
    if (end < 0) continue; // still to come, or none
    const formula = state.src.slice(begin, end);
    // "$5 and $6" are prices.
    if (open === "$" && (/^\s|\s$/.test(formula) || formula === "" || /[0-9]/.test(state.src[end + 1] ?? ""))) continue;
    if (!silent) {
      const token = state.push("formula", "", 0);
      token.content = formula;
      token.meta = { display };
    }
    state.pos = end + close.length;
    return true;
  }
  return false;
});
// Its MathML, for those who hear the page, comes with the formula's source, which would be read out as well.
markdown.renderer.rules.formula = (tokens, index) =>
  katex
    .renderToString(tokens[index].content, { displayMode: tokens[index].meta.display, throwOnError: false, output: "htmlAndMathml", trust: false })
    .replace(/<annotation [^]*?<\/annotation>/, "");

// Pictures would tell their host who reads: they become links.
markdown.renderer.rules.image = (tokens, index) =>
  `<a href="${escape(String(tokens[index].attrGet("src") ?? ""))}">${escape(tokens[index].content || "picture")}</a>`;

DOMPurify.addHook("afterSanitizeAttributes", (node) => {
  if (node.tagName === "A") {
    node.setAttribute("target", "_blank");
    node.setAttribute("rel", "noopener noreferrer nofollow");
  }
});

export const toHtml = (text: string): string =>
  DOMPurify.sanitize(markdown.render(text), { FORBID_TAGS: ["style", "form", "input", "button", "img", "video", "audio", "iframe", "svg"] });

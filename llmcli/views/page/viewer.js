"use strict";
// The core of every page: reads the embedded JSON, makes elements, and starts the drawing for its schema.
// Text from a model enters the page only through text nodes; `element` and `drawn` never parse HTML.

const viewer = (() => {
  const drawings = {};
  const NAMESPACE = "http://www.w3.org/2000/svg";
  const LONGEST_LABEL = 40;
  // Control characters except newline and tab, and those that reorder text: shown, never applied.
  const HIDDEN = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u061c\u200b\u200e\u200f\u202a-\u202e\u2066-\u2069\ufeff]/g;

  function visible(text) {
    return text.replace(HIDDEN, (one) => {
      const code = one.codePointAt(0);
      return code < 0x20 ? String.fromCodePoint(0x2400 + code) : `\\u${code.toString(16).padStart(4, "0")}`;
    });
  }

  function append(parent, children) {
    for (const child of children.flat()) {
      if (child !== null && child !== undefined) {
        parent.append(child); // a string becomes a text node
      }
    }
    return parent;
  }

  function assign(made, attributes) {
    for (const [name, value] of Object.entries(attributes)) {
      if (value !== null && value !== undefined) {
        made.setAttribute(name, value);
      }
    }
    return made;
  }

  function element(tag, attributes = {}, ...children) {
    return append(assign(document.createElement(tag), attributes), children);
  }

  function drawn(tag, attributes = {}, ...children) {
    return append(assign(document.createElementNS(NAMESPACE, tag), attributes), children);
  }

  function bytes(token) {
    return Uint8Array.from(atob(token.bytes), (one) => one.charCodeAt(0));
  }

  // The bytes of a token as text; bytes that are no characters become \xNN.
  function decoded(token) {
    if (!token.bytes || (token.text && !token.text.includes("\ufffd"))) {
      return token.text || "";
    }
    try {
      return new TextDecoder("utf-8", { fatal: true }).decode(bytes(token));
    } catch {
      return Array.from(bytes(token), (byte) =>
        byte >= 0x20 && byte < 0x7f ? String.fromCharCode(byte) : `\\x${byte.toString(16).padStart(2, "0")}`,
      ).join("");
    }
  }

  // A token in one short line, with its white space visible.
  function label(token) {
    const whole = typeof token === "string" ? token : decoded(token);
    const start = Array.from(whole.slice(0, 2 * LONGEST_LABEL)).slice(0, LONGEST_LABEL).join("");
    const shown = visible(start).replaceAll("\n", "⏎").replaceAll("\t", "⇥").replaceAll(" ", "␣");
    return start.length < whole.length ? `${shown}… (${whole.length} characters)` : shown;
  }

  function percent(share) {
    if (share === null || share === undefined) {
      return "";
    }
    return share > 0 && share < 0.0005 ? "<0.1%" : `${(100 * share).toFixed(1)}%`;
  }

  // Nats as bits; nothing for a missing number.
  function bits(nats, digits = 2) {
    return nats === null || nats === undefined ? "" : (nats / Math.LN2).toFixed(digits);
  }

  // A row of buttons of which one is pressed. Digits press them too: see `digitsChoose`.
  function choice(title, options, chosen, change) {
    const buttons = options.map((option, number) =>
      element("button", { type: "button", "aria-pressed": option.name === chosen, "data-name": option.name,
        title: `${option.help} (key ${number + 1})` }, option.title),
    );
    const row = element("div", { class: "choice", role: "group", "aria-label": title },
      element("span", { class: "what" }, title), ...buttons);
    const choose = (name) => {
      for (const button of buttons) {
        button.setAttribute("aria-pressed", button.dataset.name === name);
      }
      change(name);
    };
    row.addEventListener("click", (event) => {
      const button = event.target.closest("button");
      if (button) {
        choose(button.dataset.name);
      }
    });
    return { row, choose, names: options.map((option) => option.name) };
  }

  function digitsChoose(made) {
    document.addEventListener("keydown", (event) => {
      const name = made.names[Number(event.key) - 1];
      if (name !== undefined && !hasModifier(event)) {
        made.choose(name);
      }
    });
  }

  function hasModifier(event) {
    return event.ctrlKey || event.metaKey || event.altKey;
  }

  function bar(share, name = "bar") {
    const inner = element("i");
    inner.style.width = `${100 * Math.min(Math.max(share || 0, 0), 1)}%`;
    return element("span", { class: name }, inner);
  }

  // The embedded JSON; a long one is stored compressed.
  async function embedded() {
    const { type, textContent } = document.getElementById("value");
    if (type === "application/json") {
      return JSON.parse(textContent);
    }
    const packed = atob(textContent);
    const bytes = new Uint8Array(packed.length);
    for (let at = 0; at < packed.length; at += 1) {
      bytes[at] = packed.charCodeAt(at);
    }
    return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).json();
  }

  async function start() {
    const value = await embedded();
    const about = JSON.parse(document.getElementById("about").textContent);
    drawings[about.drawing](value, document.getElementById("view"), about);
    document.documentElement.dataset.drawn = about.drawing;
  }

  document.addEventListener("DOMContentLoaded", start);
  return { drawings, visible, element, drawn, bytes, label, percent, bits, choice, digitsChoose, hasModifier, bar };
})();

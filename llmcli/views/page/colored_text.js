"use strict";
// A text of tokens that can be pointed at, clicked, and walked through with the keyboard.
// One listener serves all tokens. `show(index or null)` is called with the token to show: the one pointed at, else the
// pinned one.

function coloredText(tokens, show) {
  const { element, visible, hasModifier } = viewer;
  const LONGEST = 20000;
  let pinned = null;
  let pointed = null;

  // The text of each token. In a reply it is complete characters; elsewhere the bytes of tokens are joined, and a
  // character of several tokens is shown by the last of them.
  function texts() {
    const decoder = new TextDecoder("utf-8", { ignoreBOM: true });
    const found = tokens.map((token) => ("thinking" in token || !token.bytes ? token.text || token.thinking || "" :
      decoder.decode(viewer.bytes(token), { stream: true })));
    return found.length ? [...found.slice(0, -1), found.at(-1) + decoder.decode()] : found;
  }

  function shownText(text) {
    if (!text) {
      return "·"; // part of a character, which the last of its tokens shows
    }
    return text.length > LONGEST ? `${visible(text.slice(0, LONGEST))}… (${text.length} characters)` : visible(text);
  }

  const whole = texts();
  const spans = tokens.map((token, index) => {
    const kind = !whole[index] ? " part" : token.thinking && !token.text ? " thought" : "";
    return element("span", { class: `token${kind}`, "data-index": index }, shownText(whole[index]));
  });
  const text = element("div", { class: "text", dir: "auto", tabindex: 0, role: "application",
    "aria-label": "Text. Arrows walk through the tokens, Enter pins one, Escape lets go." }, ...spans);

  function update() {
    show(pointed ?? pinned);
    text.querySelector(".shown")?.classList.remove("shown");
    spans[pointed ?? pinned]?.classList.add("shown");
  }

  // With `bring`, the token is scrolled into view.
  function pin(index, bring = false) {
    spans[pinned]?.classList.remove("pinned");
    pinned = index === null ? null : Math.min(Math.max(index, 0), tokens.length - 1);
    spans[pinned]?.classList.add("pinned");
    pointed = null;
    update();
    if (bring) {
      spans[pinned]?.scrollIntoView({ block: "nearest" });
    }
  }

  function point(index) {
    if (index !== pointed) {
      pointed = index;
      update();
    }
  }

  function indexOf(target) {
    const span = target.closest?.("[data-index]");
    return span ? Number(span.dataset.index) : null;
  }

  // The token above or below: of another line, nearest to the middle of this one.
  function vertically(index, step) {
    const from = spans[index].getBoundingClientRect();
    const middle = (from.left + from.right) / 2;
    let [best, distance, line] = [index, Infinity, null];
    for (let at = index + step; at >= 0 && at < spans.length; at += step) {
      const box = spans[at].getBoundingClientRect();
      const below = step > 0 ? box.top > from.top + 2 : box.top < from.top - 2;
      if (!below) {
        continue;
      }
      line ??= box.top;
      if (Math.abs(box.top - line) > 2) {
        break;
      }
      const away = Math.abs((box.left + box.right) / 2 - middle);
      if (away < distance) {
        [best, distance] = [at, away];
      }
    }
    return best;
  }

  const moves = {
    ArrowLeft: (at) => at - 1, ArrowRight: (at) => at + 1,
    ArrowUp: (at) => vertically(at, -1), ArrowDown: (at) => vertically(at, 1),
    Home: () => 0, End: () => tokens.length - 1,
  };

  text.addEventListener("pointerover", (event) => point(indexOf(event.target)));
  text.addEventListener("pointerleave", () => point(null));
  text.addEventListener("click", (event) => {
    const index = indexOf(event.target);
    pin(index === pinned ? null : index);
  });
  document.addEventListener("keydown", (event) => {
    if (!text.isConnected) {
      return; // another text has taken its place
    }
    const isHere = document.activeElement === text || document.activeElement === document.body;
    if (!isHere || hasModifier(event) || !tokens.length) {
      return;
    }
    const at = pointed ?? pinned;
    if (event.key in moves && (at !== null || document.activeElement === text)) {
      pin(at === null ? 0 : moves[event.key](at), true);
    } else if (event.key === "Enter" && at !== null) {
      pin(pointed === null || pointed === pinned ? null : pointed);
    } else if (event.key === "Escape") {
      pin(null);
    } else {
      return;
    }
    event.preventDefault();
  });

  function color(measure) {
    spans.forEach((span, index) => {
      for (const name of Array.from(span.classList)) {
        if (name.startsWith("band") || name === "unknown") {
          span.classList.remove(name);
        }
      }
      const name = measures.className(measure, tokens[index]);
      if (name) {
        span.classList.add(name);
      }
    });
  }

  return { text, spans, color, pin, point };
}

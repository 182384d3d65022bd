// What makes the pages alive. The server renders everything; events only say "look again".
"use strict";
(() => {
  const by = (id) => document.getElementById(id);
  const KEEP_LINES = 2000;

  // --- Fragments that ask for themselves again -----------------------------------------

  // As received, without the CSRF tokens, which differ each time.
  const received = new Map();

  const selecting = (target) => {
    const chosen = document.getSelection();
    return chosen && !chosen.isCollapsed && target.contains(chosen.anchorNode);
  };

  document.addEventListener("htmx:beforeSwap", (event) => {
    const { target, requestConfig, serverResponse } = event.detail;
    if (requestConfig.verb !== "get") return;
    const plain = serverResponse.replace(/value="\w{64}"/g, "");
    // Nothing new, or somebody is about to copy from it: leave it as it is.
    if (received.get(target.id) === plain || selecting(target)) event.detail.shouldSwap = false;
    else received.set(target.id, plain);
  });

  document.addEventListener("htmx:beforeRequest", (event) => {
    if (document.hidden && event.detail.requestConfig.verb === "get") event.preventDefault();
  });

  // A request that a newer one replaced has no outcome, and says nothing of the server.
  document.addEventListener("htmx:afterRequest", (event) => {
    const lost = by("lost");
    if (lost && "successful" in event.detail) lost.hidden = event.detail.successful;
  });
  for (const failure of ["htmx:sendError", "htmx:timeout"])
    document.addEventListener(failure, () => {
      const lost = by("lost");
      if (lost) lost.hidden = false;
    });

  document.addEventListener("htmx:afterSettle", (event) => {
    announce();
    dress(document);
    if (event.detail.target.id === "log") follow();
    const live = by("live");
    const log = by("log");
    if (live && log && !("pinned" in log.dataset) && live.dataset.replica !== log.dataset.replica)
      window.htmx.trigger(log, "replica");
  });

  // --- For those who listen: what became different ---------------------------------------

  const sayings = () => [...document.querySelectorAll("[data-says]")].map((one) => one.dataset.says);
  let known = new Set();

  function announce() {
    const now = sayings();
    const fresh = now.filter((one) => !known.has(one));
    known = new Set(now);
    if (fresh.length) by("said").textContent = fresh.join(". ");
  }

  // --- Server-sent events: held only by a page that is looked at --------------------------
  // A browser opens six connections to a host, and a hidden tab needs none of them.

  let news = null;
  let stream = null;

  function listen() {
    if (news) news.close();
    news = null;
    const place = document.querySelector("[data-events]");
    if (!place || document.hidden) return;
    news = new EventSource(place.dataset.events);
    let due = 0;
    const look = () => {
      due = due || setTimeout(() => {
        due = 0;
        const live = by("live");
        if (live) window.htmx.trigger(live, "news");
      }, 100);
    };
    news.addEventListener("transition", look);
    news.addEventListener("status", look);
  }

  function follow() {
    if (stream) stream.close();
    stream = null;
    const lines = by("lines");
    const wanted = by("follow");
    if (!lines || document.hidden || !wanted.checked) return;
    lines.scrollTop = lines.scrollHeight;
    stream = new EventSource(lines.dataset.stream);
    stream.addEventListener("line", (event) => {
      const line = JSON.parse(event.data);
      if (line.number <= Number(lines.dataset.last)) return;
      lines.dataset.last = line.number;
      lines.append(`${line.text}\n`);
      while (lines.childNodes.length > KEEP_LINES) lines.firstChild.remove();
      lines.scrollTop = lines.scrollHeight;
    });
  }

  document.addEventListener("visibilitychange", () => {
    listen();
    follow();
  });
  document.addEventListener("change", (event) => {
    if (event.target.id === "follow") follow();
  });

  // --- Copying -----------------------------------------------------------------------------

  function dress(root) {
    for (const button of root.querySelectorAll("button[data-copy]")) button.hidden = false;
  }

  document.addEventListener("click", async (event) => {
    const button = event.target.closest("button[data-copy]");
    if (!button) return;
    const source = by(button.dataset.copy);
    try {
      await navigator.clipboard.writeText(source.textContent);
    } catch {
      // No clipboard without https: select it, so that a key press copies it.
      document.getSelection().selectAllChildren(source);
      by("said").textContent = "Selected: copy it with the keyboard";
      return;
    }
    button.textContent = "Copied";
    by("said").textContent = "Copied";
    setTimeout(() => { button.textContent = "Copy"; }, 2000);
  });

  // --- Advice that fills a form in --------------------------------------------------------

  // A setting without a field of its own goes into the list, or the object, of all settings.
  function fill(name, value) {
    const field = by(`id_${name}`);
    const list = by("id_more");
    const object = by("id_engine_args");
    if (field) field.value = value;
    else if (list) {
      const others = list.value.split("\n").filter((line) => line.trim() && line.split("=")[0].trim() !== name);
      list.value = [...others, `${name}=${value}`].join("\n");
    } else if (object) {
      const typed = /^-?\d+(\.\d+)?$|^(true|false)$/.test(value) ? JSON.parse(value) : value;
      object.value = JSON.stringify({ ...JSON.parse(object.value || "{}"), [name]: typed });
    }
    return field || list || object;
  }

  document.addEventListener("click", (event) => {
    const button = event.target.closest("[data-fill-1]");
    if (!button) return;
    const fills = Object.entries(button.dataset).filter(([key]) => /^fill-?\d$/.test(key));
    const filled = fills.map(([, text]) => fill(text.slice(0, text.indexOf("=")), text.slice(text.indexOf("=") + 1)));
    by("said").textContent = `Filled in: ${button.textContent}`;
    filled[0].focus();
    filled[0].dispatchEvent(new Event("input", { bubbles: true }));
  });

  for (const place of document.querySelectorAll("[data-live]")) place.hidden = false;
  dress(document);
  known = new Set(sayings());
  listen();
  follow();
})();

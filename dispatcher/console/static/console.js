// Keeps a page up to date, shows times as the person prefers, and answers keys. Without it every page still says everything.
"use strict";
(() => {
  const EVERY = 5000, IDLE = 15 * 60000, MAX_SKEW = 5000;
  const root = document.documentElement;
  const stored = (name, otherwise) => localStorage.getItem(name) ?? otherwise;
  const $ = (selector, within = document) => within.querySelector(selector);
  const choices = { theme: ["system", "light", "dark"], zone: ["UTC", "local"], live: ["on", "off"], keys: ["on", "off"] };

  root.classList.add("js");
  const paint = () => { root.dataset.theme = stored("theme", "system"); };
  paint(); // before the page is shown

  let skew = 0; // milliseconds that this browser's clock is ahead of the database's
  let touched = Date.now(), isDirty = false, isBusy = false, tag = "", state = "";

  // ── times

  const units = [["d", 86400], ["h", 3600], ["m", 60], ["s", 1]];
  function span(seconds) {
    const first = Math.max(0, units.findIndex(([, size]) => seconds >= size));
    if (seconds < 1) return "0s";
    const parts = units.slice(first, first + 2).map(([unit, size], n) =>
      [Math.floor((n ? seconds % units[first][1] : seconds) / size), unit]);
    return parts.filter(([count], n) => !n || count).map(([count, unit]) => count + unit).join(" ");
  }
  function absolute(date, local) {
    const shifted = local ? new Date(date - date.getTimezoneOffset() * 60000) : date;
    return shifted.toISOString().slice(0, 19).replace("T", " ");
  }
  function showTimes() {
    const local = stored("zone", "UTC") === "local", zone = local ? "local" : "UTC";
    if ($("#now")) $("#now").dateTime = new Date(Date.now() - skew).toISOString();
    for (const time of document.querySelectorAll("time[datetime]")) {
      const date = new Date(time.dateTime), exact = absolute(date, local);
      if ("clock" in time.dataset) time.textContent = exact.slice(11);
      else if ("exact" in time.dataset) time.textContent = exact;
      else {
        const seconds = Math.round((Date.now() - skew - date) / 1000);
        time.textContent = seconds < 0 ? `in ${span(-seconds)}` : `${span(seconds)} ago`;
        time.title = `${exact} ${zone}`;
      }
    }
    for (const name of document.querySelectorAll(".zone")) name.textContent = zone;
    const off = $("#skew");
    if (off) off.textContent = Math.abs(skew) > MAX_SKEW ? `, this browser’s clock is off by ${span(Math.abs(skew) / 1000)}` : "";
  }
  function setClock(now) {
    const ahead = Date.now() - Date.parse(now);
    skew = Math.abs(ahead) > MAX_SKEW ? ahead : 0; // less may be the way here
  }

  // ── live updates

  function held() {
    if (isDirty) return "Paused: a form is being filled";
    if (!getSelection().isCollapsed) return "Paused: text is selected";
    return $("dialog[open]") ? "Paused" : "";
  }
  function why() {
    if (stored("live", "on") === "off") return "Off";
    if (document.hidden) return "Hidden";
    if (Date.now() - touched > IDLE) return "Paused to spare your database";
    return held();
  }
  function showState() {
    const button = $("[data-switch=live]"), paused = why();
    if (!button) return;
    button.dataset.state = paused ? "off" : state || "on";
    button.setAttribute("aria-pressed", String(stored("live", "on") === "on"));
    $("span", button).textContent = paused || (state === "lost" ? "No answer" : "Live · 5 s");
  }
  const keep = {
    ignoreActiveValue: true,
    callbacks: { beforeAttributeUpdated: (name, node) => !(name === "open" && node.matches("details, dialog")) },
  };
  function morph(selector, page) {
    const old = $(selector), fresh = $(selector, page);
    if (old && fresh) Idiomorph.morph(old, fresh, keep);
  }
  function show(change) {
    const focused = document.activeElement;
    change();
    if (!focused.checkVisibility()) $("#main").focus(); // its place is gone
  }
  async function read() {
    if (isBusy) return;
    isBusy = true;
    try {
      const headers = tag ? { "If-None-Match": tag } : {};
      const answer = await fetch(location.href, { headers, cache: "no-store", redirect: "manual", signal: AbortSignal.timeout(20000) });
      const page = answer.status === 304 ? null : new DOMParser().parseFromString(await answer.text(), "text/html");
      if (held()) return;
      // The session is over, and somebody asks who this is; or it is now a page that stays.
      if (!answer.status || page && answer.status < 500 && !("live" in page.body.dataset)) return location.replace(answer.url);
      tag = answer.headers.get("ETag") ?? "";
      state = answer.status < 500 ? "on" : "lost";
      if (answer.headers.has("X-Now")) setClock(answer.headers.get("X-Now"));
      if (!page && $("#as-of")) $("#as-of").dateTime = answer.headers.get("X-As-Of");
      show(() => {
        $("#main").classList.toggle("stale", state === "lost");
        if (!page) return;
        morph("#notice", page);
        if (state === "lost" && !$(".stale", page)) return;
        morph("#nav", page);
        morph("#main", page);
        document.title = page.title;
      });
    } catch {
      state = "lost";
      show(() => $("#main").classList.add("stale"));
    } finally {
      isBusy = false;
      showTimes();
      showState();
    }
  }

  // ── switches and keys

  function choose(name) {
    const every = choices[name], next = (every.indexOf(stored(name, every[0])) + 1) % every.length;
    localStorage.setItem(name, every[next]);
    showChoices();
  }
  function showChoices() {
    paint();
    for (const name of ["theme", "zone"]) {
      const button = $(`[data-switch=${name}]`), value = stored(name, choices[name][0]);
      if (!button) continue;
      button.title = `${button.ariaLabel} (now ${value})`;
      if (name === "zone") button.textContent = value === "local" ? "Local" : "UTC";
    }
    if ($("[data-switch=keys]")) $("[data-switch=keys]").textContent = `Shortcuts: ${stored("keys", "on")}`;
    showTimes();
    showState();
  }
  async function copy(button) {
    if (!navigator.clipboard) return getSelection().selectAllChildren($("code", button.parentElement)); // http
    await navigator.clipboard.writeText(button.dataset.copy);
    button.classList.add("done");
    setTimeout(() => button.classList.remove("done"), 1500);
  }
  let isGoing = false;
  function press(event) {
    const typing = event.target.closest("input, select, textarea, [contenteditable]");
    if (event.ctrlKey || event.metaKey || event.altKey || typing || stored("keys", "on") === "off" && event.key !== "?") return;
    const place = isGoing && $(`nav a[data-key="${CSS.escape(event.key)}"]`);
    isGoing = event.key === "g";
    if (place) return location.assign(place.href);
    const act = {
      "/": () => { event.preventDefault(); $("[type=search]").focus(); },
      "?": () => $("#help").open || $("#help").showModal(),
      r: read,
      t: () => choose("theme"),
    }[event.key];
    if (act && $("#help")) act();
  }

  document.addEventListener("DOMContentLoaded", () => {
    const asOf = $("#as-of");
    if (asOf) setClock(asOf.dataset.now);
    if ($(".notice.bad")) state = "lost";
    document.addEventListener("click", ({ target }) => {
      const pressed = target.closest("[data-switch]"), copied = target.closest("[data-copy]");
      if (copied) copy(copied);
      if (!pressed) return;
      if (pressed.dataset.switch === "help") $("#help").showModal();
      else choose(pressed.dataset.switch);
    });
    document.addEventListener("keydown", press);
    for (const kind of ["pointerdown", "pointermove", "keydown", "scroll"]) {
      document.addEventListener(kind, () => { touched = Date.now(); }, { passive: true, capture: true });
    }
    document.addEventListener("input", ({ target }) => { isDirty ||= Boolean(target.closest("main")); });
    document.addEventListener("reset", () => { isDirty = false; });
    document.addEventListener("visibilitychange", () => { if (!why()) read(); });
    showChoices();
    if (!("live" in document.body.dataset)) return;
    setInterval(() => { showTimes(); showState(); }, 1000);
    setInterval(() => { if (!why()) read(); }, EVERY);
  });
})();

"use strict";
// What all pages share: the loader of data files, small builders of elements, numbers, the hash.
// Everything that comes from data files becomes text nodes; nothing is ever parsed as markup.
(() => {
  const page = document.documentElement;
  const root = page.dataset.root || "";
  // A key is a path below data/, of plain names: none may lead out of it.
  const KEY = /^\w[\w.-]*(?:\/\w[\w.-]*)*$/;
  const values = new Map();
  const waiting = new Map();

  function put(key, value) {
    values.set(key, value);
  }

  function load(key) {
    if (!waiting.has(key)) waiting.set(key, fetched(key));
    return waiting.get(key);
  }

  // Data are scripts, since pages that were opened from a disk may not fetch anything else.
  function fetched(key) {
    if (!KEY.test(key)) return Promise.reject(new Error(`“${key}” is no data file.`));
    if (values.has(key)) return Promise.resolve(values.get(key));
    return new Promise((resolve, reject) => {
      const failed = (why) => {
        waiting.delete(key);
        script.remove();
        reject(new Error(`The file data/${key}.js ${why}`));
      };
      const script = document.createElement("script");
      script.src = `${root}data/${key}.js`;
      script.onload = () =>
        values.has(key) ? resolve(values.get(key)) : failed("holds something else. Was the site built anew while you read? Reload the page.");
      script.onerror = () => failed("could not be loaded. It belongs to this site; copy the whole folder, or reload the page.");
      document.head.append(script);
    });
  }

  // An element with attributes (a function is a listener, true an empty value) and children.
  function el(tag, attributes = {}, ...children) {
    const made = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) {
      if (value === null || value === undefined || value === false) continue;
      if (typeof value === "function") made.addEventListener(name, value);
      else made.setAttribute(name, value === true ? "" : value);
    }
    made.append(...children.filter((child) => child !== null && child !== undefined));
    return made;
  }

  function option(value, label, chosen) {
    const made = el("option", { value }, label);
    made.selected = chosen === true;
    return made;
  }

  const byId = (id) => document.getElementById(id);
  const missing = (value) => value === null || value === undefined || Number.isNaN(value);

  function number(value, digits = 2) {
    if (missing(value)) return "—";
    const shown = value.toFixed(digits);
    return Number(shown) === 0 ? shown.replace("-", "") : shown.replace("-", "−");
  }

  function signed(value, digits = 2) {
    const shown = number(value, digits);
    return value > 0 && Number(shown) !== 0 ? `+${shown}` : shown;
  }

  function interval(low, high, digits = 2) {
    if (missing(low) || missing(high)) return "—";
    return `${signed(low, digits)} to ${signed(high, digits)}`;
  }

  function probability(value) {
    if (missing(value)) return "—";
    return value < 0.001 ? "< .001" : value.toFixed(3).replace(/^0/, "");
  }

  // Names of judges, dimensions and dialogues are anybody's: `constructor` is a key like any other,
  // and nothing that all objects have is ever taken for data.
  const own = (object, key) => (object && Object.hasOwn(object, key) ? object[key] : undefined);

  // Whether a number of the run rests on a judge that has drifted: its own, or any for the composite.
  function marked(run, key) {
    const drifted = run.drifted || [];
    return key === "composite" ? drifted.length > 0 : drifted.some((judge) => key.startsWith(`${judge}.`));
  }

  const dagger = () => el("sup", {}, "†");

  // What the mark means, for those of `runs` that bear it, each with a way to its page; null for none.
  function driftNote(runs) {
    const found = runs.filter((run) => marked(run, "composite"));
    if (!found.length) return null;
    const whose = found.flatMap((run, place) => [
      place ? "; " : "", el("bdi", {}, run.name), ": ", el("bdi", {}, run.drifted.join(", ")), ", ",
      el("a", { href: `models/${encodeURIComponent(run.slug)}.html#judges` }, "how far"),
    ]);
    return el("p", { class: "foot drift" }, el("small", {}, "† A judge of this number has moved since its card was measured. ", ...whose, "."));
  }

  function readHash() {
    return Object.fromEntries(new URLSearchParams(location.hash.slice(1)));
  }

  function hashOf(values) {
    const kept = Object.entries(values).filter(([, value]) => value !== null && value !== undefined && value !== "");
    return `#${new URLSearchParams(kept)}`;
  }

  // What a link asks for that isn't here, in a sentence; nothing where all of it is.
  function absent(boards, protocol, slugs) {
    const board = boards.find((one) => one.protocol === protocol);
    if (protocol && !board) return `There is no protocol ${protocol} on this site.`;
    const lost = slugs.find((slug) => slug && !(board || boards[0]).runs.some((one) => one.slug === slug));
    return lost ? `There is no run ${lost} in this protocol.` : "";
  }

  // Say it in words, where everybody finds it.
  function report(place, error) {
    place.textContent = error instanceof Error ? error.message : String(error);
    place.classList.add("note");
  }

  function say(place, words) {
    place.textContent = words;
    place.classList.remove("note");
  }

  // "Loading…", unless it takes no time; ends with what is returned.
  function loading(place) {
    const timer = setTimeout(() => say(place, "Loading…"), 300);
    return () => clearTimeout(timer);
  }

  const THEMES = ["system", "light", "dark"];

  function showTheme(button) {
    button.querySelector("span").textContent = page.dataset.theme || "system";
  }

  function nextTheme(button) {
    const next = THEMES[(THEMES.indexOf(page.dataset.theme || "system") + 1) % THEMES.length];
    page.dataset.theme = next === "system" ? "" : next;
    try {
      localStorage.setItem("kardiabench-theme", next);
    } catch (error) {
      button.title = `Not kept for the next page: ${error.message}`;
    }
    showTheme(button);
  }

  const theme = byId("theme");
  if (theme) {
    showTheme(theme);
    theme.addEventListener("click", () => nextTheme(theme));
  }

  window.kardiabench = Object.freeze({
    put, load, el, option, byId, missing, number, signed, interval, probability, own, marked, dagger, driftNote,
    readHash, hashOf, absent, report, say, loading,
  });
})();

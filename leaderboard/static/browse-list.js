"use strict";
// The left side of the browser: which dialogues there are, in what order, and which are shown.
(() => {
  const { el, number, missing, own } = kardiabench;

  // Places in `dialogues` of those that match, in order. `scores` are files by model.
  function chosen(dialogues, filters, scores) {
    const words = filters.search.trim().toLowerCase().split(/\s+/).filter(Boolean);
    const flags = filters.flagged ? flaggedIn(scores) : null;
    const places = dialogues.ids.flatMap((id, place) => {
      if (filters.emotion && dialogues.emotions[place] !== filters.emotion) return [];
      if (flags && !flags.has(id)) return [];
      return matches(dialogues, place, words) ? [place] : [];
    });
    return filters.order ? ordered(dialogues, places, meansOf(scores, filters.order)) : places;
  }

  function matches(dialogues, place, words) {
    if (!words.length) return true;
    const title = dialogues.titles ? dialogues.titles[place] : "";
    const all = `${dialogues.ids[place]} ${dialogues.personas[place]} ${dialogues.emotions[place]} ${title}`.toLowerCase();
    return words.every((word) => all.includes(word));
  }

  // The number of flagged answers by dialogue, over all models in `scores`.
  function flaggedIn(scores) {
    const found = new Map();
    for (const { dialogues } of scores.values()) {
      dialogues.ids.forEach((id, place) => {
        const flagged = dialogues.flagged[place] || 0;
        if (flagged) found.set(id, (found.get(id) || 0) + flagged);
      });
    }
    return found;
  }

  // An order is `slug metric`; a slug has no blanks, a metric may have.
  function orderOf(order) {
    const end = order.indexOf(" ");
    return { slug: order.slice(0, end), key: order.slice(end + 1) };
  }

  // The means of an order by dialogue.
  function meansOf(scores, order) {
    const { slug, key } = orderOf(order);
    const file = scores.get(slug);
    const means = (file && own(file.dialogues.means, key)) || [];
    return new Map(file ? file.dialogues.ids.map((id, place) => [id, means[place]]) : []);
  }

  function ordered(dialogues, places, means) {
    const value = (place) => means.get(dialogues.ids[place]);
    return places.slice().sort((a, b) => {
      const [x, y] = [value(a), value(b)];
      if (missing(x) || missing(y)) return missing(x) - missing(y) || a - b;
      return x - y || a - b;
    });
  }

  // One entry of the list; `href` leads to the dialogue.
  function entry(dialogues, place, { href, current, means, mark, flags, digits }) {
    const id = dialogues.ids[place];
    const facts = [dialogues.emotions[place], `${dialogues.turns[place]} turns`];
    if (means) facts.push(`${number(means.get(id), digits)}${mark && !missing(means.get(id)) ? "†" : ""}`);
    if (flags.get(id)) facts.push(`${flags.get(id)} flagged`);
    const title = dialogues.titles && dialogues.titles[place];
    const first = title ? el("span", { dir: "auto" }, title) : el("code", {}, id);
    const second = title ? `${id} · ${dialogues.personas[place]}` : dialogues.personas[place];
    return el("li", {}, el("a", { href, "aria-current": current ? "true" : null }, first, el("small", {}, facts.join(" · ")), el("small", {}, second)));
  }

  window.kardiabenchList = Object.freeze({ chosen, entry, flaggedIn, meansOf, orderOf });
})();

"use strict";
// The dialogue browser: the hash says what is shown, and everything follows from it.
(() => {
  const kb = kardiabench;
  const list = kardiabenchList;
  const view = kardiabenchTurn;
  const { el, byId, load } = kb;
  const MODELS = 4;
  const PAGE = 100;
  const status = byId("status");
  const state = { boards: [], board: null, dialogues: null, models: [], scores: new Map(), places: [], id: null, turn: 0, limit: PAGE, latest: 0 };

  const hash = (changes) =>
    kb.hashOf({ p: state.board.protocol, d: state.id, t: String(state.turn), m: state.models.map((one) => one.slug).join(","), ...changes });

  function go(changes) {
    location.hash = hash(changes);
  }

  // From the hash to the page. Later calls win over earlier ones that still wait for a file.
  async function follow() {
    const call = ++state.latest;
    const wanted = kb.readHash();
    const loaded = kb.loading(status);
    try {
      const board = state.boards.find((one) => one.protocol === wanted.p) || state.boards[0];
      const models = modelsOf(board, wanted.m);
      const files = await Promise.all([load(`${board.protocol}/dialogues`), ...models.map((one) => load(`runs/${one.slug}/scores`))]);
      if (call !== state.latest) return;
      enter(board, models, files);
      await open(wanted, call);
    } catch (error) {
      if (call === state.latest) nothing(error);
    } finally {
      loaded();
    }
  }

  // What was shown before is not what the hash says any more.
  function nothing(why) {
    byId("dialogue").hidden = true;
    kb.report(status, why);
  }

  // Only what the index names is ever loaded: a hash is anybody's text.
  function modelsOf(board, slugs) {
    const asked = (slugs || "").split(",").map((slug) => board.runs.find((one) => one.slug === slug)).filter(Boolean);
    return (asked.length ? [...new Set(asked)] : board.runs.filter((one) => one.kind === "model").concat(board.runs).slice(0, 1)).slice(0, MODELS);
  }

  function enter(board, models, [dialogues, ...scores]) {
    const fresh = state.board !== board;
    const changed = fresh || models.map((one) => one.slug).join() !== state.models.map((one) => one.slug).join();
    Object.assign(state, { board, models, dialogues, scores: new Map(models.map((one, place) => [one.slug, scores[place]])) });
    byId("protocol").value = board.protocol;
    if (fresh) fillEmotions();
    if (fresh) sayWhatIsSearched();
    if (fresh) fillModels();
    if (changed) fillOrder();
    if (changed) markModels();
  }

  async function open(wanted, call) {
    const { dialogues } = state;
    filter();
    const first = state.places.length ? state.places[0] : 0;
    state.id = wanted.d || dialogues.ids[first] || null;
    const place = dialogues.ids.indexOf(state.id);
    showList();
    if (place < 0) return nothing(state.id ? `There is no dialogue ${state.id} in this protocol.` : "There is no dialogue.");
    state.turn = Math.min(Math.max(0, Number.parseInt(wanted.t, 10) || 0), dialogues.turns[place] - 1);
    const files = await Promise.all([textOf(place), ...state.models.map((one) => turnsOf(one))]);
    if (call !== state.latest) return;
    const lost = kb.absent(state.boards, wanted.p, (wanted.m || "").split(","));
    if (lost) kb.report(status, lost);
    else kb.say(status, "");
    show(place, ...files);
  }

  async function textOf(place) {
    const { shards, ids } = state.dialogues;
    if (!state.board.text || !shards) return null;
    const file = await load(`${state.board.protocol}/text-${Number(shards[place])}`);
    return kb.own(file, ids[place]) || null;
  }

  // The file with a model's turns of the dialogue; null where it has none.
  async function turnsOf(model) {
    const { dialogues } = state.scores.get(model.slug);
    const place = dialogues.ids.indexOf(state.id);
    return place < 0 ? null : load(`runs/${model.slug}/turns-${Number(dialogues.shards[place])}`);
  }

  function show(place, text, ...files) {
    const { dialogues, board, turn, id } = state;
    byId("heading").replaceChildren("Dialogue ", el("code", {}, id), `, turn ${turn + 1} of ${dialogues.turns[place]}`);
    byId("facts").replaceChildren(`Gold emotion of the first turn: ${dialogues.emotions[place]}. Persona `, el("code", {}, dialogues.personas[place]), ".");
    if (byId("about").dataset.id !== id || !text) byId("about").replaceChildren(...(text ? view.about(text) : [noText(board)]));
    byId("about").dataset.id = id;
    showTurns(dialogues.turns[place]);
    const answers = state.models.map((model, at) => view.answer(board, model, files[at], files[at] ? view.placeOf(files[at], id, turn) : -1));
    byId("turn").replaceChildren(...(text ? view.conversation(text, turn) : []), el("div", { class: "answers" }, ...answers), ...[kb.driftNote(state.models)].filter(Boolean));
    byId("dialogue").hidden = false;
    showSteps(place);
  }

  function noText(board) {
    return el("p", { class: "note" }, board.text ? "The text of this dialogue is not here." : `The dialogues' text is not on this site, because of its licence (${board.licence}). Shown are ids, gold emotion labels, scores and the labels that the models named.`);
  }

  function showTurns(number) {
    const buttons = Array.from({ length: number }, (_, turn) => {
      const current = turn === state.turn ? "true" : null;
      return el("li", {}, el("button", { type: "button", "data-turn": String(turn), "aria-current": current, "aria-label": `Turn ${turn + 1}`, click: () => goTurn(turn) }, String(turn + 1)));
    });
    byId("turns").replaceChildren(el("ul", {}, el("li", { "aria-hidden": "true" }, "Turn"), ...buttons));
    if (state.refocus) byId("turns").querySelector("[aria-current]").focus();
    state.refocus = false;
  }

  function goTurn(turn) {
    state.refocus = true; // the buttons are made anew, and the focus should not fall off them
    go({ t: String(turn) });
  }

  function showSteps(place) {
    const at = state.places.indexOf(place);
    byId("previous").disabled = at <= 0;
    byId("next").disabled = at < 0 || at + 1 >= state.places.length;
  }

  function step(by) {
    const at = state.places.indexOf(state.dialogues.ids.indexOf(state.id)) + by;
    if (at >= 0 && at < state.places.length) go({ d: state.dialogues.ids[state.places[at]], t: "0" });
  }

  function filters() {
    return { search: byId("search").value, emotion: byId("emotion").value, order: byId("order").value, flagged: byId("flagged").checked };
  }

  function filter() {
    state.places = list.chosen(state.dialogues, filters(), state.scores);
    const all = state.dialogues.ids.length;
    const words = `${state.places.length === all ? all : `${state.places.length} of ${all}`} dialogues`;
    if (byId("found").textContent !== words) byId("found").textContent = words;
  }

  function showList() {
    const { order } = filters();
    const flags = list.flaggedIn(state.scores);
    const means = order ? list.meansOf(state.scores, order) : null;
    const digits = 2;
    const mark = Boolean(order) && marks(list.orderOf(order));
    const shown = state.places.slice(0, state.limit).map((place) => {
      const id = state.dialogues.ids[place];
      return list.entry(state.dialogues, place, { href: hash({ d: id, t: "0" }), current: id === state.id, means, mark, flags, digits });
    });
    const scroll = byId("list").scrollTop;
    byId("list").replaceChildren(...shown);
    byId("list").scrollTop = scroll;
    byId("more").hidden = state.places.length <= state.limit;
  }

  const marks = ({ slug, key }) => state.models.some((one) => one.slug === slug && kb.marked(one, key));

  function refilter() {
    state.limit = PAGE;
    filter();
    showList();
    showSteps(state.dialogues.ids.indexOf(state.id));
  }

  function fillEmotions() {
    const known = [...new Set(state.dialogues.emotions)].sort();
    byId("emotion").replaceChildren(kb.option("", "any"), ...known.map((one) => kb.option(one, one)));
  }

  function sayWhatIsSearched() {
    const titles = state.dialogues.titles ? ", and words at the situation's beginning" : "";
    byId("searched").textContent = `Looks at ids, personas and the first turn's emotion${titles}; nowhere else.`;
  }

  function fillOrder() {
    const before = byId("order").value;
    const groups = state.models.map((model) => {
      const { means } = state.scores.get(model.slug).dialogues;
      const known = state.board.metrics.filter((metric) => kb.own(means, metric.key));
      const options = known.map((metric) => kb.option(`${model.slug} ${metric.key}`, `${metric.label}${kb.marked(model, metric.key) ? " †" : ""}, lowest first`, `${model.slug} ${metric.key}` === before));
      return el("optgroup", { label: model.name }, ...options);
    });
    byId("order").replaceChildren(kb.option("", "as in the data"), ...groups);
    if (before && byId("order").value !== before) byId("order").value = "";
  }

  function fillModels() {
    byId("model-boxes").replaceChildren(...state.board.runs.map((one) => {
      const box = el("input", { type: "checkbox", value: one.slug, autocomplete: "off", change: pickModels });
      return el("label", {}, box, " ", el("bdi", {}, one.name), kb.marked(one, "composite") ? " †" : "", one.kind === "floor" ? " (floor)" : "");
    }));
  }

  const boxes = () => [...byId("model-boxes").querySelectorAll("input")];

  function markModels() {
    const slugs = state.models.map((one) => one.slug);
    for (const box of boxes()) {
      box.checked = slugs.includes(box.value);
      box.disabled = (!box.checked && slugs.length >= MODELS) || (box.checked && slugs.length === 1);
    }
    const names = state.models.flatMap((one, place) => [place ? ", " : "", el("bdi", {}, one.name), kb.marked(one, "composite") ? " †" : ""]);
    byId("chosen").replaceChildren(`(${slugs.length}): `, ...names);
  }

  function pickModels(event) {
    const slug = event.target.value;
    const others = state.models.map((one) => one.slug).filter((one) => one !== slug);
    go({ m: (event.target.checked ? [...others, slug] : others).join(",") });
  }

  function listen() {
    byId("protocol").addEventListener("change", (event) => { location.hash = kb.hashOf({ p: event.target.value }); });
    byId("search").addEventListener("input", refilter);
    for (const id of ["emotion", "order", "flagged"]) byId(id).addEventListener("change", refilter);
    byId("filters").addEventListener("submit", (event) => event.preventDefault());
    byId("more").addEventListener("click", () => { state.limit += 2 * PAGE; showList(); });
    byId("previous").addEventListener("click", () => step(-1));
    byId("next").addEventListener("click", () => step(1));
    byId("list").addEventListener("click", (event) => { if (event.target.closest("a")) byId("heading").focus(); });
    window.addEventListener("hashchange", follow);
  }

  async function start() {
    try {
      state.boards = (await load("index")).boards.filter((one) => one.runs.length);
      if (!state.boards.length) return kb.say(status, "There is no run to show.");
      byId("protocol").replaceChildren(...state.boards.map((one) => kb.option(one.protocol, `${one.title} (${one.protocol.slice(0, 6)})`)));
      byId("flagged").checked = kb.readHash().f === "1";
      listen();
      await follow();
    } catch (error) {
      kb.report(status, error);
    }
  }

  start();
})();

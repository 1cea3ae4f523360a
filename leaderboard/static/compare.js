"use strict";
// Two runs of one protocol, compared: what was computed for the pair, and where they differ.
(() => {
  const kb = kardiabench;
  const { el, byId, load } = kb;
  const [MEAN, LOW, HIGH, P, FLIP, HOLM, MDE, MDE_HOLM, PERSONAS] = [0, 1, 2, 3, 4, 5, 6, 7, 8];
  const MOST = 25;
  const ALPHA = 0.05;
  const status = byId("status");
  let boards = [];
  let latest = 0;
  let shown = null;

  const board = () => boards.find((one) => one.protocol === byId("protocol").value);
  const run = (side) => board().runs.find((one) => one.slug === byId(side).value);
  // An option holds text alone: marks keep a name of the other direction from turning what follows.
  const named = (one) => {
    const more = `${kb.marked(one, "composite") ? " †" : ""}${one.kind === "floor" ? " (floor)" : ""}${one.ranked ? "" : " (not ranked)"}`;
    return more ? `\u2068${one.name}\u2069${more}` : one.name;
  };

  function fillRuns(a, b) {
    const runs = board().runs;
    const known = (slug) => runs.some((one) => one.slug === slug);
    const first = known(a) ? a : runs[0] && runs[0].slug;
    const other = runs.find((one) => one.slug !== first);
    const second = known(b) ? b : other && other.slug;
    for (const [side, chosen] of [["a", first], ["b", second]]) {
      byId(side).replaceChildren(...runs.map((one) => kb.option(one.slug, named(one), one.slug === chosen)));
    }
  }

  function fromHash() {
    const { p, a, b } = kb.readHash();
    const protocol = boards.some((one) => one.protocol === p) ? p : boards[0].protocol;
    byId("protocol").value = protocol;
    fillRuns(a, b);
    const lost = kb.absent(boards, p, [a, b]);
    return lost ? nothing(lost) : update(false);
  }

  async function update(keep = true) {
    const turn = ++latest;
    const [a, b] = [run("a"), run("b")];
    if (!a || !b || a === b) return nothing("Choose two different runs.");
    if (keep) history.replaceState(null, "", kb.hashOf({ p: board().protocol, a: a.slug, b: b.slug }));
    const loaded = kb.loading(status);
    try {
      const files = await Promise.all([
        load(`${board().protocol}/pairs/${a.slug}`), load(`runs/${a.slug}/scores`), load(`runs/${b.slug}/scores`),
      ]);
      if (turn === latest) show(a, b, ...files);
    } catch (error) {
      if (turn === latest) nothing(error);
    } finally {
      loaded();
    }
  }

  function nothing(why) {
    latest += 1; // whatever is still on its way comes too late
    byId("result").hidden = true;
    kb.report(status, why);
  }

  function show(a, b, pairs, scoresA, scoresB) {
    const rows = kb.own(pairs.rows, b.slug);
    shown = { a, b, scoresA, scoresB };
    kb.say(status, "");
    showDifferences(rows ? pairs.metrics.map((key, place) => [metric(key), rows[place]]) : []);
    byId("summary").replaceChildren(...(rows ? summary(a, b, pairs.metrics, rows) : [...lettered("A", a), " and ", ...lettered("B", b), " were not compared with each other."]));
    byId("axis").textContent = "B better ← 0 → A better";
    byId("drift").replaceChildren(...[kb.driftNote([a, b])].filter(Boolean));
    fillMetrics();
    showWhere();
    byId("result").hidden = false;
  }

  const metric = (key) => board().metrics.find((one) => one.key === key);

  // A name that reads from right to left keeps that to itself.
  const lettered = (letter, one) => [`${letter} (`, el("bdi", {}, one.name), kb.marked(one, "composite") ? " †)" : ")"];

  function summary(a, b, keys, rows) {
    const tested = keys.map((key, place) => [key, rows[place]]).filter(([, row]) => row && !kb.missing(row[HOLM]));
    const sure = tested.filter(([, row]) => row[HOLM] < ALPHA);
    const list = (found) => found.map(([key]) => metric(key).label).join(", ");
    const [up, down] = [sure.filter(([, row]) => row[MEAN] > 0), sure.filter(([, row]) => row[MEAN] < 0)];
    const sentences = [];
    if (up.length) sentences.push(...lettered("A", a), " is better than ", ...lettered("B", b), ` on ${list(up)}. `);
    if (down.length) sentences.push(...lettered("B", b), " is better than ", ...lettered("A", a), ` on ${list(down)}. `);
    const rest = tested.length - sure.length;
    const every = tested.length === keys.length ? "every metric" : "every metric that could be tested";
    const where = rest === tested.length ? every : rest === 1 ? "one metric" : `${rest} metrics`;
    if (rest) sentences.push(`On ${where} the data can't tell `, ...lettered("A", a), " and ", ...lettered("B", b), " apart, which is not to say that they are equal.");
    return sentences.length ? sentences : ["There is nothing to test between these two."];
  }

  function showDifferences(found) {
    const shares = found.flatMap(([m, row]) => (row ? [row[LOW], row[HIGH], row[MEAN]].map((x) => Math.abs(x || 0) / (m.high - m.low)) : []));
    const reach = Math.max(0.02, ...shares) * 1.05;
    byId("differences").tBodies[0].replaceChildren(...found.filter(([m]) => m).map(([m, row]) => differenceRow(m, row || [], reach)));
  }

  function differenceRow(m, row, reach) {
    const digits = Math.max(m.digits, 2);
    const sure = !kb.missing(row[HOLM]) && row[HOLM] < ALPHA;
    const cells = [
      [el("b", {}, kb.signed(row[MEAN], digits)), kb.missing(row[MEAN]) ? null : markOf(m.key, shown.a, shown.b)], kb.interval(row[LOW], row[HIGH], digits), whisker(row, (m.high - m.low) * reach, sure),
      el(sure ? "b" : "span", {}, kb.probability(row[HOLM])), kb.probability(row[P]), kb.probability(row[FLIP]),
      kb.number(row[MDE], digits), kb.number(row[MDE_HOLM], digits), kb.missing(row[PERSONAS]) ? "—" : String(row[PERSONAS]),
    ];
    const name = el("th", { scope: "row", title: m.description }, m.label, " ", el("small", {}, `${m.low}–${m.high}`));
    return el("tr", {}, name, ...cells.map((cell) => el("td", {}, ...[cell].flat())));
  }

  // The mark of a number that rests on what was measured for each of `runs`.
  const markOf = (key, ...runs) => (runs.some((one) => kb.marked(one, key)) ? kb.dagger() : null);

  // The interval as a line and the mean as a dot; the numbers stand beside it.
  function whisker(row, reach, sure) {
    const box = el("span", { class: sure ? "effect sure" : "effect", "aria-hidden": "true" });
    if (kb.missing(row[MEAN])) return box;
    const at = (value) => 50 + (50 * value) / reach;
    if (!kb.missing(row[LOW]) && !kb.missing(row[HIGH])) box.append(stretch(at(row[LOW]), at(row[HIGH])));
    const dot = el("span", { class: "dot" });
    dot.style.left = `${at(row[MEAN])}%`;
    box.append(dot);
    return box;
  }

  function stretch(from, to, name = "") {
    const line = el("span", { class: name });
    line.style.left = `${from}%`;
    line.style.width = `${to - from}%`;
    return line;
  }

  function block(value, reach) {
    const box = el("span", { class: "effect", "aria-hidden": "true" });
    const end = 50 + (50 * value) / (reach || 1);
    box.append(stretch(Math.min(50, end), Math.max(50, end), "block"));
    return box;
  }

  function fillMetrics() {
    const { scoresA, scoresB } = shown;
    const select = byId("metric");
    const before = select.value || board().primary;
    const both = board().metrics.filter((m) => [scoresA, scoresB].every((file) => kb.own(file.personas.means, m.key)));
    const chosen = both.some((m) => m.key === before) ? before : both[0] && both[0].key;
    select.replaceChildren(...both.map((m) => kb.option(m.key, m.label, m.key === chosen)));
  }

  // Rows of [id, number of turns or null, a, b, a - b] for what both have scores of.
  function paired(left, right, key) {
    const places = new Map(right.ids.map((id, place) => [id, place]));
    const [ours, theirs] = [left, right].map((file) => kb.own(file.means, key));
    return left.ids.flatMap((id, place) => {
      if (!places.has(id)) return [];
      const [a, b] = [ours[place], theirs[places.get(id)]];
      return kb.missing(a) || kb.missing(b) ? [] : [[id, left.turns ? left.turns[place] : null, a, b, a - b]];
    });
  }

  function showWhere() {
    const m = metric(byId("metric").value);
    const { scoresA, scoresB } = shown;
    const personas = m ? paired(scoresA.personas, scoresB.personas, m.key) : [];
    const dialogues = m ? paired(scoresA.dialogues, scoresB.dialogues, m.key) : [];
    personas.sort((x, y) => y[4] - x[4]);
    dialogues.sort((x, y) => Math.abs(y[4]) - Math.abs(x[4]) || (x[0] < y[0] ? -1 : 1));
    fill("personas", personas, m, ([id]) => el("code", {}, id), true);
    fill("dialogues", dialogues.filter((row) => row[4] !== 0).slice(0, MOST), m, ([id]) => dialogueLink(id), false);
  }

  function dialogueLink(id) {
    const { a, b } = shown;
    const hash = kb.hashOf({ p: board().protocol, d: id, m: `${a.slug},${b.slug}` });
    return el("a", { href: `browse.html${hash}` }, el("code", {}, id));
  }

  function fill(table, rows, m, name, turns) {
    const reach = Math.max(0, ...rows.map((row) => Math.abs(row[4])));
    const { a, b } = shown;
    const cells = (row) => [
      [kb.number(row[2], m.digits), markOf(m.key, a)], [kb.number(row[3], m.digits), markOf(m.key, b)],
      [kb.signed(row[4], m.digits), markOf(m.key, a, b)], [block(row[4], reach)],
    ];
    const made = rows.map((row) =>
      el("tr", {}, el("th", { scope: "row" }, name(row)), turns ? el("td", {}, String(row[1])) : null, ...cells(row).map((cell) => el("td", {}, ...cell))));
    const columns = turns ? 6 : 5;
    byId(table).tBodies[0].replaceChildren(...(made.length ? made : [el("tr", {}, el("td", { colspan: String(columns), class: "text" }, "None."))]));
  }

  async function start() {
    try {
      boards = (await load("index")).boards.filter((one) => one.runs.length);
      if (!boards.length) return kb.say(status, "There is no run to compare.");
      byId("protocol").replaceChildren(...boards.map((one) => kb.option(one.protocol, `${one.title} (${one.protocol.slice(0, 6)})`)));
      byId("protocol").addEventListener("change", () => { fillRuns(); update(); });
      for (const side of ["a", "b"]) byId(side).addEventListener("change", () => update());
      byId("swap").addEventListener("click", () => { const [a, b] = [byId("a").value, byId("b").value]; fillRuns(b, a); update(); });
      byId("metric").addEventListener("change", showWhere);
      byId("choice").addEventListener("submit", (event) => event.preventDefault());
      window.addEventListener("hashchange", fromHash);
      await fromHash();
    } catch (error) {
      kb.report(status, error);
    }
  }

  start();
})();

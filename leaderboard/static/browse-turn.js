"use strict";
// The right side of the browser: a dialogue's profile and history, and models' answers to one turn.
(() => {
  const { el, number, missing, own, marked, dagger } = kardiabench;
  const NAMES = ["understanding", "reasoning", "emotion", "response"];
  const TAG = /<\|(understanding|reasoning|emotion|response)_(begin|end)\|>|<(\/?)(understanding|reasoning|emotion|response)>/g;
  const STATUS = {
    truncated: "cut off at the token limit", refused: "refused", error: "no answer: an error",
    unparsed: "answer could not be read", skipped: "skipped",
  };
  const inWords = (status) => own(STATUS, status) || status;

  const said = (text, attributes = {}) => el("p", { class: "said", dir: "auto", ...attributes }, text);

  // The spans of a reply for showing only; null where it has none, and is shown as it is.
  function spansOf(text) {
    const found = {};
    let open = null;
    for (const tag of text.matchAll(TAG)) {
      const name = tag[1] || tag[4];
      const begins = tag[1] ? tag[2] === "begin" : tag[3] === "";
      if (begins) open = [name, tag.index + tag[0].length];
      else if (open && open[0] === name && !Object.hasOwn(found, name)) found[name] = text.slice(open[1], tag.index).trim();
    }
    return found.response === undefined ? null : found;
  }

  function spanNodes(spans) {
    const thoughts = NAMES.slice(0, 2).filter((name) => spans[name]);
    const inner = thoughts.flatMap((name) => [el("p", { class: "who" }, name), said(spans[name])]);
    return [
      missing(spans.response) ? el("p", { class: "low" }, "No response span.") : said(spans.response),
      spans.emotion ? el("p", { class: "who" }, "emotion: ", el("b", { dir: "auto" }, spans.emotion)) : null,
      thoughts.length ? el("details", {}, el("summary", {}, thoughts.join(" and ")), ...inner) : null,
    ];
  }

  function about(text) {
    const profile = [text.mbti && !text.profile.includes(text.mbti) ? el("p", {}, text.mbti) : null, said(text.profile)];
    return [
      text.situation ? el("div", {}, el("p", { class: "who" }, "Situation"), said(text.situation)) : null,
      text.profile ? el("details", {}, el("summary", {}, "Profile"), ...profile.filter(Boolean)) : null,
    ].filter(Boolean);
  }

  function message({ role, content }, gold) {
    const spans = role === "assistant" ? spansOf(content) : null;
    const who = role === "user" ? "The person" : gold ? "Gold reply, the dataset's own" : "The dataset's reply";
    const inner = spans ? spanNodes(spans).filter(Boolean) : [said(content)];
    return el("li", { class: gold ? "gold" : role === "user" ? "user" : "assistant" }, el("p", { class: "who" }, who), ...inner);
  }

  // What stands before the turn, the last message open, and the gold reply.
  function conversation(text, turn) {
    const ends = text.messages.flatMap((one, place) => (one.role === "assistant" ? [place] : []));
    const end = ends[turn];
    if (end === undefined) return [el("p", { class: "note" }, "The text of this turn is not here.")];
    const talk = (messages, gold) => el("ol", { class: "talk" }, ...messages.map((one) => message(one, gold)));
    const before = text.messages.slice(0, Math.max(0, end - 1));
    const earlier = el("details", {}, el("summary", {}, `Before: ${before.length} messages`), talk(before, false));
    if (before.length <= 4) earlier.open = true;
    return [
      before.length ? earlier : null,
      talk(text.messages.slice(Math.max(0, end - 1), end), false),
      el("details", {}, el("summary", {}, "The dataset's own reply (gold)"), talk([text.messages[end]], true)),
    ].filter(Boolean);
  }

  // The place of a turn in a file of turns; -1 where the model has no answer to it.
  function placeOf(file, dialogue, turn) {
    const at = file.dialogues.indexOf(dialogue);
    if (at < 0) return -1;
    const start = file.counts.slice(0, at).reduce((sum, one) => sum + one, 0);
    const inner = file.index.slice(start, start + file.counts[at]).indexOf(turn);
    return inner < 0 ? -1 : start + inner;
  }

  function answer(board, run, file, place) {
    const heading = el("h3", {}, el("a", { href: `models/${encodeURIComponent(run.slug)}.html` }, el("bdi", {}, run.name)), drifted(run), run.ranked ? null : el("span", { class: "tag" }, "not ranked"));
    if (place < 0) return el("section", { class: "answer" }, heading, el("p", { class: "low" }, "No answer to this turn."));
    const spans = file.spans && file.spans[place];
    return el("section", { class: "answer" }, heading, ...outcome(file, place), ...(spans ? replyNodes(spans) : []),
      ...(file.spans && !spans ? [el("p", { class: "who" }, "The text of this answer is not on this site.")] : []), verdicts(board, run, file, place));
  }

  function drifted(run) {
    return marked(run, "composite") ? el("a", { class: "mark", href: `models/${encodeURIComponent(run.slug)}.html#judges`, "aria-label": `A judge of ${run.name} has drifted` }, "†") : null;
  }

  function outcome(file, place) {
    const [status, gold, predicted, problems] = [file.status[place], file.gold[place], file.predicted[place], file.problems[place]];
    const right = predicted === gold;
    const named = predicted === null ? "named no emotion" : right ? `named ${predicted}, as gold` : `named ${predicted}, gold is ${gold}`;
    return [
      status === "ok" ? null : el("p", { class: "low" }, inWords(status)),
      el("p", {}, `${right ? "✓" : "✗"} ${named}`),
      problems ? el("p", { class: "low" }, `Form: ${problems}`) : null,
    ].filter(Boolean);
  }

  function replyNodes(spans) {
    const raw = missing(spans.raw) ? null : el("details", {}, el("summary", {}, "As it came"), said(spans.raw));
    const shown = NAMES.some((name) => !missing(spans[name])) ? spanNodes(spans) : [];
    return [...shown, raw].filter(Boolean);
  }

  // The judge that a score belongs to: names may hold points, so the longest that fits.
  function judgeOf(key, judges) {
    return judges.filter((judge) => key.startsWith(`${judge}.`)).sort((a, b) => b.length - a.length)[0];
  }

  function verdicts(board, run, file, place) {
    const judges = Object.keys(file.verdicts);
    const said = (file.evidence && file.evidence[place]) || {};
    const rows = [scoreRow(board, run, "composite", file.composite[place], null)];
    for (const [key, scores] of Object.entries(file.scores)) {
      const judge = judgeOf(key, judges);
      const status = judge === undefined ? null : file.verdicts[judge][place];
      if (status === null && missing(scores[place])) continue;
      const words = judge === undefined ? null : own(own(said, judge), key.slice(judge.length + 1));
      rows.push(scoreRow(board, run, key, scores[place], status), evidenceRow(words));
    }
    const general = judges.flatMap((judge) => otherEvidence(file, said, judge));
    const head = el("thead", {}, el("tr", {}, el("th", { scope: "col" }, "Judged"), el("th", { scope: "col" }, "Score")));
    return el("div", {}, el("table", {}, head, el("tbody", {}, ...rows.filter(Boolean))), ...general);
  }

  function scoreRow(board, run, key, score, status) {
    const metric = board.metrics.find((one) => one.key === key);
    if (key === "composite" && !metric) return null;
    const scale = metric ? el("small", {}, ` ${metric.low}–${metric.high}`) : null;
    const shown = missing(score) ? `— ${status && status !== "ok" ? inWords(status) : ""}` : number(score, Number.isInteger(score) ? 0 : 2);
    return el("tr", {}, el("th", { scope: "row" }, metric ? metric.label : key, scale), el("td", missing(score) ? { class: "low" } : {}, shown, !missing(score) && marked(run, key) ? dagger() : null));
  }

  function evidenceRow(words) {
    return words ? el("tr", {}, el("td", { class: "evidence", colspan: "2", dir: "auto" }, words)) : null;
  }

  // What a judge said that belongs to no score of its own.
  function otherEvidence(file, said, judge) {
    return Object.entries(own(said, judge) || {})
      .filter(([about]) => !Object.hasOwn(file.scores, `${judge}.${about}`))
      .map(([about, words]) => el("p", { class: "evidence", dir: "auto" }, `${judge}${about ? `, ${about}` : ""}: ${words}`));
  }

  window.kardiabenchTurn = Object.freeze({ about, conversation, answer, placeOf, spansOf });
})();

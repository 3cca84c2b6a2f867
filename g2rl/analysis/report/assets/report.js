"use strict";
// The explorer of responses, and tables that sort. Every text of a model goes into the page by
// textContent, so nothing that it wrote is ever read as HTML.

// --- small things

const byId = (id) => document.getElementById(id);

function element(name, text, className) {
  const made = document.createElement(name);
  if (text !== undefined) made.textContent = text;
  if (className) made.className = className;
  return made;
}

function fill(select, options, value) {
  select.replaceChildren(...options.map(([key, label]) => {
    const option = element("option", label);
    option.value = key;
    return option;
  }));
  if (value !== undefined) select.value = String(value);
}

const LABELS = {
  reward: "reward", shaped_reward: "shaped", nu: "ν", nu_bar: "ν̄", advantage: "advantage",
  tokens: "tokens", entropy: "entropy", feature_norm: "‖Φ‖",
};
const labelOf = (name) => LABELS[name] ?? name.replaceAll("_", " ");

function shown(value) {
  if (value === null || value === undefined) return "–";
  return Number.isInteger(value) ? String(value) : value.toFixed(3);
}

// a text with the places where the query stands marked
function marked(text, query) {
  const parts = document.createDocumentFragment();
  const lower = text.toLowerCase();
  if (!query || lower.length !== text.length) {
    parts.append(text);
    return parts;
  }
  let from = 0;
  for (let at = lower.indexOf(query); at >= 0; at = lower.indexOf(query, from)) {
    parts.append(text.slice(from, at), element("mark", text.slice(at, at + query.length)));
    from = at + query.length;
  }
  parts.append(text.slice(from));
  return parts;
}

// missing values last, whichever way the others are sorted
function compare(one, other, descending) {
  const missing = (value) => value === null || value === undefined || value === "";
  if (missing(one) || missing(other)) return missing(one) - missing(other);
  const order = typeof one === "number" && typeof other === "number"
    ? one - other : String(one).localeCompare(String(other), "en", {numeric: true});
  return descending ? -order : order;
}

// --- tables that sort, and the search for a row

function sortable(table) {
  const headings = [...table.tHead.rows[0].cells];
  headings.forEach((heading, column) => {
    const button = element("button", heading.textContent);
    button.type = "button";
    heading.replaceChildren(button);
    button.addEventListener("click", () => {
      const descending = heading.getAttribute("aria-sort") === "ascending";
      const value = (row) => {
        const text = row.cells[column].textContent.trim();
        return text !== "" && !Number.isNaN(Number(text)) ? Number(text) : text;
      };
      const rows = [...table.tBodies[0].rows];
      rows.sort((one, other) => compare(value(one), value(other), descending));
      table.tBodies[0].append(...rows);
      headings.forEach((other) => other.removeAttribute("aria-sort"));
      heading.setAttribute("aria-sort", descending ? "descending" : "ascending");
    });
  });
}

document.querySelectorAll("table.sortable").forEach(sortable);
document.querySelectorAll("input.find-rows").forEach((input) => {
  input.addEventListener("input", () => {
    const query = input.value.toLowerCase();
    for (const row of input.closest("details").querySelectorAll("tbody tr")) {
      row.hidden = !row.textContent.toLowerCase().includes(query);
    }
  });
});

// --- the explorer

const PAGE_ROWS = 50;
const NUMBERED_CELLS = 16;  // the cosines of larger groups are colours only

class Explorer {
  constructor(runs) {
    this.runs = runs;
    this.place = {run: 0, step: 0, group: 0};
    this.page = 0;
    this.sorting = {key: "place", descending: false};
    this.listen();
    byId("run-choice").hidden = runs.length === 1;
    fill(byId("run"), runs.map((run, index) => [index, run.name]));
    const linked = /^#at=(\d+),(\d+),(\d+)$/.exec(location.hash);
    const first = Math.max(0, runs.findIndex((run) => run.steps.length));
    if (linked) this.open(...linked.slice(1).map(Number));
    else this.open(first, Infinity, 0);
    if (linked) byId("responses").scrollIntoView();
  }

  get run() { return this.runs[this.place.run]; }
  get step() { return this.run.steps[this.place.step]; }
  get group() { return this.step.groups[this.place.group]; }
  get query() { return byId("query").value.toLowerCase(); }
  get verdict() { return byId("verdict").value; }

  number(group, response, name) {
    const column = this.run.numbers.indexOf(name);
    return column < 0 || !group.numbers[column] ? null : group.numbers[column][response];
  }

  mean(group, name) {
    const values = group.correct.map((_, response) => this.number(group, response, name));
    if (values.some((value) => value === null)) return null;
    return values.reduce((sum, value) => sum + value, 0) / values.length;
  }

  // go to a place; what does not exist becomes the nearest that does
  open(run, step, group) {
    const near = (value, length) => Math.max(0, Math.min(value, length - 1));
    this.place.run = near(run, this.runs.length);
    byId("run").value = String(this.place.run);
    this.place.step = near(step, this.run.steps.length);
    if (this.run.steps.length) this.place.group = near(group, this.step.groups.length);
    this.showChoices();
    this.show();
  }

  showChoices() {
    const steps = this.run.steps.map((step, index) => [index, `step ${step.step}`]);
    if (byId("view").value === "list") steps.unshift(["", "all steps"]);
    const chosen = byId("view").value === "list" && byId("step").value === "" ? "" : this.place.step;
    fill(byId("step"), steps, chosen);
    const numbers = this.run.numbers.filter((name) => name !== "first_alike");
    fill(byId("order"), [["", "sampling"], ...numbers.map((name) => [name, labelOf(name)])], byId("order").value);
    const kept = this.run.steps.length;
    byId("kept").textContent = kept === this.run.stored
      ? `All ${kept} steps with stored responses are in this page.`
      : `${kept} of ${this.run.stored} steps with stored responses are in this page, at equal distances; g2rl-report --responses N takes more.`;
  }

  show() {
    const list = byId("view").value === "list";
    byId("list").hidden = !list;
    byId("groups").hidden = list;
    if (!this.run.steps.length) {
      byId("shown").textContent = "This run wrote no responses.";
      for (const id of ["prompt", "matrix", "cards", "list-body"]) byId(id).replaceChildren();
      return;
    }
    if (list) this.showList();
    else this.showGroup();
  }

  // --- one group

  matches(group, response, query) {
    if (this.verdict && group.correct[response] !== (this.verdict === "right")) return false;
    if (!query) return true;
    group.lower ??= group.completion.map((text, place) => `${text}\n${group.answer[place]}`.toLowerCase());
    group.lowerPrompt ??= `${group.prompt}\n${group.gold}\n${group.id}`.toLowerCase();
    return group.lower[response].includes(query) || group.lowerPrompt.includes(query);
  }

  matching(group) {
    const query = this.query;
    return group.correct.map((_, response) => response).filter((response) => this.matches(group, response, query));
  }

  // the groups of the step in the order that was asked for, those without a match left out
  groupChoices() {
    const rank = {
      place: (group, place) => place,
      right: (group) => group.correct.filter(Boolean).length,
      mixed: (group) => Math.abs(group.correct.filter(Boolean).length / group.correct.length - 0.5),
      nu: (group) => this.mean(group, "nu"),
    }[byId("group-order").value];
    const choices = this.step.groups.map((group, place) => ({place, group, rank: rank(group, place)}));
    return choices.filter(({group}) => this.matching(group).length)
      .sort((one, other) => compare(one.rank, other.rank, false) || one.place - other.place);
  }

  showGroup() {
    const choices = this.groupChoices();
    fill(byId("group"), choices.map(({place, group}) => {
      const right = group.correct.filter(Boolean).length;
      const nu = this.mean(group, "nu");
      const about = nu === null ? "" : ` · ν ${nu.toFixed(2)}`;
      return [place, `${right}/${group.correct.length} right${about} · ${group.prompt.slice(0, 70)}`];
    }));
    if (!choices.length) {
      for (const id of ["prompt", "matrix", "cards"]) byId(id).replaceChildren();
      byId("shown").textContent = "No response of this step fits the verdict and the search; the view “all responses” looks through all steps.";
      return;
    }
    if (!choices.some(({place}) => place === this.place.group)) this.place.group = choices[0].place;
    byId("group").value = String(this.place.group);
    this.groupOrder = choices.map(({place}) => place);
    const at = this.groupOrder.indexOf(this.place.group);
    byId("group-back").disabled = at <= 0;
    byId("group-on").disabled = at >= choices.length - 1;
    byId("step-back").disabled = this.place.step === 0;
    byId("step-on").disabled = this.place.step === this.run.steps.length - 1;
    this.showPrompt();
    this.showMatrix();
    this.showCards();
    this.remember();
  }

  remember() {
    const {run, step, group} = this.place;
    this.link = `#at=${run},${step},${group}`;
  }

  showPrompt() {
    const group = this.group;
    const right = group.correct.filter(Boolean).length;
    const text = element("pre");
    text.append(marked(group.prompt, this.query));
    const facts = [`problem ${group.id}`, `${right} of ${group.correct.length} right`];
    if (group.gold) facts.push(`wanted: ${group.gold}`);
    const nu = this.mean(group, "nu");
    if (nu !== null) facts.push(`mean ν ${nu.toFixed(3)}`);
    const about = element("p", facts.join(" · "), "note");
    const link = element("a", "link to this group");
    link.href = `#at=${this.place.run},${this.place.step},${this.place.group}`;
    about.append(" · ", link);
    byId("prompt").replaceChildren(text, about);
  }

  responseOrder() {
    const name = byId("order").value;
    const responses = this.matching(this.group);
    if (!name) return byId("descending").checked ? responses.reverse() : responses;
    const value = (response) => this.number(this.group, response, name);
    return responses.sort((one, other) => compare(value(one), value(other), byId("descending").checked) || one - other);
  }

  showCards() {
    const group = this.group;
    const order = this.responseOrder();
    byId("shown").textContent = order.length === group.correct.length
      ? `All ${order.length} responses of the group` : `${order.length} of ${group.correct.length} responses fit the verdict and the search`;
    byId("cards").replaceChildren(...order.map((response) => this.card(group, response)));
  }

  card(group, response) {
    const right = group.correct[response];
    const card = element("li", undefined, right ? "right" : "wrong");
    card.dataset.response = response;
    const head = element("h4", `#${response}`);
    head.append(element("span", right ? "✓ right" : "✗ wrong", right ? "verdict-right" : "verdict-wrong"));
    const alike = this.number(group, response, "first_alike");
    if (alike !== null && alike !== response) head.append(element("span", `same tokens as #${alike}`, "note"));
    if (group.finish[response] && group.finish[response] !== "stop") head.append(element("span", `ended by ${group.finish[response]}`, "note"));
    const numbers = element("dl");
    const entries = this.run.numbers.filter((name) => name !== "first_alike")
      .map((name) => [labelOf(name), this.number(group, response, name)])
      .filter(([, value]) => value !== null).map(([label, value]) => [label, shown(value)]);
    if (group.answer[response]) entries.push(["answer", group.answer[response]]);
    for (const [label, value] of entries) {
      const pair = element("div");
      pair.append(element("dt", label), element("dd", value));
      numbers.append(pair);
    }
    const text = element("pre");
    if (group.completion[response]) text.append(marked(group.completion[response], this.query));
    else text.append(element("span", "(empty)", "note"));
    card.append(head, numbers, text);
    return card;
  }

  // --- the cosines of a group

  cosine(group, one, other) {
    if (one === other) return 100;
    const [low, high] = one < other ? [one, other] : [other, one];
    const size = group.correct.length;
    return group.cosines[low * size - low * (low + 1) / 2 + high - low - 1];
  }

  showMatrix() {
    const group = this.group;
    if (!group.cosines) {
      byId("matrix").replaceChildren(element("p", "This step stored no cosines: train with exploration.observe=[g2rl] to have them.", "note"));
      return;
    }
    const size = group.correct.length;
    const table = element("table", undefined, size > NUMBERED_CELLS ? "many" : "");
    table.setAttribute("aria-label", "cosines S");
    const about = element("p", "S, the cosine of the gradient features of two responses: ", "note");
    const readout = element("strong", "point at a cell, or walk with the arrow keys");
    readout.setAttribute("aria-live", "polite");
    about.append(readout);
    const names = [...Array(size).keys()];
    const heading = (response, scope) => {
      const cell = element("th", String(response), group.correct[response] ? "right" : "wrong");
      cell.scope = scope;
      return cell;
    };
    const head = element("tr");
    head.append(element("td", ""), ...names.map((name) => heading(name, "col")));
    table.createTHead().append(head);
    const body = table.createTBody();
    for (const one of names) {
      const row = element("tr");
      row.append(heading(one, "row"), ...names.map((other) => this.cell(group, one, other)));
      body.append(row);
    }
    body.rows[0].cells[1].tabIndex = 0;
    const tell = (event) => this.tell(event.target.closest("td"), readout);
    body.addEventListener("focusin", tell);
    body.addEventListener("mouseover", tell);
    body.addEventListener("mouseleave", () => this.light([]));
    body.addEventListener("keydown", (event) => this.walk(event, body));
    const frame = element("div", undefined, "scroll");
    frame.append(table);
    byId("matrix").replaceChildren(about, frame);
  }

  cell(group, one, other) {
    const value = this.cosine(group, one, other);
    const itself = one === other;
    const text = itself ? "·" : (value / 100).toFixed(2);
    const cell = element("td", group.correct.length > NUMBERED_CELLS ? "" : text);
    cell.style.setProperty("--hue", value < 0 ? "var(--negative)" : "var(--positive)");
    cell.style.setProperty("--size", itself ? "0" : String(Math.abs(value) / 100));
    cell.tabIndex = -1;
    cell.dataset.pair = `${one},${other}`;
    return cell;
  }

  tell(cell, readout) {
    if (!cell || !cell.dataset.pair) return;
    const [one, other] = cell.dataset.pair.split(",").map(Number);
    const value = this.cosine(this.group, one, other) / 100;
    readout.textContent = `#${one} and #${other}: ${value < 0 ? "−" : "+"}${Math.abs(value).toFixed(2)}`;
    this.light([one, other]);
  }

  light(responses) {
    for (const card of byId("cards").children) {
      card.classList.toggle("lit", responses.includes(Number(card.dataset.response)));
    }
  }

  walk(event, body) {
    const moves = {ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1]};
    const move = moves[event.key];
    const cell = event.target.closest("td");
    if (!move || !cell) return;
    const next = body.rows[cell.parentNode.sectionRowIndex + move[0]]?.cells[cell.cellIndex + move[1]];
    if (!next || !next.dataset.pair) return;
    event.preventDefault();
    cell.tabIndex = -1;
    next.tabIndex = 0;
    next.focus();
  }

  // --- all responses

  records() {
    const chosen = byId("step").value;
    const steps = chosen === "" ? this.run.steps.map((_, index) => index) : [Number(chosen)];
    const query = this.query;
    const records = [];
    for (const step of steps) {
      this.run.steps[step].groups.forEach((group, place) => {
        group.correct.forEach((_, response) => {
          if (this.matches(group, response, query)) records.push({step, place, response, group, index: records.length});
        });
      });
    }
    const value = this.sortingValue();
    const {descending} = this.sorting;
    return records.sort((one, other) => compare(value(one), value(other), descending) || one.index - other.index);
  }

  sortingValue() {
    const key = this.sorting.key;
    const special = {
      place: (record) => record.index,
      prompt: (record) => record.group.prompt,
      verdict: (record) => Number(record.group.correct[record.response]),
      response: (record) => record.group.completion[record.response],
    };
    return special[key] ?? ((record) => this.number(record.group, record.response, key));
  }

  showList() {
    const numbers = this.run.numbers.filter((name) => name !== "first_alike");
    const headings = [["place", "step"], ["prompt", "prompt"], ["verdict", "verdict"],
      ...numbers.map((name) => [name, labelOf(name)]), ["response", "response"]];
    const head = element("tr");
    for (const [key, label] of headings) {
      const cell = element("th");
      cell.scope = "col";
      if (key === this.sorting.key) cell.setAttribute("aria-sort", this.sorting.descending ? "descending" : "ascending");
      const button = element("button", label);
      button.type = "button";
      button.addEventListener("click", () => {
        const again = this.sorting.key === key;
        this.sorting = {key, descending: again && !this.sorting.descending};
        this.page = 0;
        this.showList();
        [...byId("list-head").querySelectorAll("button")].find((other) => other.textContent === label).focus();
      });
      cell.append(button);
      head.append(cell);
    }
    byId("list-head").replaceChildren(head);

    // one page of rows, however many there are
    const records = this.records();
    const pages = Math.max(1, Math.ceil(records.length / PAGE_ROWS));
    this.page = Math.max(0, Math.min(this.page, pages - 1));
    const rows = records.slice(this.page * PAGE_ROWS, (this.page + 1) * PAGE_ROWS);
    byId("list-body").replaceChildren(...rows.map((record) => this.row(record, numbers)));
    byId("found").textContent = `${records.length.toLocaleString("en")} ${records.length === 1 ? "response" : "responses"}.`;
    byId("page").textContent = `page ${this.page + 1} of ${pages}`;
    byId("page-back").disabled = this.page === 0;
    byId("page-on").disabled = this.page === pages - 1;
    byId("step-back").disabled = byId("step-on").disabled = true;
  }

  row({step, place, response, group}, numbers) {
    const right = group.correct[response];
    const row = element("tr");
    const opener = element("button", `${this.run.steps[step].step}, #${response}`);
    opener.type = "button";
    opener.title = "Open the group of this response";
    const first = element("td");
    first.append(opener);
    const text = element("td", undefined, "text");
    text.append(marked(group.completion[response].slice(0, 300), this.query));
    row.append(first, element("td", group.prompt.slice(0, 40)),
      element("td", right ? "✓ right" : "✗ wrong", right ? "verdict-right" : "verdict-wrong"),
      ...numbers.map((name) => element("td", shown(this.number(group, response, name)))), text);
    row.addEventListener("click", () => {
      byId("view").value = "groups";
      this.open(this.place.run, step, place);
      byId("cards").querySelector(`[data-response="${response}"]`)?.classList.add("lit");
      byId("explorer").scrollIntoView();
      byId("group").focus({preventScroll: true});
    });
    return row;
  }

  // --- what the controls do

  listen() {
    const on = (id, kind, action) => byId(id).addEventListener(kind, action);
    on("run", "change", () => this.open(Number(byId("run").value), Infinity, 0));
    on("view", "change", () => {
      if (byId("view").value === "list") fill(byId("step"), [["", "all steps"]], "");
      this.page = 0;
      this.showChoices();
      this.show();
    });
    on("step", "change", () => {
      this.page = 0;
      if (byId("step").value === "") this.show();
      else this.open(this.place.run, Number(byId("step").value), this.place.group);
    });
    on("group", "change", () => this.open(this.place.run, this.place.step, Number(byId("group").value)));
    for (const id of ["group-order", "order", "descending"]) on(id, "change", () => this.show());
    on("verdict", "change", () => { this.page = 0; this.show(); });
    let waiting;
    on("query", "input", () => {
      clearTimeout(waiting);
      waiting = setTimeout(() => { this.page = 0; this.show(); }, 150);
    });
    on("step-back", "click", () => this.moveStep(-1));
    on("step-on", "click", () => this.moveStep(1));
    on("group-back", "click", () => this.moveGroup(-1));
    on("group-on", "click", () => this.moveGroup(1));
    on("page-back", "click", () => { this.page -= 1; this.showList(); });
    on("page-on", "click", () => { this.page += 1; this.showList(); });
    document.addEventListener("keydown", (event) => this.press(event));
    window.addEventListener("hashchange", () => {
      const linked = /^#at=(\d+),(\d+),(\d+)$/.exec(location.hash);
      if (linked) this.open(...linked.slice(1).map(Number));
    });
  }

  moveStep(by) {
    if (byId("view").value === "groups") this.open(this.place.run, this.place.step + by, this.place.group);
  }

  moveGroup(by) {
    const next = (this.groupOrder ?? [])[(this.groupOrder ?? []).indexOf(this.place.group) + by];
    if (next !== undefined) this.open(this.place.run, this.place.step, next);
  }

  press(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.target.closest("input, select, textarea") || byId("view").value !== "groups") return;
    const moves = {"[": () => this.moveStep(-1), "]": () => this.moveStep(1), k: () => this.moveGroup(-1), j: () => this.moveGroup(1)};
    moves[event.key]?.();
  }
}

async function unpacked() {
  const bytes = Uint8Array.from(atob(byId("data").textContent), (letter) => letter.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return JSON.parse(await new Response(stream).text());
}

async function begin() {
  const frame = byId("explorer");
  if (!frame) return;
  try {
    const data = await unpacked();
    new Explorer(data.runs);
    frame.hidden = false;
  } catch (error) {
    frame.replaceWith(element("p", `The responses cannot be shown (${error.message}). A browser of 2023 or later shows them.`, "warning"));
    throw error;
  }
}

begin();

"use strict";
// The page is whole without this script, but for the browser of rows. Its state is in the address
// after '#', so that a view can be sent to somebody, and tested. Texts of rows are only ever set as
// textContent.
(() => {
  const byId = (id) => document.getElementById(id);
  const DEFAULTS = {
    tab: "results", theme: "auto", sort: "", desc: "", filter: "",
    model: "", dataset: "", template: "", show: "all", text: "",
  };
  const TABS = ["results", "figures", "rows", "runs"];
  const THEMES = ["auto", "light", "dark"];
  const ROWS_AT_A_TIME = 25;
  const state = { ...DEFAULTS };
  let shownRows = ROWS_AT_A_TIME;

  // The address.

  function readAddress() {
    const given = new URLSearchParams(location.hash.slice(1));
    for (const name of Object.keys(DEFAULTS)) state[name] = given.get(name) ?? DEFAULTS[name];
    const plain = location.hash.slice(1);
    if (TABS.includes(plain)) state.tab = plain;
    if (!TABS.includes(state.tab)) state.tab = DEFAULTS.tab;
    if (!THEMES.includes(state.theme)) state.theme = DEFAULTS.theme;
  }

  function set(changes) {
    Object.assign(state, changes);
    const kept = Object.entries(state).filter(([name, value]) => value !== DEFAULTS[name]);
    const hash = new URLSearchParams(kept).toString();
    history.replaceState(null, "", hash ? `#${hash}` : location.pathname + location.search);
    draw();
  }

  // Small pieces of HTML; `text` is never read as markup.

  function element(tag, attributes = {}, ...children) {
    const node = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
    node.append(...children);
    return node;
  }

  function fill(select, choices, chosen) {
    select.replaceChildren(...choices.map(([value, text]) => {
      const option = element("option", { value });
      option.textContent = text;
      return option;
    }));
    select.value = chosen;
    select.disabled = choices.length < 2;
  }

  // The table of results.

  const table = byId("results-table");
  const headings = [...table.tHead.rows[0].cells];
  const lines = [...table.tBodies[0].rows];
  // What a word of the filter finds; the names of templates are in the title of the ticks.
  const textOf = new Map(lines.map((line) => [line, [...line.cells]
    .filter((cell) => !cell.classList.contains("each"))
    .map((cell) => cell.textContent).join("\n").toLowerCase()]));
  const cellOf = (line, key) => line.cells[headings.findIndex((th) => th.dataset.key === key)];

  function valueOf(line, key) {
    const cell = cellOf(line, key);
    const isText = headings[cell.cellIndex].classList.contains("text");
    if (isText) return cell.textContent.toLowerCase();
    return cell.dataset.value === undefined ? null : Number(cell.dataset.value);
  }

  function compareValues(a, b) {
    return typeof a === "string" ? a.localeCompare(b) : a - b;
  }

  const CONDITION = /^(\w+)(<=|>=|<|>|=)(.+)$/;
  const HOLDS = {
    "<": (a, b) => a < b, ">": (a, b) => a > b, "<=": (a, b) => a <= b, ">=": (a, b) => a >= b,
    "=": (a, b) => a === b,
  };

  // A condition is a word, -word, or COLUMN and a comparison.
  function fulfills(line, word) {
    if (word.startsWith("-") && word.length > 1) return !fulfills(line, word.slice(1));
    const [, key, sign, wanted] = CONDITION.exec(word) ?? [];
    if (!key) return textOf.get(line).includes(word);
    if (!headings.some((th) => th.dataset.key === key)) return false;
    const value = valueOf(line, key);
    if (value === null) return false;
    if (typeof value === "string") return sign === "=" && value.includes(wanted);
    return HOLDS[sign](value, Number(wanted));
  }

  function drawTable() {
    const words = state.filter.toLowerCase().split(/\s+/).filter(Boolean);
    let count = 0;
    for (const line of lines) {
      line.hidden = !words.every((word) => fulfills(line, word));
      count += !line.hidden;
    }
    const sorted = [...lines];
    if (headings.some((th) => th.dataset.key === state.sort)) {
      const sign = state.desc ? -1 : 1;
      sorted.sort((one, other) => {
        const [a, b] = [valueOf(one, state.sort), valueOf(other, state.sort)];
        if (a === null || b === null) return (a === null) - (b === null); // the last, either way
        return sign * compareValues(a, b);
      });
    }
    table.tBodies[0].append(...sorted);
    for (const th of headings) {
      th.removeAttribute("aria-sort");
      if (th.dataset.key === state.sort) {
        th.setAttribute("aria-sort", state.desc ? "descending" : "ascending");
      }
    }
    const unknown = words.map((word) => CONDITION.exec(word)?.[1])
      .filter((key) => key && !headings.some((th) => th.dataset.key === key));
    byId("results-count").textContent = `${count} of ${lines.length} lines`
      + (unknown.length ? `; no column ${unknown.join(", ")}: there are `
        + headings.map((th) => th.dataset.key).filter((key) => key !== "each").join(", ") : "");
    if (document.activeElement !== byId("filter")) byId("filter").value = state.filter;
    byId("sort").value = state.sort;
    byId("descending").checked = Boolean(state.desc);
  }

  function sortBy(key) {
    // Numbers begin with the largest; a second time turns the order round.
    const isNumber = headings.find((th) => th.dataset.key === key).classList.contains("number");
    const desc = state.sort === key ? !state.desc : isNumber;
    set({ sort: key, desc: desc ? "1" : "" });
  }

  function makeTableControls() {
    const sortable = headings.filter((th) => th.dataset.unsorted === undefined);
    for (const th of sortable) {
      const button = element("button", { type: "button" });
      button.textContent = th.textContent;
      button.addEventListener("click", () => sortBy(th.dataset.key));
      th.replaceChildren(button);
    }
    const choices = sortable.map((th) => [th.dataset.key, th.textContent]);
    fill(byId("sort"), [["", "as in the report"], ...choices], "");
    byId("sort").addEventListener("change", (event) => set({ sort: event.target.value }));
    byId("descending").addEventListener("change", (event) => {
      set({ desc: event.target.checked ? "1" : "" });
    });
    byId("filter").addEventListener("input", (event) => set({ filter: event.target.value }));
  }

  // The browser of rows.

  const data = JSON.parse(byId("rows-data").textContent);
  const runsOf = (model) => data.tasks.flatMap((task) => task.runs
    .filter((run) => run.model === model).map((run) => ({ task, run })));
  const nameOf = (task) => task.dataset + (task.split === "test" ? "" : ` (${task.split})`);

  function chosen(names, wanted) {
    return names.includes(wanted) ? wanted : names[0];
  }

  // What the selects choose, each among what the one before it leaves.
  function chosenRuns() {
    const labels = data.models.map((model, number) => data.models
      .findIndex((other) => other.label === model.label) === number
      ? model.label : `${model.label} (${model.directory})`);
    const label = chosen(labels, state.model);
    const ofModel = runsOf(labels.indexOf(label));
    const datasets = [...new Set(ofModel.map(({ task }) => nameOf(task)))];
    const dataset = chosen(datasets, state.dataset);
    const ofDataset = ofModel.filter(({ task }) => nameOf(task) === dataset);
    const templates = ["all templates", ...ofDataset.map(({ task }) => task.template)];
    const template = templates.includes(state.template) ? state.template : templates[1];
    fill(byId("model"), labels.map((name) => [name, name]), label);
    fill(byId("dataset"), datasets.map((name) => [name, name]), dataset);
    fill(byId("template"), templates.map((name) => [name, name]), template);
    const isAll = template === templates[0];
    return ofDataset.filter(({ task }) => isAll || task.template === template);
  }

  const SHOWS = {
    all: () => true,
    worse: (tuned, untuned) => untuned && tuned.s < untuned.s,
    better: (tuned, untuned) => untuned && tuned.s > untuned.s,
    wrong: (tuned) => tuned.s < 100,
  };

  function textsOf(row, tuned, untuned) {
    return [row.row, row.prompt, row.answer, ...(row.options ?? []), ...(row.references ?? []),
      row.group ?? "", tuned.t ?? "", untuned?.t ?? ""].join("\n").toLowerCase();
  }

  function matchingRows(runs) {
    const shows = SHOWS[state.show] ?? SHOWS.all;
    const wanted = state.text.toLowerCase();
    return runs.flatMap(({ task, run }) => task.rows.flatMap((row, number) => {
      const tuned = run.tuned[number];
      const untuned = run.untuned?.[number] ?? null;
      const matches = tuned && shows(tuned, untuned)
        && textsOf(row, tuned, untuned).includes(wanted);
      return matches ? [{ task, run, row, tuned, untuned }] : [];
    }));
  }

  function drawRows() {
    byId("show").value = state.show in SHOWS ? state.show : "all";
    if (document.activeElement !== byId("text")) byId("text").value = state.text;
    if (!data.tasks.length) {
      byId("rows-count").textContent = "There are no predictions beside the results.";
      return;
    }
    const runs = chosenRuns();
    const found = matchingRows(runs);
    byId("rows-count").replaceChildren(...countText(runs, found.length));
    byId("cards").replaceChildren(...found.slice(0, shownRows).map(card));
    byId("more").hidden = found.length <= shownRows;
  }

  function countText(runs, matching) {
    const counted = (number) => number.toLocaleString("en");
    const sum = (number) => runs.reduce((total, each) => total + number(each), 0);
    const total = sum(({ run }) => run.total);
    const here = sum(({ task, run }) => task.rows.filter((_, number) => run.tuned[number]).length);
    const hasUntuned = runs.some(({ run }) => run.untuned);
    const [better, worse] = ["better", "worse"].map((name) => sum(({ run }) => run.counts[name]));
    const changes = hasUntuned
      ? `tuning made ${counted(better)} right or better and ${counted(worse)} wrong or worse`
      : "the untuned model has no predictions here";
    const which = runs.length === 1 ? "this template" : "these templates";
    const text = `${counted(matching)} rows shown. Of all ${counted(total)} rows in ${which} `
      + `${counted(sum(({ run }) => run.counts.wrong))} are not fully right; ${changes}.`;
    if (here === total) return [text];
    const place = element("code");
    const { directory } = data.models[runs[0].run.model];
    const { task } = runs[0];
    const file = runs.length === 1 ? task.template : "*";
    place.textContent = `${directory}/${task.dataset}.${task.split}.${file}.jsonl`;
    return [`${text} This page has ${counted(here)} of the ${counted(total)}: by turns rows that `
      + "tuning changed and others, drawn by a hash of their ids. All are in ", place, "."];
  }

  function card({ task, run, row, tuned, untuned }) {
    const title = element("h3");
    title.textContent = [row.row, task.template].join(" · ")
      + (row.group === undefined ? "" : ` · group ${row.group}`);
    const verdicts = element("div", { class: "verdicts" }, verdict("tuned", tuned));
    if (untuned) verdicts.append(verdict("untuned", untuned));
    return element("article", { class: "card" }, element("header", {}, title, verdicts),
      ...prompts(run, row, untuned),
      row.options ? optionBars(row, tuned, untuned) : saidTexts(row, tuned, untuned));
  }

  function prompts(run, row, untuned) {
    const box = (text) => {
      const node = element("div", { class: "prompt", dir: "auto", tabindex: "0" });
      node.textContent = text;
      return node;
    };
    if (untuned?.q === undefined) return [box(row.prompt)];
    const summary = element("summary");
    const setting = run.untuned_setting ? ` (${run.untuned_setting})` : "";
    summary.textContent = `The untuned model had another prompt${setting}`;
    return [box(row.prompt), element("details", {}, summary, box(untuned.q))];
  }

  function verdict(name, prediction) {
    const kind = prediction.s >= 100 ? "better" : prediction.s <= 0 ? "worse" : "";
    const mark = { better: "✓", worse: "✗" }[kind] ?? `${prediction.s.toFixed(1)} %`;
    const node = element("span", { class: kind });
    node.textContent = `${mark} ${name}`;
    return node;
  }

  function isTarget(row, option) {
    return (row.references ?? [row.answer]).includes(option);
  }

  function optionBars(row, tuned, untuned) {
    const models = [["tuned", tuned], ...(untuned ? [["untuned", untuned]] : [])];
    const grid = element("div", { class: untuned ? "answers" : "answers alone" });
    const titles = models.map(([name]) => `${name}: log-probability, share; \u25cf chosen`);
    const heads = ["option", ...titles];
    for (const text of heads) {
      const head = element("div", { class: "head" });
      head.textContent = text;
      grid.append(head);
    }
    row.options.forEach((option, number) => {
      const name = element("div", { class: "option", dir: "auto" });
      name.textContent = option;
      if (isTarget(row, option)) {
        name.classList.add("target");
        const tag = element("span", { class: "tag" });
        tag.textContent = "target";
        name.append(tag);
      }
      grid.append(name, ...models.map(([model, prediction]) => bar(model, prediction, number)));
    });
    return grid;
  }

  function bar(model, prediction, number) {
    const best = Math.max(...prediction.p);
    const parts = prediction.p.map((score) => Math.exp(score - best));
    const share = 100 * parts[number] / parts.reduce((a, b) => a + b, 0);
    const isChosen = prediction.c === number;
    const node = element("div", { class: `bar ${model}${isChosen ? " chosen" : ""}` });
    node.style.setProperty("--share", `${share.toFixed(1)}%`);
    const score = element("span");
    score.textContent = (isChosen ? "\u25cf " : "")
      + prediction.p[number].toFixed(2).replace("-", "\u2212");
    const percent = element("span");
    percent.textContent = `${share.toFixed(0)} %`;
    node.append(score, percent);
    return node;
  }

  function saidTexts(row, tuned, untuned) {
    const list = element("dl", { class: "said" });
    const add = (name, text) => {
      const [term, description] = [element("dt"), element("dd", { dir: "auto" })];
      [term.textContent, description.textContent] = [name, text];
      list.append(term, description);
    };
    const said = (prediction) => prediction.t + (prediction.cut ? " … (length limit)" : "");
    add("tuned", said(tuned));
    if (untuned) add("untuned", said(untuned));
    for (const text of row.references ?? [row.answer]) add("target", text);
    return list;
  }

  function makeRowControls() {
    for (const name of ["model", "dataset", "template", "show"]) {
      byId(name).addEventListener("change", (event) => {
        shownRows = ROWS_AT_A_TIME;
        set({ [name]: event.target.value });
      });
    }
    byId("text").addEventListener("input", (event) => {
      shownRows = ROWS_AT_A_TIME;
      set({ text: event.target.value });
    });
    byId("more").addEventListener("click", () => {
      shownRows += ROWS_AT_A_TIME;
      drawRows();
    });
  }

  // The whole.

  function draw() {
    for (const tab of TABS) byId(tab).classList.toggle("current", tab === state.tab);
    for (const link of document.querySelectorAll("nav a")) {
      if (link.dataset.tab === state.tab) link.setAttribute("aria-current", "page");
      else link.removeAttribute("aria-current");
    }
    if (state.theme === "auto") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = state.theme;
    byId("theme").textContent = `Theme: ${state.theme}`;
    drawTable();
    drawRows();
  }

  readAddress();
  makeTableControls();
  makeRowControls();
  for (const link of document.querySelectorAll("nav a")) {
    link.addEventListener("click", (event) => {
      event.preventDefault();
      set({ tab: link.dataset.tab });
    });
  }
  document.querySelector(".skip").addEventListener("click", (event) => {
    event.preventDefault();
    byId("main").focus();
  });
  byId("theme").addEventListener("click", () => {
    set({ theme: THEMES[(THEMES.indexOf(state.theme) + 1) % THEMES.length] });
  });
  addEventListener("hashchange", () => {
    readAddress();
    draw();
  });
  draw();
  document.body.classList.add("js");
  document.body.dataset.ready = "1";
})();

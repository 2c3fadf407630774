// The page of a server: what is drawn, redrawn and measured there.
"use strict";

const find = (id) => document.getElementById(id);
const columns = [];
let models = [], stopping = null, asked = 0;

const player = new Player(find("player"), () => columns.flatMap((column) => column.views), (mode) => {
  if (mode === "bits") attempt(measure);
});

function say(text) { find("status").textContent = text; }

function fail(error) {
  if (error.name === "AbortError") { say("Stopped."); return; }
  find("error").textContent = error.message;
}

async function attempt(act) {
  find("error").textContent = "";
  try { await act(); } catch (error) { fail(error); }
}

async function call(path, body, signal) {
  const key = find("key").value, headers = { "Content-Type": "application/json" };
  if (key) headers.Authorization = `Bearer ${key}`;
  const how = body ? { method: "POST", body: JSON.stringify(body), headers, signal } : { headers };
  let answer;
  try { answer = await fetch(path, how); } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error("the server does not answer: is it still running?");
  }
  if (answer.ok) return answer;
  find("secret").hidden = find("secret").hidden && answer.status !== 401;
  const said = await answer.json().catch(() => ({}));
  throw new Error(said.error ?? `the server answered ${answer.status}`);
}

async function stream(path, body, signal, take) {
  const reader = (await call(path, { ...body, stream: true }, signal)).body.getReader(), decoder = new TextDecoder();
  let rest = "", ended = false;
  for (;;) {
    const { done, value } = await reader.read();
    if (done) break;
    const lines = (rest + decoder.decode(value, { stream: true })).split("\n");
    rest = lines.pop();
    for (const line of lines) {
      const event = JSON.parse(line);
      if (event.event === "error") throw new Error(event.message);
      ended = ended || event.event === "end";
      take(event);
    }
  }
  if (!ended) throw new Error("the server stopped in the middle");
}

// A column: a model and a sampler, and what they drew.
class Column {
  constructor() {
    this.views = [];
    const choices = make("div", { className: "row" });
    const choice = (label, act) => {
      const select = make("select", { onchange: act });
      choices.append(make("label", {}, label, select));
      return select;
    };
    this.element = make("fieldset", { className: "column" });
    this.legend = make("legend", {});
    this.element.append(this.legend, choices);
    this.model = choice("Model ", () => this.chooseModel());
    this.model.append(...models.map((one) => make("option", { value: one.name, textContent: one.name })));
    this.sampler = choice("Sampler ", () => this.chooseSampler());
    this.settings = make("div", { className: "settings" });
    this.note = make("p", { className: "note", hidden: true });
    this.output = make("div", {});
    const button = (label, act) => make("button", { type: "button", textContent: label, onclick: () => attempt(act) });
    this.remove = button("Remove the column", () => removeColumn(this));
    this.element.append(
      make("details", {}, make("summary", { textContent: "Settings" }), this.settings), this.note, this.output,
      make("div", { className: "row" },
        button("Redraw", () => redraw(this)), button("Unmark", () => this.unmark()),
        button("Save", () => save(this)), this.remove));
    this.chooseModel();
  }

  get about() { return models.find((one) => one.name === this.model.value); }

  chooseModel() {
    const names = Object.keys(this.about.samplers), own = this.about.sampler.split("(")[0];
    this.sampler.replaceChildren(...names.map((name) => make("option", { value: name, textContent: name, selected: name === own })));
    this.note.textContent = this.about.note ?? (this.about.answers ? "this model answers prompts: give a text" : "");
    this.note.hidden = !this.note.textContent;
    this.chooseSampler();
    renew();
  }

  chooseSampler() {
    const rows = this.about.samplers[this.sampler.value].map((one) => {
      let input;
      if (one.kind === "flag") input = make("input", { type: "checkbox", checked: one.default });
      else if (one.choices) {
        input = make("select", {}, ...one.choices.map((value) => make("option", { value: JSON.stringify(value), textContent: value, selected: value === one.default })));
      } else {
        const number = one.kind === "whole" || one.kind === "number";
        input = make("input", { type: number ? "number" : "text", placeholder: one.default ?? "none", step: "any" });
      }
      input.dataset.name = one.name;
      input.dataset.kind = one.kind;
      return make("label", { className: one.kind === "flag" ? "flag" : "" }, one.name, input);
    });
    this.settings.replaceChildren(...rows);
  }

  // The sampler as the API takes it: settings that are not as they are by default.
  chosen() {
    const found = { class: this.sampler.value };
    for (const one of this.about.samplers[this.sampler.value]) {
      const input = this.settings.querySelector(`[data-name="${one.name}"]`);
      let value = input.value;
      if (one.kind === "flag") value = input.checked;
      else if (one.choices) value = JSON.parse(value);
      else if (value === "") continue;
      else if (one.kind === "list") value = value.split(",").map(Number);
      else if (one.kind !== "text") value = Number(value);
      if (value !== one.default) found[one.name] = value;
    }
    return found;
  }

  unmark() {
    for (const view of this.views) { view.film.marks.clear(); view.draw(); }
  }

  // Take the events of a request; the film of each of its examples is put in the place of a view, or a new one.
  receiver(places) {
    let films = [], start;
    return (event) => {
      if (event.event === "start") {
        start = { ...event, symbols: event.symbols ?? {} };
        films = start.canvas.map((_, example) => new Film(start, example));
        for (const [example, film] of films.entries()) {
          const old = places?.[example], number = old ? old.number : example + 1;
          if (old) film.given = old.film.given;
          const view = new View(film, number, alternatives);
          view.mode = player.mode.value;
          if (old) { old.element.replaceWith(view.element); this.views[this.views.indexOf(old)] = view; }
          else { this.output.append(view.element); this.views.push(view); }
        }
      } else if (event.event === "step") {
        Object.assign(start.symbols, event.symbols);
        for (const [example, film] of films.entries()) {
          const changes = event.changed.filter((one) => one[0] === example).map(([, ...rest]) => rest);
          if (changes.length) film.add(changes, event.t[example], event.calls[example]);
        }
      }
      if (event.note) say(event.note);
      player.update(event.event !== "end" || player.live);
    };
  }
}

function renew() {
  for (const [i, column] of columns.entries()) {
    column.legend.textContent = `Column ${i + 1}`;
    column.remove.hidden = columns.length === 1;
  }
  find("add").disabled = columns.length >= 4;
  const first = columns[0]?.about;
  if (!first) return;
  const labels = first.labels ?? [], kept = find("label").value;
  find("class").hidden = !labels.length;
  find("label").replaceChildren(make("option", { value: "", textContent: "any" }), ...labels.map((one) => make("option", { value: one, textContent: one })));
  if (labels.includes(kept)) find("label").value = kept;
  find("prompt").hidden = first.kind !== "text";
}

function addColumn() {
  const column = new Column();
  columns.push(column);
  find("columns").append(column.element);
  renew();
  return column;
}

function removeColumn(column) {
  columns.splice(columns.indexOf(column), 1);
  column.element.remove();
  renew();
  player.update(player.live);
}

// Do something that can be stopped, with the player running.
async function working(what, act) {
  if (stopping) stopping.abort();
  const mine = (stopping = new AbortController());
  find("stop").disabled = false;
  const began = performance.now();
  say(what);
  player.live = true;
  try {
    player.play(true);
    await act(mine.signal);
    say(`Done in ${((performance.now() - began) / 1000).toFixed(2)} s.`);
  } finally {
    if (stopping === mine) {
      stopping = null;
      find("stop").disabled = true;
      player.update(false);
    }
  }
  if (player.mode.value === "bits") await measure();
}

const seed = () => Number(find("seed").value);

async function draw() {
  const text = find("text").value, label = find("label").value || null, n = Number(find("count").value);
  const requests = columns.map((column) => {
    const known = text && column.about.kind === "text";
    const prefix = column.about.finds_length ? { prefix: text } : { prefix: text, unknown: "rest" };
    const shape = /\[\d+(-\d+)?\]|_/.test(text) ? { text } : prefix;
    const body = { model: column.about.name, seed: seed(), n, sampler: column.chosen(), ...(known ? shape : {}) };
    if (label !== null && column.about.labels) body.label = label;
    return [column, known ? "infill" : "sample", body];
  });
  for (const column of columns) { column.views = []; column.output.replaceChildren(); }
  find("alternatives").hidden = true;
  player.k = 0;
  player.colour();
  await working("Drawing …", (signal) => Promise.all(
    requests.map(([column, path, body]) => stream(path, body, signal, column.receiver(null)))));
}

async function redraw(column) {
  const todo = column.views.filter((view) => view.film.marks.size || view.film.tokens.includes(-1));
  if (!todo.length) throw new Error("nothing is marked: click tokens, or paint pixels, that are to be masked again");
  find("seed").value = seed() + 1;
  const requests = todo.map((view) => {
    const tokens = view.film.tokens.map((token, i) => (view.film.marks.has(i) ? -1 : token));
    const body = { model: column.about.name, seed: seed(), first: view.number - 1, sampler: column.chosen(), tokens };
    if (view.film.label !== null) body.label = view.film.label;
    return [view, body];
  });
  player.go(player.length());
  player.k = 0;
  await working(`Redrawing with seed ${seed()} …`, (signal) => Promise.all(
    requests.map(([view, body]) => stream("infill", body, signal, column.receiver([view])))));
}

async function measure() {
  const todo = columns.flatMap((column) => column.views.map((view) => [column, view.film]))
    .filter(([, film]) => !film.bits && film.frames.length);
  if (todo.length) say("Measuring the bits …");
  for (const [column, film] of todo) {
    const k = film.k;
    film.go(film.frames.length);
    const tokens = [...film.tokens];
    film.go(k);
    if (tokens.includes(-1)) continue;
    const body = { model: column.about.name, tokens, given: film.given };
    if (film.label !== null) body.label = film.label;
    const bound = (await (await call("score", body)).json()).examples[0];
    film.bits = bound.bits;
    film.bound = boundText(bound, column.about.unit);
    player.colour();
  }
  if (todo.length) say("Done: each token is coloured by what it adds to the bound.");
}

async function alternatives(view, positions) {
  const number = ++asked, film = view.film, column = columns.find((one) => one.views.includes(view));
  if (!column) return;
  const body = { model: column.about.name, tokens: film.tokens, positions };
  if (film.label !== null) body.label = film.label;
  await attempt(async () => {
    const found = (await (await call("alternatives", body)).json()).positions;
    if (number !== asked) return;
    find("alternatives").hidden = false;
    find("choices").replaceChildren(...found.flatMap((one) => choices(view, one)));
  });
}

function choices(view, { position, now, alternatives: listed }) {
  const film = view.film, name = (one) => (film.kind === "image" ? `level ${one.token}` : one.text.replaceAll("\n", "↵").replaceAll(" ", "␣"));
  const shown = now && !listed.some((one) => one.token === now.token) ? [...listed, now] : listed;
  const title = make("p", { textContent: `Sample ${view.number}, position ${position + 1}, given all others as shown:` });
  return [title, ...shown.map((one) => {
    const bar = make("i", {});
    bar.style.width = `${Math.max(1, 90 * one.p)}%`;
    return make("button", {
      type: "button", className: now?.token === one.token ? "now" : "", textContent: "", title: "put it there",
      onclick: () => {
        film.symbols[one.token] ??= one.text ?? String(one.token);
        film.marks.delete(position);
        player.play(false);
        view.draw(film.edit(position, one.token, one.p));
        player.k = film.k;
        player.update(player.live);
        say(`Put ${name(one)} at position ${position + 1}.`);
        alternatives(view, [position]);
      },
    }, `${name(one)}  ${percent(one.p)}`, bar);
  })];
}

// Save what a column shows as a file of a trajectory: for `unmask serve --export`.
function save(column) {
  const films = column.views.map((view) => view.film);
  if (!films.length) throw new Error("there is nothing to save yet: draw first");
  const symbols = Object.assign({}, ...films.map((film) => film.symbols)), lines = [];
  const start = { ...films[0].start, symbols, canvas: films.map((film) => film.canvas) };
  lines.push({ ...start, label: films.some((film) => film.label !== null) ? films.map((film) => film.label) : null });
  for (let k = 0; k < player.length(); k++) {
    const last = films.map((film) => film.frames[Math.min(k, film.frames.length - 1)] ?? { t: 1, calls: 0 });
    const changed = films.flatMap((film, i) => (film.frames[k]?.changes ?? []).map((one) => [i, ...one]));
    lines.push({ event: "step", t: last.map((one) => one.t), calls: last.map((one) => one.calls), changed });
  }
  lines.push({ event: "end", examples: films.map((film) => ({ tokens: film.tokens })) });
  const link = make("a", { download: "trajectory.ndjson" });
  link.href = URL.createObjectURL(new Blob(lines.map((line) => `${JSON.stringify(line)}\n`), { type: "application/x-ndjson" }));
  link.click();
  URL.revokeObjectURL(link.href);
}

async function begin() {
  models = await (await call("models")).json();
  addColumn();
  say("Choose a model and a sampler, then draw.");
}

find("setup").addEventListener("submit", (event) => {
  event.preventDefault();
  attempt(async () => { if (!models.length) await begin(); else await draw(); });
});
find("stop").addEventListener("click", () => stopping?.abort());
find("add").addEventListener("click", () => attempt(addColumn));
attempt(begin);

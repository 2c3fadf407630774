// How examples are unmasked: films of tokens, views of them as text or as pictures, and a player for all of them.
"use strict";

const CIVIDIS = ["00224e", "123570", "3b496c", "575d6d", "707173", "8a8678", "a59c74", "c3b369", "e1cc55", "fee838"]
  .map((hex) => [0, 2, 4].map((i) => parseInt(hex.slice(i, i + 2), 16)));
const MASK = [70, 110, 190];
const MODES = { none: "no colour", step: "step", probability: "probability", bits: "bits" };

function make(tag, settings = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(settings)) {
    if (name in element && name !== "role") element[name] = value;
    else element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

function colourOf(share) {
  const place = Math.min(1, Math.max(0, share)) * (CIVIDIS.length - 1);
  const low = Math.min(CIVIDIS.length - 2, Math.floor(place));
  return CIVIDIS[low].map((value, i) => Math.round(value + (place - low) * (CIVIDIS[low + 1][i] - value)));
}

const asCss = (rgb) => `rgb(${rgb.join(", ")})`;
const isDark = (rgb) => 0.299 * rgb[0] + 0.587 * rgb[1] + 0.114 * rgb[2] < 125;
const percent = (p) => (p >= 0.0995 ? `${Math.round(100 * p)} %` : `${(100 * p).toPrecision(2)} %`);

// One example: its tokens (-1: masked), and for each the step and the probability with which it was drawn.
class Film {
  constructor(start, example) {
    Object.assign(this, { start, kind: start.kind, shape: start.shape, symbols: start.symbols || {} });
    this.canvas = start.canvas[example];
    this.given = this.canvas.map((token) => token >= 0);
    this.label = start.label ? start.label[example] : null;
    this.tokens = [...this.canvas];
    this.when = this.canvas.map(() => 0);
    this.p = this.canvas.map(() => null);
    this.frames = [];
    this.k = 0;
    this.marks = new Set();
    this.bits = null;
    this.bound = null;
  }

  add(changes, t, calls) { this.frames.push({ changes, t, calls }); }

  // Go to a step; return the positions that changed on the way.
  go(k) {
    const target = Math.min(k, this.frames.length), touched = new Set();
    const put = (i, token, p, when) => { this.tokens[i] = token; this.p[i] = p; this.when[i] = when; touched.add(i); };
    for (; this.k < target; this.k++) {
      const frame = this.frames[this.k];
      frame.back = frame.changes.map(([i]) => [i, this.tokens[i], this.p[i], this.when[i]]);
      for (const [i, token, p] of frame.changes) put(i, token, p, this.k + 1);
    }
    while (this.k > target) for (const old of this.frames[--this.k].back) put(...old);
    return touched;
  }

  // Put a token by hand, after the step that is shown; what came later is dropped.
  edit(i, token, p) {
    const last = this.frames[this.k - 1];
    this.frames.length = this.k;
    this.add([[i, token, p]], last ? last.t : 1, last ? last.calls : 0);
    this.bits = this.bound = null;
    return this.go(this.k + 1);
  }

  symbol(token) { return token < 0 ? "░" : this.symbols[token] ?? String(token); }

  share(i, mode) {
    if (this.tokens[i] < 0) return null;
    if (mode === "step") return this.when[i] ? (this.when[i] - 1) / Math.max(1, this.frames.length - 1) : null;
    if (mode === "probability") return this.p[i];
    if (mode === "bits" && this.bits && this.bits[i] !== null) return this.bits[i] / this.most();
    return null;
  }

  most() { return Math.max(1e-9, ...this.bits.filter((one) => one !== null)); }

  describe(i) {
    const parts = [this.tokens[i] < 0 ? "masked" : JSON.stringify(this.symbol(this.tokens[i])), `position ${i + 1}`];
    if (this.when[i]) parts.push(`step ${this.when[i]}`);
    if (this.p[i] !== null && this.tokens[i] >= 0) parts.push(`probability ${percent(this.p[i])}`);
    if (this.bits && this.bits[i] !== null) parts.push(`${this.bits[i].toFixed(2)} bits`);
    if (this.marks.has(i)) parts.push("marked, to be masked again");
    return parts.join(", ");
  }

  caption() {
    const frame = this.frames[this.k - 1];
    const parts = [`step ${this.k} of ${this.frames.length}`];
    if (frame) parts.push(`${frame.calls} calls`, `t = ${frame.t.toFixed(3)}`);
    if (this.bound) parts.push(this.bound);
    return parts.join(" · ");
  }
}

// A film on the screen. `pick(view, positions)` is called when positions are pointed at; null: nothing can be marked.
class View {
  constructor(film, number, pick) {
    Object.assign(this, { film, number, pick, cursor: 0, mode: "none" });
    this.text = film.kind !== "image";
    this.caption = make("p", { className: "caption" });
    this.body = make("div", this.text
      ? { className: pick ? "tokens" : "tokens still", role: "group", ariaLabel: `Sample ${number}` }
      : { className: "pictures" });
    this.element = make("div", { className: "sample" }, this.caption, this.body);
    if (this.text) this.buildText(); else this.buildPicture();
    this.draw();
  }

  buildText() {
    this.cells = this.film.tokens.map((_, i) => {
      const cell = make("span", { className: "token" });
      if (this.pick) {
        cell.setAttribute("role", "button");
        cell.tabIndex = i ? -1 : 0;
        cell.addEventListener("click", () => { this.move(i); this.mark([i]); });
      }
      return cell;
    });
    this.body.append(...this.cells);
    if (this.pick) this.body.addEventListener("keydown", (event) => this.keys(event, 1));
  }

  buildPicture() {
    const [height, width, channels] = this.film.shape;
    Object.assign(this, { height, width, channels });
    this.scale = Math.max(2, Math.floor(224 / Math.max(height, width)));
    const size = { width: width * this.scale, height: height * this.scale };
    this.picture = make("canvas", { ...size, role: this.pick ? "application" : "img" });
    this.map = make("canvas", { ...size, hidden: true, role: "img", ariaLabel: "the same, coloured" });
    this.body.append(this.picture, this.map);
    if (!this.pick) return;
    this.spoken = make("span", { className: "hidden", role: "status" });
    this.body.append(this.spoken);
    this.picture.tabIndex = 0;
    this.picture.setAttribute("aria-roledescription", "picture to paint on");
    this.picture.addEventListener("keydown", (event) => this.keys(event, width));
    const pixel = (event) => {
      const box = this.picture.getBoundingClientRect();
      const place = (at, length, count) => Math.min(count - 1, Math.max(0, Math.floor((at / length) * count)));
      return place(event.clientY - box.top, box.height, height) * width + place(event.clientX - box.left, box.width, width);
    };
    this.picture.addEventListener("pointerdown", (event) => {
      if (event.button) return;
      this.picture.setPointerCapture(event.pointerId);
      this.cursor = pixel(event);
      this.painting = !this.film.marks.has(this.positions(this.cursor)[0]);
      this.paint(this.cursor);
    });
    this.picture.addEventListener("pointermove", (event) => {
      if (this.painting === undefined) return;
      this.cursor = pixel(event);
      this.paint(this.cursor);
    });
    for (const name of ["pointerup", "pointercancel"]) {
      this.picture.addEventListener(name, () => {
        if (this.painting === undefined) return;
        this.painting = undefined;
        this.pick(this, this.positions(this.cursor));
      });
    }
    for (const name of ["focus", "blur"]) this.picture.addEventListener(name, () => this.draw());
  }

  positions(pixel) { return this.text ? [pixel] : Array.from({ length: this.channels }, (_, c) => pixel * this.channels + c); }

  paint(pixel) {
    for (const i of this.positions(pixel)) if (this.painting) this.film.marks.add(i); else this.film.marks.delete(i);
    this.draw();
  }

  mark(positions) {
    const add = !this.film.marks.has(positions[0]);
    for (const i of positions) if (add) this.film.marks.add(i); else this.film.marks.delete(i);
    this.draw(positions);
    this.pick(this, positions);
  }

  move(to) {
    const count = this.text ? this.cells.length : this.height * this.width;
    if (to < 0 || to >= count) return;
    if (this.text) {
      this.cells[this.cursor].tabIndex = -1;
      this.cells[to].tabIndex = 0;
      this.cells[to].focus();
    }
    this.cursor = to;
    if (!this.text) {
      this.draw();
      const [row, column] = [Math.floor(to / this.width) + 1, (to % this.width) + 1];
      this.spoken.textContent = `row ${row}, column ${column}: ${this.positions(to).map((i) => this.film.describe(i)).join("; ")}`;
    }
  }

  keys(event, across) {
    const steps = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -across, ArrowDown: across };
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key in steps) this.move(this.cursor + steps[event.key]);
    else if (event.key === "Home") this.move(0);
    else if (event.key === " ") this.mark(this.positions(this.cursor));
    else if (event.key === "Enter") this.pick(this, this.positions(this.cursor));
    else return;
    event.preventDefault();
  }

  draw(touched) {
    this.caption.textContent = `${this.number}: ${this.film.caption()}`;
    if (this.text) for (const i of touched ?? this.cells.keys()) this.drawCell(i);
    else this.drawPicture();
  }

  drawCell(i) {
    const film = this.film, cell = this.cells[i], token = film.tokens[i], share = film.share(i, this.mode);
    const text = film.symbol(token);
    cell.textContent = text.includes("\n") ? text.replaceAll("\n", "↵\n") : text;
    cell.className = "token" + (token < 0 ? " mask" : "") + (film.marks.has(i) ? " marked" : "");
    const rgb = share === null ? null : colourOf(share);
    cell.style.backgroundColor = rgb && token >= 0 ? asCss(rgb) : "";
    cell.style.color = rgb && token >= 0 ? (isDark(rgb) ? "#fff" : "#000") : "";
    cell.title = film.describe(i);
    cell.ariaLabel = cell.title;
    if (this.pick) cell.ariaPressed = String(film.marks.has(i));
  }

  drawPicture() {
    const { film, height, width, scale } = this, levels = Math.max(1, film.start.vocab_size - 1);
    const picture = this.picture.getContext("2d"), map = this.map.getContext("2d");
    this.map.hidden = this.mode === "none";
    for (let pixel = 0; pixel < height * width; pixel++) {
      const places = this.positions(pixel), tokens = places.map((i) => film.tokens[i]);
      const masked = tokens.some((token) => token < 0), grey = tokens.map((token) => Math.round((255 * token) / levels));
      const rgb = masked ? MASK : this.channels >= 3 ? grey.slice(0, 3) : [grey[0], grey[0], grey[0]];
      const box = [(pixel % width) * scale, Math.floor(pixel / width) * scale, scale, scale];
      picture.fillStyle = asCss(rgb);
      picture.fillRect(...box);
      if (places.some((i) => film.marks.has(i))) {
        picture.fillStyle = "#ff8c1a";
        picture.fillRect(...box);
        picture.fillStyle = "#000";
        picture.fillRect(box[0] + scale / 4, box[1] + scale / 4, Math.max(1, scale / 2), Math.max(1, scale / 2));
      }
      if (this.map.hidden) continue;
      const shares = places.map((i) => film.share(i, this.mode)).filter((one) => one !== null);
      map.fillStyle = shares.length ? asCss(colourOf(shares.reduce((a, b) => a + b) / shares.length)) : "#fff";
      map.fillRect(...box);
    }
    if (this.pick && document.activeElement === this.picture) {
      const box = [(this.cursor % width) * scale, Math.floor(this.cursor / width) * scale, scale, scale];
      for (const [colour, line] of [["#fff", 4], ["#0b57d0", 2]]) {
        picture.strokeStyle = colour;
        picture.lineWidth = line;
        picture.strokeRect(...box);
      }
    }
    const shown = film.tokens.filter((token) => token < 0).length;
    this.picture.ariaLabel = `Sample ${this.number}, ${height} by ${width} pixels, ${shown ? `${shown} masked` : "complete"}`;
  }
}

// Play, pause, step and rewind all views at once. `views()` returns them; `changed(mode)` is told of another colour.
class Player {
  constructor(root, views, changed = () => {}) {
    Object.assign(this, { views, changed, k: 0, playing: false, live: false, last: 0 });
    const button = (label, title, act) => make("button", { type: "button", ariaLabel: title, title, textContent: label, onclick: act });
    this.slider = make("input", { type: "range", min: 0, max: 0, value: 0, ariaLabel: "Step" });
    this.toggle = button("Play", "Play", () => this.play(!this.playing));
    this.place = make("output", { textContent: "0 / 0" });
    this.speed = make("select", { id: "speed" }, ...[2, 10, 30, 100].map((one) => make("option", { value: one, selected: one === 30, textContent: `${one} a second` })));
    this.mode = make("select", { id: "mode" }, ...Object.entries(MODES).map(([value, text]) => make("option", { value, textContent: text })));
    this.legend = make("span", { className: "legend", hidden: true });
    root.append(
      make("div", { className: "row" },
        button("|◀", "To the start", () => this.go(0)),
        button("◀", "One step back", () => this.go(this.k - 1)),
        this.toggle,
        button("▶", "One step on", () => this.go(this.k + 1)),
        button("▶|", "To the end", () => this.go(this.length())),
        this.slider, this.place),
      make("div", { className: "row" },
        make("label", {}, "Steps", this.speed), make("label", {}, "Coloured by", this.mode), this.legend));
    this.slider.addEventListener("input", () => this.go(Number(this.slider.value)));
    this.mode.addEventListener("change", () => { this.colour(); this.changed(this.mode.value); });
  }

  length() { return Math.max(0, ...this.views().map((view) => view.film.frames.length)); }

  // Go to a step, and stop playing.
  go(k) { this.play(false); this.show(k); }

  show(k) {
    const length = this.length();
    this.k = Math.min(length, Math.max(0, k));
    for (const view of this.views()) {
      const touched = view.film.go(this.k);
      if (touched.size || view.shown !== view.film.frames.length) view.draw(this.mode.value === "step" ? undefined : touched);
      view.shown = view.film.frames.length;
    }
    this.slider.max = length;
    this.slider.value = this.k;
    this.place.textContent = `${this.k} / ${length}`;
  }

  // A new film began, or frames came: `live` says whether more are expected.
  update(live) {
    this.live = live;
    this.show(this.k);
  }

  play(on) {
    if (on && this.k >= this.length() && !this.live) this.show(0);
    this.playing = on;
    this.toggle.textContent = this.toggle.title = this.toggle.ariaLabel = on ? "Pause" : "Play";
    if (on && !this.timer) {
      this.last = performance.now();
      this.timer = requestAnimationFrame((now) => this.tick(now));
    }
  }

  tick(now) {
    this.timer = null;
    if (!this.playing) return;
    const steps = Math.floor(((now - this.last) * Number(this.speed.value)) / 1000);
    if (steps > 0) {
      this.last = now;
      this.show(this.k + steps);
      if (this.k >= this.length() && !this.live) { this.play(false); return; }
    }
    this.timer = requestAnimationFrame((later) => this.tick(later));
  }

  colour() {
    const mode = this.mode.value;
    for (const view of this.views()) { view.mode = mode; view.draw(); }
    const bits = this.views().map((view) => view.film).filter((film) => film.bits);
    const ends = { step: ["first step", "last step"], probability: ["0", "1"],
      bits: ["0 bits", bits.length === 1 ? `${bits[0].most().toFixed(1)} bits` : "the most of each"] }[mode];
    this.legend.hidden = !ends;
    if (!ends) return;
    const bar = make("span", { className: "bar" });
    bar.style.background = `linear-gradient(to right, ${CIVIDIS.map(asCss).join(", ")})`;
    this.legend.replaceChildren(ends[0], bar, ends[1]);
  }
}

function boundText(bound, unit) {
  const error = bound.error === null ? "" : ` ± ${(bound.error / Math.LN2).toFixed(1)}`;
  return `at most ${(bound.nats / Math.LN2).toFixed(1)}${error} bits, ${bound.bits_per_token.toFixed(2)} a ${unit}`;
}

// Show saved trajectories: lists of events, each a column.
function showSaved(saved) {
  const views = [];
  const player = new Player(document.getElementById("player"), () => views);
  for (const events of saved) {
    const start = events[0], end = events[events.length - 1], symbols = {};
    for (const event of events) Object.assign(symbols, event.symbols);
    const column = make("div", { className: "column" }, make("h2", { textContent: `${start.sampler ?? ""}, seed ${start.seed ?? "?"}` }));
    const films = start.canvas.map((_, example) => new Film({ ...start, symbols }, example));
    for (const event of events) {
      if (event.event !== "step") continue;
      for (const [example, film] of films.entries()) {
        const changes = event.changed.filter((one) => one[0] === example).map(([, ...rest]) => rest);
        if (changes.length) film.add(changes, (event.t ?? [])[example] ?? 0, (event.calls ?? [])[example] ?? 0);
      }
    }
    for (const [example, film] of films.entries()) {
      const result = (end.examples ?? [])[example] ?? {};
      if (Array.isArray(result.bits) && result.bits.length === film.tokens.length) {
        film.bits = result.bits;
        film.bound = boundText(result, start.unit);
      }
      const view = new View(film, example + 1, null);
      views.push(view);
      column.append(view.element);
    }
    document.getElementById("columns").append(column);
  }
  player.show(player.length());
  player.mode.value = "step";
  player.colour();
}

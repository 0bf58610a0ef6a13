// The live view of an assembly: its ops on the left, what the kernel says on the right. It draws the traits `title`, `plan`
// and `state`, and sends clicks as messages {do: "step" | "run_to" | "undo" | "start over" | "look" | "close", to: number}.

const RUN = 3; // so many ops of one name in a row are folded into one line
const PATIENCE = 4000; // ms until the page says that the kernel is busy with something else
const FORMS = {
  statement: "In a shell",
  wrapper: "In a shell, in front of what follows",
  composite: "In a shell, together with its neighbours",
  none: "A shell can't",
};
const PHASES = {
  made: "nothing built yet",
  building: "half built",
  running: "running",
  exited: "ended",
  closed: "all taken back",
};

/** An element: h("p", {class: "x", onclick}, "text", child). */
function h(name, attributes = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else if (value === true) element.setAttribute(key, "");
    else if (value !== false && value !== undefined) element.setAttribute(key, value);
  }
  element.append(...children.filter((child) => child !== null && child !== ""));
  return element;
}

const hidden = (text) => h("span", { class: "nsb-sr" }, text);
const time = (usec) => (usec < 1000 ? `${Math.round(usec)} µs` : `${(usec / 1000).toFixed(1)} ms`);
const plural = (n, word) => `${n} ${n === 1 ? word : word.endsWith("y") ? word.slice(0, -1) + "ies" : word + "s"}`;

function page(text) {
  const parts = [];
  let end = 0;
  for (const found of text.matchAll(/([\w.+-]+)\((\d\w*)\)/g)) {
    const where = `https://man7.org/linux/man-pages/man${found[2]}/${found[1]}.${found[2]}.html`;
    parts.push(text.slice(end, found.index), h("a", { href: where, target: "_blank", rel: "noopener" }, found[0]));
    end = found.index + found[0].length;
  }
  return [...parts, text.slice(end)];
}

/** The list of ops. `send` asks the kernel; `update(state)` brings the list up to date in place, so that focus stays. */
class Ops {
  constructor(plan, send) {
    this.jumped = false;
    this.send = (number) => {
      this.jumped = true;
      send("run_to", number);
    };
    this.rows = plan.map((op, number) => this.row(op, number));
    this.groups = [];
    this.list = h("ol", { class: "nsb-ops", "aria-label": "Ops of the plan", onkeydown: (event) => this.key(event) });
    for (let i = 0; i < plan.length; ) {
      let end = i + 1;
      while (end < plan.length && plan[end].name === plan[i].name && plan[end].where === plan[i].where) end++;
      const rows = this.rows.slice(i, end);
      this.list.append(...(rows.length >= RUN ? [this.group(plan, i, rows)] : rows.map((row) => row.item)));
      i = end;
    }
    this.rove(this.buttons()[0]);
  }

  row(op, number) {
    const mark = h("span", { class: "nsb-mark", "aria-hidden": "true" });
    const said = hidden("");
    const took = h("span", { class: "nsb-took" });
    const here = h("button", { type: "button", class: "nsb-button", onclick: () => this.send(number) }, "Run to here");
    const detail = h(
      "div",
      { class: "nsb-detail", hidden: true },
      h("p", {}, h("span", { class: `nsb-chip nsb-${op.where}` }, op.where), " ", h("code", {}, op.call), " — ", ...page(op.man)),
      h("p", { class: "nsb-form" }, FORMS[op.form] + (op.form === "none" ? `: ${op.shell}.` : ":")),
      op.form === "none" ? "" : h("pre", {}, op.shell),
      here,
    );
    const button = h(
      "button",
      { type: "button", class: "nsb-row", "data-op": number, "aria-expanded": "false", tabindex: -1 },
      mark,
      h("span", { class: "nsb-number" }, String(number)),
      h("span", { class: "nsb-what" }, said, h("b", {}, op.name), ` ${op.what}`),
      h("span", { class: `nsb-where nsb-${op.where}` }, op.where),
      took,
    );
    const jump = h(
      "button",
      { type: "button", class: "nsb-jump", tabindex: -1, title: `Run to ${number} ${op.name}`, "aria-hidden": "true" },
      "▶",
    );
    jump.addEventListener("click", () => this.send(number));
    button.addEventListener("click", () => this.open(button, detail));
    const item = h("li", {}, h("div", { class: "nsb-line" }, button, jump), detail);
    return { item, button, mark, said, took, here, jump };
  }

  group(plan, first, rows) {
    const inner = h("ol", { hidden: true }, ...rows.map((row) => row.item));
    const mark = h("span", { class: "nsb-mark", "aria-hidden": "true" });
    const count = h("span", { class: "nsb-took" });
    const op = plan[first];
    const button = h(
      "button",
      { type: "button", class: "nsb-row nsb-group", "data-first": first, "aria-expanded": "false", tabindex: -1 },
      mark,
      h("span", { class: "nsb-number" }, String(first)),
      h("span", { class: "nsb-what" }, h("b", {}, `${op.name} × ${rows.length}`), ` ${op.what} …`),
      h("span", { class: `nsb-where nsb-${op.where}` }, op.where),
      count,
    );
    const group = { button, inner, mark, count, first, last: first + rows.length - 1, chosen: null };
    button.addEventListener("click", () => {
      this.open(button, inner);
      group.chosen = !inner.hidden;
    });
    this.groups.push(group);
    return h("li", {}, button, inner);
  }

  open(button, what, open = what.hidden) {
    what.hidden = !open;
    button.setAttribute("aria-expanded", String(open));
    this.rove(button);
  }

  buttons() {
    return [...this.list.querySelectorAll(".nsb-row")].filter((button) => !button.closest("ol[hidden]"));
  }

  rove(button) {
    for (const each of this.list.querySelectorAll(".nsb-row")) each.tabIndex = each === button ? 0 : -1;
  }

  key(event) {
    const at = event.target.closest(".nsb-row");
    if (!at) return;
    const all = this.buttons();
    const index = all.indexOf(at);
    const to = { ArrowDown: index + 1, ArrowUp: index - 1, Home: 0, End: all.length - 1 }[event.key];
    const wide = at.getAttribute("aria-expanded") === "true";
    if (to !== undefined) {
      const next = all[Math.max(0, Math.min(to, all.length - 1))];
      this.rove(next);
      next.focus();
    } else if (event.key === "ArrowRight" ? !wide : event.key === "ArrowLeft" && wide) at.click();
    else return;
    event.preventDefault();
    event.stopPropagation();
  }

  update(state) {
    const done = new Set(state.done);
    const refused = state.error !== null && state.error !== undefined;
    const ended = state.phase === "exited" || state.phase === "closed";
    this.rows.forEach((row, number) => {
      const next = number === state.position && !ended;
      const kind = done.has(number) ? "done" : next ? (refused ? "refused" : "next") : "ahead";
      row.item.className = `nsb-${kind}`;
      row.mark.textContent = { done: "✓", next: "▶", refused: "✗", ahead: "" }[kind];
      row.said.textContent = `${kind}: `;
      row.took.textContent = kind === "done" && String(number) in state.took ? time(state.took[number]) : "";
      row.here.hidden = row.jump.hidden = kind === "done" || ended;
      if (next) row.button.setAttribute("aria-current", "step");
      else row.button.removeAttribute("aria-current");
    });
    for (const group of this.groups) {
      const count = group.last - group.first + 1;
      const ready = state.done.filter((n) => n >= group.first && n <= group.last).length;
      const inside = !ended && state.position >= group.first && state.position <= group.last;
      group.mark.textContent = ready === count ? "✓" : inside ? "▶" : "";
      group.count.textContent = ready ? `${ready} of ${count}` : "";
      group.button.parentElement.className = ready === count ? "nsb-done" : inside ? "nsb-next" : "nsb-ahead";
      const open = group.chosen ?? inside;
      group.inner.hidden = !open;
      group.button.setAttribute("aria-expanded", String(open));
      if (!inside && ready === count) group.chosen = group.chosen === true ? true : null;
    }
    if (this.jumped) document.activeElement?.blur(); // the button may be gone: the focus goes on to the next op
    this.show(state.position, this.jumped);
    this.jumped = false;
  }

  /** Scroll the list (never the page) so that the op and what comes after it can be seen. */
  show(number, focus = false) {
    if (this.list.contains(document.activeElement)) return; // somebody is reading there
    const row = this.rows[Math.min(number, this.rows.length - 1)];
    const shown = row.item.closest("ol[hidden]") ? row.item.closest("ol").previousElementSibling : row.button;
    this.rove(shown);
    const [box, list] = [shown.getBoundingClientRect(), this.list.getBoundingClientRect()];
    if (box.top < list.top + 40 || box.bottom > list.bottom - 120) this.list.scrollTop += box.top - list.top - list.height / 3;
    if (focus) shown.focus({ preventScroll: true });
  }
}

/** A name and its values: one line, several, or very many behind their number. */
function fact(each, changed, unfolded) {
  const name = h("dt", {}, each.name);
  let value;
  if (each.refused) value = h("dd", { class: "nsb-bad" }, each.refused);
  else if (each.count) {
    const inverse = /^(in|can) /.test(each.count);
    const head = inverse ? `${each.values.length} ${each.count}` : plural(each.values.length, each.count);
    const short = each.values.length && each.values.join(" ").length < 100 ? `: ${each.values.join(" ")}` : "";
    const details = h("details", { open: unfolded.has(each.name) }, h("summary", {}, head + short), h("pre", {}, each.values.join("\n")));
    details.addEventListener("toggle", () => unfolded[details.open ? "add" : "delete"](each.name));
    value = h("dd", {}, details);
  } else value = h("dd", {}, ...each.values.map((line) => h("div", {}, line)));
  if (changed) {
    value.classList.add("nsb-changed");
    value.append(hidden(" (changed)"));
  }
  return [name, value];
}

function outside(state, changed, unfolded) {
  const spaces = state.outside.namespaces.map((space) =>
    h(
      "li",
      { class: `${space.own ? "nsb-own" : "nsb-shared"}${changed.has(`${space.kind} namespace`) ? " nsb-changed" : ""}`, title: `${space.kind}:[${space.inode}]` },
      h("code", {}, space.kind),
      h("span", {}, space.own ? "its own" : "the host's"),
    ),
  );
  return [
    h("h4", {}, "From outside"),
    h("ul", { class: "nsb-spaces", "aria-label": "Namespaces" }, ...spaces),
    h("dl", {}, ...state.outside.facts.flatMap((each) => fact(each, changed.has(each.name), unfolded))),
  ];
}

function inside(state, changed, unfolded) {
  if (state.inside) {
    return [
      h("h4", {}, "From inside"),
      h("dl", {}, ...state.inside.flatMap((each) => fact(each, changed.has(`inside: ${each.name}`), unfolded))),
    ];
  }
  const { stdout, stderr, exit_code } = state.output;
  return [
    h("h4", {}, exit_code === null ? "The command runs" : `The command has ended: exit code ${exit_code}`),
    h("dl", {}, ...[["stdout", stdout], ["stderr", stderr]].flatMap(([name, text]) => [h("dt", {}, name), h("dd", {}, text ? h("pre", {}, text) : h("i", {}, "nothing"))])),
  ];
}

function refused(error) {
  const row = (name, ...value) => (value.some((v) => v) ? [h("dt", {}, name), h("dd", {}, ...value)] : []);
  return [
    h("h4", {}, error.title),
    h(
      "dl",
      {},
      ...row("who", error.who),
      ...row("why", error.why),
      ...row("what helps", error.fix),
      ...row("the rule", error.rule && `“${error.rule}” `, ...(error.page ? page(error.page) : [])),
    ),
  ];
}

function changesOf(state) {
  const changes = state.changes ?? [];
  if (!changes.length) return [h("p", { class: "nsb-quiet" }, "Nothing that can be seen from here has changed.")];
  return [
    h(
      "ul",
      {},
      ...changes.map((c) => h("li", {}, h("b", {}, c.where), ": ", h("del", {}, c.was), " → ", h("ins", {}, c.now))),
    ),
  ];
}

function render({ model, el }) {
  let waiting = 0;
  const unfolded = new Set();
  const send = (what, to) => {
    if (waiting) return;
    root.setAttribute("aria-busy", "true");
    waiting = setTimeout(() => (said.textContent = "The kernel has not answered yet: another cell may be running."), PATIENCE);
    model.send(to === undefined ? { do: what } : { do: what, to });
  };
  const button = (text, what, title, kind = "") =>
    h("button", { type: "button", class: `nsb-button ${kind}`, title, onclick: (event) => event.currentTarget.getAttribute("aria-disabled") === "true" || send(what) }, text);
  const buttons = {
    step: button("Step", "step", "Do the next op", "nsb-first"),
    undo: button("Undo", "undo", "Go one op back: the container is built anew without it"),
    "start over": button("Start over", "start over", "Undo every op"),
    look: button("Look again", "look", "Ask the kernel again"),
    close: button("Close", "close", "End the child and take everything back"),
  };
  const total = model.get("plan").length;
  const phase = h("span", { class: "nsb-phase" });
  const progress = h("progress", { max: total, "aria-label": "Ops done" });
  const counted = h("span", { class: "nsb-counted" });
  const said = h("p", { class: "nsb-said", role: "status", "aria-live": "polite" });
  const alert = h("section", { class: "nsb-alert", role: "alert", hidden: true });
  const changes = h("section", { class: "nsb-changes", "aria-label": "What has changed" });
  const from = h("section", { class: "nsb-card", "aria-label": "From outside" });
  const within = h("section", { class: "nsb-card", "aria-label": "From inside" });
  const none = h("p", { class: "nsb-quiet" });
  const ops = new Ops(model.get("plan"), send);
  const root = h(
    "div",
    // JupyterLab must not take the arrow keys and Enter for its own while the focus is in here.
    { class: "nsb nsb-assembly", role: "group", "aria-label": "A container half built", "data-lm-suppress-shortcuts": "true" },
    h(
      "header",
      {},
      h("h3", {}, "Assembly of ", h("code", {}, model.get("title")), " ", phase),
      h("div", { class: "nsb-progress" }, progress, counted),
      h("div", { class: "nsb-tools", role: "group", "aria-label": "Go on, go back" }, ...Object.values(buttons)),
      said,
    ),
    h(
      "div",
      { class: "nsb-columns" },
      h("section", { "aria-label": "The plan" }, h("h4", {}, "The plan"), ops.list),
      h("section", { "aria-label": "What the kernel says now" }, alert, h("h4", {}, "What has changed"), changes, none, h("div", { class: "nsb-cards" }, from, within)),
    ),
  );

  const update = () => {
    const state = model.get("state");
    clearTimeout(waiting);
    waiting = 0;
    root.removeAttribute("aria-busy");
    root.dataset.serial = state.serial;
    root.dataset.phase = state.phase;
    phase.textContent = PHASES[state.phase] ?? state.phase;
    progress.value = state.done.length;
    counted.textContent = `${state.done.length} of ${total} ops done`;
    const able = {
      step: ["made", "building"].includes(state.phase) && state.position < total,
      undo: state.done.length > 0 && state.phase !== "closed",
      "start over": state.done.length > 0 && state.phase !== "closed",
      look: true,
      close: state.phase !== "closed",
    };
    for (const [name, each] of Object.entries(buttons)) each.setAttribute("aria-disabled", String(!able[name]));
    ops.update(state);
    const changed = new Set((state.changes ?? []).map((c) => c.where));
    from.replaceChildren(...(state.outside ? outside(state, changed, unfolded) : []));
    within.replaceChildren(...(state.inside || state.output ? inside(state, changed, unfolded) : []));
    for (const section of [from, within]) section.hidden = !section.hasChildNodes();
    changes.replaceChildren(...changesOf(state));
    const clone = model.get("plan").findIndex((op) => op.name === "Clone");
    none.hidden = Boolean(state.outside || state.output);
    none.textContent =
      state.phase === "closed"
        ? "The child has ended, and everything that was made for it on the host has been taken back."
        : `There is no child yet: op ${clone}, Clone, makes it. What comes before happens on the host.`;
    alert.hidden = !state.error;
    alert.replaceChildren(...(state.error ? refused(state.error) : []));
    const last = state.done[state.done.length - 1];
    const news = (state.changes ?? []).map((c) => `${c.where}: ${c.now}`).join("; ");
    const op = last === undefined ? null : model.get("plan")[last];
    const now = op === null ? "Nothing is done yet." : `${last} ${op.name}: ${op.what}.`;
    said.replaceChildren(...(state.error ? [] : [now, news ? hidden(` Changed: ${news}`) : ""]));
  };
  model.on("change:state", update);
  el.append(root);
  update();
  // The list can be scrolled once it is laid out, and has another height when the page has another width.
  const resized = new ResizeObserver(() => ops.show(model.get("state").position));
  resized.observe(root);
  return () => {
    resized.disconnect();
    clearTimeout(waiting);
    model.off("change:state", update);
  };
}

export default { render };

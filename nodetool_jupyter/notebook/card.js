// The card of one job. Everything comes from the model's `state` and `log`; nothing is fetched, no HTML is parsed.

const PAGE = crypto.randomUUID();
const SILENT_MS = 2500;
const AGAIN_MS = [250, 1000];
const FINAL = new Set(["completed", "failed", "cancelled"]);
const BUSY =
  "The kernel is busy and has not answered. Interrupt it (■ in the toolbar, or press I twice) to stop this cell.";
const ENDED = "The kernel ended, and the job with it.";
const SVG = "http://www.w3.org/2000/svg";

let told = 0;

// Until JupyterLab has made a shell beside the cell's, what is sent waits for the cell. So everything is sent again;
// the kernel hears each number once.
function tell(model, message) {
  const numbered = { ...message, page: PAGE, n: ++told };
  const send = () => {
    try {
      model.send(numbered);
    } catch {
      // there is no kernel any more, which the clock finds out
    }
  };
  send();
  for (const wait of AGAIN_MS) setTimeout(() => FINAL.has(model.get("state").status) || send(), wait);
}

// Tells whether the kernel that made this card is gone; always false where a front end doesn't let the page know.
function watchKernel(model) {
  const now = () => model.widget_manager?.kernel;
  const first = now()?.id;
  return () => first !== undefined && (now()?.id !== first || now().isDisposed || now().status === "dead");
}

function make(tag, name, parent, attributes = {}) {
  const node = document.createElement(tag);
  if (name) node.className = `ntj-${name}`;
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  parent?.append(node);
  return node;
}

function say(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

function show(node, visible) {
  if (node.hidden === visible) node.hidden = !visible;
}

function clock(seconds) {
  if (seconds < 60) return `${seconds.toFixed(1)} s`;
  const whole = Math.round(seconds);
  const [h, m, s] = [Math.floor(whole / 3600), Math.floor((whole % 3600) / 60), whole % 60];
  const two = (n) => String(n).padStart(2, "0");
  return h ? `${h}:${two(m)}:${two(s)}` : `${m}:${two(s)}`;
}

// As `left_text` of the view says it.
function about(seconds) {
  if (seconds < 1) return "less than 1 s left";
  const [whole, total] = [Math.floor(seconds + 0.5), Math.floor(seconds / 60 + 0.5)];
  if (whole < 60) return `about ${whole} s left`;
  const [hours, minutes] = [Math.floor(total / 60), total % 60];
  return `about ${[hours && `${hours} h`, minutes && `${minutes} min`].filter(Boolean).join(" ")} left`;
}

function button(parent, text, title, onClick) {
  const node = make("button", "button", parent, { type: "button", title });
  node.textContent = text;
  node.addEventListener("click", (event) => {
    event.stopPropagation();
    onClick(node);
  });
  return node;
}

function drawBars(parent, bars, more) {
  while (parent.children.length > bars.length) parent.lastChild.remove();
  bars.forEach((bar, n) => {
    let row = parent.children[n];
    if (!row) {
      row = make("div", "bar", parent);
      make("span", "bar-label", row);
      make("div", "bar-fill", make("div", "bar-track", row, { role: "progressbar", "aria-valuemin": "0" }));
      make("span", "bar-amount", row);
    }
    const [label, track, amount] = row.children;
    label.style.setProperty("--ntj-depth", bar.depth);
    row.classList.toggle("ntj-closed", bar.closed);
    say(label, bar.label);
    say(amount, [bar.amount, bar.note].filter(Boolean).join(" · "));
    amount.title = amount.textContent;
    track.classList.toggle("ntj-endless", bar.fraction === null && !bar.closed);
    track.setAttribute("aria-label", bar.label || "progress");
    track.setAttribute("aria-valuetext", amount.textContent);
    if (bar.fraction === null) {
      track.removeAttribute("aria-valuenow");
      track.firstChild.style.transform = "";
    } else {
      track.setAttribute("aria-valuemax", "100");
      track.setAttribute("aria-valuenow", String(Math.round(bar.fraction * 100)));
      track.firstChild.style.transform = `scaleX(${bar.fraction})`;
    }
  });
  parent.classList.toggle("ntj-more", more);
}

function sparkline(parent) {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("class", "ntj-spark");
  svg.setAttribute("viewBox", "0 0 120 20");
  svg.setAttribute("preserveAspectRatio", "none");
  svg.setAttribute("aria-hidden", "true");
  const parts = ["area", "line", "limit"].map((name) => {
    const path = document.createElementNS(SVG, "path");
    path.setAttribute("class", `ntj-spark-${name}`);
    svg.append(path);
    return path;
  });
  parent.append(svg);
  return (history, limit) => {
    svg.style.display = history.length || limit ? "" : "none";
    const top = Math.max(limit || 0, ...history.map((value) => value * 1.15), 1);
    const step = 120 / (Math.max(history.length, 30) - 1);
    const x = (n) => (n * step).toFixed(1);
    const y = (value) => (19 - (18 * value) / top).toFixed(1);
    const points = history.map((value, n) => `${x(n)} ${y(value)}`);
    const line = points.length > 1 ? `M${points.join("L")}` : "";
    parts[0].setAttribute("d", line && `${line}V20H0Z`);
    parts[1].setAttribute("d", line);
    parts[2].setAttribute("d", limit ? `M0 ${y(limit)}H120` : "");
  };
}

function drawNotes(parent, notes) {
  parent.replaceChildren();
  for (const note of notes) {
    const row = make("div", "note", parent, { "data-severity": note.severity });
    row.textContent = note.content;
  }
}

function card(el) {
  const root = make("section", "card", el, { role: "group", "data-lm-suppress-shortcuts": "true" });
  const head = make("div", "head", root);
  const parts = { root };
  make("span", "dot", head, { "aria-hidden": "true" });
  parts.title = make("span", "title", head);
  parts.meta = make("span", "meta", head);
  parts.status = make("span", "status", head, { role: "status" });
  parts.time = make("span", "time", head, { role: "timer", "aria-live": "off" });
  parts.buttons = make("span", "buttons", head);
  parts.bars = make("div", "bars", root);
  const usage = make("div", "usage", root);
  parts.usage = usage;
  parts.spark = sparkline(usage);
  parts.usageText = make("span", "usage-text", usage);
  parts.isolation = make("div", "isolation", root);
  parts.notes = make("div", "notes", root);
  parts.said = make("div", "said", root, { role: "alert" });
  parts.log = make("div", "log", root);
  parts.logHead = make("div", "log-head", parts.log);
  parts.logText = make("pre", "log-text", parts.log, { tabindex: "0", role: "log", "aria-live": "off" });
  for (const part of [parts.usage, parts.isolation, parts.said, parts.log]) part.hidden = true;
  return parts;
}

function addButtons(parts, model) {
  let silent;
  parts.logs = button(parts.buttons, "Logs", "Show the last lines of the job's log", (node) => {
    const open = node.getAttribute("aria-expanded") !== "true";
    tell(model, { do: "log", open });
    if (!open) show(parts.log, false);
    node.setAttribute("aria-expanded", String(open));
  });
  parts.logs.setAttribute("aria-expanded", "false");
  parts.detach = button(parts.buttons, "Detach", "Let the job go on in the background and free the cell", (node) => {
    node.disabled = true;
    tell(model, { do: "detach" });
  });
  parts.cancel = button(parts.buttons, "Cancel", "Stop the job and everything that it started", (node) => {
    node.disabled = true;
    node.textContent = "Cancelling…";
    tell(model, { do: "cancel" });
    silent = setTimeout(() => {
      if (["cancelling", ...FINAL].includes(model.get("state").status)) return;
      node.disabled = false;
      node.textContent = "Cancel";
      say(parts.said, BUSY);
      show(parts.said, true);
    }, SILENT_MS);
  });
  return () => clearTimeout(silent);
}

function paint(parts, state) {
  const final = FINAL.has(state.status);
  parts.root.dataset.status = state.status;
  parts.root.classList.toggle("ntj-folded", final);
  parts.root.setAttribute("aria-label", `Job ${state.title}`);
  say(parts.title, state.title);
  parts.title.style.minWidth = `min(3em, ${state.title.length}ch)`;
  say(parts.meta, state.runner);
  parts.meta.title = state.isolation;
  parts.title.title = `${state.title}\nJob ${state.job}`;
  say(parts.status, state.status);
  drawBars(parts.bars, final ? [] : state.bars, !final && state.more_bars);
  const use = state.status === "queued" ? state.waits : state.usage;
  show(parts.usage, Boolean(use) && !final);
  say(parts.usageText, use);
  say(parts.isolation, state.isolation);
  show(parts.isolation, state.contained && !final);
  parts.spark(state.history, state.status === "queued" ? null : state.memory_limit);
  drawNotes(parts.notes, state.notes);
  show(parts.cancel, !final);
  show(parts.detach, state.waiting && !final);
  if (state.status === "cancelling") {
    parts.cancel.disabled = true;
    parts.cancel.textContent = "Cancelling…";
  }
  const message = final || state.status === "cancelling" ? state.message : state.said || "";
  if (state.said) {
    parts.cancel.disabled = parts.detach.disabled = false;
    parts.cancel.textContent = "Cancel";
  }
  if (message || final || state.status === "cancelling") {
    say(parts.said, message);
    show(parts.said, Boolean(message));
  }
}

function paintEnd(parts) {
  parts.root.dataset.status = "ended";
  parts.root.classList.add("ntj-folded");
  say(parts.status, "ended");
  drawBars(parts.bars, [], false);
  for (const part of [parts.usage, parts.isolation, parts.buttons]) show(part, false);
  say(parts.said, ENDED);
  show(parts.said, true);
}

function paintLog(parts, log) {
  show(parts.log, log.open);
  parts.logs.setAttribute("aria-expanded", String(log.open));
  if (!log.open) return;
  const node = parts.logText;
  const atEnd = node.scrollHeight - node.scrollTop - node.clientHeight < 24;
  say(parts.logHead, log.replayed ? "Replayed from the job's log" : "Last lines of the job's log");
  parts.log.classList.toggle("ntj-replayed", log.replayed);
  say(node, log.text || "Nothing was written so far.");
  if (atEnd) node.scrollTop = node.scrollHeight;
}

function render({ model, el }) {
  const parts = card(el);
  const forget = addButtons(parts, model);
  let heard = performance.now();
  let born = true;
  let over = false;
  const isGone = watchKernel(model);

  // The kernel's end, which no state tells any more; what a kernel still said of its jobs' end stands.
  function end() {
    if (over) return;
    over = true;
    forget();
    if (FINAL.has(model.get("state").status)) show(parts.buttons, false);
    else paintEnd(parts);
  }
  function tick() {
    if (isGone()) end();
    if (over) return;
    const state = model.get("state");
    if (state.elapsed === null) {
      say(parts.time, "");
      return;
    }
    const since = born ? Math.max(0, Date.now() / 1000 - state.at) : (performance.now() - heard) / 1000;
    const moved = FINAL.has(state.status) ? 0 : Math.min(since, 86400);
    const left = state.left === null || FINAL.has(state.status) ? "" : ` · ${about(Math.max(0, state.left - moved))}`;
    const peak = FINAL.has(state.status) && state.peak ? ` · peak ${state.peak}` : "";
    say(parts.time, `${clock(state.elapsed + moved)}${left}${peak}`);
  }
  function changed() {
    if (over) return;
    heard = performance.now();
    born = false;
    paint(parts, model.get("state"));
    tick();
  }
  const logged = () => paintLog(parts, model.get("log"));
  model.on("change:state", changed);
  model.on("change:log", logged);
  model.on("comm_live_update", end); // sent when JupyterLab restarts a kernel, and at no other time
  paint(parts, model.get("state"));
  logged();
  tick();
  const timer = setInterval(tick, 100);
  tell(model, { do: "page" });
  return () => {
    clearInterval(timer);
    forget();
    model.off("change:state", changed);
    model.off("change:log", logged);
    model.off("comm_live_update", end);
  };
}

export default { render };

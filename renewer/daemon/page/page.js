"use strict";
// Shows snapshots as they come. Texts reach the document as text alone: nothing here makes markup of anything.

const STALE_MS = 5000;
const DEAD_MS = 20000;
const RETRY_MS = 2000;
const TICK_MS = 1000;

const at = (id) => document.getElementById(id);

// --- words ---------------------------------------------------------------------------------------------------------

const SCALES = [[60, 1, "m", "s"], [3600, 60, "h", "m"], [86400, 3600, "d", "h"]];

function span(length) {
  if (length === null || length === undefined) return "–";
  const sign = length <= -0.0005 ? "−" : "";
  const size = Math.abs(length);
  if (size < 1) return `${sign}${Math.round(size * 1000)} ms`;
  if (size < 60) return `${sign}${size.toFixed(1)} s`;
  const whole = Math.round(size);
  const [large, small, name, below] = SCALES[(whole >= 3600) + (whole >= 86400)];
  const rest = Math.floor((whole % large) / small);
  return `${sign}${Math.floor(whole / large)} ${name}` + (rest ? ` ${rest} ${below}` : "");
}

const count = (number) => Number(number).toLocaleString("en");
const plain = (word) => String(word).replaceAll("_", " ");
const secondsBetween = (from, to) => (Date.parse(to) - Date.parse(from)) / 1000;

function clockOf(moment) {
  return new Date(moment).toLocaleTimeString("en-GB");
}

// How bad a state is, and a sign for it, so that colour is not needed.
const STATES = {
  held: ["good", "●"], acquiring: ["warn", "◌"], at_risk: ["bad", "▲"], lost: ["bad", "✕"], released: ["quiet", "○"],
  parked: ["quiet", "‖"], accepted: ["warn", "◌"], running: ["good", "●"], fetching: ["good", "↓"],
  succeeded: ["good", "✓"], failed: ["bad", "✕"], canceled: ["warn", "✕"], expired: ["bad", "✕"],
  timed_out: ["bad", "✕"], unpollable: ["bad", "✕"], rejected: ["bad", "✕"], reacquired: ["warn", "↻"],
  recovered: ["good", "✓"],
};

function state(name) {
  const [style, sign] = STATES[name] || ["", ""];
  return { text: `${sign} ${plain(name)}`.trim(), style };
}

// --- cells: a list of parts, each a text with a style ----------------------------------------------------------------

const line = (text, style = "") => ({ text, style: `line ${style}`.trim(), tag: "span" });
const isolated = (text) => ({ text, style: "", tag: "bdi" });
const bold = (text, style = "") => ({ text, style, tag: "b" });
const some = (...parts) => parts.filter((part) => part && part.text !== "");

function sessionText(row) {
  if (row.is_message) return row.message === null ? "(message)" : `(message ${row.message})`;
  if (row.session_id === null) return "(next available)";
  return row.session_id === "" ? '""' : row.session_id;
}

function labelled(row) {
  return row.labels.map((label) => ({ ...line(label), tag: "bdi" }));
}

function lease(row) {
  const parts = [isolated(sessionText(row)), { ...line(`${row.entity} · ${row.servicebus}`), tag: "bdi" }];
  if (row.pool !== undefined && row.pool !== null) parts.push(line(row.is_free ? `pool ${row.pool}, free` : `pool ${row.pool}`));
  if (row.owner && row.owner !== "none") parts.push(line(`owner: ${row.owner}`));
  parts.push(...labelled(row), { ...line(row.id), tag: "bdi" });
  if (row.why) parts.push({ ...line(row.why, "warn"), tag: "bdi" });
  return parts;
}

function operation(row) {
  return [isolated(row.id), { ...line(row.account), tag: "bdi" }, ...labelled(row)];
}

function gateway(row) {
  const upstream = row.upstream_failures ? line(`${count(row.upstream_failures)} upstream failed`, "warn") : null;
  const refused = row.refused ? line(`${count(row.refused)} refused`, "warn") : null;
  return some(isolated(row.name), { ...line(`${row.listen} · ${row.servicebus}`), tag: "bdi" }, upstream, refused);
}

function expiry(row) {
  if (row.remaining_s === null) return [{ text: "–" }];
  const share = row.duration_s ? Math.max(0, Math.min(1, row.remaining_s / row.duration_s)) : 0;
  const style = row.remaining_s <= 0 ? "bad" : share < 0.25 ? "warn" : "good";
  return [{ text: row.remaining_s > 0 ? `in ${span(row.remaining_s)}` : `${span(-row.remaining_s)} ago` }, { bar: share, style }];
}

const ago = (moment, now) => {
  const away = secondsBetween(moment, now);
  return Math.abs(away) < 1 ? "now" : away > 0 ? `${span(away < 60 ? Math.round(away) : away).replace(".0 s", " s")} ago` : `in ${span(-away)}`;
};

function statusText(row) {
  return [row.status, row.percent === null ? "" : `${row.percent} %`].filter(Boolean).join(", ");
}

function nextPoll(row) {
  if (row.limited_by !== null) return [{ text: "quota", style: "warn" }, line(row.limited_by)];
  if (row.next_poll_s === null) return [{ text: "now" }];
  return [{ text: row.next_poll_s < 1 ? "now" : `in ${span(row.next_poll_s)}` }];
}

// --- sections --------------------------------------------------------------------------------------------------------

const stateColumn = { head: "State", style: "state", cell: (row) => [state(row.state)] };

const SECTIONS = [
  {
    place: "left", title: "Not held", of: "waiting longest or lost first", key: "not_held", none: "Every lease is held.",
    quietWithout: true,
    columns: [
      stateColumn,
      { head: "Session", cell: lease, isName: true },
      { head: "Since", style: "when number", cell: (row) => (row.remaining_s === null ? [{ text: span(row.waited_s) }] : expiry(row)) },
      { head: "Failed", style: "short number more", cell: (row) => [{ text: count(row.failures) }] },
      { head: "Lost", style: "short number more", cell: (row) => [lostCell(row)] },
    ],
  },
  {
    place: "left", title: "Lost, and why", of: "latest first", key: "lost", none: "Nothing was lost.",
    columns: [
      { head: "When", style: "when", cell: (row, now) => [{ text: ago(row.at, now) }, line(`now ${plain(row.state)}`)] },
      {
        head: "Session", isName: true,
        cell: (row) => [
          isolated(sessionText(row)), { ...line(`${row.entity} · ${row.servicebus}`), tag: "bdi" },
          { text: plain(row.reason || ""), style: "bad", tag: "b" }, { ...line(row.detail || ""), tag: "bdi" },
        ],
      },
      { head: "Times", style: "short number", cell: (row) => [{ text: count(row.losses) }] },
    ],
  },
  {
    place: "left", title: "Held", of: "nearest to expiry first", key: "held", none: "No lease is held.",
    columns: [
      stateColumn,
      { head: "Session", cell: lease, isName: true },
      { head: "Expires", style: "when number", cell: expiry },
      { head: "Margin", style: "short number more", cell: (row) => [{ text: span(row.last_margin_s) }] },
      { head: "Renewed", style: "short number more", cell: (row) => [{ text: count(row.renewals) }] },
      { head: "Lost", style: "short number more", cell: (row) => [lostCell(row)] },
    ],
  },
  {
    place: "right", title: "Operations followed", of: "next poll first", key: "followed", none: "No operation is followed.",
    columns: [
      stateColumn,
      {
        head: "Operation", isName: true,
        cell: (row) => some(...operation(row), { ...line(statusText(row)), tag: "bdi" }, row.why && row.poll_errors ? { ...line(row.why, "warn"), tag: "bdi" } : null),
      },
      { head: "Next poll", style: "when number", cell: nextPoll },
      { head: "Polls", style: "short number more", cell: (row) => some({ text: count(row.polls) }, row.poll_errors ? line(`${count(row.poll_errors)} failed`, "warn") : null) },
      { head: "Elapsed", style: "short number more", cell: (row) => [{ text: span(row.elapsed_s) }] },
    ],
  },
  {
    place: "right", title: "Operations ended", of: "latest first", key: "ended", none: "No operation has ended lately.",
    columns: [
      stateColumn,
      {
        head: "Operation", isName: true,
        cell: (row) => some(...operation(row), row.error ? { ...line(row.error, "bad"), tag: "bdi" } : null, row.advice ? line(row.advice) : null),
      },
      { head: "When", style: "when number", cell: (row, now) => [{ text: row.ended_at ? ago(row.ended_at, now) : "–" }] },
    ],
  },
  {
    place: "right", title: "Lately", of: "since the daemon started", key: "news", none: "Nothing worth telling has happened.",
    columns: [
      { head: "When", style: "when", cell: (row) => [{ text: clockOf(row.time) }] },
      {
        head: "What", isName: true,
        cell: (row) => {
          const told = state(row.type.split(".")[1]);
          const where = row.session_id === null ? row.where : `${row.where} · ${row.session_id || '""'}`;
          return some({ text: `${told.text}`, style: told.style, tag: "b" }, { ...line(where), tag: "bdi" }, { ...line(row.subject), tag: "bdi" }, row.why ? { ...line(row.why), tag: "bdi" } : null);
        },
      },
    ],
  },
  {
    place: "right", title: "Namespaces and accounts", of: "", key: "targets", none: "None is configured.",
    columns: [
      { head: "Name", isName: true, cell: (row) => [isolated(row.name)] },
      { head: "Connections", style: "when number", cell: (row) => [{ text: row.connections === null ? "–" : count(row.connections) }] },
      { head: "Links", style: "short number more", cell: (row) => [{ text: row.links === null ? "–" : count(row.links) }] },
      { head: "Clock skew", style: "when number", cell: (row) => [{ text: span(row.clock_skew_s) }] },
    ],
  },
  {
    place: "right", title: "Pools", of: "", key: "pools", none: "There is none.", quietWithout: true,
    columns: [
      { head: "Pool", isName: true, cell: (row) => [isolated(row.name), { ...line(row.servicebus), tag: "bdi" }] },
      { head: "Free", style: "short number", cell: (row) => [{ text: `${count(row.free)} of ${count(row.sessions)}` }] },
      { head: "Acquiring", style: "short number more", cell: (row) => [{ text: count(row.acquiring) }] },
      { head: "Taken", style: "short number", cell: (row) => [{ text: count(row.taken) }] },
    ],
  },
  {
    place: "right", title: "Gateways", of: "", key: "gateways", none: "There is none.", quietWithout: true,
    columns: [
      { head: "Gateway", isName: true, cell: gateway },
      { head: "Workers", style: "short number", cell: (row) => some({ text: count(row.workers) }, row.logging_in ? line(`${count(row.logging_in)} logging in`) : null) },
      { head: "Leases", style: "short number", cell: (row) => [{ text: count(row.leases) }] },
      { head: "Messages", style: "short number more", cell: (row) => [{ text: count(row.messages) }] },
    ],
  },
];

function lostCell(row) {
  return row.losses ? { text: count(row.losses), style: "bad" } : { text: "–", style: "quiet" };
}

// --- the document ----------------------------------------------------------------------------------------------------

function element(tag, style = "", text = "") {
  const made = document.createElement(tag);
  if (style) made.className = style;
  if (text) made.textContent = text;
  return made;
}

function put(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

function fill(cell, parts) {
  const key = JSON.stringify(parts);
  if (cell.shownParts === key) return;
  cell.shownParts = key;
  cell.replaceChildren(...parts.map((part) => {
    if (part.bar !== undefined) {
      const bar = element("span", `bar ${part.style}`);
      bar.setAttribute("aria-hidden", "true");
      const inner = element("i");
      inner.style.width = `${Math.round(part.bar * 100)}%`;
      bar.append(inner);
      return bar;
    }
    return element(part.tag || "span", part.style, part.text);
  }));
}

function build(section) {
  section.box = element("section");
  const title = element("h2", "", section.title);
  title.id = `title-${section.key}`;
  section.about = element("span", "of");
  title.append(" ", section.about);
  section.box.setAttribute("aria-labelledby", title.id);
  section.nothing = element("p", "none", section.none);
  section.table = element("table");
  section.table.setAttribute("aria-labelledby", title.id);
  const head = element("tr");
  for (const column of section.columns) {
    const cell = element("th", column.style, column.head);
    cell.scope = "col";
    head.append(cell);
  }
  const top = element("thead");
  top.append(head);
  section.body = element("tbody");
  section.table.append(top, section.body);
  section.box.append(title, section.nothing, section.table);
  at(section.place).append(section.box);
}

function show(section, told, now) {
  const rows = Array.isArray(told) ? told : told.rows;
  const total = Array.isArray(told) ? rows.length : told.count;
  const of = rows.length < total ? `${count(rows.length)} of ${count(total)}, ${section.of || "the first"}` : total ? `${count(total)}` + (section.of ? `, ${section.of}` : "") : "";
  put(section.about, of);
  section.nothing.hidden = rows.length > 0;
  section.table.hidden = rows.length === 0;
  section.box.hidden = Boolean(section.quietWithout) && rows.length === 0;
  while (section.body.rows.length > rows.length) section.body.deleteRow(-1);
  rows.forEach((row, number) => {
    let shown = section.body.rows[number];
    if (shown === undefined) {
      shown = section.body.insertRow();
      for (const column of section.columns) {
        const cell = element(column.isName ? "th" : "td", column.style);
        if (column.isName) cell.scope = "row";
        shown.append(cell);
      }
    }
    section.columns.forEach((column, index) => fill(shown.children[index], column.cell(row, now)));
  });
}

const WEIGHT = ["at_risk", "lost", "acquiring", "held", "released", "failed", "rejected", "expired", "timed_out", "unpollable", "canceled", "running", "fetching", "accepted", "succeeded"];

function countsText(counts, leave) {
  const names = Object.keys(counts).filter((name) => counts[name] && !leave.includes(name));
  names.sort((one, other) => WEIGHT.indexOf(one) - WEIGHT.indexOf(other));
  return names.map((name) => `${count(counts[name])} ${plain(name)}`).join(", ");
}

function tiles(now) {
  const held = now.leases.held || 0;
  const atRisk = now.leases.at_risk || 0;
  const waiting = now.leases.acquiring || 0;
  const followed = now.followed.count;
  return [
    ["Leases held", count(held), `of at most ${count(now.max_leases)}`, held ? "good" : ""],
    ["At risk", count(atRisk), atRisk ? "not renewed in time" : "", atRisk ? "bad" : ""],
    ["Being acquired", count(waiting), countsText(now.leases, ["held", "at_risk", "acquiring"]), waiting ? "warn" : ""],
    ["Losses", count(now.losses), now.losses ? "of leases that are still known" : "", now.losses ? "bad" : "good"],
    ["Smallest margin", span(now.min_margin_s), "left of a lock when it was renewed", ""],
    ["Operations followed", count(followed), countsText(now.operations, ["accepted", "running", "fetching"]), ""],
    ["Loop lag", span(now.loop_lag_s), "at worst in the last minute", now.loop_lag_s > 0.2 ? "bad" : ""],
  ];
}

function showTiles(now) {
  const box = at("tiles");
  tiles(now).forEach(([name, value, note, style], number) => {
    let tile = box.children[number];
    if (tile === undefined) {
      tile = element("div");
      tile.append(element("dt", "", name), element("dd"));
      box.append(tile);
    }
    fill(tile.children[1], some({ text: value, style }, { text: note, tag: "small" }));
  });
}

function showTrouble(list) {
  at("trouble").hidden = list.length === 0;
  const box = at("trouble-list");
  while (box.children.length > list.length) box.lastChild.remove();
  list.forEach((text, number) => put(box.children[number] || box.appendChild(element("li")), text));
}

let before = null;

function showAll(now) {
  at("all").hidden = false;
  put(at("version"), now.version);
  put(at("about"), `${now.state}, up ${span(secondsBetween(now.started_at, now.now))}, registry ${now.registry}`);
  showTrouble(now.trouble);
  showTiles(now);
  for (const section of SECTIONS) show(section, now[section.key], now.now);
  const atRisk = now.leases.at_risk || 0;
  document.title = atRisk ? `${atRisk} at risk – renewer` : now.losses ? `${now.losses} lost – renewer` : "renewer";
  if (before !== null && now.losses > before.losses) {
    put(at("told"), `A lease was lost. Losses: ${now.losses}.`);
  } else if (before !== null && atRisk > (before.leases.at_risk || 0)) {
    put(at("told"), `Leases at risk: ${atRisk}.`);
  }
  before = now;
}

// --- the stream ------------------------------------------------------------------------------------------------------

let source = null;
let heardAt = null;
let triedAt = 0;
let restarted = "";
let isPaused = false;

function open() {
  close();
  triedAt = performance.now();
  source = new EventSource("snapshots");
  source.addEventListener("snapshot", (event) => {
    const now = JSON.parse(event.data);
    if (before !== null && before.started_at !== now.started_at) restarted = clockOf(now.started_at);
    heardAt = performance.now();
    showAll(now);
    look();
  });
  source.onerror = look;
}

function close() {
  if (source !== null) source.close();
  source = null;
}

function say(text, style) {
  put(at("link"), text);
  at("link").className = style;
  at("all").classList.toggle("stale", style !== "good");
}

function look() {
  const now = performance.now();
  if (isPaused) {
    say(`Paused: this is from ${before === null ? "never" : clockOf(before.now)}.`, "warn");
    return;
  }
  const age = heardAt === null ? null : now - heardAt;
  if (age !== null && age < STALE_MS && source !== null && source.readyState === EventSource.OPEN) {
    say(restarted ? `Live. The daemon was started anew at ${restarted}.` : "Live.", "good");
  } else if (age === null) {
    if (now - triedAt > RETRY_MS) say("The daemon does not answer. Trying again.", "bad");
  } else if (age >= STALE_MS || source === null || source.readyState !== EventSource.OPEN) {
    say(`Stale: no answer from the daemon. This is from ${clockOf(before.now)}. Trying again.`, "bad");
  }
  // A stream that was refused, or that says nothing any more, is asked for anew; a browser does the rest itself.
  const isOver = source === null || source.readyState === EventSource.CLOSED;
  const isDead = !isOver && now - triedAt > DEAD_MS && (age === null || age > DEAD_MS);
  if ((isOver && now - triedAt > RETRY_MS && !document.hidden) || isDead) open();
}

at("pause").addEventListener("click", () => {
  isPaused = !isPaused;
  at("pause").setAttribute("aria-pressed", String(isPaused));
  if (isPaused) close(); else open();
  look();
});

// What nobody looks at costs nothing.
document.addEventListener("visibilitychange", () => {
  if (isPaused) return;
  if (document.hidden) close(); else open();
});

SECTIONS.forEach(build);
open();
setInterval(look, TICK_MS);

// The page of check-dedup: the public API, seen by a person. No library, no build step.
"use strict";

const KEY = "check-dedup-key";
const RELATIONS = {
  identical: "the same file",
  near_identical: "the same picture",
  reframed: "the same picture, cropped or framed",
  mirrored: "its mirror image",
  other_text: "the same picture with another text",
};
const TIERS = { confirmed_sibling: "confirmed", suggested_sibling: "suggested" };
const MISSES = {
  threshold: "beyond the threshold",
  confidence: "the evidence is too weak",
  other_text: "another text on the same picture",
};
const DETAILS = [
  ["Picture", (match) => code(match.image_id)],
  ["Relation", (match) => RELATIONS[match.relation] ?? match.relation],
  ["Tier", (match) => TIERS[match.tier] ?? match.tier],
  ["Score", (match) => `${match.score} of 64`, "number"],
  ["Fine", (match) => (match.fine_distance == null ? "–" : `${match.fine_distance} of 256`), "number"],
  ["Sure", (match) => percent(match.weight), "number"],
  ["Views that met", (match) => match.views.join(" on ")],
  ["From", (match) => (match.origin === "api" ? "the API" : "an event")],
  ["sha256", (match) => code(match.sha256.slice(0, 16) + "…", match.sha256)],
];

const $ = (id) => document.getElementById(id);
const chosen = new Map(); // input id -> File

function element(name, properties = {}, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children.filter((child) => child != null));
  return made;
}

const code = (text, title = "") => element("code", { textContent: text, title });
const capital = (text) => text[0].toUpperCase() + text.slice(1);
const percent = (share) => `${(100 * share).toFixed(share > 0.99 && share < 1 ? 1 : 0)} %`;

// --- tabs: arrows move, as the ARIA Authoring Practices have it --------------------------------

const tabs = [...document.querySelectorAll("[role=tab]")];

function show(tab) {
  for (const each of tabs) {
    const selected = each === tab;
    each.setAttribute("aria-selected", String(selected));
    each.tabIndex = selected ? 0 : -1;
    $(each.getAttribute("aria-controls")).hidden = !selected;
  }
}

tabs.forEach((tab, index) => {
  tab.addEventListener("click", () => show(tab));
  tab.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    const target = step
      ? tabs[(index + step + tabs.length) % tabs.length]
      : { Home: tabs[0], End: tabs.at(-1) }[event.key];
    if (target) {
      event.preventDefault();
      show(target);
      target.focus();
    }
  });
});

// --- pictures: dropped, pasted or chosen --------------------------------------------------------

function choose(id, file) {
  chosen.set(id, file);
  const preview = document.querySelector(`.drop[data-for=${id}] .preview`);
  const image = element("img", { alt: `The picture ${file.name}`, src: URL.createObjectURL(file) });
  image.addEventListener("load", () => URL.revokeObjectURL(image.src));
  image.addEventListener("error", () => {
    preview.replaceChildren(element("p", { className: "help" }, `${file.name} (no preview)`));
  });
  preview.replaceChildren(image);
  preview.hidden = false;
}

for (const drop of document.querySelectorAll(".drop")) {
  const id = drop.dataset.for;
  $(id).addEventListener("change", (event) => {
    const [file] = event.target.files;
    if (file) choose(id, file);
  });
  for (const kind of ["dragenter", "dragover"]) {
    drop.addEventListener(kind, (event) => {
      event.preventDefault();
      drop.classList.add("over");
    });
  }
  for (const kind of ["dragleave", "drop"]) {
    drop.addEventListener(kind, () => drop.classList.remove("over"));
  }
  drop.addEventListener("drop", (event) => {
    event.preventDefault();
    const [file] = event.dataTransfer.files;
    if (!file) return;
    $(id).files = event.dataTransfer.files; // so that the field names it as well
    choose(id, file);
    if (id === "image") $("match-form").requestSubmit();
  });
}
// A picture that misses its place must not replace the page.
for (const kind of ["dragover", "drop"]) {
  document.addEventListener(kind, (event) => event.preventDefault());
}
document.addEventListener("paste", (event) => {
  const [file] = event.clipboardData.files;
  if (file && !$("panel-match").hidden) choose("image", file);
});

// --- asking -------------------------------------------------------------------------------------

$("key").value = sessionStorage.getItem(KEY) ?? "";
$("key").addEventListener("input", () => sessionStorage.setItem(KEY, $("key").value));

class Problem extends Error {}

async function ask(path, parts) {
  const key = $("key").value.trim();
  if (!key) {
    $("key").focus();
    throw new Problem("An API key is needed: type it in above.");
  }
  const form = new FormData();
  for (const [name, id] of Object.entries(parts)) {
    if (!chosen.has(id)) {
      $(id).focus();
      throw new Problem("Choose a picture first.");
    }
    form.append(name, chosen.get(id));
  }
  // Percent-encoded where it is no visible ASCII: such a key is wrong, and no reason to fail here.
  const headers = { Authorization: `Bearer ${key.replace(/[^!-~]/g, encodeURIComponent)}` };
  let response, body;
  try {
    response = await fetch(path, { method: "POST", body: form, headers });
    body = await response.json();
  } catch {
    throw new Problem("The server cannot be reached, or broke off. Try again.");
  }
  if (body.success) return body;
  const wait = response.headers.get("Retry-After");
  throw new Problem(body.error.message + (wait ? ` Try again in ${wait} s.` : ""));
}

function handle(form, result, answer) {
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const button = form.querySelector("[type=submit]");
    if (button.disabled) return;
    button.disabled = true;
    result.setAttribute("aria-busy", "true");
    result.replaceChildren(element("p", {}, "Looking …"));
    try {
      result.replaceChildren(...(await answer()));
    } catch (error) {
      if (!(error instanceof Problem)) throw error;
      result.replaceChildren(problem(error.message));
    } finally {
      button.disabled = false;
      result.removeAttribute("aria-busy");
    }
  });
}

const problem = (message) =>
  element("p", { className: "problem" }, element("strong", {}, "No answer"), ` ${message}`);

function said(kind, headline, text) {
  return element("p", { className: `answer ${kind}` }, element("strong", {}, headline), ` ${text}`);
}

function table(caption, columns, rows) {
  const head = columns.map(([title, , kind = ""]) =>
    element("th", { scope: "col", className: kind }, title));
  const body = rows.map((row) =>
    element("tr", {}, ...columns.map(([, cell, kind = ""]) =>
      element("td", { className: kind }, cell(row)))));
  return element("div", { className: "scroll" },
    element("table", {}, element("caption", {}, caption),
      element("thead", {}, element("tr", {}, ...head)), element("tbody", {}, ...body)));
}

handle($("match-form"), $("match-result"), async () => {
  const query = new URLSearchParams({ detail: "true", store: String($("store").checked) });
  if ($("threshold").value !== "") query.set("threshold", $("threshold").value);
  const found = await ask(`/v1/match/?${query}`, { image: "image" });
  const parts = [];
  if (found.match) {
    const best = found.matches.find((match) => match.sha256 === found.closest_match.sha256);
    parts.push(said("yes", "Seen before",
      `${capital(RELATIONS[best.relation])}, ${TIERS[best.tier]}, score ${best.score}.`));
  } else if (found.matches.length) {
    parts.push(said("doubt", "Not the same item", "The picture is known, under another text."));
  } else {
    parts.push(said("no", "Not seen before", "No picture of this workspace matches."));
  }
  if (found.image_id) {
    parts.push(element("p", { className: "help" }, "Stored as ", code(found.image_id), "."));
  }
  if (found.matches.length) {
    parts.push(table("Matches, best first", DETAILS, found.matches));
  }
  if (found.nearest_miss) {
    const columns = DETAILS.filter(([title]) => !["Relation", "Tier", "Sure"].includes(title));
    const why = ["Why it is none", (miss) => MISSES[miss.reason] ?? miss.reason];
    parts.push(table("Nearest miss", [...columns, why], [found.nearest_miss]));
  }
  return parts;
});

// --- comparing ----------------------------------------------------------------------------------

function outline(id, picture, name) {
  const preview = document.querySelector(`.drop[data-for=${id}] .preview`);
  preview.querySelector("svg")?.remove();
  const view = picture.views.find((each) => each.name === name);
  if (!view || !preview.querySelector("img")) return;
  const space = "http://www.w3.org/2000/svg";
  const [left, top, right, bottom] = view.box.map((share) => 100 * share);
  const drawing = document.createElementNS(space, "svg");
  drawing.setAttribute("viewBox", "0 0 100 100");
  drawing.setAttribute("preserveAspectRatio", "none");
  drawing.setAttribute("aria-hidden", "true");
  const rectangle = document.createElementNS(space, "rect");
  for (const [key, value] of Object.entries({ x: left, y: top, width: right - left, height: bottom - top })) {
    rectangle.setAttribute(key, String(value));
  }
  drawing.append(rectangle);
  preview.append(drawing);
}

handle($("compare-form"), $("compare-result"), async () => {
  const found = await ask("/v1/compare/", { first: "first", second: "second" });
  const [ofSecond, ofFirst] = found.views ?? [];
  outline("first", found.first, ofFirst);
  outline("second", found.second, ofSecond);
  const kind = { confirmed_sibling: "yes", suggested_sibling: "doubt" }[found.tier] ?? "no";
  const headline = found.related
    ? `${RELATIONS[found.relation]}, ${TIERS[found.tier]}` : "Not related";
  const facts = [
    ["Score", found.score == null ? "no views met" : `${found.score} of 64`],
    ["Fine distance", found.fine_distance == null ? "–" : `${found.fine_distance} of 256`],
    ["Sure", found.weight == null ? "–" : percent(found.weight)],
    ["Views that decided", found.views ? `${ofSecond} (second) on ${ofFirst} (first)` : "–"],
    ["Views of the first", found.first.views.map((view) => view.name).join(", ") || "too plain"],
    ["Views of the second", found.second.views.map((view) => view.name).join(", ") || "too plain"],
  ];
  return [
    said(kind, capital(headline), found.explanation),
    table("Evidence", [["What", ([name]) => name], ["Value", ([, value]) => value]], facts),
  ];
});

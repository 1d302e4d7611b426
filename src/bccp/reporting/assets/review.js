// Review of labels: cards of images whose labels are to be checked, answered by keys, buttons or select boxes.
//
// The page holds its data as text: #facts is JSON (see suspects_page.py), #picture-N is the N-th picture, base64 of a WebP. Names of files
// and classes are anybody's: they reach the page by textContent, by attributes of known names and by href alone, never as HTML.
"use strict";

(() => {
  const SUSPECT_PX = 240; // longer side as shown, in CSS px
  const NEAR_PX = 136;
  const LEAST_PX = 200; // width of a caption
  const CRISP_PX = 64; // smaller pictures are enlarged pixel by pixel
  const MOST_COPIES = 6; // of a group, shown before somebody asks for all
  const MOST_OPTIONS = 30; // classes up to which a select box is made with all of them at once
  const FIRST_CARDS = 4; // made before anything is scrolled
  const ACTION_KEYS = "rsunzjk";
  const CLASS_KEYS = [..."123456789abcdefghijklmnopqrstuvwxyz"].filter((key) => !ACTION_KEYS.includes(key));

  const facts = JSON.parse(document.getElementById("facts").textContent);
  const storageKey = `bccp-review:${facts.key}`;
  const list = document.getElementById("cards");
  const number = (n) => n.toLocaleString("en");
  const percent = (p) => (p > 0.99 && p < 1 ? "> 99%" : p > 0 && p < 0.01 ? "< 1%" : `${Math.round(100 * p)}%`);

  // ---- answers: one of "label", "unsure", "none" and "" (not checked) for each image -------------------------------------------------

  const NOT_CHECKED = { verdict: "", label: "" };
  const answers = new Map();
  const history = []; // of lists of [image, answer before]
  let apart = new Set(); // groups of near copies whose images are decided one by one
  let isKept = true; // in localStorage
  let isDownloaded = true;

  const isKnown = (verdict, label) => (verdict === "label" ? facts.classes.includes(label) : ["", "unsure", "none"].includes(verdict));
  const answerOf = (row) => answers.get(row.image) ?? NOT_CHECKED;
  const isAnswered = (row) => answerOf(row).verdict !== "";

  const writtenAnswer = (row) => row.answer?.join(" ") ?? ""; // of an earlier run, which the page came with

  /** Answers of an earlier run, and those given here since: what was given before the run read other ones does not count. */
  function readAnswers() {
    answers.clear();
    const rows = new Map(facts.rows.map((row) => [row.image, row]));
    for (const row of facts.rows) {
      if (row.answer) answers.set(row.image, { verdict: row.answer[0], label: row.answer[1] });
    }
    try {
      const kept = JSON.parse(localStorage.getItem(storageKey) ?? "{}");
      for (const [image, verdict, label, written] of kept.answers ?? []) {
        const row = rows.get(image);
        if (row && written === writtenAnswer(row) && isKnown(verdict, label)) answers.set(image, { verdict, label });
      }
      apart = new Set(kept.apart ?? []);
    } catch {
      isKept = false;
    }
  }

  function keepAnswers() {
    isDownloaded = false;
    const given = facts.rows.filter((row) => answers.has(row.image));
    const kept = given.map((row) => [row.image, answerOf(row).verdict, answerOf(row).label, writtenAnswer(row)]);
    try {
      localStorage.setItem(storageKey, JSON.stringify({ answers: kept, apart: [...apart] }));
    } catch {
      isKept = false;
    }
  }

  /** The file that is given back as an audit: all answered images, and the random ones that are not, so that it shows which are missing. */
  function checkedCsv() {
    const quoted = (value) => (/[",\r\n]/.test(value) ? `"${value.replaceAll('"', '""')}"` : String(value));
    const found = facts.rows.filter((row) => isAnswered(row) || row.chosen === "random").map((row) => {
      const { verdict, label } = answerOf(row);
      return [row.image, label, verdict, row.chosen, row.rank];
    });
    const lines = [["image", "label", "verdict", "chosen", "rank"], ...found, ...facts.carried];
    return lines.map((line) => line.map((value) => quoted(String(value))).join(",") + "\n").join("");
  }

  // ---- elements -----------------------------------------------------------------------------------------------------------------------

  function make(tag, { text, on, ...attributes } = {}, ...children) {
    const element = document.createElement(tag);
    if (text !== undefined) element.textContent = text;
    for (const [name, value] of Object.entries(attributes)) {
      if (value !== undefined && value !== false) element.setAttribute(name, value === true ? "" : value);
    }
    for (const [name, listen] of Object.entries(on ?? {})) element.addEventListener(name, listen);
    element.append(...children.filter((child) => child !== undefined && child !== null));
    return element;
  }

  const waiting = []; // pictures that the browser has not read yet

  function show(image, picture) {
    const block = document.getElementById(`picture-${picture}`);
    if (block) image.src = `data:image/webp;base64,${block.textContent}`;
    else if (document.readyState === "loading") waiting.push([image, picture]);
  }

  function picture(place, px, alt) {
    if (place < 0) return make("p", { class: "missing", text: "no picture: its file cannot be read here" });
    const [width, height] = facts.pictures[place];
    const longer = Math.max(width, height);
    const isCrisp = longer <= CRISP_PX;
    const scale = isCrisp ? Math.ceil(px / longer) : px / longer;
    const size = { width: Math.max(1, Math.round(width * scale)), height: Math.max(1, Math.round(height * scale)) };
    const image = make("img", { alt, ...size, class: isCrisp ? "crisp" : undefined, decoding: "async" });
    show(image, place);
    return image;
  }

  function fileName(image, href) {
    return href ? make("a", { href, text: image, target: "_blank", rel: "noopener" }) : make("span", { text: image });
  }

  // ---- cards: each is one decision, of an image or of a group of near copies ------------------------------------------------------------

  let cards = [];
  let current = null;
  const cardOf = new WeakMap(); // by element

  function makeCards() {
    const groups = new Map();
    facts.rows.forEach((row) => {
      const key = row.group === "" || apart.has(row.group) ? `image ${row.image}` : `group ${row.group}`;
      if (groups.has(key)) groups.get(key).push(row);
      else groups.set(key, [row]);
    });
    watcher.disconnect();
    cards = [...groups.values()].map((rows, place) => {
      const element = make("li", { class: "card empty", tabindex: "-1" });
      const card = { rows, element, place, isFilled: false, select: null, buttons: [], said: null };
      cardOf.set(element, card);
      return card;
    });
    list.replaceChildren(...cards.map((card) => card.element));
    cards.slice(0, FIRST_CARDS).forEach(fill);
    cards.forEach((card) => watcher.observe(card.element));
    current = null;
  }

  const watcher = new IntersectionObserver((entries) => {
    for (const entry of entries) if (entry.isIntersecting) fill(cardOf.get(entry.target));
  }, { rootMargin: "1500px" });

  function heading(card) {
    const [row] = card.rows;
    const n = card.rows.length;
    const drawn = card.rows.filter((one) => one.chosen === "random").length;
    const first = drawn === n ? "Drawn at random" : `Suspect, rank ${number(row.rank)}`;
    return make("h2", { id: `card-${card.place}` },
      make("span", { class: drawn === n ? "badge random" : "badge", text: first }),
      n > 1 ? make("span", { class: "badge", text: `${number(n)} near copies, one decision` }) : null,
      drawn && drawn < n ? make("span", { class: "badge random", text: `${number(drawn)} of them drawn at random` }) : null);
  }

  function doubt(row) {
    if (row.pWrong === null) return null;
    const bar = make("span", { class: "fill" });
    bar.style.width = `${(100 * row.pWrong).toFixed(1)}%`;
    return make("div", { class: "doubt" },
      make("span", { text: `P(wrong) ${percent(row.pWrong)}` }), make("span", { class: "track", "aria-hidden": "true" }, bar));
  }

  function figures(card) {
    const place = make("div", { class: "own" });
    const add = (rows) => rows.forEach((row) => {
      const shown = picture(row.picture, SUSPECT_PX, `Image ${row.image}, given label ${facts.classes[row.given]}`);
      const figure = make("figure", {}, shown, make("figcaption", {},
        fileName(row.image, row.href),
        card.rows.length > 1 ? make("small", { text: `given ${facts.classes[row.given]}` }) : null,
        row.user ? make("small", { text: `said by ${row.user}` }) : null));
      figure.style.width = `${Math.max(LEAST_PX, shown.width ?? 0)}px`; // a caption is no wider than its picture
      place.append(figure);
    });
    add(card.rows.slice(0, MOST_COPIES));
    if (card.rows.length > MOST_COPIES) {
      const more = make("button", { type: "button", text: `Show all ${number(card.rows.length)}`, on: { click: () => {
        more.remove();
        add(card.rows.slice(MOST_COPIES));
      } } });
      place.append(more);
    }
    return place;
  }

  function neighbours(card) {
    const [row] = card.rows;
    const texts = { suggested: "nearest of the suggested class", given: "nearest of the given class", trusted: "nearest trusted image" };
    const shown = row.near.map((near) => make("figure", {},
      picture(near.picture, NEAR_PX, `Image ${near.image}, ${texts[near.role]}, ${near.label}`),
      make("figcaption", {}, make("b", { text: near.label }), make("small", { text: texts[near.role] }), fileName(near.image, near.href))));
    return shown.length ? make("div", { class: "near" }, ...shown) : null;
  }

  const keyOf = (place) => CLASS_KEYS[place] ?? "";

  function choiceText(place, row) {
    const marks = place === row.given ? " (right as given)" : place === row.suggested ? " (suggested)" : "";
    return `${facts.classes[place]}${marks}`;
  }

  function options(row, places) {
    const first = [row.given, ...(row.suggested >= 0 && row.suggested !== row.given ? [row.suggested] : [])];
    const ordered = [...first, ...places.filter((place) => !first.includes(place))];
    return [
      make("option", { value: "", text: "not checked" }),
      ...ordered.map((place) => make("option", { value: `label ${place}`, text: choiceText(place, row) })),
      make("option", { value: "unsure", text: "unsure" }),
      make("option", { value: "none", text: "not of any class" }),
    ];
  }

  const valueOf = ({ verdict, label }) => (verdict === "label" ? `label ${facts.classes.indexOf(label)}` : verdict);

  function selectBox(card) {
    const [row] = card.rows;
    const all = facts.classes.map((_, place) => place);
    const chosen = facts.classes.indexOf(answerOf(row).label);
    const isShort = all.length > MOST_OPTIONS;
    const select = make("select", { "aria-label": `Label of ${row.image}` }, ...options(row, isShort ? all.filter((p) => p === chosen) : all));
    const complete = () => {
      const before = select.value;
      select.replaceChildren(...options(row, all));
      select.value = before;
    };
    card.complete = isShort ? complete : () => {};
    if (isShort) for (const event of ["focus", "pointerdown"]) select.addEventListener(event, complete, { once: true });
    select.addEventListener("change", () => {
      const [verdict, place] = select.value.split(" ");
      decide(card, verdict, place === undefined ? "" : facts.classes[Number(place)]);
    });
    return select;
  }

  function fill(card) {
    if (card.isFilled) return;
    card.isFilled = true;
    const [row] = card.rows;
    const given = facts.classes[row.given];
    const suggested = row.suggested >= 0 && row.suggested !== row.given ? facts.classes[row.suggested] : null;
    const button = (value, text, key, verdict, label) => {
      const made = make("button", { type: "button", "aria-pressed": "false", "data-value": value, on: { click: () => decide(card, verdict, label) } },
        make("span", { text }), make("kbd", { text: key, "aria-hidden": "true" }));
      card.buttons.push(made);
      return made;
    };
    card.select = selectBox(card);
    card.said = make("p", { class: "answer" });
    const surely = suggested && row.pSuggested !== null ? ` (P ${percent(row.pSuggested)})` : "";
    card.element.setAttribute("aria-labelledby", `card-${card.place}`);
    card.element.classList.remove("empty");
    card.element.append(...[
      heading(card),
      figures(card),
      neighbours(card),
      make("div", { class: "asked" },
        make("p", { class: "labels" }, "Given ", make("b", { text: given }),
          ...(suggested ? ["; suggested label ", make("b", { text: suggested }), surely] : [])),
        doubt(row),
        make("div", { class: "choices", role: "group", "aria-label": "Answer" },
          button(`label ${row.given}`, `Right: ${given}`, "r", "label", given),
          suggested ? button(`label ${row.suggested}`, `Suggested: ${suggested}`, "s", "label", suggested) : null,
          button("unsure", "Unsure", "u", "unsure", ""),
          button("none", "Not of any class", "n", "none", ""),
          card.select,
          card.rows.length > 1
            ? make("button", { type: "button", class: "plain", text: "Decide one by one", on: { click: () => takeApart(card) } }) : null),
        card.said),
    ].filter(Boolean));
    refresh(card);
  }

  function refresh(card) {
    const isDone = card.rows.every(isAnswered);
    card.element.classList.toggle("done", isDone);
    if (!card.isFilled) return;
    const states = new Set(card.rows.map((row) => valueOf(answerOf(row))));
    const value = states.size === 1 ? [...states][0] : "";
    if (value.startsWith("label") && ![...card.select.options].some((option) => option.value === value)) card.complete();
    card.select.value = value;
    for (const button of card.buttons) button.setAttribute("aria-pressed", String(button.dataset.value === value));
    card.said.textContent = states.size > 1 ? "Answers differ" : value ? `Checked: ${answerText(answerOf(card.rows[0]))}` : "";
  }

  const answerText = ({ verdict, label }) => ({ label, unsure: "unsure", none: "not of any class", "": "not checked" })[verdict];

  // ---- deciding -------------------------------------------------------------------------------------------------------------------------

  function say(text) {
    document.getElementById("spoken").textContent = text;
  }

  function change(changes) {
    for (const [image, answer] of changes) answers.set(image, answer);
    keepAnswers();
    const images = new Set(changes.map(([image]) => image));
    cards.filter((card) => card.rows.some((row) => images.has(row.image))).forEach(refresh);
    count();
  }

  function decide(card, verdict, label) {
    history.push(card.rows.map((row) => [row.image, answerOf(row)]));
    change(card.rows.map((row) => [row.image, { verdict, label }]));
    say(`${answerText({ verdict, label })}. ${document.getElementById("progress-text").textContent}`);
  }

  function undo() {
    const before = history.pop();
    if (!before) {
      say("Nothing to undo");
      return;
    }
    change(before);
    const card = cards.find((one) => one.rows.some((row) => row.image === before[0][0]));
    if (card && !card.element.hidden) goTo(card);
    say("Undone");
  }

  function takeApart(card) {
    const [first] = card.rows;
    apart.add(first.group);
    keepAnswers();
    makeCards();
    applyFilters();
    goTo(cards.find((one) => one.rows[0] === first));
  }

  // ---- going from card to card ------------------------------------------------------------------------------------------------------------

  const shown = () => cards.filter((card) => !card.element.hidden);

  function mark(card) {
    if (current === card) return;
    current?.element.classList.remove("current");
    current = card;
    card?.element.classList.add("current");
  }

  function goTo(card) {
    fill(card);
    mark(card);
    card.element.focus({ preventScroll: true });
    card.element.scrollIntoView({ block: "start" });
  }

  function move(step, wanted = () => true) {
    const visible = shown();
    const place = current && !current.element.hidden ? visible.indexOf(current) : step > 0 ? -1 : visible.length;
    for (let n = place + step; n >= 0 && n < visible.length; n += step) {
      if (wanted(visible[n])) {
        goTo(visible[n]);
        return;
      }
    }
    say(step > 0 ? "The last one" : "The first one");
  }

  function onKey(event) {
    const isTyping = event.target.closest?.("select, input, textarea");
    if (event.ctrlKey || event.altKey || event.metaKey || isTyping || !document.getElementById("keys-on").checked) return;
    const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
    if (key === "j" || key === "ArrowRight") move(1);
    else if (key === "k" || key === "ArrowLeft") move(-1);
    else if (key === "z") undo();
    else {
      const card = current && !current.element.hidden ? current : shown()[0];
      if (!card) return;
      const [row] = card.rows;
      const place = CLASS_KEYS.indexOf(key);
      if (key === "r") decide(card, "label", facts.classes[row.given]);
      else if (key === "s" && row.suggested >= 0) decide(card, "label", facts.classes[row.suggested]);
      else if (key === "u") decide(card, "unsure", "");
      else if (key === "n") decide(card, "none", "");
      else if (place >= 0 && place < facts.classes.length) decide(card, "label", facts.classes[place]);
      else return;
      mark(card);
      move(1, (next) => !next.rows.every(isAnswered));
    }
    event.preventDefault();
  }

  // ---- filters and progress ---------------------------------------------------------------------------------------------------------------

  const filter = (name) => document.getElementById(`filter-${name}`);
  const pairOf = (row) => `${row.given} ${row.suggested}`;

  function applyFilters() {
    const [kind, state, pair] = ["kind", "state", "pair"].map((name) => filter(name).value);
    for (const card of cards) {
      const fits = card.rows.some((row) => (kind === "all" || row.chosen === kind) && (pair === "all" || pairOf(row) === pair));
      card.element.hidden = !fits || (state !== "all" && card.rows.every(isAnswered) !== (state === "checked"));
    }
    const n = shown().length;
    document.getElementById("nothing").hidden = n > 0;
    say(`${number(n)} shown`);
  }

  function fillPairs() {
    const counts = new Map();
    for (const row of facts.rows) counts.set(pairOf(row), (counts.get(pairOf(row)) ?? 0) + 1);
    const ordered = [...counts].sort(([, some], [, others]) => others - some);
    filter("pair").append(...ordered.map(([pair, n]) => {
      const [given, suggested] = pair.split(" ").map(Number);
      const to = suggested < 0 ? "no suggestion" : suggested === given ? "the same" : facts.classes[suggested];
      return make("option", { value: pair, text: `${facts.classes[given]} \u2192 ${to} (${number(n)})` });
    }));
  }

  function count() {
    const of = (chosen) => facts.rows.filter((row) => row.chosen === chosen);
    const done = (rows) => rows.filter(isAnswered).length;
    const [suspects, random] = [of("suspect"), of("random")];
    const parts = [];
    if (suspects.length) parts.push(`${number(done(suspects))} of ${number(suspects.length)} suspects checked`);
    if (random.length) {
      const judged = random.filter((row) => ["label", "none"].includes(answerOf(row).verdict));
      const wrong = judged.filter((row) => answerOf(row).label !== facts.classes[row.given]).length;
      parts.push(`${number(done(random))} of ${number(random.length)} at random` + (judged.length ? `, ${number(wrong)} wrong` : ""));
    }
    document.getElementById("progress-text").textContent = parts.join("; ");
    const progress = document.getElementById("progress");
    progress.max = Math.max(1, facts.rows.length);
    progress.value = done(facts.rows);
    document.getElementById("undo").disabled = !history.length;
    document.getElementById("unkept").hidden = isKept;
  }

  function legend() {
    const line = (key, text) => make("li", {}, make("kbd", { text: key }), make("span", { text }));
    const lines = [["r", "right as given"], ["s", "as suggested"], ["u", "unsure"], ["n", "not of any class"], ["z", "undo"], ["j \u2192", "next"], ["k \u2190", "previous"]];
    const classes = facts.classes.slice(0, CLASS_KEYS.length).map((name, place) => [keyOf(place), name]);
    document.getElementById("legend").append(...[...lines, ...classes].map(([key, text]) => line(key, text)));
    document.getElementById("more-classes").hidden = facts.classes.length <= CLASS_KEYS.length;
  }

  function download() {
    const address = URL.createObjectURL(new Blob([checkedCsv()], { type: "text/csv" }));
    const link = make("a", { href: address, download: "checked.csv" });
    document.body.append(link);
    link.click();
    link.remove();
    setTimeout(() => URL.revokeObjectURL(address), 60_000);
    isDownloaded = true;
    say("checked.csv is downloaded");
  }

  /** Cards stop below the bar that stays on top, however many lines it has. */
  function leaveRoomForBar() {
    document.documentElement.style.scrollPaddingTop = `${document.querySelector(".bar").offsetHeight + 10}px`;
  }

  readAnswers();
  fillPairs();
  legend();
  makeCards();
  count();
  list.addEventListener("focusin", (event) => mark(cardOf.get(event.target.closest(".card")) ?? current));
  list.addEventListener("pointerdown", (event) => mark(cardOf.get(event.target.closest(".card")) ?? current));
  for (const name of ["kind", "state", "pair"]) filter(name).addEventListener("change", applyFilters);
  document.getElementById("undo").addEventListener("click", undo);
  document.getElementById("download").addEventListener("click", download);
  document.getElementById("only-random")?.addEventListener("click", () => {
    filter("kind").value = "random";
    applyFilters();
    move(1, (card) => !card.rows.every(isAnswered));
  });
  document.addEventListener("keydown", onKey);
  new ResizeObserver(leaveRoomForBar).observe(document.querySelector(".bar"));
  document.addEventListener("DOMContentLoaded", () => waiting.splice(0).forEach((one) => show(...one)));
  window.addEventListener("storage", (event) => {
    if (event.key !== storageKey) return; // another window of the same page
    readAnswers();
    cards.forEach(refresh);
    count();
  });
  window.addEventListener("beforeunload", (event) => {
    if (!isKept && !isDownloaded) event.preventDefault();
  });
})();

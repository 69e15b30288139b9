"use strict";
// Text reaches the page by textContent alone. Of the items only the rows in sight are in the
// document, so that ten thousand are as light as ten.
(() => {
  const $ = (id) => document.getElementById(id);

  const toggle = $("theme");
  toggle.hidden = false;
  toggle.addEventListener("click", () => {
    const root = document.documentElement;
    const dark = root.dataset.theme
      ? root.dataset.theme === "dark"
      : matchMedia("(prefers-color-scheme: dark)").matches;
    root.dataset.theme = dark ? "light" : "dark";
  });

  if (!$("data")) return;
  const { models, compared, tasks, items } = JSON.parse($("data").textContent);
  const ROW = 56; // px, as in the style sheet
  const LONG = 600; // words; beyond, two texts are not compared word by word
  const MARGIN = 6; // rows kept ready above and below those in sight
  const SIGNS = { gained: "▲", lost: "▼", unchanged: "=", "not compared": "·" };
  const GRADES = ["poor", "partly", "good"];
  const taskOf = new Map(tasks.map((task) => [task.name, task]));
  const state = {
    query: "", task: "", metric: "", left: compared[0], right: compared[1],
    changes: new Set(["gained", "lost"]),
    found: [], // what is listed: {item, change, gain}, the largest change first
    at: 0, // position of the selected one
  };

  const make = (tag, name, text) => {
    const element = document.createElement(tag);
    if (name) element.className = name;
    if (text !== undefined) element.textContent = text;
    return element;
  };
  const classOf = (change) => change.replace(" ", "-");
  const shown = (value) =>
    value === undefined ? "–" : String(Math.round(value * 1000) / 1000).replace("-", "−");
  const signed = (value) => (value > 0 ? "+" : "") + shown(value);

  // What there is to list

  const metricOf = (item) => state.metric || taskOf.get(item.task).primary;

  const own = (map, key) => (map && Object.hasOwn(map, key) ? map[key] : undefined);

  const compare = (item) => {
    const metric = metricOf(item);
    const before = own(item.answers[state.left]?.values, metric);
    const after = own(item.answers[state.right]?.values, metric);
    if (before === undefined || after === undefined) {
      return { item, change: "not compared", gain: 0 };
    }
    const gain = (after - before) * (own(taskOf.get(item.task).metrics, metric) ?? 1);
    return { item, change: gain > 0 ? "gained" : gain < 0 ? "lost" : "unchanged", gain };
  };

  const searched = new Map(); // item -> what the search looks in, made when first needed
  const haystack = (item) => {
    let text = searched.get(item);
    if (text === undefined) {
      const said = item.answers.map((answer) => answer?.response ?? "");
      text = [item.prompt, item.reference, ...item.tags, ...said].join("\n").toLowerCase();
      searched.set(item, text);
    }
    return text;
  };

  const refresh = () => {
    const words = state.query.toLowerCase().split(/\s+/).filter(Boolean);
    const counts = { gained: 0, lost: 0, unchanged: 0, "not compared": 0 };
    state.found = [];
    for (const item of items) {
      if (state.task && item.task !== state.task) continue;
      if (state.metric && !Object.hasOwn(taskOf.get(item.task).metrics, state.metric)) continue;
      if (words.length && !words.every((word) => haystack(item).includes(word))) continue;
      const one = compare(item);
      counts[one.change] += 1;
      if (state.changes.has(one.change)) state.found.push(one);
    }
    state.found.sort((a, b) => Math.abs(b.gain) - Math.abs(a.gain));
    state.at = 0;
    for (const button of $("changes").querySelectorAll("button")) {
      const change = button.value;
      button.textContent = `${SIGNS[change]} ${change} ${counts[change].toLocaleString("en")}`;
      button.setAttribute("aria-pressed", String(state.changes.has(change)));
    }
    const n = state.found.length;
    $("count").textContent = n
      ? `${n.toLocaleString("en")} of ${items.length.toLocaleString("en")} items, the largest change first`
      : "No item matches.";
    $("space").style.height = `${n * ROW}px`;
    $("list").scrollTop = 0;
    showRows();
    showDetail();
  };

  // The list: rows in sight only

  const showRows = () => {
    const list = $("list");
    const first = Math.max(0, Math.floor(list.scrollTop / ROW) - MARGIN);
    const last = Math.min(
      state.found.length, Math.ceil((list.scrollTop + list.clientHeight) / ROW) + MARGIN,
    );
    const rows = [];
    for (let i = first; i < last; i += 1) rows.push(row(state.found[i], i));
    $("rows").replaceChildren(...rows);
    $("rows").style.transform = `translateY(${first * ROW}px)`;
    list.setAttribute("aria-activedescendant", state.found.length ? `row-${state.at}` : "");
  };

  const row = ({ item, change, gain }, i) => {
    const element = make("div", "row");
    element.id = `row-${i}`;
    element.setAttribute("role", "option");
    element.setAttribute("aria-selected", String(i === state.at));
    element.setAttribute("aria-posinset", String(i + 1));
    element.setAttribute("aria-setsize", String(state.found.length));
    const sign = make("span", classOf(change), SIGNS[change]);
    sign.setAttribute("aria-label", change);
    const prompt = make("span", "", item.prompt.slice(0, 200));
    prompt.dir = "auto";
    const number = make("span", classOf(change), change === "not compared" ? "" : signed(gain));
    const what = make("span", "what", `${item.task} ${item.index} · ${metricOf(item)}`);
    element.append(sign, prompt, number, what);
    element.addEventListener("click", () => select(i));
    return element;
  };

  const select = (i) => {
    if (!state.found.length) return;
    state.at = Math.min(Math.max(i, 0), state.found.length - 1);
    const list = $("list");
    const top = state.at * ROW;
    if (top < list.scrollTop) list.scrollTop = top;
    if (top + ROW > list.scrollTop + list.clientHeight) {
      list.scrollTop = top + ROW - list.clientHeight;
    }
    showRows();
    showDetail();
  };

  // The selected item: the prompt, both answers side by side

  const text = (name, content) => {
    const element = make("p", `text ${name}`, content);
    element.dir = "auto";
    return element;
  };

  const showDetail = () => {
    const detail = $("detail");
    detail.scrollTop = 0;
    const one = state.found[state.at];
    if (!one) {
      detail.replaceChildren(make("p", "soft", "Nothing to show: change the filters."));
      return;
    }
    const { item, change } = one;
    const head = make("h3", "", `${item.task}, item ${item.index}: `);
    head.append(make("span", classOf(change), `${SIGNS[change]} ${change}`));
    const sides = make("div", "sides");
    const said = [state.left, state.right].map((model) => item.answers[model]?.response ?? "");
    const marks = differing(...said);
    sides.append(side(item, state.left, marks[0]), side(item, state.right, marks[1]));
    detail.replaceChildren(head, text("prompt", item.prompt), values(item), sides);
    if (item.reference) detail.append(make("h5", "", "Reference"), text("soft", item.reference));
    if (item.tags.length) detail.append(make("p", "tags", item.tags.join(" · ")));
  };

  // The words that two texts do not share: positions in each, by their longest common subsequence.
  // Nothing is marked where the texts are long, or share so little that all of it would be.
  const differing = (left, right) => {
    const [a, b] = [left.split(/(?<=\s)/), right.split(/(?<=\s)/)];
    const none = [a.map(() => false), b.map(() => false)];
    if (left === right || a.length > LONG || b.length > LONG) return none;
    const width = b.length + 1;
    const common = new Uint16Array((a.length + 1) * width);
    for (let i = a.length - 1; i >= 0; i -= 1) {
      for (let j = b.length - 1; j >= 0; j -= 1) {
        common[i * width + j] = a[i].trim() === b[j].trim()
          ? common[(i + 1) * width + j + 1] + 1
          : Math.max(common[(i + 1) * width + j], common[i * width + j + 1]);
      }
    }
    if (2 * common[0] < Math.max(a.length, b.length)) return none;
    const marks = [a.map(() => true), b.map(() => true)];
    let [i, j] = [0, 0];
    while (i < a.length && j < b.length) {
      if (a[i].trim() === b[j].trim()) {
        marks[0][i] = marks[1][j] = false;
        i += 1;
        j += 1;
      } else if (common[(i + 1) * width + j] >= common[i * width + j + 1]) i += 1;
      else j += 1;
    }
    return marks;
  };

  const marked = (content, marks) => {
    const element = text("", "");
    content.split(/(?<=\s)/).forEach((word, i) => {
      element.append(marks[i] ? make("mark", "", word) : word);
    });
    element.normalize();
    return element;
  };

  const side = (item, model, marks) => {
    const answer = item.answers[model];
    const element = make("section", "side");
    element.append(make("h4", `s${model % 6}`, models[model]));
    if (!answer) {
      element.append(make("p", "soft", "No answer."));
      return element;
    }
    element.append(answer.response ? marked(answer.response, marks) : text("soft", "(empty)"));
    if (answer.notes.length) element.append(make("p", "tags", answer.notes.join("; ")));
    if (answer.feedback.length) {
      const list = make("ul", "feedback");
      for (const [aspect, grade, justification] of answer.feedback) {
        const line = make("li");
        line.append(make("span", `grade g${grade}`, `${aspect}: ${GRADES[grade]}`));
        line.append(justification);
        list.append(line);
      }
      element.append(make("h5", "", "Feedback"), list);
    }
    return element;
  };

  const values = (item) => {
    const [before, after] = [item.answers[state.left], item.answers[state.right]];
    const table = make("table", "values");
    const heads = table.createTHead().insertRow();
    for (const head of ["", models[state.left], models[state.right], "gain"]) {
      const cell = make("th", head ? "num" : "", head);
      cell.scope = "col";
      heads.append(cell);
    }
    const body = table.createTBody();
    for (const [metric, direction] of Object.entries(taskOf.get(item.task).metrics)) {
      const [old, now] = [own(before?.values, metric), own(after?.values, metric)];
      const why = [own(before?.unscored, metric), own(after?.unscored, metric)];
      if (old === undefined && now === undefined && !why[0] && !why[1]) continue;
      const line = body.insertRow();
      const name = make("th", "", metric);
      name.scope = "row";
      const both = old !== undefined && now !== undefined;
      const gain = both ? (now - old) * direction : 0;
      line.append(
        name,
        make("td", "num", why[0] && old === undefined ? `unscored: ${why[0]}` : shown(old)),
        make("td", "num", why[1] && now === undefined ? `unscored: ${why[1]}` : shown(now)),
        make("td", `num ${gain > 0 ? "gained" : gain < 0 ? "lost" : ""}`, both ? signed(gain) : "–"),
      );
    }
    const around = make("div", "scroll");
    around.append(table);
    return around;
  };

  // Controls

  const options = (select, entries, chosen) => {
    select.replaceChildren(
      ...entries.map(([value, name]) => {
        const option = make("option", "", name);
        option.value = value;
        return option;
      }),
    );
    select.value = chosen;
  };

  const offerMetrics = () => {
    const among = tasks.filter((task) => !state.task || task.name === state.task);
    const names = [...new Set(among.flatMap((task) => Object.keys(task.metrics)))];
    if (!names.includes(state.metric)) state.metric = "";
    options($("metric"), [["", "the primary one"], ...names.map((name) => [name, name])], state.metric);
  };

  options($("task"), [["", "all"], ...tasks.map(({ name }) => [name, name])], "");
  options($("left"), models.map((name, i) => [String(i), name]), String(state.left));
  options($("right"), models.map((name, i) => [String(i), name]), String(state.right));
  for (const name of ["left", "right"]) $(name).parentElement.hidden = models.length < 3;
  offerMetrics();
  for (const change of Object.keys(SIGNS)) {
    const button = make("button");
    button.type = "button";
    button.value = change;
    button.addEventListener("click", () => {
      if (!state.changes.delete(change)) state.changes.add(change);
      refresh();
    });
    $("changes").append(button);
  }
  $("task").addEventListener("change", (event) => {
    state.task = event.target.value;
    offerMetrics();
    refresh();
  });
  $("metric").addEventListener("change", (event) => {
    state.metric = event.target.value;
    refresh();
  });
  for (const name of ["left", "right"]) {
    $(name).addEventListener("change", (event) => {
      state[name] = Number(event.target.value);
      refresh();
    });
  }
  let waiting;
  $("search").addEventListener("input", (event) => {
    clearTimeout(waiting);
    waiting = setTimeout(() => {
      state.query = event.target.value;
      refresh();
    }, 120);
  });
  $("filters").addEventListener("submit", (event) => event.preventDefault());

  let drawing = false;
  $("list").addEventListener("scroll", () => {
    if (drawing) return;
    drawing = true;
    requestAnimationFrame(() => {
      drawing = false;
      showRows();
    });
  });
  addEventListener("resize", showRows);

  const page = () => Math.max(1, Math.floor($("list").clientHeight / ROW) - 1);
  const inList = {
    ArrowDown: () => select(state.at + 1),
    ArrowUp: () => select(state.at - 1),
    PageDown: () => select(state.at + page()),
    PageUp: () => select(state.at - page()),
    Home: () => select(0),
    End: () => select(state.found.length - 1),
  };
  $("list").addEventListener("keydown", (event) => {
    if (!Object.hasOwn(inList, event.key)) return;
    event.preventDefault();
    inList[event.key]();
  });
  addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const typing = document.activeElement?.matches("input, select");
    if (event.key === "Escape" && typing) {
      if (document.activeElement === $("search") && $("search").value) {
        clearTimeout(waiting); // what was typed last is gone, and must not redraw the list later
        $("search").value = "";
        state.query = "";
        refresh();
      }
      $("list").focus();
    } else if (!typing && (event.key === "j" || event.key === "k")) {
      event.preventDefault();
      $("list").focus();
      select(state.at + (event.key === "j" ? 1 : -1));
    } else if (!typing && event.key === "/") {
      event.preventDefault();
      $("search").focus();
    }
  });

  $("browser").hidden = false;
  refresh();
  if (!state.found.length) {
    state.changes = new Set(Object.keys(SIGNS)); // nothing flipped: show what there is
    refresh();
  }
})();

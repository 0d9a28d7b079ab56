// The controls of an interactive figure, in native form elements, so that keyboard, touch and screen reader work by
// themselves. One function serves both homes: under a kernel `ask` sends the positions to Python, in the book it
// looks the frame up. `spec.controls` is a list of {kind, label, unit, texts, at}; a position is an index into `texts`.
function coursekitExplore(root, spec, ask) {
  const make = (tag, attributes, ...children) => {
    const node = document.createElement(tag);
    for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
    node.append(...children);
    return node;
  };
  root.classList.add("ck-explore");
  // In JupyterLab the first line keeps the shortcuts away; the second keeps the notebook from moving the focus to its active
  // cell at every key, which would happen before the slider acts on it.
  root.setAttribute("data-lm-suppress-shortcuts", "true");
  root.addEventListener("keydown", (event) => { if (root.closest(".jp-Notebook")) event.stopPropagation(); });
  root.querySelector(".ck-still")?.remove();
  let image = root.querySelector("img");
  if (!image) root.append((image = make("img", { class: "ck-picture", alt: "" })));
  const message = make("p", { class: "ck-message", role: "alert" });
  const spoken = make("p", { class: "ck-spoken", role: "status" });
  const panel = make("div", { class: "ck-controls", role: "group", "aria-label": "Controls of the figure" });
  const at = spec.controls.map((control) => control.at);
  let wanted = null, busy = false, later = null, saying = null;

  // One question on the way at a time; while it is out only the newest position is kept.
  const send = () => {
    if (busy || wanted === null) return;
    busy = true;
    const now = wanted;
    wanted = null;
    const slow = setTimeout(() => root.setAttribute("aria-busy", "true"), 250);
    ask(now, (answer) => {
      busy = false;
      clearTimeout(slow);
      root.removeAttribute("aria-busy");
      show(answer);
      send();
    });
  };
  const change = () => {
    wanted = [...at];
    clearTimeout(later);
    later = setTimeout(send, 30);
  };
  let shown = 0;
  const show = async ({ src, alt, width, error, release }) => {
    const turn = ++shown;
    message.textContent = error || "";
    root.classList.toggle("ck-stale", Boolean(error));
    if (!src) return;
    // The new picture is decoded before it takes the old one's place: nothing blinks, nothing jumps.
    const next = new Image();
    next.src = src;
    try { await next.decode(); } catch { /* shown as it is */ }
    if (turn !== shown) { if (release) release(); return; }
    const old = root.ckRelease;
    image.src = src;
    image.alt = alt;
    if (width) image.width = width;
    root.ckRelease = release;
    if (old) old();
    clearTimeout(saying);
    if (turn > 1) saying = setTimeout(() => { spoken.textContent = alt; }, 700);
  };

  spec.controls.forEach((control, i) => {
    const value = make("output", { class: "ck-value" });
    const tell = () => {
      const text = control.texts[at[i]] + (control.unit ? (control.unit === "°" ? "" : " ") + control.unit : "");
      value.textContent = text;
      return text;
    };
    const row = make("div", { class: "ck-row" });
    const id = "ck" + Math.random().toString(36).slice(2);
    const name = make("label", { for: id }, control.label);
    if (control.kind === "slider") {
      const input = make("input", {
        type: "range", id, min: 0, max: control.texts.length - 1, step: 1, "data-name": control.name,
        "aria-label": control.label,
      });
      const place = (position) => {
        at[i] = position;
        input.value = position;
        input.setAttribute("aria-valuetext", tell());
      };
      input.addEventListener("input", () => { place(Number(input.value)); change(); });
      row.append(name, input, value);
      if (control.play) {
        const button = make("button", { type: "button", class: "ck-play", "aria-label": "Play " + control.label }, "▶ Play");
        let timer = null;
        const stop = () => {
          clearInterval(timer);
          timer = null;
          button.textContent = "▶ Play";
          button.setAttribute("aria-label", "Play " + control.label);
        };
        button.addEventListener("click", () => {
          if (timer) return stop();
          button.textContent = "❚❚ Pause";
          button.setAttribute("aria-label", "Pause " + control.label);
          timer = setInterval(() => {
            if (!root.isConnected) return stop();
            if (!busy) { place((at[i] + 1) % control.texts.length); change(); }
          }, 400);
        });
        input.addEventListener("pointerdown", stop);
        input.addEventListener("keydown", stop);
        row.append(button);
      }
      place(control.at);
    } else if (control.kind === "toggle") {
      const input = make("input", { type: "checkbox", id, "data-name": control.name });
      input.checked = control.at === 1;
      input.addEventListener("input", () => { at[i] = input.checked ? 1 : 0; change(); });
      row.append(name, input);
    } else {
      const select = make("select", { id, "data-name": control.name, "aria-label": control.label });
      control.texts.forEach((text, k) => select.append(make("option", { value: k }, text)));
      select.selectedIndex = control.at;
      select.addEventListener("input", () => { at[i] = select.selectedIndex; change(); });
      row.append(name, select);
    }
    panel.append(row);
  });
  root.append(panel, message, spoken);
  return show;
}

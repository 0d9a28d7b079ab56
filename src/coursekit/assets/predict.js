// The two parts of a quick check under a kernel: the question with its Commit button, and the place where the answer appears.
// Native form elements in a fieldset, so that keyboard and screen reader work by themselves.
const make = (tag, attributes, ...children) => {
  const node = document.createElement(tag);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  node.append(...children);
  return node;
};

function question({ model, el }) {
  const { question, options, kind, unit } = model.get("spec");
  const name = "ck" + Math.random().toString(36).slice(2);
  const fields = make("fieldset", {}, make("legend", {}, question));
  const inputs = [];
  if (kind === "choice") {
    for (const option of options) {
      const input = make("input", { type: "radio", name, value: option });
      inputs.push(input);
      fields.append(make("label", {}, input, " ", make("span", {}, option)));
    }
  } else {
    const input = kind === "number" ? make("input", { type: "number", step: "any" }) : make("textarea", { rows: 2 });
    inputs.push(input);
    fields.append(make("label", {}, kind === "number" ? "Your number " : "In your words ", input, " ", make("span", {}, unit)));
  }
  const button = make("button", { type: "button" }, "Commit");
  const said = make("p", { role: "status" });
  const read = () => {
    if (kind === "choice") return (inputs.find((i) => i.checked) || {}).value;
    const text = inputs[0].value.trim();
    if (text === "") return undefined;
    return kind === "number" ? Number(text) : text;
  };
  const settle = () => {
    const value = model.get("committed");
    if (value === null || value === undefined) return;
    for (const input of inputs) {
      if (kind === "choice") input.checked = input.value === value;
      else input.value = value;
      input.disabled = true;
    }
    button.hidden = true;
    said.textContent = "Committed. Run on and see.";
  };
  button.addEventListener("click", () => {
    const value = read();
    if (value === undefined) { said.textContent = "Decide first; a wrong guess teaches more than none."; return; }
    model.set("committed", value);
    model.save_changes();
  });
  model.on("change:committed", settle);
  // In JupyterLab: no shortcuts while one types here, and no focus taken back by the notebook's active cell.
  const box = make("div", { class: "ck-predict", "data-lm-suppress-shortcuts": "true" }, fields, button, said);
  box.addEventListener("keydown", (event) => { if (box.closest(".jp-Notebook")) event.stopPropagation(); });
  el.append(box);
  settle();
}

function reveal({ model, el }) {
  const box = make("div", { class: "ck-predict ck-reveal", role: "status" });
  const fill = () => { box.innerHTML = model.get("markup"); };
  model.on("change:markup", fill);
  fill();
  el.append(box);
}

export default {
  render(context) {
    (context.model.get("part") === "question" ? question : reveal)(context);
  },
};

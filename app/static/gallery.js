export default function ({ data, parentElement, setTriggerValue }) {
  const root = parentElement;
  let grid = root.querySelector(".grid");
  grid.style.setProperty("--cell", data.cell + "px");
  grid.replaceChildren(...data.items.map(item => {
    const button = document.createElement("button");
    button.type = "button";
    button.dataset.id = item.id;
    button.setAttribute("aria-pressed", String(item.id === data.selected));
    button.setAttribute("aria-label", "Choose: " + item.title);
    button.title = item.title;
    const img = document.createElement("img");
    img.src = item.src; img.alt = ""; img.loading = "lazy";
    const text = document.createElement("span");
    text.textContent = item.title;
    button.append(img, text);
    button.onclick = () => setTriggerValue("picked", item.id);
    return button;
  }));
}

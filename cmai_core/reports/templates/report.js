"use strict";
for (const chart of document.querySelectorAll(".chart")) {
  const tip = chart.querySelector(".tip");
  const say = dot => {
    tip.textContent = dot.dataset.said;
    tip.hidden = false;
    const box = chart.getBoundingClientRect(), at = dot.getBoundingClientRect();
    tip.style.left = Math.max(4, Math.min(at.left - box.left + 10, box.width - tip.offsetWidth - 4)) + "px";
    tip.style.top = at.top - box.top - tip.offsetHeight - 6 + "px";
  };
  for (const kind of ["pointerover", "focusin"])
    chart.addEventListener(kind, event => event.target.dataset.said && say(event.target));
  for (const kind of ["pointerout", "focusout"]) chart.addEventListener(kind, () => { tip.hidden = true; });
  for (const button of chart.querySelectorAll("[data-series]"))
    button.addEventListener("click", () => {
      const on = button.getAttribute("aria-pressed") !== "true";
      button.setAttribute("aria-pressed", on);
      chart.querySelector(`[data-line="${button.dataset.series}"]`).style.display = on ? "" : "none";
    });
}
for (const box of document.querySelectorAll("[data-blink]")) {
  const [clean, attacked] = box.querySelectorAll("img");
  const button = document.createElement("button");
  button.type = "button";
  button.textContent = "Blink";
  button.setAttribute("aria-pressed", "false");
  const own = clean.src;
  let timer = 0;
  button.addEventListener("click", () => {
    clearInterval(timer);
    const on = button.getAttribute("aria-pressed") !== "true";
    button.setAttribute("aria-pressed", on);
    clean.src = own;
    if (on) timer = setInterval(() => { clean.src = clean.src === own ? attacked.src : own; }, 450);
  });
  const tools = document.createElement("div");
  tools.className = "tools";
  tools.append(button);
  box.prepend(tools);
}
for (const tools of document.querySelectorAll("[data-filters]")) {
  const cards = document.querySelectorAll(`#${tools.dataset.filters} > [data-kind]`);
  for (const button of tools.querySelectorAll("button"))
    button.addEventListener("click", () => {
      for (const other of tools.querySelectorAll("button")) other.setAttribute("aria-pressed", other === button);
      for (const card of cards) card.hidden = !!button.dataset.kind && card.dataset.kind !== button.dataset.kind;
    });
}

// One listener a page: keys press the buttons that are there, or tell the stage.
const BUTTONS = { s: "start_attack", Escape: "cancel_attack", u: "undo", "?": "open_help" };
const STAGE = ["b", "d", "ArrowLeft", "ArrowRight"];

function typing(target) {
  return target.closest("input:not([type=range]):not([type=checkbox]):not([type=radio]), textarea, select, [contenteditable], [role=combobox], [role=listbox]");
}

export default function ({ data }) {
  const listen = event => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.defaultPrevented) return;
    if (event.target instanceof Element && typing(event.target)) return;
    const open = document.querySelector("[role=dialog]");
    const key = BUTTONS[event.key];
    if (key && !(open && event.key !== "Escape")) {
      const button = document.querySelector(`.st-key-${key} button:not([disabled])`);
      if (button) { button.click(); event.preventDefault(); }
      return;
    }
    if (open) return;
    if (STAGE.includes(event.key)) {
      if (event.target instanceof Element && event.target.closest("[role=slider], [role=tab], [role=radio], input, canvas, .js-plotly-plot")) return;
      window.dispatchEvent(new CustomEvent("cmai-stage", { detail: event.key }));
      return;
    }
    const page = data.pages[Number(event.key) - 1];
    if (page !== undefined && /^[1-9]$/.test(event.key)) {
      const links = [...document.querySelectorAll("[data-testid=stTopNavLink]")];
      const link = links[Number(event.key) - 1];
      if (link) { link.click(); event.preventDefault(); }
    }
  };
  window.addEventListener("keydown", listen);
  return () => window.removeEventListener("keydown", listen);
}

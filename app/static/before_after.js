export default function ({ data, parentElement }) {
  const root = parentElement;
  const frame = root.querySelector(".frame");
  const input = root.querySelector("input");
  const set = (sel, f) => f(root.querySelector(sel));
  set(".left", n => { n.src = data.left; n.alt = data.left_alt; });
  set(".right", n => { n.src = data.right; n.alt = data.right_alt; });
  set(".a", n => { n.textContent = data.left_name; n.style.background = data.left_colour; });
  set(".b", n => { n.textContent = data.right_name; n.style.background = data.right_colour; });
  frame.style.setProperty("--ba-ratio", data.ratio);
  frame.style.setProperty("--ba-max", data.max_width + "px");
  input.setAttribute("aria-label", data.label);
  const move = () => {
    frame.style.setProperty("--cut", input.value + "%");
    input.setAttribute("aria-valuetext", input.value + "% " + data.left_name);
  };
  input.oninput = move;
  move();
}

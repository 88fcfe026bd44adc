// The stage: two pictures compared in four ways, and the steps of the attack between them.
const SVG = "http://www.w3.org/2000/svg";
const PLAY_MS = 160, BLINK_MS = 500;

export default function ({ data, parentElement, setStateValue }) {
  const root = parentElement.querySelector(".stage");
  const one = sel => root.querySelector(sel);
  const frames = data.frames, still = matchMedia("(prefers-reduced-motion: reduce)").matches;
  const kept = root.cmai && root.cmai.key === data.key ? root.cmai : { key: data.key, at: frames.length - 1, mode: root.cmai ? root.cmai.mode : "slide" };
  root.cmai = kept;
  kept.at = Math.min(kept.at, frames.length - 1);
  let blinking = 0, playing = 0;

  const frame = one(".frame"), cut = one(".cut"), step = one(".step"), canvas = one(".diff");
  root.style.setProperty("--ratio", data.ratio);
  for (const [sel, name, colour] of [[".a", data.left_name, data.left_colour], [".b", data.right_name, data.right_colour]]) {
    one(sel).textContent = name;
    one(sel).style.background = colour;
  }
  cut.setAttribute("aria-label", data.label);
  one(".scrub").hidden = frames.length < 2 || !data.steps;
  step.max = frames.length - 1;

  const move = () => {
    frame.style.setProperty("--cut", cut.value + "%");
    cut.setAttribute("aria-valuetext", cut.value + " % " + data.left_name);
  };

  const difference = () => {
    const images = [one(".left"), one(".right")];
    if (!images.every(i => i.complete && i.naturalWidth)) {
      images.forEach(i => i.addEventListener("load", difference, { once: true }));
      return;
    }
    const w = canvas.width = images[0].naturalWidth, h = canvas.height = images[0].naturalHeight;
    const pen = canvas.getContext("2d", { willReadFrequently: true });
    const [a, b] = images.map(i => { pen.drawImage(i, 0, 0, w, h); return pen.getImageData(0, 0, w, h); });
    for (let i = 0; i < a.data.length; i += 4)
      for (let c = 0; c < 3; c++) b.data[i + c] = 128 + data.gain * (b.data[i + c] - a.data[i + c]);
    pen.putImageData(b, 0, 0);
  };

  const words = (place, pieces) => place.replaceChildren(...pieces.map(([text, kind]) => {
    const part = document.createElement(kind === "new" ? "ins" : kind === "gone" ? "del" : "span");
    part.textContent = text;
    return part;
  }));

  const table = f => {
    const head = document.createElement("tr");
    for (const text of ["", ...data.columns]) {
      const cell = document.createElement("th");
      cell.textContent = text;
      cell.scope = "col";
      head.append(cell);
    }
    const rows = f.rows.map(row => {
      const line = document.createElement("tr");
      row.forEach((text, i) => {
        const cell = document.createElement(i ? "td" : "th");
        cell.textContent = text;
        if (!i) cell.scope = "row";
        line.append(cell);
      });
      return line;
    });
    one(".now").replaceChildren(...(rows.length ? [head, ...rows] : []));
  };

  const trace = () => {
    const svg = one(".trace"), lines = data.traces || [];
    svg.toggleAttribute("hidden", !lines.length);
    svg.setAttribute("aria-label", data.trace_label || "");
    const all = lines.flatMap(line => line.values), low = Math.min(...all), high = Math.max(...all), span = high - low || 1;
    const x = i => frames.length > 1 ? 100 * i / (frames.length - 1) : 0, y = v => 28 - 26 * (v - low) / span;
    svg.replaceChildren(...lines.map(line => {
      const drawn = document.createElementNS(SVG, "polyline");
      drawn.setAttribute("points", line.values.map((v, i) => `${x(i)},${y(v)}`).join(" "));
      drawn.setAttribute("stroke", line.colour);
      drawn.setAttribute("stroke-dasharray", line.dash);
      return drawn;
    }));
    if (lines.length) {
      const mark = document.createElementNS(SVG, "line");
      mark.setAttribute("class", "mark");
      for (const k of ["x1", "x2"]) mark.setAttribute(k, x(kept.at));
      mark.setAttribute("y1", 0);
      mark.setAttribute("y2", 30);
      svg.append(mark);
    }
  };

  const draw = () => {
    const f = frames[kept.at];
    for (const sel of [".left", ".left2"]) { one(sel).src = data.clean; one(sel).alt = data.left_alt; }
    for (const sel of [".right", ".right2"]) { one(sel).src = f.src; one(sel).alt = data.right_alt; }
    root.dataset.mode = kept.mode;
    one(".sentence").hidden = !f.sentence;
    words(one(".sentence"), f.sentence || []);
    step.value = kept.at;
    const said = f.step === data.steps ? `step ${f.step}` : `step ${f.step}/${data.steps}`;
    step.setAttribute("aria-valuetext", said);
    one(".at").textContent = said;
    for (const button of root.querySelectorAll(".modes button")) button.setAttribute("aria-pressed", String(button.dataset.mode === kept.mode));
    canvas.setAttribute("aria-label", data.diff_alt);
    if (kept.mode === "diff") difference();
    table(f);
    trace();
  };

  const stop = () => { clearInterval(playing); playing = 0; one(".play").textContent = "▶"; };
  const go = to => { kept.at = Math.max(0, Math.min(frames.length - 1, to)); draw(); };
  const play = () => {
    if (playing) return stop();
    if (kept.at === frames.length - 1) kept.at = 0;
    one(".play").textContent = "❚❚";
    playing = setInterval(() => kept.at < frames.length - 1 ? go(kept.at + 1) : stop(), PLAY_MS);
  };
  const show = mode => {
    kept.mode = mode;
    clearInterval(blinking);
    root.classList.remove("flip");
    if (mode === "blink") blinking = setInterval(() => root.classList.toggle("flip"), still ? 3 * BLINK_MS : BLINK_MS);
    draw();
  };
  const keys = event => {
    if (event.detail === "b") show(kept.mode === "blink" ? "slide" : "blink");
    else if (event.detail === "d") show(kept.mode === "diff" ? "slide" : "diff");
    else { stop(); go(kept.at + (event.detail === "ArrowLeft" ? -1 : 1)); }
  };

  cut.oninput = move;
  step.oninput = () => { stop(); go(Number(step.value)); };
  one(".play").onclick = play;
  for (const button of root.querySelectorAll(".modes button")) button.onclick = () => show(button.dataset.mode);
  window.addEventListener("cmai-stage", keys);
  move();
  show(kept.mode);
  return () => {
    clearInterval(blinking);
    clearInterval(playing);
    window.removeEventListener("cmai-stage", keys);
  };
}

// A map of up to tens of thousands of points on a canvas. Plotly's WebGL charts make code from text while they run,
// which the lab's security policy forbids; and this needs no WebGL.

const SHAPES = [
  (c, x, y, r) => { c.moveTo(x + r, y); c.arc(x, y, r, 0, 7); },
  (c, x, y, r) => c.rect(x - r * .9, y - r * .9, r * 1.8, r * 1.8),
  (c, x, y, r) => poly(c, [[x, y - r * 1.3], [x + r * 1.3, y], [x, y + r * 1.3], [x - r * 1.3, y]]),
  (c, x, y, r) => poly(c, [[x, y - r * 1.2], [x + r * 1.2, y + r], [x - r * 1.2, y + r]]),
  (c, x, y, r) => { c.rect(x - r * 1.2, y - r * .35, r * 2.4, r * .7); c.rect(x - r * .35, y - r * 1.2, r * .7, r * 2.4); },
  (c, x, y, r) => poly(c, [[x, y + r * 1.2], [x + r * 1.2, y - r], [x - r * 1.2, y - r]]),
  (c, x, y, r) => c.rect(x - r * 1.3, y - r * .5, r * 2.6, r),
  (c, x, y, r) => c.rect(x - r * .5, y - r * 1.3, r, r * 2.6),
];

function poly(c, corners) {
  corners.forEach(([x, y], k) => k ? c.lineTo(x, y) : c.moveTo(x, y));
  c.closePath();
}

const bytes = text => Uint8Array.from(atob(text), letter => letter.charCodeAt(0));
const bit = (bits, k) => (bits[k >> 3] >> (7 - (k & 7))) & 1;

// Places of all points in the canvas, from −1…1 of the data: turned in space, moved, and enlarged.
function project(my, width, height) {
  const { places, depth, count } = my;
  const half = Math.min(width, height) / 2 - 14;
  const [sa, ca, sb, cb] = [Math.sin(my.turn), Math.cos(my.turn), Math.sin(my.tilt), Math.cos(my.tilt)];
  const scale = depth === 3 ? [half * .8, half * .8] : [width / 2 - 14, height / 2 - 14];
  for (let k = 0; k < count; k++) {
    let x = places[depth * k] / 32767.5 - 1, y = places[depth * k + 1] / 32767.5 - 1;
    if (depth === 3) {
      const z = places[depth * k + 2] / 32767.5 - 1;
      const across = ca * x + sa * z, into = ca * z - sa * x;
      y = cb * y - sb * into;
      x = across;
    }
    my.xy[2 * k] = width / 2 + (x * scale[0]) * my.zoom + my.dx;
    my.xy[2 * k + 1] = height / 2 - (y * scale[1]) * my.zoom + my.dy;
  }
}

function draw(my) {
  my.waiting = false;
  const { canvas, data } = my, ratio = window.devicePixelRatio || 1;
  const width = canvas.clientWidth, height = canvas.clientHeight;
  if (!width) return;
  if (canvas.width !== Math.round(width * ratio)) canvas.width = Math.round(width * ratio);
  if (canvas.height !== Math.round(height * ratio)) canvas.height = Math.round(height * ratio);
  const c = canvas.getContext("2d"), ink = getComputedStyle(canvas).color;
  c.setTransform(ratio, 0, 0, ratio, 0, 0);
  c.clearRect(0, 0, width, height);
  project(my, width, height);
  if (data.arrows) lines(my, c, ink);
  for (const picked of [0, 1]) {
    c.globalAlpha = picked ? .85 : .1;
    for (const [key, points] of my.groups[picked]) {
      const [layer, colour] = key.split(" ").map(Number), look = data.layers[layer];
      c.beginPath();
      const shape = SHAPES[data.shapes[data.smooth ? layer : colour] % SHAPES.length];
      for (const k of points) shape(c, my.xy[2 * k], my.xy[2 * k + 1], look.size);
      c.fillStyle = c.strokeStyle = data.palette[colour];
      c.lineWidth = 1.3;
      look.hollow ? c.stroke() : c.fill();
    }
  }
  c.globalAlpha = 1;
  c.strokeStyle = ink;
  c.lineWidth = 2;
  if (data.chosen >= 0) data.layers.forEach((_, layer) => ring(c, my, layer * data.rows + data.chosen));
  if (my.path.length) {
    c.lineWidth = 1.5;
    c.setLineDash([5, 4]);
    c.beginPath();
    poly(c, my.path);
    c.stroke();
    c.setLineDash([]);
  }
}

function ring(c, my, k) {
  c.beginPath();
  c.arc(my.xy[2 * k], my.xy[2 * k + 1], 9, 0, 7);
  c.stroke();
}

// Lines from the first layer to the second: dotted where they are no longer than the drift control's.
function lines(my, c, ink) {
  const { data } = my, n = data.rows;
  c.strokeStyle = ink;
  c.lineWidth = 1;
  c.globalAlpha = .3;
  for (const far of [0, 1]) {
    c.setLineDash(far ? [] : [2, 4]);
    c.beginPath();
    for (let k = 0; k < n; k++) {
      if (!bit(my.mask, k) || bit(my.moved, k) !== far) continue;
      c.moveTo(my.xy[2 * k], my.xy[2 * k + 1]);
      c.lineTo(my.xy[2 * (n + k)], my.xy[2 * (n + k) + 1]);
    }
    c.stroke();
  }
  c.setLineDash([]);
}

function soon(my) {
  if (my.waiting) return;
  my.waiting = true;
  requestAnimationFrame(() => draw(my));
}

function nearest(my, x, y) {
  let best = -1, least = 144;
  for (let k = 0; k < my.count; k++) {
    if (!bit(my.mask, k % my.data.rows)) continue;
    const d = (my.xy[2 * k] - x) ** 2 + (my.xy[2 * k + 1] - y) ** 2;
    if (d < least) [best, least] = [k, d];
  }
  return best;
}

function inside(path, x, y) {
  let odd = false;
  for (let i = 0, j = path.length - 1; i < path.length; j = i++) {
    const [xi, yi] = path[i], [xj, yj] = path[j];
    if (yi > y !== yj > y && x < ((xj - xi) * (y - yi)) / (yj - yi) + xi) odd = !odd;
  }
  return odd;
}

function caught(my) {
  const rows = new Set();
  for (let k = 0; k < my.count; k++) {
    const row = k % my.data.rows;
    if (bit(my.mask, row) && inside(my.path, my.xy[2 * k], my.xy[2 * k + 1])) rows.add(row);
  }
  return [...rows];
}

function tip(my, k, x, y) {
  my.tip.textContent = "";
  if (k < 0) return;
  const { data } = my, row = k % data.rows, layer = Math.floor(k / data.rows);
  const word = data.smooth ? "" : ` · ${data.names[my.colours[data.perLayer ? k : row]]}`;
  my.tip.textContent = `${data.texts[row]} — ${data.layers[layer].words}${data.perLayer ? "" : word}`;
  my.tip.style.left = `${Math.min(x + 12, my.canvas.clientWidth - 200)}px`;
  my.tip.style.top = `${y + 44}px`;
}

function listen(my) {
  const { canvas } = my;
  const at = event => { const box = canvas.getBoundingClientRect(); return [event.clientX - box.left, event.clientY - box.top]; };
  canvas.onpointerdown = event => {
    my.from = at(event);
    my.last = my.from;
    my.path = [];
    canvas.setPointerCapture(event.pointerId);
  };
  canvas.onpointermove = event => {
    const [x, y] = at(event);
    if (!my.from) return tip(my, nearest(my, x, y), x, y);
    tip(my, -1);
    if (my.tool === "lasso") my.path.push([x, y]);
    else if (!my.tool) return;
    else if (my.depth === 3) { my.turn += (x - my.last[0]) / 120; my.tilt += (y - my.last[1]) / 120; }
    else { my.dx += x - my.last[0]; my.dy += y - my.last[1]; }
    my.last = [x, y];
    soon(my);
  };
  canvas.onpointerup = event => {
    const [x, y] = at(event), far = my.from && Math.hypot(x - my.from[0], y - my.from[1]);
    const lasso = my.tool === "lasso" && my.path.length > 8;
    if (lasso) my.send({ lasso: true, rows: caught(my) });
    else if (far < 5 && nearest(my, x, y) >= 0) my.send({ lasso: false, rows: [nearest(my, x, y) % my.data.rows] });
    my.from = null;
    my.path = [];
    soon(my);
  };
  canvas.onpointercancel = () => { my.from = null; my.path = []; soon(my); };
  canvas.onpointerleave = () => tip(my, -1);
  canvas.ondblclick = () => my.send({ lasso: true, rows: [] });
  canvas.onwheel = event => {
    if (my.tool !== "move" && !event.ctrlKey) return;
    event.preventDefault();
    enlarge(my, event.deltaY < 0 ? 1.15 : 1 / 1.15);
  };
  canvas.onkeydown = event => {
    const steps = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 };
    if (event.key === "+" || event.key === "-") enlarge(my, event.key === "+" ? 1.15 : 1 / 1.15);
    if (!(event.key in steps)) return;
    event.preventDefault();
    const n = my.data.rows;
    for (let k = 1; k <= n; k++) {
      const row = (((my.data.chosen + k * steps[event.key]) % n) + n) % n;
      if (bit(my.mask, row)) return my.send({ lasso: false, rows: [row] });
    }
  };
  new ResizeObserver(() => soon(my)).observe(canvas);
}

function enlarge(my, by) {
  my.zoom = Math.min(40, Math.max(.5, my.zoom * by));
  my.dx *= by;
  my.dy *= by;
  soon(my);
}

function tools(my, root) {
  const bar = root.querySelector(".tools");
  const button = (words, press, tool) => {
    const made = document.createElement("button");
    made.type = "button";
    made.textContent = words;
    made.onclick = () => { press(); show(); soon(my); };
    made.dataset.tool = tool || "";
    bar.append(made);
  };
  const show = () => {
    for (const b of bar.children) if (b.dataset.tool) b.setAttribute("aria-pressed", String(b.dataset.tool === my.tool));
    my.canvas.classList.toggle("drawing", Boolean(my.tool));
    bar.children[1].textContent = my.depth === 3 ? "Turn" : "Move";
  };
  bar.replaceChildren();
  button("Lasso", () => { my.tool = "lasso"; }, "lasso");
  button("Move", () => { my.tool = "move"; }, "move");
  button("+", () => enlarge(my, 1.3));
  button("−", () => enlarge(my, 1 / 1.3));
  button("Whole map", () => Object.assign(my, { zoom: 1, dx: 0, dy: 0, turn: .5, tilt: .35 }));
  show();
}

function legend(my, root) {
  const place = root.querySelector(".legend"), { data } = my;
  place.replaceChildren();
  if (data.smooth) {
    const ramp = document.createElement("span");
    ramp.className = "ramp";
    ramp.style.background = `linear-gradient(90deg, ${data.palette.join(",")})`;
    place.append(data.names[0], ramp, data.names[1]);
  } else {
    data.names.forEach((name, k) => {
      const entry = document.createElement("span"), mark = document.createElement("canvas");
      mark.width = mark.height = 28;
      mark.style.cssText = "display:inline-block;width:14px;height:14px;border:0;background:none;vertical-align:-2px;margin-right:4px";
      const c = mark.getContext("2d");
      c.fillStyle = data.palette[k];
      c.beginPath();
      SHAPES[data.shapes[k] % SHAPES.length](c, 14, 14, 8);
      c.fill();
      entry.append(mark, name);
      place.append(entry);
    });
  }
  if (data.layers.length > 1 && !data.perLayer) {
    const hint = document.createElement("span");
    hint.textContent = data.smooth ? "each kind has its shape" : data.hint;
    place.append(hint);
  }
}

export default function ({ data, parentElement, setTriggerValue }) {
  const canvas = parentElement.querySelector("canvas");
  // A finger scrolls the page over the map until a tool is chosen.
  const tool = window.matchMedia("(pointer: coarse)").matches ? "" : "lasso";
  const my = (parentElement.cmaiMap ??= { tool, zoom: 1, dx: 0, dy: 0, turn: .5, tilt: .35 });
  const again = my.canvas === canvas;
  const points = new Uint16Array(bytes(data.points).buffer);
  if (my.of !== data.of) Object.assign(my, { zoom: 1, dx: 0, dy: 0, of: data.of });
  Object.assign(my, {
    canvas, data, places: points, depth: data.depth, count: data.rows * data.layers.length, path: [], from: null,
    tip: parentElement.querySelector(".tip"), mask: bytes(data.mask), moved: bytes(data.moved),
    colours: bytes(data.colours), xy: new Float32Array(2 * data.rows * data.layers.length),
    send: value => setTriggerValue("picked", value), groups: [new Map(), new Map()],
  });
  for (let k = 0; k < my.count; k++) {
    const row = k % data.rows, layer = Math.floor(k / data.rows);
    const key = `${layer} ${my.colours[data.perLayer ? k : row]}`, group = my.groups[bit(my.mask, row)];
    group.has(key) ? group.get(key).push(k) : group.set(key, [k]);
  }
  canvas.setAttribute("aria-label", data.alt);
  if (!again) listen(my);
  tools(my, parentElement);
  legend(my, parentElement);
  soon(my);
}

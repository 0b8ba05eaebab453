// One figure of the page: its chart drawn anew, what is under the pointer, keys, and the rectangle that narrows its axes.
const NEAR = 24;
const HELP = 'Arrow keys go from point to point, Enter copies, plus and minus zoom, Escape resets.';

const makeChart = (id, chart, changed) => {
  const figure = byId(id);
  const choices = all('input[type=radio]', figure);
  const stills = all('.view', figure);
  const names = stills.map((still) => still.firstElementChild.getAttribute('aria-label'));
  const view = node('div', { className: flexible(chart) ? 'view drawn flexible' : 'view drawn' });
  const svg = svgNode('svg', view, { role: 'img', tabindex: 0, 'aria-description': HELP });
  const reset = node('button', { type: 'button', className: 'reset', textContent: 'Reset zoom', hidden: true });
  let axes = chart.choices[0] ?? null;
  let frames = chart.frames[0];
  let targets = [];
  let current = -1;
  let ring = null;
  let width = 0;
  let line = null;

  const choice = () => Math.max(0, choices.findIndex((input) => input.checked));
  const available = () => Math.min(Math.max(Math.floor(view.clientWidth) || chart.plot.width, 320), chart.plot.width);

  const redraw = () => {
    const number = choice();
    width = flexible(chart) ? available() : chart.plot.width;
    frames = framesFor(chart, number, width);
    const zoom = state.zoom[id];
    const axesOf = (panel) => {
      const whole = chart.choices[number] ?? panel;
      if (!zoom) return whole;
      return { x: narrowed(whole.x, zoom[0], zoom[1]), y: narrowed(whole.y, zoom[2], zoom[3]) };
    };
    axes = axesOf(chart.plot.panels[0]);
    svg.setAttribute('viewBox', `0 0 ${width} ${chart.plot.height}`);
    svg.setAttribute('aria-label', names[number]);
    targets = draw(svg, id, chart, number, axesOf, frames, state.off);
    reset.hidden = !zoom;
    current = -1;
    ring = svgNode('circle', svg, { class: 'ring', r: 9, visibility: 'hidden' });
    line = chart.plot.threshold ? levelLine(svg, frames[0], axes.x, changed) : null;
    line?.(state.level);
    hideTip();
  };

  const units = (event) => new DOMPoint(event.clientX, event.clientY).matrixTransform(svg.getScreenCTM().inverse());
  const client = (target) => new DOMPoint(target.x, target.y).matrixTransform(svg.getScreenCTM());
  const under = (at) => {
    const inBox = ({ box }) => box && at.x >= box.x && at.x <= box.x + box.width && at.y >= box.y && at.y <= box.y + box.height;
    const boxed = targets.findIndex(inBox);
    if (boxed >= 0) return boxed;
    const distance = ({ x, y, box }) => (box ? Infinity : Math.hypot(x - at.x, y - at.y));
    const nearest = targets.reduce((best, target, i) => (best < 0 || distance(target) < distance(targets[best]) ? i : best), -1);
    return nearest >= 0 && distance(targets[nearest]) <= NEAR ? nearest : -1;
  };
  const point = (number, hint, at) => {
    current = number;
    const target = targets[number];
    ring.setAttribute('visibility', target && !target.box ? 'visible' : 'hidden');
    if (!target) return hideTip();
    ring.setAttribute('cx', target.x);
    ring.setAttribute('cy', target.y);
    showTip(target.tip, at ?? client(target), hint);
  };
  const take = () => {
    const target = targets[current];
    const number = current;
    if (target?.tip[1]) copy(target.tip[1]).then(() => point(number, 'copied'));
  };
  const zoomTo = (zoom) => {
    if (zoom) state.zoom[id] = zoom; else delete state.zoom[id];
    redraw();
    changed('push');
  };

  // Narrowing the axes: a rectangle drawn with mouse or pen; a finger scrolls.
  let from = null;
  let brush = null;
  // A drag ends in a click, which is no wish to copy.
  let dragged = false;
  const clamped = (at) => {
    const [left, right, top, bottom] = frames[0];
    return { x: Math.min(Math.max(at.x, left), right), y: Math.min(Math.max(at.y, top), bottom) };
  };
  svg.addEventListener('pointerdown', (event) => {
    dragged = false;
    if (event.button !== 0 || event.target.closest('.level-grip')) return;
    if (chart.zooms && event.pointerType !== 'touch') {
      from = clamped(units(event));
      svg.setPointerCapture(event.pointerId);
    }
  });
  svg.addEventListener('pointermove', (event) => {
    const at = units(event);
    // The grip of the threshold, while it is held.
    dragged ||= event.buttons > 0 && event.target.closest('.level-grip') !== null;
    if (!from) return point(under(at), 'click to copy', { x: event.clientX, y: event.clientY });
    const to = clamped(at);
    if (!brush && Math.hypot(to.x - from.x, to.y - from.y) < 6) return undefined;
    point(-1);
    brush ??= svgNode('rect', svg, { class: 'brush' });
    const box = { x: Math.min(from.x, to.x), y: Math.min(from.y, to.y), width: Math.abs(to.x - from.x), height: Math.abs(to.y - from.y) };
    for (const key in box) brush.setAttribute(key, box[key]);
    return undefined;
  });
  const letGo = (event) => {
    const [start, drawn] = [from, brush];
    [from, brush] = [null, null];
    drawn?.remove();
    dragged ||= Boolean(drawn);
    if (event.type !== 'pointerup' || !drawn) return;
    const to = clamped(units(event));
    if (Math.abs(to.x - start.x) > 6 && Math.abs(to.y - start.y) > 6) zoomTo(between(start, to));
  };
  // What lies between two corners of the frame, in the chart's own values.
  const between = (a, b) => {
    const [left, right, top, bottom] = frames[0];
    const [px, py] = [projection(axes.x), projection(axes.y)];
    const xs = [a.x, b.x].map((x) => px.value((x - left) / (right - left))).sort((p, q) => p - q);
    const ys = [a.y, b.y].map((y) => py.value((bottom - y) / (bottom - top))).sort((p, q) => p - q);
    return [...xs, ...ys].map((value) => Number(value.toPrecision(6)));
  };
  svg.addEventListener('pointerup', letGo);
  svg.addEventListener('pointercancel', letGo);
  // A finger leaves with every tap, before its click.
  svg.addEventListener('pointerleave', (event) => { if (event.pointerType !== 'touch') point(-1); });
  svg.addEventListener('click', (event) => {
    if (dragged) return;
    const found = under(units(event));
    if (found < 0) return;
    const shown = event.pointerType !== 'touch' || found === current;
    point(found, shown ? 'click to copy' : 'tap again to copy');
    if (shown) take();
  });
  svg.addEventListener('dblclick', () => { if (state.zoom[id]) zoomTo(null); });
  reset.addEventListener('click', () => { zoomTo(null); svg.focus(); });

  // Keys: left and right along a series, up and down between series, in the order of the legend.
  const step = (key) => {
    if (targets.length === 0) return -1;
    const order = targets.map((target, i) => ({ ...target, i })).sort((a, b) => a.series - b.series || a.x - b.x || a.y - b.y);
    if (current < 0) return order[0].i;
    const here = targets[current];
    const kin = order.filter((target) => target.series === here.series);
    const place = kin.findIndex((target) => target.i === current);
    if (key === 'ArrowRight') return kin[Math.min(place + 1, kin.length - 1)].i;
    if (key === 'ArrowLeft') return kin[Math.max(place - 1, 0)].i;
    const series = [...new Set(order.map((target) => target.series))];
    const next = series[series.indexOf(here.series) + (key === 'ArrowDown' ? 1 : -1)] ?? here.series;
    const others = order.filter((target) => target.series === next);
    return others.reduce((best, target) => (Math.abs(target.x - here.x) < Math.abs(best.x - here.x) ? target : best)).i;
  };
  const around = (factor) => {
    const [left, right, top, bottom] = frames[0];
    const { x, y } = targets[current] ?? { x: (left + right) / 2, y: (top + bottom) / 2 };
    const corner = (sign) => clamped({ x: x + sign * factor * (right - left) / 2, y: y + sign * factor * (bottom - top) / 2 });
    return between(corner(-1), corner(1));
  };
  svg.addEventListener('keydown', (event) => {
    if (event.ctrlKey || event.altKey || event.metaKey) return;
    if (event.key.startsWith('Arrow')) point(step(event.key), 'Enter to copy');
    else if (event.key === 'Enter') take();
    else if (event.key === '+' && chart.zooms) zoomTo(around(0.5));
    else if ((event.key === '-' || event.key === 'Escape') && state.zoom[id]) zoomTo(null);
    else if (event.key === 'Escape') point(-1);
    else return;
    event.preventDefault();
  });
  svg.addEventListener('blur', () => point(-1));

  choices.forEach((input, number) => input.addEventListener('change', () => {
    if (number > 0) state.view[id] = number + 1; else delete state.view[id];
    redraw();
    changed('push');
  }));
  new ResizeObserver(() => { if (flexible(chart) && available() !== width) redraw(); }).observe(view);

  stills[0].before(reset, view);
  stills.forEach((still) => still.remove());
  return {
    id,
    redraw() {
      const wanted = choices[(state.view[id] ?? 1) - 1];
      if (wanted) wanted.checked = true;
      redraw();
    },
    level: (level) => line?.(level),
  };
};


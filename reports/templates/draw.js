// One chart as SVG. In: a chart of the specification, its axes as they are shown, the frames of its panels, and the series
// that are hidden. Out: the drawing, and where its marks are, so that they can be found under a pointer.
const TICK = 12;
const textWidth = (text) => text.length * TICK * 0.6;

// Frames of a chart that is to be `width` units wide: only a single panel of points gives way.
const framesFor = (chart, choice, width) => {
  const frames = chart.frames[choice];
  if (!flexible(chart) || width >= chart.plot.width) return frames;
  const [[left, right, top, bottom]] = frames;
  return [[left, right - (chart.plot.width - width), top, bottom]];
};

const flexible = (chart) => chart.plot.panels.length === 1 && !chart.plot.panels[0].marks.some((m) => m.mark === 'bar');

const drawAxes = (svg, panel, axes, [left, right, top, bottom]) => {
  const line = (x1, y1, x2, y2, role) => svgNode('path', svg, { class: `s-${role}`, d: `M${x1} ${y1}L${x2} ${y2}` });
  const label = (text, x, y, attributes) => {
    svgNode('text', svg, { class: 'f-muted', 'font-size': TICK, x, y, ...attributes }, text);
  };
  const x = projection(axes.x);
  const y = projection(axes.y);
  for (const [value, text] of thinned(axes.x, right - left, textWidth)) {
    const at = left + x.place(value) * (right - left);
    if (panel.grid[0]) line(at, top, at, bottom, 'grid');
    label(text, at, bottom + 18, { 'text-anchor': 'middle' });
    line(at, bottom, at, bottom + 4, 'muted');
  }
  for (const [value, text] of thinned(axes.y, bottom - top, () => TICK)) {
    const at = bottom - y.place(value) * (bottom - top);
    if (panel.grid[1]) line(left, at, right, at, 'grid');
    label(text, left - 8, at + 4.3, { 'text-anchor': 'end' });
    line(left - 4, at, left, at, 'muted');
  }
  line(left, top, left, bottom, 'muted');
  line(left, bottom, right, bottom, 'muted');
  const title = (text, at) => svgNode('text', svg, { class: 'f-ink', 'font-size': 12.5, 'text-anchor': 'middle', ...at }, text);
  if (axes.x.title) title(axes.x.title, { x: (left + right) / 2, y: bottom + 38 });
  if (axes.y.title) {
    const middle = (top + bottom) / 2;
    const room = Math.max(...axes.y.ticks.map(([, text]) => textWidth(text)), 0);
    const at = Math.max(12, left - room - 18);
    title(axes.y.title, { x: at, y: middle, transform: `rotate(-90 ${at} ${middle})` });
  }
  if (panel.title) svgNode('text', svg, { class: 'f-ink', 'font-size': 13, 'font-weight': 'bold', x: left, y: top - 15 }, panel.title);
};

// Draws the chart into `svg`, which it empties; gives back targets: { x, y, series, tip } of points, in units, and of bars
// { box } too.
const draw = (svg, id, chart, choice, axesOf, frames, hidden) => {
  svg.replaceChildren();
  const targets = [];
  chart.plot.panels.forEach((panel, number) => {
    const axes = axesOf(panel, number);
    const frame = frames[number];
    const [left, right, top, bottom] = frame;
    drawAxes(svg, panel, axes, frame);
    const clip = `clip-${id}-${number}`;
    // Markers on the edge stay whole.
    const bounds = { x: left - 8, y: top - 8, width: right - left + 16, height: bottom - top + 16 };
    svgNode('rect', svgNode('clipPath', svg, { id: clip }), bounds);
    const marks = svgNode('g', svg, { class: 'marks', 'clip-path': `url(#${clip})` });
    const [px, py] = [projection(axes.x), projection(axes.y)];
    const at = ([x, y]) => [left + px.place(x) * (right - left), bottom - py.place(y) * (bottom - top)];
    const path = (points) => `M${points.map((point) => at(point).map((v) => v.toFixed(1)).join(' ')).join('L')}`;
    const within = ([x, y]) => x >= left - 1 && x <= right + 1 && y >= top - 1 && y <= bottom + 1;
    for (const mark of panel.marks) {
      if (hidden.has(mark.series) || (mark.mark === 'bar' && hidden.has(Number(mark.role)))) continue;
      // Where a phone's width holds a chart, full markers would be all that is seen.
      drawMark(marks, mark, { at, path, within, right, size: flexible(chart) && right < 460 ? 0.72 : 1 }, targets);
    }
  });
  return targets;
};

const drawMark = (marks, mark, { at, path, within, right, size }, targets) => {
  const look = spec.series[mark.series];
  if (mark.mark === 'line') {
    const attributes = { class: `s-${mark.series}`, 'stroke-width': 2, 'stroke-dasharray': look.dash };
    svgNode('path', marks, { ...attributes, 'data-series': mark.series, d: path(mark.points) });
  } else if (mark.mark === 'guide') {
    svgNode('path', marks, { class: 's-muted', 'stroke-dasharray': mark.dash, d: path(mark.points) });
  } else if (mark.mark === 'point') {
    const [x, y] = at(mark.at);
    const opacity = mark.faint ? 0.4 : null;
    if (mark.whisker) {
      const [[, low], [, high]] = mark.whisker.map((end) => at([mark.at[0], end]));
      const d = `M${x} ${low}V${high}M${x - 3} ${high}h6M${x - 3} ${low}h6`;
      // A whisker that its own marker hides would only be noise.
      if (low - high > 9) svgNode('path', marks, { class: `s-${mark.series}`, 'stroke-width': 1.2, opacity, d });
    }
    const shape = { class: `f-${mark.series}`, 'data-series': mark.series, opacity };
    if (look.marker) {
      const place = `translate(${x.toFixed(1)} ${y.toFixed(1)}) scale(${size})`;
      svgNode('polygon', marks, { ...shape, points: look.marker, transform: place });
    } else {
      svgNode('circle', marks, { ...shape, cx: x.toFixed(1), cy: y.toFixed(1), r: spec.radius * size });
    }
    if (within([x, y])) targets.push({ x, y, series: mark.series, tip: spec.tips[mark.tip] });
  } else if (mark.mark === 'bar') {
    const [[x0, y0], [x1, y1]] = [at([mark.x[0], mark.y[0]]), at([mark.x[1], mark.y[1]])];
    const box = { x: Math.min(x0, x1), y: Math.min(y0, y1), width: Math.abs(x1 - x0), height: Math.abs(y1 - y0) };
    svgNode('rect', marks, { class: `f-${mark.role}`, ...box });
    const [words, ink] = mark.inside ?? ['', ''];
    if (words && words.length * 6.7 + 8 < box.width) {
      const middle = { x: box.x + box.width / 2, y: box.y + box.height / 2 + 4, 'text-anchor': 'middle' };
      svgNode('text', marks, { class: `f-${ink}`, 'font-size': 11, ...middle }, words);
    }
    targets.push({ x: box.x + box.width / 2, y: box.y + box.height / 2, series: Number(mark.role), tip: spec.tips[mark.tip], box });
  } else if (mark.mark === 'text') {
    const [x, y] = at(mark.at);
    const ends = textWidth(mark.text) + 6 > right + 18 - x;
    const place = { x: ends ? x - 6 : x + 6, y: y + 4.3, 'text-anchor': ends ? 'end' : null };
    svgNode('text', marks.parentNode, { class: 'f-ink', 'font-size': TICK, ...place }, mark.text);
  }
};


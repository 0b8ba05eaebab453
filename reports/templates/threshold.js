// The recall threshold: a slider above the tables and a line on every chart against recall, which can be dragged.
const slider = byId('threshold');
const LOWEST = 0.01;

// Mirrors Level::locate and Level::read in kiln-eval: log-linear, never extrapolated.
const readAt = (frontier, level) => {
  const [first, last] = [frontier[0], frontier[frontier.length - 1]];
  if (level < first[0]) return { qps: first[1], text: `≥ ${short(first[1])}` };
  if (level > last[0]) return { qps: last[0] - 2, text: `max ${recallText(last[0])}` };
  const right = frontier.findIndex(([recall]) => recall > level);
  if (right < 0) return { qps: last[1], text: short(last[1]) };
  const [[r0, q0], [r1, q1]] = [frontier[right - 1], frontier[right]];
  const qps = Math.exp(Math.log(q0) + (Math.log(q1) - Math.log(q0)) * (level - r0) / (r1 - r0));
  return { qps, text: short(qps) };
};

// Orders the rows of each table by what they say at the level. What was measured elsewhere or is hidden does not rank.
const rankTables = (level, hidden) => {
  for (const cell of all('.at')) cell.textContent = recallText(level);
  for (const body of all('table.levels tbody')) {
    const rows = all('tr', body).map((row) => {
      const frontier = row.dataset.frontier.split(' ').map((pair) => pair.split(':').map(Number));
      const off = hidden.has(Number(row.dataset.series));
      return { row, off, unranked: off || 'foreign' in row.dataset, ...readAt(frontier, level) };
    });
    rows.sort((a, b) => a.unranked - b.unranked || b.qps - a.qps);
    rows.forEach(({ row, off, unranked, qps, text }, i) => {
      row.querySelector('.now').textContent = text;
      row.classList.toggle('off', off);
      row.classList.toggle('first', i === 0 && qps > 0 && !unranked);
      body.append(row);
    });
  }
};

// Draws the line into a chart; gives back what moves it.
const levelLine = (svg, [left, right, top, bottom], axis, changed) => {
  const { place, value } = projection(axis);
  const line = svgNode('line', svg, { class: 'level-line', y1: top, y2: bottom });
  const label = svgNode('text', svg, { class: 'level-label', y: bottom - 8 });
  const grip = svgNode('rect', svg, { class: 'level-grip', y: top, width: 24, height: bottom - top });
  // Below the marks, so that it does not cover them: only empty places of the line are held.
  svg.insertBefore(grip, svg.querySelector('.marks'));
  const drag = (event) => {
    const at = new DOMPoint(event.clientX, event.clientY).matrixTransform(svg.getScreenCTM().inverse());
    state.level = clampLevel(value(Math.min(Math.max((at.x - left) / (right - left), 0), 1)));
    changed('level');
  };
  grip.addEventListener('pointerdown', (event) => {
    grip.setPointerCapture(event.pointerId);
    event.preventDefault();
  });
  grip.addEventListener('pointermove', (event) => { if (grip.hasPointerCapture(event.pointerId)) drag(event); });
  grip.addEventListener('pointerup', () => changed('push'));
  return (level) => {
    const share = place(level);
    const shown = share >= 0 && share <= 1 && slider ? null : 'none';
    const x = left + share * (right - left);
    for (const part of [line, label, grip]) part.style.display = shown ?? '';
    line.setAttribute('x1', x);
    line.setAttribute('x2', x);
    grip.setAttribute('x', x - 12);
    label.setAttribute('x', share > 0.88 ? x - 6 : x + 6);
    label.setAttribute('text-anchor', share > 0.88 ? 'end' : 'start');
    label.textContent = recallText(level);
  };
};

const clampLevel = (level) => Number(Math.min(Math.max(level, LOWEST), CEILING).toFixed(4));


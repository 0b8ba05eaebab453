// Comforts of the page: tooltips, copying, and a recall threshold that ranks the tables. Everything else works without.
(() => {
  'use strict';
  const root = document.documentElement;
  root.classList.add('scripts');
  const all = (selector, from = document) => [...from.querySelectorAll(selector)];

  // Tooltips: the native <title> of a hit target becomes a panel that can be read at once and copied.
  const tip = document.getElementById('tip');
  for (const hit of all('.hit')) {
    const title = hit.querySelector('title');
    hit.dataset.tip = title.textContent;
    title.remove();
  }
  const place = (event) => {
    const { width, height } = tip.getBoundingClientRect();
    const x = Math.min(event.clientX + 14, innerWidth - width - 8);
    const y = event.clientY + 18 + height > innerHeight ? event.clientY - height - 12 : event.clientY + 18;
    tip.style.left = `${Math.max(8, x)}px`;
    tip.style.top = `${Math.max(8, y)}px`;
  };
  const show = (event, hint) => {
    const lines = event.target.dataset.tip.split('\n');
    const part = (name, text) => Object.assign(document.createElement(name), { textContent: text });
    const point = event.target.tagName === 'circle' && lines.length > 3;
    const last = point ? lines.pop() : '';
    tip.replaceChildren(part('b', lines.shift()), lines.join('\n'));
    if (point) tip.append(part('code', last), part('i', hint));
    tip.hidden = false;
    place(event);
  };
  document.addEventListener('pointerover', (event) => {
    if (event.target.matches?.('.hit')) show(event, 'click to copy the parameters');
    else tip.hidden = true;
  });
  document.addEventListener('pointermove', (event) => { if (!tip.hidden) place(event); });
  const copy = (text) => {
    if (navigator.clipboard && window.isSecureContext) return navigator.clipboard.writeText(text);
    // A file opened from disk may have no clipboard interface.
    const area = Object.assign(document.createElement('textarea'), { value: text });
    document.body.append(area);
    area.select();
    document.execCommand('copy');
    area.remove();
    return Promise.resolve();
  };
  document.addEventListener('click', (event) => {
    if (!event.target.matches?.('circle.hit')) return;
    copy(event.target.dataset.tip.split('\n').pop()).then(() => show(event, 'copied'));
  });
  for (const block of all('.command')) {
    const text = block.textContent;
    const button = Object.assign(document.createElement('button'), { className: 'copy', textContent: 'Copy' });
    button.addEventListener('click', () => copy(text).then(() => { button.textContent = 'Copied'; }));
    block.append(button);
  }

  // The recall threshold: a slider above the tables and a line on every chart against recall.
  const slider = document.getElementById('threshold');
  if (!slider) return;
  const recallText = (r) => r.toFixed(r > 0.99 ? 4 : 3).replace(/^0/, '').replace(/(\.\d\d\d*?)0+$/, '$1');
  const number = (v) => v >= 999.5 ? Math.round(v).toLocaleString('en-US') : String(Number(v.toPrecision(3)));

  // Mirrors Level::locate and Level::read in kiln-eval: log-linear, never extrapolated.
  const read = (frontier, level) => {
    const [first, last] = [frontier[0], frontier[frontier.length - 1]];
    if (level < first[0]) return { qps: first[1], text: `≥ ${number(first[1])}` };
    if (level > last[0]) return { qps: last[0] - 2, text: `max ${last[0] < 1 ? recallText(last[0]) : '1'}` };
    const right = frontier.findIndex(([recall]) => recall > level);
    if (right < 0) return { qps: last[1], text: number(last[1]) };
    const [[r0, q0], [r1, q1]] = [frontier[right - 1], frontier[right]];
    const qps = Math.exp(Math.log(q0) + (Math.log(q1) - Math.log(q0)) * (level - r0) / (r1 - r0));
    return { qps, text: number(qps) };
  };
  const rank = (level) => {
    for (const body of all('table.levels tbody')) {
      const rows = all('tr', body).map((row) => {
        const frontier = row.dataset.frontier.split(' ').map((pair) => pair.split(':').map(Number));
        return { row, ...read(frontier, level) };
      });
      rows.sort((a, b) => b.qps - a.qps);
      rows.forEach(({ row, qps, text }, i) => {
        row.querySelector('.now').textContent = text;
        row.classList.toggle('first', i === 0 && qps > 0);
        body.append(row);
      });
    }
  };

  const scales = {
    linear: [(r) => r, (v) => v],
    logit: [(r) => { const p = Math.min(Math.max(r, 1e-4), 0.9999); return Math.log(p / (1 - p)); }, (v) => 1 / (1 + Math.exp(-v))],
  };
  const make = (name, parent, attributes) => {
    const node = document.createElementNS('http://www.w3.org/2000/svg', name);
    for (const key in attributes) node.setAttribute(key, attributes[key]);
    parent.append(node);
    return node;
  };
  const lines = all('svg.threshold').map((svg) => {
    const [left, right, top, bottom] = svg.dataset.frame.split(' ').map(Number);
    const [to, from] = scales[svg.dataset.scale];
    const [lo, hi] = [to(Number(svg.dataset.lo)), to(Number(svg.dataset.hi))];
    const line = make('line', svg, { class: 'level-line', y1: top, y2: bottom });
    const label = make('text', svg, { class: 'level-label', y: bottom - 8 });
    const grip = make('rect', svg, { class: 'level-grip', y: top, width: 14, height: bottom - top });
    svg.insertBefore(grip, svg.querySelector('.hit'));
    const drag = (event) => {
      const at = new DOMPoint(event.clientX, event.clientY).matrixTransform(svg.getScreenCTM().inverse());
      const share = Math.min(Math.max((at.x - left) / (right - left), 0), 1);
      set(from(lo + share * (hi - lo)));
    };
    grip.addEventListener('pointerdown', (event) => {
      grip.setPointerCapture(event.pointerId);
      event.preventDefault();
    });
    grip.addEventListener('pointermove', (event) => { if (grip.hasPointerCapture(event.pointerId)) drag(event); });
    return (level) => {
      const share = (to(level) - lo) / (hi - lo);
      const shown = share >= 0 && share <= 1 ? '' : 'none';
      const x = left + share * (right - left);
      for (const node of [line, label, grip]) node.style.display = shown;
      line.setAttribute('x1', x);
      line.setAttribute('x2', x);
      grip.setAttribute('x', x - 7);
      label.setAttribute('x', share > 0.88 ? x - 6 : x + 6);
      label.setAttribute('text-anchor', share > 0.88 ? 'end' : 'start');
      label.textContent = recallText(level);
    };
  });
  const set = (wanted) => {
    const level = Math.min(Math.max(wanted, 0.01), 0.9999);
    slider.value = level;
    document.getElementById('threshold-value').textContent = recallText(level);
    for (const cell of all('.at')) cell.textContent = recallText(level);
    rank(level);
    for (const move of lines) move(level);
  };
  slider.addEventListener('input', () => set(Number(slider.value)));
  set(Number(slider.value));
})();

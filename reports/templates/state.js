// What a reader has changed, and the URL fragment that keeps it: #recall=.99&off=1.3&view=CHART:2&zoom=CHART:x0,x1,y0,y1&at=PLACE
const START = slider ? Number(slider.value) : 0.95;
const state = { level: START, off: new Set(), zoom: {}, view: {}, at: '' };

const fragment = () => {
  const parts = [];
  if (state.level !== START) parts.push(`recall=${recallText(state.level)}`);
  if (state.off.size > 0) parts.push(`off=${[...state.off].sort((a, b) => a - b).join('.')}`);
  for (const [id, number] of Object.entries(state.view)) parts.push(`view=${id}:${number}`);
  for (const [id, zoom] of Object.entries(state.zoom)) parts.push(`zoom=${id}:${zoom.join(',')}`);
  if (state.at) parts.push(`at=${state.at}`);
  return parts.length > 0 ? `#${parts.join('&')}` : '';
};

// Takes the fragment of the page, whoever wrote it: what means nothing here is passed over.
const readFragment = () => {
  Object.assign(state, { level: START, off: new Set(), zoom: {}, view: {}, at: '' });
  const given = new URLSearchParams(location.hash.slice(1));
  const level = Number(given.get('recall'));
  if (level > 0 && level <= 1) state.level = clampLevel(level);
  for (const number of (given.get('off') ?? '').split('.')) {
    if (number !== '' && spec.series[number]) state.off.add(Number(number));
  }
  for (const text of given.getAll('view')) {
    const [id, number] = text.split(':');
    if (spec.charts[id]?.choices[number - 1]) state.view[id] = Number(number);
  }
  for (const text of given.getAll('zoom')) {
    const [id, corners = ''] = text.split(':');
    const [x0, x1, y0, y1, ...more] = corners.split(',').map(Number);
    if (spec.charts[id]?.zooms && x0 < x1 && y0 < y1 && more.length === 0) state.zoom[id] = [x0, x1, y0, y1];
  }
  const at = given.get('at') ?? '';
  if (byId(at)) state.at = at;
};

// A dragged threshold replaces the entry of the history, everything else adds one.
const writeFragment = (how) => {
  const url = fragment() || location.pathname + location.search;
  if (fragment() === location.hash) return;
  try {
    history[how === 'push' ? 'pushState' : 'replaceState'](null, '', url);
  } catch {
    // A page inside another one's frame may not touch the history; it works all the same.
  }
};

const applyLevel = () => {
  if (!slider) return;
  slider.value = state.level;
  byId('threshold-value').textContent = recallText(state.level);
  rankTables(state.level, state.off);
  for (const chart of charts) chart.level(state.level);
};
const apply = () => {
  for (const chart of charts) chart.redraw();
  for (const button of all('.legend button')) {
    button.setAttribute('aria-pressed', !state.off.has(Number(button.dataset.series)));
  }
  applyLevel();
};
const changed = (how) => {
  applyLevel();
  writeFragment(how);
};

// Legends become buttons. A click hides a series or shows it again, a double click shows it alone or all.
for (const label of all('.legend label')) {
  const series = Number(label.dataset.series);
  const button = node('button', { type: 'button', title: 'Click: show or hide on all charts. Double click: this one alone, or all.' });
  button.dataset.series = series;
  button.append(...label.childNodes);
  const toggle = (off) => {
    state.off = off;
    apply();
    writeFragment('push');
  };
  button.addEventListener('click', () => {
    const off = new Set(state.off);
    if (!off.delete(series)) off.add(series);
    toggle(off);
  });
  button.addEventListener('dblclick', () => {
    const others = spec.series.map((_, i) => i).filter((i) => i !== series);
    toggle(others.every((i) => state.off.has(i)) ? new Set() : new Set(others));
  });
  label.replaceWith(button);
}
// The boxes that do the same without scripts.
byId('shown')?.remove();

for (const link of all('a[href^="#"]')) {
  link.addEventListener('click', (event) => {
    event.preventDefault();
    state.at = link.hash.slice(1);
    byId(state.at)?.scrollIntoView({ behavior: canWait });
    writeFragment('push');
  });
}
slider?.addEventListener('input', () => {
  state.level = clampLevel(Number(slider.value));
  changed('level');
});
slider?.addEventListener('change', () => writeFragment('push'));

const charts = Object.entries(spec.charts).map(([id, chart]) => makeChart(id, chart, changed));
root.classList.add('scripts');
const load = () => {
  readFragment();
  apply();
  if (state.at) byId(state.at).scrollIntoView();
};
addEventListener('popstate', load);
addEventListener('keydown', (event) => { if (event.key === 'Escape') hideTip(); });
document.addEventListener('scroll', hideTip, { passive: true });
load();

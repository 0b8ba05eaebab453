// Comforts of the page. Everything can be read without: charts are drawn and tables are written already. Where scripts run,
// charts are drawn again from the same specification, so that series can be hidden, points be asked and axes be narrowed.
//
// page.js       what the other files share: nodes, copying, tooltips
// scales.js     axes: values to places, ticks, labels
// draw.js       one chart as SVG
// chart.js      one figure of the page: its chart, pointer and keys
// threshold.js  the recall threshold and the tables that it ranks
// state.js      what is hidden and narrowed, and the URL fragment that keeps it
const root = document.documentElement;
const all = (selector, from = document) => [...from.querySelectorAll(selector)];
const byId = (id) => document.getElementById(id);
const spec = JSON.parse(byId('charts').textContent);
const canWait = matchMedia('(prefers-reduced-motion: reduce)').matches ? 'auto' : 'smooth';

const node = (name, properties = {}) => Object.assign(document.createElement(name), properties);

const svgNode = (name, parent, attributes = {}, text = '') => {
  const made = document.createElementNS('http://www.w3.org/2000/svg', name);
  for (const key in attributes) if (attributes[key] !== null) made.setAttribute(key, attributes[key]);
  if (text) made.textContent = text;
  parent.append(made);
  return made;
};

const copy = (text) => {
  if (navigator.clipboard && window.isSecureContext) return navigator.clipboard.writeText(text);
  // A file opened from disk may have no clipboard interface.
  const area = node('textarea', { value: text, className: 'aside' });
  const before = document.activeElement;
  document.body.append(area);
  area.focus({ preventScroll: true });
  area.select();
  document.execCommand('copy');
  area.remove();
  before?.focus({ preventScroll: true });
  return Promise.resolve();
};

// The panel that says what a mark is. `at` is a place in the window.
const tip = byId('tip');
const showTip = ([text, command], at, hint) => {
  const [heading, ...lines] = text.split('\n');
  tip.replaceChildren(node('b', { textContent: heading }), lines.join('\n'));
  if (command) tip.append(node('code', { textContent: command }), node('i', { textContent: hint }));
  tip.hidden = false;
  const { width, height } = tip.getBoundingClientRect();
  const x = Math.max(8, Math.min(at.x + 14, innerWidth - width - 8));
  const y = at.y + 18 + height > innerHeight ? at.y - height - 12 : at.y + 18;
  tip.style.left = `${x}px`;
  tip.style.top = `${Math.max(8, y)}px`;
};
const hideTip = () => { tip.hidden = true; };

for (const block of all('.command')) {
  const text = block.textContent;
  const button = node('button', { type: 'button', className: 'copy', textContent: 'Copy' });
  button.addEventListener('click', () => copy(text).then(() => { button.textContent = 'Copied'; }));
  block.append(button);
}

// Paper has no summaries to open.
let closed = [];
addEventListener('beforeprint', () => {
  closed = all('details:not([open])');
  for (const details of closed) details.open = true;
});
addEventListener('afterprint', () => { for (const details of closed) details.open = false; });


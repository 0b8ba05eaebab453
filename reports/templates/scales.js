// Axes. In: an axis of the specification, perhaps narrowed. Out: places between 0 and 1, values back, and ticks. Scales and
// labels mirror src/axis.rs and src/format.rs.
const CEILING = 0.9999;
const scales = {
  linear: { to: (v) => v, from: (s) => s },
  log: { to: (v) => Math.log(Math.max(v, Number.MIN_VALUE)), from: Math.exp },
  logit: {
    to: (v) => { const p = Math.min(Math.max(v, 1 - CEILING), CEILING); return Math.log(p / (1 - p)); },
    from: (s) => 1 / (1 + Math.exp(-s)),
  },
};

const projection = (axis) => {
  const { to, from } = scales[axis.scale];
  const [lo, hi] = [to(axis.lo), to(axis.hi)];
  return {
    place: (value) => (hi === lo ? 0.5 : (to(value) - lo) / (hi - lo)),
    value: (share) => from(lo + share * (hi - lo)),
  };
};

const short = (v, digits = 3) => (
  Math.abs(v) >= 999.5 ? Math.round(v).toLocaleString('en-US') : String(Number(v.toPrecision(digits)))
);
const scaled = (v, steps) => {
  const [size, unit] = steps.find(([least]) => Math.abs(v) >= least * 0.9995) ?? steps[steps.length - 1];
  return short(v / size, 4) + unit;
};
const recallText = (r) => (r >= 1 ? '1' : r.toFixed(r > 0.99 ? 4 : 3).replace(/^0/, '').replace(/(\.\d\d\d*?)0+$/, '$1'));
const labels = {
  plain: (v) => short(v, 4),
  named: (v) => short(v, 4),
  compact: (v) => scaled(v, [[1e9, 'G'], [1e6, 'M'], [1e3, 'k'], [1, '']]),
  recall: (v) => (v > 0 && v < 1 ? v.toFixed(5).replace(/^0/, '').replace(/(\.\d\d\d*?)0+$/, '$1') : short(v)),
  micros: (v) => scaled(v, [[1e6, '\u00a0s'], [1e3, '\u00a0ms'], [1, '\u00a0µs']]),
  bytes: (v) => scaled(v, [[2 ** 40, '\u00a0TiB'], [2 ** 30, '\u00a0GiB'], [2 ** 20, '\u00a0MiB'], [1024, '\u00a0KiB'], [1, '\u00a0B']]),
  share: (v) => `${short(v * 100, 4)}%`,
};

const niceStep = (span, count) => {
  const power = 10 ** Math.floor(Math.log10(span / count));
  return power * ([1, 2, 5, 10].find((factor) => factor * power >= span / count * 0.999) ?? 10);
};

const roundValues = ({ scale, unit, lo, hi }) => {
  const linear = () => {
    const step = niceStep(hi - lo, 6);
    const first = Math.ceil(lo / step - 1e-9);
    const count = Math.floor(hi / step + 1e-9) - first + 1;
    return Array.from({ length: Math.min(count, 50) }, (_, i) => (first + i) * step);
  };
  if (scale === 'log' && hi / lo >= 3) {
    if (unit === 'bytes') {
      const [first, last] = [Math.ceil(Math.log2(lo)), Math.floor(Math.log2(hi))];
      return Array.from({ length: last - first + 1 }, (_, i) => 2 ** (first + i));
    }
    for (const pattern of [[1, 1.5, 2, 3, 4, 5, 7], [1, 2, 5], [1, 3], [1]]) {
      const found = [];
      for (let power = Math.floor(Math.log10(lo)); power <= Math.log10(hi); power += 1) {
        found.push(...pattern.map((factor) => factor * 10 ** power).filter((v) => v >= lo && v <= hi));
      }
      if (found.length <= 8) return found;
    }
  }
  if (scale === 'logit' && (1 - lo) / (1 - hi) >= 3) {
    return [0.5, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.998, 0.999, 0.9995, CEILING].filter((v) => v >= lo && v <= hi);
  }
  return linear();
};

// The axis between two values, with ticks of its own.
const narrowed = (axis, lo, hi) => {
  const inside = ([value]) => value >= lo && value <= hi;
  if (axis.unit === 'named') return { ...axis, lo, hi, ticks: axis.ticks.filter(inside) };
  const ticks = roundValues({ ...axis, lo, hi }).map((value) => [value, labels[axis.unit](value)]);
  return { ...axis, lo, hi, ticks };
};

// Ticks whose labels do not collide on `length` units, `sizeOf(label)` each.
const thinned = (axis, length, sizeOf) => {
  const { place } = projection(axis);
  const kept = [];
  const fits = (ticks) => ticks.every(([value, label], i) => {
    if (i === 0) return true;
    const [before, beforeLabel] = ticks[i - 1];
    return Math.abs(place(value) - place(before)) * length >= (sizeOf(label) + sizeOf(beforeLabel)) / 2 + 6;
  });
  const ordered = [...axis.ticks].sort((a, b) => a[0] - b[0]);
  for (let stride = 1; stride <= ordered.length; stride += 1) {
    kept.splice(0, kept.length, ...ordered.filter((_, i) => i % stride === 0));
    if (fits(kept)) break;
  }
  return kept;
};


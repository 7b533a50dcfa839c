// Prometheus' text format (version 0.0.4), as far as the page needs it. Pure.

/** Map of metric name to [{labels, value}]. */
export function parse(page) {
  const found = new Map();
  for (const line of page.split("\n")) {
    const match = /^([a-zA-Z_:][\w:]*)(?:\{(.*)\})? (\S+)/.exec(line);
    if (!match) continue;
    const [, name, labels, value] = match;
    const parsed = Object.fromEntries([...(labels || "").matchAll(/(\w+)="((?:[^"\\]|\\.)*)"/g)].map(([, k, v]) => [k, v]));
    if (!found.has(name)) found.set(name, []);
    found.get(name).push({ labels: parsed, value: Number(value) });
  }
  return found;
}

export function total(page, name, matches = () => true) {
  return (page.get(name) || []).filter(({ labels }) => matches(labels)).reduce((sum, { value }) => sum + value, 0);
}

/** The quantile of a histogram since its process began, interpolated as Prometheus does; NaN while it has seen nothing. */
export function quantile(page, name, q) {
  const counts = new Map();
  for (const { labels, value } of page.get(`${name}_bucket`) || []) {
    const bound = labels.le === "+Inf" ? Infinity : Number(labels.le);
    counts.set(bound, (counts.get(bound) || 0) + value);
  }
  const buckets = [...counts].sort(([a], [b]) => a - b);
  const rank = q * (buckets.at(-1)?.[1] || 0);
  if (!rank) return NaN;
  let [below, less] = [0, 0];
  for (const [bound, count] of buckets) {
    if (count >= rank) return bound === Infinity ? below : below + ((bound - below) * (rank - less)) / (count - less);
    [below, less] = [bound, count];
  }
  return NaN;
}

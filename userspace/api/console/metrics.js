// SPDX-License-Identifier: MIT
// The text of /metrics, and what it says of the last minutes: rates are differences of counters.

const HISTORY = 150; // samples that the charts show

// Returns a map from "name" or "name{label=value,...}" to numbers, and one from names to lists of {labels, value}.
function parseMetrics(text) {
	const families = new Map();
	const line = /^([A-Za-z_:][\w:]*)(?:\{((?:[^"}]|"(?:[^"\\]|\\.)*")*)\})?\s+(\S+)/;
	const label = /([A-Za-z_]\w*)="((?:[^"\\]|\\.)*)"/g;
	for (const row of text.split("\n")) {
		const m = line.exec(row);
		if (!m)
			continue;
		const labels = {};
		for (const [, key, value] of (m[2] || "").matchAll(label))
			labels[key] = value.replace(/\\(.)/g, (all, c) => c === "n" ? "\n" : c);
		if (!families.has(m[1]))
			families.set(m[1], []);
		families.get(m[1]).push({labels, value: Number(m[3])});
	}
	return families;
}

// One reading: the families, and when it was.
class Sample {
	constructor(text, at) {
		this.families = parseMetrics(text);
		this.at = at;
	}

	// The sum of a metric's series that have these labels; NaN: there is none.
	sum(name, labels = {}) {
		const found = (this.families.get(name) || []).filter(s => Object.entries(labels).every(([k, v]) => s.labels[k] === v));
		return found.length ? found.reduce((n, s) => n + s.value, 0) : NaN;
	}

	// {value of the label: number}
	by(name, key) {
		return Object.fromEntries((this.families.get(name) || []).map(s => [s.labels[key], s.value]));
	}
}

// The last readings.
const past = {samples: [], points: []};

const SERIES = {
	started: s => s.sum("l7mp_sessions_started_total"),
	ended: s => s.sum("l7mp_sessions_ended_total"),
	slowPackets: s => s.sum("l7mp_slow_path_packets_total"),
	fastPackets: s => s.sum("l7mp_fast_path_packets_total"),
	slowBytes: s => s.sum("l7mp_slow_path_bytes_total"),
	fastBytes: s => s.sum("l7mp_fast_path_bytes_total"),
	drops: s => s.sum("l7mp_drops_total"),
	refusals: s => s.sum("l7mp_refusals_total"),
};

function perSecond(now, before, read) {
	const span = (now.at - before.at) / 1000;
	const delta = read(now) - read(before);
	// A counter that decreased belongs to a restarted proxy.
	return span > 0 && delta >= 0 ? delta / span : NaN;
}

function addSample(text) {
	const now = new Sample(text, performance.now());
	const before = past.samples[past.samples.length - 1];
	const point = {at: now.at};
	for (const [name, read] of Object.entries(SERIES))
		point[name] = before ? perSecond(now, before, read) : NaN;
	point.memory = now.sum("l7mp_memory_bytes");
	point.sessions = now.sum("l7mp_sessions", {state: "CONNECTED"});
	if (before)
		past.points.push(point);
	if (past.points.length > HISTORY)
		past.points.shift();
	// Two are enough: the points have what the charts show.
	past.samples = before ? [before, now] : [now];
	return now;
}

// Rows {name, value, rate} of a metric by a label, those that are not 0 first, by their size.
function rows(name, key) {
	const [before, now] = past.samples.length > 1 ? past.samples : [null, past.samples[0]];
	if (!now)
		return [];
	const old = before ? before.by(name, key) : {};
	return Object.entries(now.by(name, key)).map(([k, value]) => ({
		name: k, value,
		rate: before && value >= (old[k] || 0) ? (value - (old[k] || 0)) * 1000 / (now.at - before.at) : NaN,
	}));
}

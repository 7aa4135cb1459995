// SPDX-License-Identifier: MIT
// Small line charts of the last minutes.

const CHART = {width: 320, height: 84, top: 4, bottom: 2, least: 20};

// Rounds a maximum up to 1, 2 or 5 times a power of ten.
function roundUp(value) {
	if (!(value > 0))
		return 1;
	const power = 10 ** Math.floor(Math.log10(value));
	return [1, 2, 5, 10].find(n => n * power >= value) * power;
}

function linePath(points, read, max) {
	// The first minutes need not be looked for in a corner.
	const span = Math.max(CHART.least, points.length);
	const step = CHART.width / (span - 1), first = span - points.length;
	let path = "", pen = false;
	points.forEach((p, i) => {
		const value = read(p);
		if (!Number.isFinite(value)) {
			pen = false;
			return;
		}
		const x = (first + i) * step;
		const y = CHART.height - CHART.bottom - value / max * (CHART.height - CHART.top - CHART.bottom);
		path += `${pen ? "L" : "M"}${x.toFixed(1)} ${y.toFixed(1)}`;
		pen = true;
	});
	return path;
}

// series: [{title, name, kind}]; write(value) -> text. Returns {node, show()}.
function chart(title, series, write) {
	const lines = series.map(s => svg("path", {class: "line " + s.kind}));
	const top = el("span", {class: "scale"});
	const values = series.map(() => el("b"));
	const area = svg("svg", {viewBox: `0 0 ${CHART.width} ${CHART.height}`, preserveAspectRatio: "none", role: "img", "aria-label": title},
		[0.25, 0.5, 0.75].map(f => svg("line", {class: "rule", x1: 0, x2: CHART.width, y1: f * CHART.height, y2: f * CHART.height})),
		lines);
	const node = el("figure", {class: "chart"},
		el("figcaption", {}, el("span", {}, title), top),
		area,
		el("ul", {class: "legend"}, series.map((s, i) => el("li", {}, el("i", {class: s.kind, "aria-hidden": "true"}), s.title, " ", values[i]))));
	const show = () => {
		const points = past.points, last = points[points.length - 1];
		const max = roundUp(Math.max(0, ...points.flatMap(p => series.map(s => Number.isFinite(p[s.name]) ? p[s.name] : 0))));
		series.forEach((s, i) => {
			lines[i].setAttribute("d", linePath(points, p => p[s.name], max));
			setText(values[i], last ? write(last[s.name]) : "–");
		});
		setText(top, "top " + write(max));
		area.setAttribute("aria-label", title + ": " + series.map((s, i) => `${s.title} ${values[i].textContent}`).join(", "));
	};
	return {node, show};
}

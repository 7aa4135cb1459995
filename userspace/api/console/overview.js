// SPDX-License-Identifier: MIT
// The overview: rates, verdicts, drops, memory, draining.

function tile(title, value, more) {
	const node = el("div", {class: "tile"}, el("span", {}, title), el("b"), el("small"));
	return {node, show() {
		setText(node.children[1], value());
		setText(node.children[2], more ? more() : "");
	}};
}

function overviewView(main) {
	const now = () => past.samples[past.samples.length - 1];
	const last = name => past.points.length ? past.points[past.points.length - 1][name] : NaN;
	const sum = (name, labels) => now() ? now().sum(name, labels) : NaN;
	const tiles = [
		tile("Sessions", () => number(sum("l7mp_sessions", {state: "CONNECTED"})),
			() => count(sum("l7mp_sessions") - sum("l7mp_sessions", {state: "CONNECTED"}), "other")),
		tile("New sessions", () => rate(last("started")), () => number(sum("l7mp_sessions_started_total")) + " in all"),
		tile("Packets", () => rate(last("slowPackets") + last("fastPackets")), () => {
			const all = last("slowPackets") + last("fastPackets");
			return all > 0 ? Math.round(100 * last("fastPackets") / all) + " % in the kernel" : "";
		}),
		tile("Data", () => bits(last("slowBytes") + last("fastBytes"))),
		tile("Drops", () => rate(last("drops")), () => number(sum("l7mp_drops_total")) + " in all"),
		tile("Memory", () => bytes(sum("l7mp_memory_bytes")), () => "of " + bytes(sum("l7mp_memory_max_bytes"))),
		tile("Flows in the kernel", () => number(sum("l7mp_flows")), () => "of " + number(sum("l7mp_flows_max"))),
		tile("Loop latency", () => seconds(sum("l7mp_loop_latency_seconds")), () => "at most " + seconds(sum("l7mp_loop_latency_max_seconds"))),
	];
	const charts = [
		chart("Packets per second", [{title: "kernel", name: "fastPackets", kind: "a"}, {title: "user space", name: "slowPackets", kind: "b"}], rate),
		chart("Data per second", [{title: "kernel", name: "fastBytes", kind: "a"}, {title: "user space", name: "slowBytes", kind: "b"}], bits),
		chart("Sessions per second", [{title: "begun", name: "started", kind: "a"}, {title: "ended", name: "ended", kind: "b"}], rate),
		chart("Sessions", [{title: "connected", name: "sessions", kind: "a"}], number),
		chart("Drops and refusals per second", [{title: "drops", name: "drops", kind: "c"}, {title: "refusals", name: "refusals", kind: "b"}], rate),
		chart("Memory", [{title: "counted", name: "memory", kind: "a"}], bytes),
	];
	const tables = [
		["Verdicts of the kernel programs", "verdict", () => rows("l7mp_offload_verdicts_total", "verdict")],
		["Drops", "reason", () => rows("l7mp_drops_total", "reason")],
		["Refused by a limit", "limit", () => rows("l7mp_refusals_total", "limit")],
		["Evicted for a limit", "limit", () => rows("l7mp_evictions_total", "limit")],
	].map(([title, key, read]) => {
		const t = table(title, [
			{title: key, value: r => r.name},
			{title: "count", number: true, value: r => number(r.value)},
			{title: "per second", number: true, value: r => rate(r.rate)},
		], r => r.name);
		const zero = el("p", {class: "empty"});
		return {node: section(title, t.node, zero), show() {
			const all = read(), seen = all.filter(r => r.value);
			t.node.hidden = !seen.length;
			t.show(seen.sort((a, b) => b.value - a.value));
			setText(zero, !all.length ? "Not known yet." : seen.length < all.length ? `${seen.length ? "0: " : "All 0: "}${all.filter(r => !r.value).map(r => r.name).join(", ")}` : "");
		}};
	});
	const drain = el("div");
	main.append(
		el("div", {class: "tiles"}, tiles.map(t => t.node)),
		el("div", {class: "charts"}, charts.map(c => c.node)),
		el("div", {class: "columns"}, section("Draining", drain), tables.map(t => t.node)));
	const show = () => [...tiles, ...charts, ...tables].forEach(t => t.show());
	show();
	return {
		sampled: show,
		async update() {
			const state = await get("/drain");
			keyed(drain, [{...state, may: mayChange()}], () => "drain", drainPanel);
			showState(state);
		},
	};
}

function drainPanel(d) {
	const draining = d.state !== "serving";
	const timeout = el("input", {type: "number", min: 0, max: 86400, value: 30, inputmode: "numeric", "data-focus": "drain-timeout"});
	const f = field("Deadline in seconds", timeout, "0: none. Sessions that are left then are ended.");
	return el("div", {},
		facts([
			["State", tag(d.state, draining ? "warn" : "good")],
			["Sessions", number(d.sessions)],
			["Listeners", `${d.listeners.open} open, ${d.listeners.closed} closed`],
			draining && ["Begun by", d.by],
			draining && ["Since", seconds(d.elapsed)],
			draining && d.timeout > 0 && ["Deadline in", seconds(d.remaining)],
			draining && ["Refused", number(d.refused)],
		]),
		el("div", {class: "buttons"},
			draining && changeButton("Take sessions again", () => confirmDialog("Stop draining", "All listeners are opened again.", "Take sessions again",
				() => change("DELETE", "/drain")), {"data-focus": "undrain"}),
			!draining && changeButton("Drain…", () => dialog("Drain", [
				el("p", {}, "No new sessions are taken. Those that run go on until they end, or until the deadline."), f.node], {
				action: "Drain", danger: true,
				submit: () => change("POST", "/drain", {timeout: Number(timeout.value)}),
				failed(e) {
					const at = e.content.some(c => c.path === "timeout");
					f.error(at ? e.message : null);
					return at;
				},
			}), {"data-focus": "drain"})));
}

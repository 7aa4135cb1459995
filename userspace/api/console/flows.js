// SPDX-License-Identifier: MIT
// The kernel fast path: its state, interfaces and maps, and the entries of the flow table.

// Columns from the keys of what there is: what the server shows of these depends on the protocol. What has parts of its own is
// in the JSON.
function generic(title, items) {
	const keys = [...new Set(items.flatMap(i => Object.keys(i)))].filter(k => !items.some(i => i[k] && typeof i[k] === "object"));
	const t = table(title, [...keys.map(k => ({title: k, number: items.some(i => typeof i[k] === "number"), value: i => genericText(k, i[k])})),
		{title: "more", value: i => raw(i)}], i => JSON.stringify(i));
	t.show(items);
	return t.node;
}

function genericText(key, value) {
	if (typeof value === "number")
		return number(value);
	return key === "last_seen" && value ? time(value) : value === "" ? "" : brief(value);
}

function flowsView(main, query) {
	const filter = query.get("filter") || "", after = query.get("after") || "";
	const state = el("div", {class: "columns wide"}), list = el("div");
	const none = empty("");
	const go = at => {
		location.hash = "#/flows" + (at ? "?" + new URLSearchParams({after: at}) : "");
	};
	let following = null;
	const first = el("button", {type: "button", onclick: () => go("")}, "First page");
	const next = el("button", {type: "button", onclick: () => go(following)}, "Next page");
	first.disabled = !after;
	main.append(el("h1", {}, "Kernel fast path"), state, el("section", {class: "card"}, el("h2", {}, "Flows"), list, none,
		el("nav", {class: "buttons pages", "aria-label": "Pages"}, first, next)));
	return {async update() {
		const o = await get("/offload");
		reasons = o.reasons || {};
		keyed(state, [
			{title: "State", pairs: [["State", o.state], ["Reason", o.reason], ["Mode", o.mode], ["Instance", o.instance], ["ABI", o.abi]].filter(p => p[1] !== undefined && p[1] !== "")},
			{title: "Flow table", pairs: Object.entries(o.flows || {})},
			{title: "Interfaces", items: o.interfaces || []},
			{title: "Maps", items: o.maps || []},
		], s => s.title, s => el("section", {class: "card" + (s.items && s.items.length ? " all" : "")}, el("h2", {}, s.title), s.pairs ? facts(s.pairs.map(([k, v]) => [k, typeof v === "number" ? number(v) : brief(v)])) : s.items.length ? generic(s.title, s.items) : empty("None.")));
		const q = new URLSearchParams({limit: SESSIONS_PAGE});
		if (after)
			q.set("after", after);
		if (filter)
			q.set("filter", filter);
		const answer = await page("/offload/flows?" + q);
		following = answer.next;
		next.disabled = !following;
		keyed(list, answer.items.length ? [{items: answer.items}] : [], () => "flows", i => generic("Flows", i.items));
		setText(none, answer.items.length ? "" : "No flow is in the kernel.");
	}};
}

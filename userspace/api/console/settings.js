// SPDX-License-Identifier: MIT
// Settings: the log level, limits, and the admin object.

const LEVELS = ["silly", "verbose", "info", "notice", "warn", "error", "silent"];

function settingsView(main) {
	const place = el("div", {class: "columns wide"});
	main.append(el("div", {class: "head"}, el("h1", {}, "Settings"),
		el("div", {class: "buttons"}, changeButton("Change settings…", settingsDialog), Object.keys(KINDS).filter(k => k !== "endpoint").map(k => changeButton(`Add ${k}…`, () => addDialog(k))))), place);
	return {async update() {
		const admin = await get("/admin");
		const {limits, ...rest} = admin;
		keyed(place, [
			{key: "level", level: admin.log_level, may: mayChange()},
			{key: "limits", limits},
			{key: "rest", rest},
		], i => i.key, i => i.key === "level" ? levelCard(i.level) : i.key === "limits" ? section("Limits", facts(Object.entries(i.limits || {}).map(([k, v]) => [k, /memory|body|queue/.test(k) ? bytes(v) : number(v)])))
			: section("Other settings", facts(flat(i.rest).map(([k, v]) => [k, brief(v)]))));
	}};
}

function levelCard(level) {
	if (!mayChange())
		return section("Log level", el("p", {}, level));
	const select = el("select", {"data-focus": "level"}, [...new Set([...LEVELS, level])].map(l => el("option", {value: l, selected: l === level}, l)));
	const f = field("Log level", select, "How much the proxy writes to its log.");
	const form = el("form", {novalidate: true}, f.node, el("div", {class: "buttons"}, el("button", {type: "submit", class: "primary", "data-focus": "set level"}, "Set")));
	form.addEventListener("submit", async event => {
		event.preventDefault();
		try {
			await change("POST", "/admin", {admin: {log_level: select.value}});
			f.error(null);
			say(`The log level is ${select.value}`);
			refresh();
		} catch (e) {
			f.error(e.message);
		}
	});
	return section("Log level", form);
}

function settingsDialog() {
	jsonDialog("Change settings", pretty({admin: {limits: {max_sessions: 100000}}}), text => change("POST", "/admin", text), {
		choice: el("p", {}, "Keys that are absent keep their values. Some can be changed by a restart only."),
	});
}

// SPDX-License-Identifier: MIT
// Listeners with their rules, clusters with their endpoints; forms for all kinds of objects.

const OBJECTS_PAGE = 50;

const KINDS = {
	listener: {many: "listeners", example: {name: "new-listener", spec: {protocol: "UDP", port: 15000},
		rules: [{action: {route: {destination: "CLUSTER"}}}]}},
	cluster: {many: "clusters", example: {name: "new-cluster", spec: {protocol: "UDP", port: 15001}, endpoints: [{spec: {address: "127.0.0.1"}}]}},
	endpoint: {many: "endpoints", example: {name: "new-endpoint", spec: {address: "127.0.0.1"}, weight: 1}},
	rulelist: {many: "rulelists", example: {name: "new-rulelist", rules: []}},
	rule: {many: "rules", example: {name: "new-rule", match: "*", action: {route: "ROUTE"}}},
	route: {many: "routes", example: {name: "new-route", destination: "CLUSTER"}},
};

function pretty(value) {
	return JSON.stringify(value, null, 2);
}

function addDialog(kind, path = "/" + KINDS[kind].many) {
	jsonDialog(`Add: ${kind}`, pretty({[kind]: KINDS[kind].example}), text => change("POST", path, text), {action: "Add"});
}

// What sessions have found out is not for changing.
function withoutHealth({health, ...object}) {
	return object;
}

// The object as it is now, to be put back.
async function editDialog(kind, name) {
	try {
		const path = `/${KINDS[kind].many}/${enc(name)}`;
		const now = await get(path);
		jsonDialog(`Change ${kind} ${name}`, pretty({[kind]: withoutHealth(now)}), text => change("PUT", path, text));
	} catch (e) {
		problem(e);
	}
}

function deleteDialog(kind, name) {
	const all = el("input", {type: "checkbox"});
	const box = dialog(`Delete ${kind} ${name}`, [
		el("p", {}, kind === "endpoint" ? "Sessions on it are connected to another endpoint, or end." : "What refers to it keeps its name."),
		el("label", {class: "check"}, all, " also what was made for it, and end the sessions that use it (recursive)")], {
		action: "Delete", danger: true,
		submit: () => change("DELETE", `/${KINDS[kind].many}/${enc(name)}${all.checked ? "?recursive=true" : ""}`),
	});
	box.querySelector("button[type=button]").focus();
}

function objectButtons(kind, name, ...more) {
	return mayChange() && el("div", {class: "buttons"}, more,
		changeButton("Change…", () => editDialog(kind, name), {"data-focus": "change " + kind + name, "aria-label": `Change ${kind} ${name}`}),
		changeButton("Delete…", () => deleteDialog(kind, name), {"data-focus": "delete " + kind + name, "aria-label": `Delete ${kind} ${name}`}));
}

function addressText(spec = {}) {
	const address = spec.address || spec.path || spec.interface;
	return [address, spec.port].filter(v => v !== undefined && v !== null).map(String).join(":") || "–";
}

// A list of objects in pages, with a button for more.
function objectsView(main, title, kind, render) {
	const list = el("div", {class: "stack"});
	const more = el("button", {type: "button", hidden: true, onclick: () => {
		shown += OBJECTS_PAGE;
		refresh();
	}}, "Show more");
	let shown = OBJECTS_PAGE;
	const none = empty("");
	main.append(el("div", {class: "head"}, el("h1", {}, title), el("div", {class: "buttons"}, changeButton(`Add ${kind}…`, () => addDialog(kind)),
		kind === "listener" && ["rulelist", "rule"].map(k => changeButton(`Add ${k}…`, () => addDialog(k))),
		kind === "cluster" && changeButton("Add route…", () => addDialog("route")))), list, none, more);
	return {async update() {
		const {items, next} = await page(`/${KINDS[kind].many}?recursive=true&limit=${shown}`);
		keyed(list, items.map(o => ({o, requests: requestsOf(kind, o.name), may: mayChange()})), i => i.o.name, i => render(i.o, i.requests));
		setText(none, items.length ? "" : `There is no ${kind}.`);
		more.hidden = !next;
	}};
}

function requestsOf(kind, name) {
	const now = past.samples[past.samples.length - 1];
	const n = now ? now.sum(`${kind}_requests_total`, {[kind + "Name"]: name}) : NaN;
	return Number.isFinite(n) ? n : 0;
}

// ---- listeners ----

function matchText(match) {
	if (match === undefined || match === "*")
		return "*";
	if (typeof match !== "object")
		return String(match);
	if (match.op && match.path)
		return `${match.path} ${match.op}${match.value === undefined ? "" : " " + brief(match.value)}`;
	return brief(match);
}

function stageNames(stages) {
	return (stages || []).map(s => typeof s === "object" && s ? s.name : String(s));
}

function actionText(action = {}) {
	const parts = [];
	if (action.rewrite)
		parts.push(el("span", {}, `rewrite ${action.rewrite.length} of the metadata`));
	if (action.apply)
		parts.push(el("span", {}, "apply ", el("code", {}, typeof action.apply === "object" ? action.apply.name : action.apply)));
	const route = action.route;
	if (typeof route === "object" && route) {
		const steps = [...stageNames(route.ingress), ...stageNames([route.destination])];
		const back = stageNames(route.egress);
		parts.push(el("span", {class: "hops"}, steps.map(s => ["→ ", el("code", {}, s), " "]), back.length ? ["back: ", back.map(s => ["→ ", el("code", {}, s), " "])] : null));
	} else if (route) {
		parts.push(el("span", {}, "→ ", el("code", {}, route)));
	}
	return parts.length ? parts : "nothing";
}

function listenerCard(l, requests) {
	const rules = table(`Rules of ${l.name}`, [
		{title: "#", value: r => r.at},
		{title: "rule", value: r => el("code", {}, r.rule.name || "–")},
		{title: "match", value: r => el("code", {}, matchText(r.rule.match))},
		{title: "action", value: r => actionText(r.rule.action)},
	], r => r.at);
	const list = Array.isArray(l.rules) ? l.rules : [];
	rules.show(list.map((rule, at) => ({at, rule: typeof rule === "object" && rule ? rule : {name: String(rule)}})));
	return el("article", {class: "card"},
		el("div", {class: "head"}, el("h2", {}, l.name), tag(brief((l.spec || {}).protocol)), el("code", {}, addressText(l.spec)),
			el("span", {class: "muted"}, count(requests, "session") + " so far"), objectButtons("listener", l.name)),
		list.length ? rules.node : empty(`Rules: ${brief(l.rules)}`),
		raw(l));
}

function listenersView(main) {
	return objectsView(main, "Listeners", "listener", listenerCard);
}

// ---- clusters ----

function weightForm(cluster, endpoint) {
	const input = el("input", {type: "number", min: 0, step: "any", value: endpoint.weight, inputmode: "decimal", "data-focus": "weight " + endpoint.name,
		"aria-label": `Weight of ${endpoint.name}`});
	const error = el("p", {class: "error", role: "alert", hidden: true});
	const form = el("form", {class: "weight", novalidate: true}, input, el("button", {type: "submit", "data-focus": "set " + endpoint.name}, "Set"), error);
	form.addEventListener("submit", async event => {
		event.preventDefault();
		error.hidden = true;
		try {
			const path = `/endpoints/${enc(endpoint.name)}`;
			const now = await get(path);
			const weight = input.value.trim() === "" ? null : Number(input.value);
			await change("PUT", path, {endpoint: {...now, weight}});
			say(`The weight of ${endpoint.name} is ${input.value}`);
			refresh();
		} catch (e) {
			setText(error, e.message);
			error.hidden = false;
			input.setAttribute("aria-invalid", "true");
		}
	});
	return form;
}

// Whether the last that was heard of it is an error.
function fails(health = {}) {
	return health.last_failure !== undefined && !(health.last_success > health.last_failure);
}

function stateTags(endpoint) {
	const health = endpoint.health || {};
	const tags = [endpoint.drop ? tag("drop", "warn") : endpoint.weight === 0 ? tag("no new sessions", "warn") : tag("takes sessions", fails(health) ? "" : "good")];
	if (fails(health))
		tags.push(" ", tag("fails", "bad"));
	else if (!health.connects)
		tags.push(" ", tag("not used yet"));
	return el("span", {}, tags);
}

function lastError(health = {}) {
	return health.last_error === undefined ? "" : el("span", {class: "fault"}, `${dayTime(health.last_failure)} ${health.last_error}`);
}

const HEALTH_COLUMNS = [["sessions", "sessions"], ["connects", "connects"], ["failed", "failed"], ["lost", "lost"]]
	.map(([key, title]) => ({title, number: true, value: e => e.health ? number(e.health[key]) : "–"}));

function clusterCard(c, requests) {
	const virtual = (c.endpoints || []).length === 1 && c.endpoints[0].name === c.name;
	const endpoints = table(`Endpoints of ${c.name}`, [
		{title: "endpoint", value: e => el("code", {}, e.name)},
		{title: "address", value: e => el("code", {}, addressText({port: (c.spec || {}).port, ...e.spec}))},
		{title: "state", value: stateTags},
		...HEALTH_COLUMNS,
		{title: "last error", value: e => lastError(e.health)},
		{title: "weight", number: true, value: e => mayChange() ? weightForm(c, e) : number(e.weight)},
		{title: "", value: e => mayChange() ? objectButtons("endpoint", e.name) : ""},
	], e => e.name);
	endpoints.show(virtual ? [] : c.endpoints || []);
	const lb = c.loadbalancer || {}, health = c.health || {};
	return el("article", {class: "card"},
		el("div", {class: "head"}, el("h2", {}, c.name), tag(brief((c.spec || {}).protocol)),
			el("span", {class: "muted"}, [lb.policy, lb.key].filter(Boolean).join(" by "), ", ", count(health.connects === undefined ? requests : health.connects, "connect") + " so far"),
			health.sessions !== undefined && el("span", {class: "muted"}, count(health.sessions, "session") + " now"),
			virtual && fails(health) && [tag("fails", "bad"), lastError(health)],
			objectButtons("cluster", c.name, !virtual && changeButton("Add endpoint…", () => addDialog("endpoint", `/clusters/${enc(c.name)}/endpoints`),
				{"data-focus": "add endpoint " + c.name, "aria-label": `Add an endpoint to ${c.name}`}))),
		virtual || !(c.endpoints || []).length ? empty(virtual ? "It has no endpoints: it is a part of the proxy." : "It has no endpoints.") : endpoints.node,
		raw(c));
}

function clustersView(main) {
	return objectsView(main, "Clusters", "cluster", clusterCard);
}

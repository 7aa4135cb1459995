// SPDX-License-Identifier: MIT
// Sessions, with search and pages, both made by the server; and one of them.

const SESSIONS_PAGE = 50;

function sessionLink(name) {
	return el("a", {href: "#/sessions/" + enc(name)}, name);
}

function offloadTag(session) {
	const o = session.offload || {}, why = ((o.directions || [])[0] || {}).reason;
	return o.state === "fast" ? tag("kernel", "good") : el("span", {}, tag("user space"), why ? [" ", el("small", {}, why)] : null);
}

function sessionsView(main, query) {
	const filter = query.get("filter") || "", after = query.get("after") || "";
	const search = el("input", {type: "search", name: "filter", value: filter, maxlength: 200, spellcheck: "false", autocomplete: "off"});
	const f = field("Search", search, "Words of a name, an address, a listener, a cluster, an endpoint, a state or a reason; each must be found.");
	const go = (text, at) => {
		const q = new URLSearchParams();
		if (text)
			q.set("filter", text);
		if (at)
			q.set("after", at);
		location.hash = "#/sessions" + (q.size ? "?" + q : "");
	};
	const form = el("form", {class: "search", role: "search", onsubmit: event => {
		event.preventDefault();
		go(search.value.trim(), "");
	}}, f.node, el("button", {type: "submit", class: "primary"}, "Search"), filter && el("button", {type: "button", onclick: () => go("", "")}, "Show all"));
	const total = el("span", {class: "muted"});
	const t = table("Sessions", [
		{title: "session", value: s => sessionLink(s.name)},
		{title: "listener", value: s => s.source.listener},
		{title: "client", value: s => sourceAddress(s) || "–"},
		{title: "destination", value: s => [s.destination.origin, s.destination.endpoint && s.destination.endpoint.name !== s.destination.origin ? " / " + s.destination.endpoint.name : null]},
		{title: "state", value: s => tag(s.status, stateKind(s.status))},
		{title: "path", value: offloadTag},
		{title: "in", number: true, value: s => bytes(s.stats.ingress.bytes)},
		{title: "out", number: true, value: s => bytes(s.stats.egress.bytes)},
		{title: "drops", number: true, value: s => number(s.stats.drops)},
	], s => s.name);
	const none = empty("");
	const first = el("button", {type: "button", onclick: () => go(filter, "")}, "First page");
	const next = el("button", {type: "button", onclick: () => go(filter, following)}, "Next page");
	let following = null;
	first.disabled = !after;
	main.append(el("div", {class: "head"}, el("h1", {}, "Sessions"), total), form, t.node, none,
		el("nav", {class: "buttons pages", "aria-label": "Pages"}, first, next));
	return {async update() {
		const q = new URLSearchParams({limit: SESSIONS_PAGE});
		if (filter)
			q.set("filter", filter);
		if (after)
			q.set("after", after);
		const answer = await page("/sessions?" + q).catch(e => {
			if (e.status !== 400)
				throw e;
			f.error(e.message);
			return {items: [], next: null};
		});
		following = answer.next;
		next.disabled = !following;
		t.show(answer.items);
		t.node.hidden = !answer.items.length;
		setText(none, answer.items.length ? "" : filter ? "No session has all of these words." : after ? "No session follows." : "There is no session.");
		const now = past.samples[past.samples.length - 1];
		setText(total, `${answer.items.length} shown` + (now ? ` of ${number(now.sum("l7mp_sessions"))}` : ""));
	}};
}

function eventRow(e) {
	const where = [e.content && e.content.stage, e.content && e.content.cluster, e.content && e.content.attempt && `attempt ${e.content.attempt}`].filter(Boolean).join(", ");
	return {...e, where};
}

function sessionView(main, name) {
	const place = el("div", {class: "stack"});
	main.append(el("p", {}, el("a", {href: "#/sessions"}, "← Sessions")), place);
	return {async update() {
		if (!Object.keys(reasons).length)
			reasons = (await get("/offload")).reasons || {};
		let session;
		try {
			session = await get("/sessions/" + enc(name));
		} catch (e) {
			if (e.status !== 404)
				throw e;
			keyed(place, [{gone: true}], () => "session", () => el("div", {class: "card"}, el("h1", {}, name), empty("This session has ended, and is not kept any more.")));
			return;
		}
		keyed(place, [{session, may: mayChange()}], () => "session", i => sessionCard(i.session));
	}};
}

function sessionCard(s) {
	const events = table("Events", [
		{title: "time", value: e => time(e.timestamp)},
		{title: "event", value: e => el("code", {}, e.event)},
		{title: "where", value: e => e.where},
		{title: "message", value: e => e.message},
	], e => e.at);
	events.show((s.events || []).map((e, at) => ({at, ...eventRow(e)})));
	return el("div", {class: "stack"},
		el("div", {class: "head"}, el("h1", {class: "name"}, s.name), tag(s.status, stateKind(s.status)),
			s.stats.drops ? tag(count(s.stats.drops, "drop"), "warn") : null,
			mayChange() && s.status !== "DESTROYED" ? el("div", {class: "buttons"}, changeButton("End session…", () => confirmDialog("End the session",
				`The session ${s.name} is ended for both sides.`, "End session", () => change("DELETE", "/sessions/" + enc(s.name))), {"data-focus": "end"})) : null),
		section("Path", sessionPath(s)),
		section("Events", events.node),
		section("Metadata", el("pre", {tabindex: 0, role: "region", "aria-label": "Metadata"}, pretty(s.metadata))),
		raw(s, "All of it as JSON"));
}

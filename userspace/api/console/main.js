// SPDX-License-Identifier: MIT
// What is shown when: the address behind the # names a view, a timer keeps it up to date.

const PERIOD_MS = 3000;

const VIEWS = [
	{path: "overview", title: "Overview", open: overviewView},
	{path: "listeners", title: "Listeners", open: listenersView},
	{path: "clusters", title: "Clusters", open: clustersView},
	{path: "sessions", title: "Sessions", open: sessionsView},
	{path: "flows", title: "Kernel", open: flowsView},
	{path: "settings", title: "Settings", open: settingsView},
];

let view = null; // {update(), sampled()} of the view that is open
let paused = false, busy = false, again = false;

// ---- the top ----

const stateTag = tag("…"), accessTag = tag("…"), version = el("span", {class: "muted"}), trouble = el("p", {class: "banner", role: "alert", hidden: true});
const pauseButton = el("button", {type: "button", "aria-pressed": "false", onclick: () => {
	paused = !paused;
	pauseButton.setAttribute("aria-pressed", String(paused));
	setText(pauseButton, paused ? "Resume" : "Pause");
	refresh();
}}, "Pause");
const tokenButton = el("button", {type: "button", onclick: () => {
	if (!token()) {
		tokenDialog();
		return;
	}
	sessionStorage.removeItem(TOKEN);
	begin();
}}, "Log in");

function setTag(node, text, kind) {
	setText(node, text);
	node.className = "tag " + (kind || "");
}

function showState(drain) {
	setTag(stateTag, drain.state, drain.state === "serving" ? "good" : "warn");
}

function showAccess(admin) {
	const texts = {change: ["changes allowed", "good"], read: ["read-only", ""], none: ["token needed", "warn"], refused: ["refused", "bad"]};
	setTag(accessTag, ...texts[access]);
	setText(tokenButton, token() ? "Log out" : "Log in");
	// Without a token in the proxy's settings there is nothing to log in to.
	tokenButton.hidden = !token() && access === "change";
	if (admin)
		setText(version, "version " + admin.version);
}

function problem(e) {
	setText(trouble, e ? e.message : "");
	trouble.hidden = !e;
}

// ---- keeping up to date ----

// Reads what the open view shows; once more if it is called meanwhile.
async function refresh() {
	if (busy) {
		again = true;
		return;
	}
	busy = true;
	do {
		again = false;
		const current = view;
		try {
			if (access !== "none" && access !== "refused") {
				addSample(await metricsText());
				const now = past.samples[past.samples.length - 1];
				if (!Number.isNaN(now.sum("l7mp_draining")) && !now.sum("l7mp_draining"))
					showState({state: "serving"});
				else if (stateTag.textContent !== "drained")
					showState({state: "draining"});
				if (current && current.sampled && current === view)
					current.sampled();
				if (current && current === view)
					await current.update();
			}
			problem(null);
		} catch (e) {
			if (!(e instanceof ApiError))
				throw e;
			if (e.status === 401)
				await lostToken(e);
			else
				problem(e);
		} finally {
			byId("main").setAttribute("aria-busy", "false");
			if (!again)
				busy = false;
		}
	} while (again);
}

async function lostToken() {
	sessionStorage.removeItem(TOKEN);
	access = "none";
	showAccess(null);
	route();
}

function tick() {
	if (!paused && !document.hidden)
		refresh();
}

// ---- views ----

function parseHash() {
	const [path, query] = location.hash.replace(/^#\/?/, "").split("?");
	const [name, rest] = path.split(/\/(.*)/s);
	return {name: name || "overview", rest: rest || "", query: new URLSearchParams(query || "")};
}

function decode(text) {
	try {
		return decodeURIComponent(text);
	} catch (e) {
		return text;
	}
}

function locked(main) {
	const refused = access === "refused";
	main.append(el("section", {class: "card narrow"}, el("h1", {}, refused ? "This client is refused" : "A token is needed"),
		el("p", {}, refused ? trouble.textContent : "This proxy answers only those who have its token."),
		!refused && el("button", {type: "button", class: "primary", onclick: () => tokenDialog()}, "Log in")));
}

function route() {
	const {name, rest, query} = parseHash();
	const main = byId("main");
	const found = VIEWS.find(v => v.path === name) || VIEWS[0];
	main.replaceChildren(trouble);
	main.setAttribute("aria-busy", "true");
	for (const link of byId("tabs").children) {
		if (link.getAttribute("href") === "#/" + found.path)
			link.setAttribute("aria-current", "page");
		else
			link.removeAttribute("aria-current");
	}
	document.title = `${found.title} – l7mp`;
	view = null;
	if (access === "none" || access === "refused") {
		locked(main);
		return;
	}
	if (found.path === "sessions" && rest)
		view = sessionView(main, decode(rest));
	else
		view = found.open(main, query);
	refresh();
}

async function begin() {
	let admin = null;
	try {
		admin = await checkAccess();
		problem(null);
	} catch (e) {
		if (e.status === 401 && token())
			sessionStorage.removeItem(TOKEN);
		problem(e.status === 401 ? null : e);
	}
	showAccess(admin);
	route();
}

byId("skip").addEventListener("click", event => {
	event.preventDefault();
	byId("main").focus();
});
byId("facts").append(version, stateTag, accessTag);
byId("tools").append(pauseButton, tokenButton);
byId("tabs").append(...VIEWS.map(v => el("a", {href: "#/" + v.path}, v.title)));
window.addEventListener("hashchange", () => {
	document.querySelectorAll("dialog").forEach(d => d.close());
	route();
	byId("main").focus({preventScroll: true});
	window.scrollTo(0, 0);
});
document.addEventListener("visibilitychange", tick);
setInterval(tick, PERIOD_MS);
begin();

// SPDX-License-Identifier: MIT
// Requests to the server: few at a time, because it has few threads, and each connection is for one.

const API = "/api/v1";
const TOKEN = "l7mp-token"; // its name in sessionStorage, which ends with the tab
const LANES = 2;
const PATIENCE_MS = 30000;

// What this client may do: "change", "read", "none" (a token is needed), "refused".
let access = "none";
let waiting = [], running = 0;

function token() {
	return sessionStorage.getItem(TOKEN);
}

class ApiError extends Error {
	constructor(status, message, content) {
		super(message);
		this.status = status;
		this.content = Array.isArray(content) ? content : [];
	}
}

// Runs `work` when a lane is free.
function lane(work) {
	return new Promise((resolve, reject) => {
		waiting.push(() => {
			running++;
			work().then(resolve, reject).finally(() => {
				running--;
				if (waiting.length)
					waiting.shift()();
			});
		});
		if (running < LANES)
			waiting.shift()();
	});
}

function sleep(ms) {
	return new Promise(done => setTimeout(done, ms));
}

async function once(method, path, body, auth) {
	const headers = {};
	if (auth)
		headers.Authorization = "Bearer " + auth;
	if (body !== undefined)
		headers["Content-Type"] = "application/json";
	try {
		return await fetch(path, {method, headers, body, cache: "no-store", credentials: "omit", redirect: "error",
			signal: AbortSignal.timeout(PATIENCE_MS)});
	} catch (e) {
		throw new ApiError(0, e.name === "TimeoutError" ? "the proxy does not answer" : "the proxy can't be reached");
	}
}

async function fail(response) {
	let answer = {};
	try {
		answer = await response.json();
	} catch (e) {
		// No JSON: the status is all that there is.
	}
	throw new ApiError(response.status, answer.message || `status ${response.status}`, answer.content);
}

// Returns the response. 503 with Retry-After (all threads of the server are busy) is tried again when nothing is changed by it.
async function request(method, path, body, auth = token()) {
	for (let tries = 0; ; tries++) {
		const response = await once(method, path, body, auth);
		if (response.ok)
			return response;
		if (method !== "GET" || response.status !== 503 || !response.headers.get("Retry-After") || tries === 3)
			return fail(response);
		await sleep(300 << tries);
	}
}

function get(path) {
	return lane(async () => (await request("GET", API + path)).json());
}

// A page of a list: {items, next}, where next is the value of ?after= or null.
function page(path) {
	return lane(async () => {
		const response = await request("GET", API + path);
		const link = /<([^>]*)>;\s*rel="next"/.exec(response.headers.get("Link") || "");
		const next = link && new URL(link[1], location.origin).searchParams.get("after");
		return {items: await response.json(), next: next || null};
	});
}

function metricsText() {
	return lane(async () => (await request("GET", "/metrics")).text());
}

function change(method, path, value) {
	const body = value === undefined ? undefined : typeof value === "string" ? value : JSON.stringify(value);
	return lane(async () => (await request(method, API + path, body)).json());
}

// A name in a path.
function enc(name) {
	return encodeURIComponent(name);
}

// Finds out what this client may do. Returns the admin object, or null.
async function checkAccess() {
	try {
		const admin = await get("/admin");
		access = !admin.api_token_file || token() ? "change" : "read";
		return admin;
	} catch (e) {
		if (e.status === 401 || e.status === 429)
			access = "none";
		else if (e.status === 403)
			access = "refused";
		throw e;
	}
}

function mayChange() {
	return access === "change";
}

// SPDX-License-Identifier: MIT
// Where the parts of a JSON text stand, to lead from the server's finding to the text.

// Returns a map from paths as the server writes them ("cluster.endpoints[0].spec") to [start, end]. The text may be broken:
// then it has what comes before the break.
function jsonPlaces(text) {
	const places = new Map();
	let at = 0;
	const blank = () => {
		while (/\s/.test(text[at] || ""))
			at++;
	};
	const string = () => {
		const start = at++;
		while (at < text.length && text[at] !== "\"")
			at += text[at] === "\\" ? 2 : 1;
		at++;
		return JSON.parse(text.slice(start, at));
	};
	const list = (path, close, item) => {
		at++;
		blank();
		if (text[at] === close) {
			at++;
			return;
		}
		for (let n = 0; ; n++) {
			blank();
			item(n);
			blank();
			if (text[at] !== "," && text[at] !== close)
				throw new SyntaxError();
			if (text[at++] === close)
				return;
		}
	};
	const value = (path, start) => {
		blank();
		start = start === undefined ? at : start;
		if (text[at] === "{") {
			list(path, "}", () => {
				const begin = at, key = string();
				blank();
				if (text[at++] !== ":")
					throw new SyntaxError();
				value(path ? `${path}.${key}` : key, begin);
			});
		} else if (text[at] === "[") {
			list(path, "]", n => value(`${path}[${n}]`));
		} else if (text[at] === "\"") {
			string();
		} else {
			const m = /^[-+.\w]+/.exec(text.slice(at));
			if (!m)
				throw new SyntaxError();
			at += m[0].length;
		}
		places.set(path, [start, at]);
	};
	try {
		value("");
	} catch (e) {
		// What was read is in the map.
	}
	return places;
}

// The place of a path, or of the nearest thing around it.
function placeOf(text, path) {
	const places = jsonPlaces(text);
	for (let p = path; p; p = p.replace(/(\.[^.[\]]*|\[[^\]]*\]|^[^.[]*)$/, ""))
		if (places.has(p))
			return places.get(p);
	return null;
}

function lineOf(text, at) {
	return text.slice(0, at).split("\n").length;
}

// SPDX-License-Identifier: MIT
// Dialogs and forms. Each is a real form: Enter sends it, the server's error stands at the field.

let fieldNumber = 0;

// A field with its label and a place for its error. Returns {node, input, error(text or null)}.
function field(label, input, hint) {
	const id = `f${++fieldNumber}`;
	const error = el("p", {class: "error", id: id + "e", hidden: true});
	input.id = id;
	const described = (hint ? id + "h " : "") + id + "e";
	input.setAttribute("aria-describedby", described);
	return {
		input,
		node: el("div", {class: "field"}, el("label", {for: id}, label), input, hint && el("p", {class: "hint", id: id + "h"}, hint), error),
		error(text) {
			error.hidden = !text;
			setText(error, text || "");
			if (text)
				input.setAttribute("aria-invalid", "true");
			else
				input.removeAttribute("aria-invalid");
		},
	};
}

// Opens a dialog with a form. submit() returns a promise; what it throws is shown by failed(error).
function dialog(title, contents, {action = "Save", danger = false, submit, failed}) {
	const general = el("p", {class: "error", role: "alert", hidden: true});
	const ok = el("button", {class: danger ? "danger" : "primary", type: "submit"}, action);
	const opener = document.activeElement;
	const heading = el("h2", {id: `d${++fieldNumber}`}, title);
	const form = el("form", {method: "dialog", novalidate: true}, heading, contents, general,
		el("div", {class: "buttons"}, el("button", {type: "button", onclick: () => box.close()}, "Cancel"), ok));
	const box = el("dialog", {"aria-labelledby": heading.id}, form);
	form.addEventListener("submit", async event => {
		event.preventDefault();
		general.hidden = true;
		ok.disabled = true;
		try {
			await submit();
			box.close();
			say(title + ": done");
			refresh();
		} catch (e) {
			if (!(failed && failed(e))) {
				setText(general, e.message);
				general.hidden = false;
			}
		} finally {
			ok.disabled = false;
		}
	});
	box.addEventListener("close", () => {
		box.remove();
		if (opener && opener.isConnected)
			opener.focus();
		else
			byId("main").focus();
	});
	document.body.append(box);
	box.showModal();
	return box;
}

function confirmDialog(title, text, action, submit) {
	const box = dialog(title, el("p", {}, text), {action, danger: true, submit});
	box.querySelector("button[type=button]").focus();
}

// Shows the findings of an error below the text, each with its line, and leads to the first.
function showFindings(list, area, error) {
	const findings = error.content.length ? error.content : [{path: "", reason: error.message}];
	const places = findings.map(f => f.line ? lineStart(area.value, f.line) : placeOf(area.value, String(f.path || "")));
	list.replaceChildren(...findings.map((f, i) => el("li", {},
		el("button", {type: "button", class: "link", onclick: () => select(area, places[i])},
			places[i] ? `line ${lineOf(area.value, places[i][0])}` : "text"),
		" ", el("code", {}, f.path || ""), f.path ? ": " : "", f.reason)));
	area.setAttribute("aria-invalid", "true");
	select(area, places[0]);
}

function lineStart(text, line) {
	const lines = text.split("\n");
	const start = lines.slice(0, line - 1).reduce((n, l) => n + l.length + 1, 0);
	return [start, start + (lines[line - 1] || "").length];
}

function select(area, place) {
	area.focus();
	if (!place)
		return;
	area.setSelectionRange(place[0], place[1]);
	// Browsers do not scroll to a selection that a script made.
	area.scrollTop = (lineOf(area.value, place[0]) - 3) * parseFloat(getComputedStyle(area).lineHeight);
}

// A form for JSON. send(text) returns a promise. `choice` is shown above the text.
function jsonDialog(title, text, send, {action, choice} = {}) {
	const area = el("textarea", {rows: 16, spellcheck: "false", autocomplete: "off", class: "code"});
	const list = el("ul", {class: "findings", role: "alert"});
	const f = field("JSON", area);
	area.value = text;
	dialog(title, [choice, f.node, list], {
		action,
		submit() {
			list.replaceChildren();
			area.removeAttribute("aria-invalid");
			return send(area.value);
		},
		failed(e) {
			if (e.status < 400)
				return false;
			showFindings(list, area, e);
			return true;
		},
	});
	return area;
}

// A button that is there only for those who may change something.
function changeButton(text, onclick, attrs = {}) {
	return mayChange() ? el("button", {type: "button", onclick, ...attrs}, text) : null;
}

function tokenDialog(why) {
	const input = el("input", {type: "password", autocomplete: "off", spellcheck: "false", required: true});
	const f = field("Token", input, "The first line of the file that admin.api_token_file names. It is kept until this tab is closed.");
	if (why)
		f.error(why);
	dialog("Log in", f.node, {
		action: "Log in",
		async submit() {
			const text = input.value.trim();
			if (!/^[\x21-\x7e]+$/.test(text))
				throw new ApiError(401, "expected the token: letters, digits and signs without blanks");
			await lane(() => request("GET", API + "/admin", undefined, text));
			sessionStorage.setItem(TOKEN, text);
			await begin();
		},
		failed(e) {
			f.error(e.status === 401 ? "This is not the token of this proxy." : e.message);
			input.focus();
			input.select();
			return true;
		},
	});
	input.focus();
}
